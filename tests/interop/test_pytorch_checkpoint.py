"""Published checkpoints in and out: the same numbers, and errors that name what is wrong."""

import os

import keras
import numpy as np
import numpy_reference as reference
import pytest
from safetensors.numpy import load_file, save_file

from keras_tune.errors import UserError
from keras_tune.interop import export_pytorch_checkpoint, load_pytorch_checkpoint
from keras_tune.models import PRESETS, Tagger, TUNe
from keras_tune.training import ContrastiveModel

GOLDEN = {
    "SampleCNN": "clmr",
    "TuneVanillaXS": "tune_vanilla_small",
    "Tune5Tail": "tune_tail_5",
    "TunePlus": "tune_plus",
}
SMALL = reference.FOLDER
DATA_FORMATS = pytest.mark.parametrize(
    "data_format",
    [
        "channels_last",
        pytest.param(
            "channels_first",
            marks=pytest.mark.skipif(
                keras.backend.backend() == "tensorflow",
                reason="TensorFlow has no channels_first convolutions on a CPU",
            ),
        ),
    ],
)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason=".ckpt and .pt files need PyTorch")


@pytest.fixture(scope="module")
def outputs():
    return np.load(SMALL / "outputs.npz")


def compute(model, x):
    return model.predict_on_batch(x)


def relative_error(value, expected):
    return np.linalg.norm(value - expected) / np.linalg.norm(expected)


def tiny(name):
    """The state of a tiny variant, by the published names."""
    return reference.seeded_state(reference.encoder_shapes(reference.tiny_variants()[name]))


@pytest.fixture
def deep_file(tmp_path):
    """Write the tensors of the tiny deep variant, changed, and return the path."""

    def write(changes):
        tensors = {f"encoder.{name}": array for name, array in tiny("deep").items()} | changes
        tensors = {name: array for name, array in tensors.items() if array is not None}
        save_file(tensors, tmp_path / "deep.safetensors")
        return tmp_path / "deep.safetensors"

    return write


class TestPublishedOutputs:
    @DATA_FORMATS
    @pytest.mark.parametrize("name", GOLDEN)
    def test_representation_projection_and_logits(self, torch, golden, name, data_format):
        expected = np.load(golden / f"{name}.npz")
        waveforms = np.load(golden / "waveforms.npy")[..., None]
        model = load_pytorch_checkpoint(
            golden / f"{name}.ckpt", projector=True, data_format=data_format
        )
        tagger = load_pytorch_checkpoint(
            golden / f"{name}.ckpt",
            preset=GOLDEN[name],
            head=golden / f"{name}.head.ckpt",
            data_format=data_format,
        )
        assert model.encoder.name == GOLDEN[name]
        representation = compute(model.encoder, waveforms)
        assert relative_error(representation, expected["representation"]) < 1e-4
        projection = keras.ops.convert_to_numpy(model.project(waveforms[..., 0]))
        assert relative_error(projection, expected["projection"]) < 1e-4
        assert relative_error(compute(tagger, waveforms), expected["logits"]) < 1e-4

    def test_flat_format(self, torch, golden):
        encoder = load_pytorch_checkpoint(golden / "SampleCNN_plain.pt")
        representation = compute(encoder, np.load(golden / "waveforms.npy")[..., None])
        expected = np.load(golden / "SampleCNN_plain.npz")["representation"]
        assert relative_error(representation, expected) < 1e-4

    @pytest.mark.parametrize("name", GOLDEN)
    def test_export_has_the_published_names_and_shapes(self, torch, golden, tmp_path, name):
        published = torch.load(golden / f"{name}.ckpt", weights_only=True)["state_dict"]
        model = load_pytorch_checkpoint(golden / f"{name}.ckpt", projector=True)
        export_pytorch_checkpoint(model, tmp_path / "model.ckpt")
        exported = torch.load(tmp_path / "model.ckpt", weights_only=True)["state_dict"]
        assert exported.keys() == published.keys()
        for tensor, value in published.items():
            assert exported[tensor].dtype == value.dtype
            if not tensor.endswith("num_batches_tracked"):
                assert torch.equal(exported[tensor], value)


