import pathlib

import keras
import numpy as np
import pytest
from keras import ops

from keras_tune.losses import NTXent, nt_xent, nt_xent_logits


def slow_nt_xent(z_i, z_j, temperature, groups=None):
    """The formula of SimCLR, anchor by anchor, in float64; without pairs of a group's clips."""
    z = np.concatenate([z_i, z_j]).astype("float64")
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    count = len(z)
    losses = []
    for anchor in range(count):
        positive = (anchor + count // 2) % count
        groups = range(count // 2) if groups is None else groups
        group = [groups[k % (count // 2)] for k in range(count)]
        candidates = [k for k in range(count) if group[k] != group[anchor] or k == positive]
        similarities = {k: z[anchor] @ z[k] / temperature for k in candidates}
        denominator = sum(np.exp(s) for s in similarities.values())
        losses.append(-np.log(np.exp(similarities[positive]) / denominator))
    return np.array(losses)


def gradient(function, x):
    """The gradient of a scalar function on whichever backend is running."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        x = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return tape.gradient(y, x).numpy()
    if keras.backend.backend() == "jax":
        import jax

        return np.asarray(jax.grad(function)(x))
    import torch

    x = torch.tensor(x, requires_grad=True)
    function(x).backward()
    return x.grad.numpy()


@pytest.mark.parametrize("batch, dim, temperature", [(2, 4, 0.5), (9, 16, 0.1), (16, 64, 1.0)])
def test_every_anchor_matches_the_formula(batch, dim, temperature):
    generator = np.random.default_rng(batch)
    z_i, z_j = generator.normal(size=(2, batch, dim)).astype("float32")
    losses = ops.convert_to_numpy(nt_xent(z_i, z_j, temperature))
    np.testing.assert_allclose(losses, slow_nt_xent(z_i, z_j, temperature), rtol=1e-5, atol=1e-6)
    mean = float(NTXent(temperature)(z_i, z_j))
    assert mean == pytest.approx(slow_nt_xent(z_i, z_j, temperature).mean(), rel=1e-5)


@pytest.mark.parametrize("case", range(4))
def test_reference_loss_and_gradient(case):
    """`nt_xent.npz` holds what the published PyTorch module computes, with PyTorch's gradient."""
    with np.load(pathlib.Path(__file__).with_name("nt_xent.npz")) as file:
        z_i, z_j, temperature, loss, grad = (
            file[f"case{case}_{key}"] for key in ("z_i", "z_j", "temperature", "loss", "grad_z_i")
        )
    criterion = NTXent(float(temperature))
    assert float(criterion(z_i, z_j)) == pytest.approx(float(loss), abs=1e-5)
    found = gradient(lambda z: criterion(z, ops.convert_to_tensor(z_j)), z_i)
    np.testing.assert_allclose(found, grad, atol=1e-5)


# Numbers beyond 2²⁴ are not exact in float32.
@pytest.mark.parametrize(
    "groups", [[0, 1, 0, 2, 0], [3] * 5, [2**30, 2**30 + 1, -5, 2**30, -6], [4, 3, 2, 1, 0]]
)
def test_clips_of_a_group_are_no_negatives(groups):
    z_i, z_j = np.random.default_rng(1).normal(size=(2, 5, 8)).astype("float32")
    groups = np.array(groups, "int32")
    expected = slow_nt_xent(z_i, z_j, 0.3, groups)
    losses = ops.convert_to_numpy(nt_xent(z_i, z_j, 0.3, ops.convert_to_tensor(groups)))
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
    loss = NTXent(0.3)
    assert float(loss(z_i, z_j, groups=groups)) == pytest.approx(expected.mean(), rel=1e-5)
    weights = np.arange(10, dtype="float32")
    weighted = float(loss(z_i, z_j, weights, groups))
    assert weighted == pytest.approx((weights * expected).mean(), rel=1e-5)


def test_groups_of_one_change_no_bit():
    z_i, z_j = np.random.default_rng(2).normal(size=(2, 6, 8)).astype("float32")
    plain, grouped = (
        ops.convert_to_numpy(nt_xent(z_i, z_j, 0.5, groups)) for groups in (None, np.arange(6))
    )
    np.testing.assert_array_equal(plain, grouped)
    assert float(NTXent()(z_i, z_j)) == float(NTXent()(z_i, z_j, groups=np.arange(6)))


def test_masked_pairs_have_no_gradient():
    z_i, z_j = np.random.default_rng(3).normal(size=(2, 3, 4)).astype("float32")

    def of_the_first(z):
        # The anchor 0 and its group's clip 1, whose views it must not push away.
        return nt_xent(z, ops.convert_to_tensor(z_j), 0.5, np.array([7, 7, 8]))[0]

    found = gradient(of_the_first, z_i)
    np.testing.assert_array_equal(found[1], 0)
    assert np.abs(found[[0, 2]]).min() > 0


def test_it_is_symmetric_and_blind_to_scale():
    z_i, z_j = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    loss = float(NTXent()(z_i, z_j))
    assert float(NTXent()(z_j, z_i)) == pytest.approx(loss, rel=1e-6)
    assert float(NTXent()(z_i * 7, z_j * 0.01)) == pytest.approx(loss, rel=1e-5)


def test_half_precision_projections_are_computed_in_float32():
    z_i, z_j = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float16")
    logits, labels = nt_xent_logits(z_i, z_j)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert ops.convert_to_numpy(labels).tolist() == [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]


def test_zero_vectors_give_a_finite_loss():
    zeros = np.zeros((3, 4), "float32")
    # All similarities are equal, so every one of 2B − 1 candidates is as likely.
    assert float(NTXent()(zeros, zeros)) == pytest.approx(np.log(5), rel=1e-5)


def test_config_round_trip_and_bad_temperature():
    restored = NTXent.from_config(NTXent(0.1, name="x").get_config())
    assert (restored.temperature, restored.name) == (0.1, "x")
    with pytest.raises(ValueError, match="Received: temperature=0"):
        NTXent(0)
