"""The reference itself, against the published modules' outputs and against PyTorch's operations."""

import numpy as np
import numpy_reference as reference
import pytest

GOLDEN = ("SampleCNN", "TuneVanillaXS", "Tune5Tail", "TunePlus")


@pytest.mark.parametrize("name", GOLDEN)
def test_agrees_with_the_published_modules(golden, name):
    torch = pytest.importorskip("torch", reason="the published files need PyTorch")
    content = torch.load(golden / f"{name}.ckpt", weights_only=True)
    parts = {"model.encoder.": {}, "model.projector.": {}}
    for prefix, part in parts.items():
        for tensor, value in content["state_dict"].items():
            if tensor.startswith(prefix) and not tensor.endswith("num_batches_tracked"):
                part[tensor.removeprefix(prefix)] = value.numpy()
    outputs = np.load(golden / f"{name}.npz")
    represented = reference.represent(parts["model.encoder."], np.load(golden / "waveforms.npy"))
    projected = reference.dense(parts["model.projector."], represented)
    np.testing.assert_allclose(represented, outputs["representation"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(projected, outputs["projection"], rtol=1e-4, atol=1e-5)


def test_operations_agree_with_pytorch():
    torch = pytest.importorskip("torch", reason="compares with PyTorch's operations")
    functional = torch.nn.functional
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 4, 29))
    weight, bias = random.normal(size=(5, 4, 3)), random.normal(size=5)
    up, statistics = random.normal(size=(4, 5, 3)), random.uniform(0.5, 2, size=(4, 4))
    tensors = [torch.from_numpy(array) for array in (x, weight, bias, up, statistics)]
    t_x, t_weight, t_bias, t_up, t_statistics = tensors
    scale, shift, mean, variance = t_statistics
    pairs = [
        (reference.convolution(x, weight, bias), functional.conv1d(t_x, t_weight, t_bias, 1, 1)),
        (
            reference.convolution(x, weight, bias, stride=3, padding=0),
            functional.conv1d(t_x, t_weight, t_bias, 3, 0),
        ),
        (
            reference.transposed_convolution(x, up, bias),
            functional.conv_transpose1d(t_x, t_up, t_bias, stride=3),
        ),
        (reference.pool(x), functional.max_pool1d(t_x, 3, 3)),
        (
            reference.normalization(x, *statistics),
            functional.batch_norm(t_x, mean, variance, scale, shift, eps=1e-5),
        ),
    ]
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-12)


@pytest.mark.parametrize("name", ("plus", "deep", "shallow", "clmr", "hybrid"))
def test_stored_outputs_follow_from_the_seeds(name):
    stored = np.load(reference.FOLDER / "outputs.npz")
    state = reference.seeded_state(reference.encoder_shapes(reference.tiny_variants()[name]))
    represented = reference.represent(state, reference.tiny_waveforms())
    np.testing.assert_allclose(represented, stored[f"{name}/representation"], rtol=1e-9, atol=1e-9)