class TestSmallFiles:
    @DATA_FORMATS
    def test_lightning(self, torch, outputs, data_format):
        waveforms = reference.tiny_waveforms()
        model = load_pytorch_checkpoint(
            SMALL / "plus.ckpt", projector=True, data_format=data_format
        )
        assert isinstance(model, ContrastiveModel)
        assert model.temperature == 0.25
        representation = compute(model.encoder, waveforms[..., None])
        assert relative_error(representation, outputs["plus/representation"]) < 1e-4
        projection = keras.ops.convert_to_numpy(model.project(waveforms))
        assert relative_error(projection, outputs["plus/projection"]) < 1e-4

    @pytest.mark.parametrize("kind", ["linear", "hidden"])
    def test_head(self, torch, outputs, kind):
        tagger = load_pytorch_checkpoint(
            SMALL / "plus.ckpt", head=SMALL / f"head_{kind}.ckpt", labels=list("abcde")
        )
        assert isinstance(tagger, Tagger)
        assert tagger.labels == list("abcde")
        logits = compute(tagger, reference.tiny_waveforms()[..., None])
        assert relative_error(logits, outputs[f"plus/logits_{kind}"]) < 1e-4

    def test_flat_with_its_own_head(self, torch, outputs):
        tagger = load_pytorch_checkpoint(SMALL / "clmr.pt", head=SMALL / "clmr.pt")
        waveforms = reference.tiny_waveforms()[..., None]
        representation = compute(tagger.encoder, waveforms)
        assert relative_error(representation, outputs["clmr/representation"]) < 1e-4
        assert relative_error(compute(tagger, waveforms), outputs["clmr/logits_linear"]) < 1e-4

    def test_flat_projector_trains(self, torch):
        model = load_pytorch_checkpoint(SMALL / "clmr.pt", projector=True)
        model.compile(optimizer=keras.optimizers.SGD(0.01))
        before = keras.ops.convert_to_numpy(model.projector.weights[0])
        clips = np.random.default_rng(0).normal(0, 0.1, (2, 59049)).astype("float32")
        history = model.fit(clips, batch_size=2, epochs=1, verbose=0)
        assert np.isfinite(history.history["loss"][0])
        assert not np.array_equal(before, keras.ops.convert_to_numpy(model.projector.weights[0]))

    @DATA_FORMATS
    def test_safetensors(self, outputs, data_format):
        encoder = load_pytorch_checkpoint(SMALL / "deep.safetensors", data_format=data_format)
        representation = compute(encoder, reference.tiny_waveforms()[..., None])
        assert relative_error(representation, outputs["deep/representation"]) < 1e-4

    @pytest.mark.parametrize("name", ["shallow", "hybrid"])
    def test_state_of_the_encoder_alone(self, tmp_path, outputs, name):
        save_file(tiny(name), tmp_path / "encoder.safetensors")
        encoder = load_pytorch_checkpoint(tmp_path / "encoder.safetensors")
        representation = compute(encoder, reference.tiny_waveforms()[..., None])
        assert relative_error(representation, outputs[f"{name}/representation"]) < 1e-4


