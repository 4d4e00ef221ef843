import keras
import numpy as np
import pytest
from keras import ops
from seeded import seed_weights

from keras_tune.models import TUNe, estimate_batch_norm, estimate_pca, fit_representation


def small():
    return seed_weights(TUNe(1, 1, base_filters=2, tail_filters=[3, 4], input_samples=243))


def windows(count, seed=0):
    return np.random.default_rng(seed).normal(0.1, 0.3, (count, 243, 1)).astype("float32")


def test_statistics_are_those_of_what_each_layer_is_given():
    """One batch: the first block's statistics are those of its convolution, in NumPy."""
    model, x = small(), windows(16)
    before = [ops.convert_to_numpy(v) for v in model.trainable_variables]
    estimate_batch_norm(model, [x])
    block = model.get_layer("contract_1")
    kernel, bias = (ops.convert_to_numpy(v) for v in block.convolution.weights)
    padded = np.pad(x[..., 0].astype("float64"), ((0, 0), (1, 1)))
    taps = np.stack([padded[:, k : k + 243] for k in range(3)], axis=-1)
    values = taps @ kernel[:, 0] + bias
    norm = block.normalization
    np.testing.assert_allclose(norm.moving_mean, values.mean(axis=(0, 1)), rtol=1e-4)
    np.testing.assert_allclose(norm.moving_variance, values.var(axis=(0, 1)), rtol=1e-4)
    # With the statistics of the batch as its own, inference gives what training gives.
    inference, training = (ops.convert_to_numpy(model(x, training=t)) for t in (False, True))
    np.testing.assert_allclose(inference, training, rtol=1e-3, atol=1e-5)
    for old, new in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, ops.convert_to_numpy(new))
    assert norm.momentum == 0.9


@pytest.mark.one_backend
def test_integers_are_refused():
    """Their scale is not that of the waveforms which the encoder gets later."""
    integers = (windows(16) * 3000).astype("int16")
    with pytest.raises(ValueError, match="full scale 1; .* Received: an array of int16"):
        estimate_batch_norm(small(), [integers])
    pooled = TUNe(1, 1, base_filters=2, tail_filters=[4], input_samples=243, pooled_stages=1)
    with pytest.raises(ValueError, match="Received: an array of int16"):
        estimate_pca(pooled, [integers])
    with pytest.raises(ValueError, match="Received: an array of int16"):
        fit_representation(pooled, pooled, [integers])


def test_several_batches_count_by_their_size():
    """The first layer sees the waveforms themselves, so parts must add up to the whole."""
    whole, parts, x = small(), small(), windows(24)
    estimate_batch_norm(whole, [x])
    estimate_batch_norm(parts, [x[:5], x[5:]])
    for name in ("moving_mean", "moving_variance"):
        found, expected = (
            ops.convert_to_numpy(getattr(m.get_layer("contract_1").normalization, name))
            for m in (parts, whole)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_frozen_model_is_estimated_and_stays_frozen():
    model = small()
    model.trainable = False
    norms = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    before = [ops.convert_to_numpy(layer.moving_mean) for layer in norms]
    estimate_batch_norm(model, [windows(8)])
    assert not model.trainable_variables
    for old, layer in zip(before, norms, strict=True):
        assert np.abs(old - ops.convert_to_numpy(layer.moving_mean)).max() > 1e-3


@pytest.mark.parametrize("batches", [[], [np.full((4, 243, 1), np.nan)]])
def test_nothing_to_measure(batches):
    model = small()
    with pytest.raises(ValueError):
        estimate_batch_norm(model, batches)