class TestExport:
    @pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
    def test_contrastive_model_returns(self, request, tmp_path, suffix):
        if suffix == ".ckpt":
            request.getfixturevalue("torch")
        encoder = load_pytorch_checkpoint(SMALL / "deep.safetensors")
        model = ContrastiveModel(encoder, projection_dim=3, temperature=0.125)
        path = tmp_path / f"model{suffix}"
        export_pytorch_checkpoint(model, path)
        again = load_pytorch_checkpoint(path, projector=True)
        assert again.temperature == 0.125
        assert again.encoder.get_config() == encoder.get_config()
        for ours, theirs in zip(
            [*encoder.weights, *model.projector.weights],
            [*again.encoder.weights, *again.projector.weights],
            strict=True,
        ):
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy())

    @pytest.mark.parametrize("layers", [0, 2])
    def test_other_projection_heads_return(self, tmp_path, layers):
        encoder = load_pytorch_checkpoint(SMALL / "deep.safetensors")
        model = ContrastiveModel(encoder, projection_dim=3, projection_layers=layers)
        export_pytorch_checkpoint(model, tmp_path / "model.safetensors")
        again = load_pytorch_checkpoint(tmp_path / "model.safetensors", projector=True)
        assert (again.projection_layers, again.projection_dim) == (layers, 3)
        for ours, theirs in zip(model.projector.weights, again.projector.weights, strict=True):
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy())

    @pytest.mark.parametrize("hidden_units", [None, 4])
    def test_tagger_returns(self, tmp_path, hidden_units):
        encoder = load_pytorch_checkpoint(SMALL / "deep.safetensors")
        tagger = Tagger(encoder, num_labels=3, hidden_units=hidden_units)
        path = tmp_path / "tagger.safetensors"
        export_pytorch_checkpoint(tagger, path)
        again = load_pytorch_checkpoint(path, head=path)
        waveforms = reference.tiny_waveforms()[..., None]
        np.testing.assert_allclose(compute(again, waveforms), compute(tagger, waveforms), rtol=1e-6)

    def test_encoder_tensors_come_back_bit_for_bit(self, tmp_path):
        encoder = load_pytorch_checkpoint(SMALL / "deep.safetensors")
        export_pytorch_checkpoint(encoder, tmp_path / "encoder.safetensors")
        exported = load_file(tmp_path / "encoder.safetensors")
        for prefix in ("encoder.", "model.encoder."):
            for name, array in tiny("deep").items():
                np.testing.assert_array_equal(exported[prefix + name], array)
            assert exported[prefix + "conv1.layers.1.num_batches_tracked"].dtype == "int64"

    def test_what_cannot_be_exported(self, tmp_path):
        encoder = load_pytorch_checkpoint(SMALL / "deep.safetensors")
        with pytest.raises(UserError, match="suffix"):
            export_pytorch_checkpoint(encoder, tmp_path / "encoder.keras")
        pooled = TUNe(1, 1, base_filters=2, tail_filters=[4], pooled_stages=1)
        with pytest.raises(ValueError, match="Received: pooled_stages=1"):
            export_pytorch_checkpoint(pooled, tmp_path / "x.safetensors")
        head = ContrastiveModel(encoder, projection_batch_norm=True)
        with pytest.raises(ValueError, match="Received: projection_batch_norm=True"):
            export_pytorch_checkpoint(head, tmp_path / "x.safetensors")
        with pytest.raises(ValueError, match="Received: model="):
            export_pytorch_checkpoint(keras.Sequential(), tmp_path / "encoder.ckpt")
        assert not any(tmp_path.iterdir())


class TestFilesThatDoNotFit:
    def test_preset_of_other_widths(self):
        message = (
            r"conv1\.layers\.0\.weight has the shape \(1, 1, 3\) in the file and \(34, 1, 3\) in"
        )
        with pytest.raises(UserError, match=message):
            load_pytorch_checkpoint(SMALL / "deep.safetensors", preset="tune_vanilla")

    def test_the_first_disagreement_and_the_right_preset_are_named(self, tmp_path):
        state = reference.seeded_state(reference.encoder_shapes(PRESETS["tune_plus_32"]))
        save_file(state, tmp_path / "encoder.safetensors")
        with pytest.raises(UserError) as error:
            load_pytorch_checkpoint(tmp_path / "encoder.safetensors", preset="tune_tail_5")
        assert "convDown1.layers.0.weight has the shape (22, 33, 3)" in str(error.value)
        assert "(22, 11, 3) in the model" in str(error.value)
        assert str(error.value).endswith("those of tune_plus_32")

    def test_unknown_preset(self):
        with pytest.raises(UserError, match="did you mean tune_plus"):
            load_pytorch_checkpoint(SMALL / "deep.safetensors", preset="tune_plsu")

    @pytest.mark.parametrize(
        "name", ["conv2.layers.0.bias", "deeperUp1.layers.1.running_var", "conv3.layers.0.weight"]
    )
    def test_missing_tensor(self, deep_file, name):
        path = deep_file({f"encoder.{name}": None})
        with pytest.raises(UserError, match=rf"{name} \(.*\) of the model is missing"):
            load_pytorch_checkpoint(path)

    def test_missing_block_of_the_tail(self, deep_file):
        path = deep_file({"encoder.convDown2.layers.0.weight": None})
        with pytest.raises(UserError, match=r"convDown2\.layers\.0\.weight is missing"):
            load_pytorch_checkpoint(path)

    @pytest.mark.parametrize("name", ["encoder.conv1.layers.7.weight", "decoder.weight"])
    def test_surplus_tensor(self, deep_file, name):
        path = deep_file({name: np.zeros((3, 2), "float32")})
        with pytest.raises(UserError, match=rf"{name} \(3, 2\)"):
            load_pytorch_checkpoint(path)

    def test_one_wrong_shape(self, deep_file):
        path = deep_file({"encoder.conv8.layers.1.bias": np.zeros(9, "float32")})
        with pytest.raises(
            UserError, match=r"encoder\.conv8\.layers\.1\.bias has the shape \(9,\).*\(2,\) in the"
        ):
            load_pytorch_checkpoint(path)

    def test_not_a_convolution(self, deep_file):
        path = deep_file({"encoder.conv1.layers.0.weight": np.zeros(3, "float32")})
        with pytest.raises(UserError, match="not that of a convolution"):
            load_pytorch_checkpoint(path)

    def test_no_projector_and_no_head(self):
        path = SMALL / "deep.safetensors"
        with pytest.raises(UserError, match="no projector"):
            load_pytorch_checkpoint(path, projector=True)
        with pytest.raises(UserError, match="no head"):
            load_pytorch_checkpoint(path, head=path)

    def test_head_instead_of_encoder(self, torch):
        with pytest.raises(UserError, match="give it as the head"):
            load_pytorch_checkpoint(SMALL / "head_linear.ckpt")

    def test_head_of_another_width(self, tmp_path):
        head = {"model.0.weight": np.zeros((5, 12), "float32"), "model.0.bias": np.zeros(5, "f")}
        save_file(head, tmp_path / "head.safetensors")
        with pytest.raises(
            UserError, match=r"head.safetensors.*model\.0\.weight .*\(5, 12\).*\(5, 8\)"
        ):
            load_pytorch_checkpoint(SMALL / "deep.safetensors", head=tmp_path / "head.safetensors")

    def test_labels_of_another_number(self, torch):
        with pytest.raises(UserError, match="head_linear.ckpt: `num_labels`"):
            load_pytorch_checkpoint(
                SMALL / "plus.ckpt", head=SMALL / "head_linear.ckpt", labels=["a", "b"]
            )

    def test_arguments_that_exclude_each_other(self):
        path = SMALL / "deep.safetensors"
        with pytest.raises(ValueError, match="Received: projector=True"):
            load_pytorch_checkpoint(path, head=path, projector=True)
        with pytest.raises(ValueError, match="Received: temperature"):
            load_pytorch_checkpoint(path, temperature=0.1)


class TestFilesThatCannotBeRead:
    def test_missing_and_folder(self, tmp_path):
        with pytest.raises(UserError, match="no such file"):
            load_pytorch_checkpoint(tmp_path / "encoder.ckpt")
        with pytest.raises(UserError, match="a folder"):
            load_pytorch_checkpoint(tmp_path)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_is_refused_and_not_run(self, torch, tmp_path, zipped):
        class Attack:
            def __reduce__(self):
                return (os.mkdir, (str(tmp_path / "harm"),))

        path = tmp_path / "encoder.ckpt"
        content = {"state_dict": {"encoder.x": torch.zeros(1)}, "hyper_parameters": Attack()}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match=r"would run code \(\w+\.mkdir\)"):
            load_pytorch_checkpoint(path)
        assert not (tmp_path / "harm").exists()
        # The attack works where nothing refuses it, so that the test above is one.
        torch.load(path, weights_only=False)
        assert (tmp_path / "harm").exists()

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
    def test_cut_off(self, torch, tmp_path, share):
        for name in ("plus.ckpt", "deep.safetensors"):
            content = (SMALL / name).read_bytes()
            (tmp_path / name).write_bytes(content[: int(share * len(content))])
            with pytest.raises(UserError, match="or truncated"):
                load_pytorch_checkpoint(tmp_path / name)

    @pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
    def test_another_kind_of_file(self, torch, tmp_path, suffix):
        path = tmp_path / f"notes{suffix}"
        path.write_text("hello, these are no weights\n")
        with pytest.raises(UserError, match="not a (PyTorch checkpoint|safetensors file)"):
            load_pytorch_checkpoint(path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([1, 2], "contains a list"),
            ({"state_dict": 3}, "contains a int"),
            ({"epoch": 1}, "no tensors"),
        ],
    )
    def test_no_tensors(self, torch, tmp_path, content, message):
        torch.save(content, tmp_path / "encoder.ckpt")
        with pytest.raises(UserError, match=message):
            load_pytorch_checkpoint(tmp_path / "encoder.ckpt")

    def test_other_tensors(self, torch, tmp_path):
        torch.save({"layer.weight": torch.zeros(3, 3)}, tmp_path / "encoder.pt")
        with pytest.raises(UserError, match="no encoder of TUNe or CLMR"):
            load_pytorch_checkpoint(tmp_path / "encoder.pt")

    @pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch is the backend")
    def test_without_pytorch(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "torch", None)
        with pytest.raises(UserError, match=r"pip install 'keras_tune\[torch\]'"):
            load_pytorch_checkpoint(SMALL / "plus.ckpt")
        assert isinstance(load_pytorch_checkpoint(SMALL / "deep.safetensors"), TUNe)

    def test_half_precision(self, torch, tmp_path):
        state = {name: torch.from_numpy(array).bfloat16() for name, array in tiny("deep").items()}
        torch.save(state, tmp_path / "encoder.pt")
        encoder = load_pytorch_checkpoint(tmp_path / "encoder.pt")
        kernel = encoder.get_layer("contract_2").convolution.kernel
        expected = state["conv2.layers.0.weight"].float().numpy().transpose(2, 1, 0)
        np.testing.assert_array_equal(kernel.numpy(), expected)


@pytest.mark.one_backend
@pytest.mark.parametrize("level", [0.2, 1, 3.5])
def test_level_and_sample_rate_come_back(level, tmp_path):
    """The published code has neither, which a warning says of the level."""
    encoder = TUNe(*(2, 2, 2, [4, 8]), input_samples=6561, level=level, sample_rate=16000)
    path = tmp_path / "encoder.safetensors"
    with pytest.warns(UserWarning, match=f"root mean square of {level}"):
        export_pytorch_checkpoint(encoder, path)
    loaded = load_pytorch_checkpoint(path, input_samples=6561)
    assert (loaded.level, loaded.sample_rate) == (level, 16000)
    x = np.random.default_rng(0).normal(0, 0.5, (2, 6561, 1)).astype("float32")
    np.testing.assert_array_equal(*(model.predict(x, verbose=0) for model in (encoder, loaded)))
