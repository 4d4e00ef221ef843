import keras
import numpy as np
import pytest
from keras import ops

from keras_tune.layers import BatchNormalization


def reference(x, gamma, beta, upstream, epsilon):
    """Outputs and gradients of batch normalization in float64 (Ioffe & Szegedy 2015)."""
    x, upstream = x.astype("float64"), upstream.astype("float64")
    count = x.shape[0] * x.shape[1]
    mean, variance = x.mean((0, 1)), x.var((0, 1))
    inverse = 1 / np.sqrt(variance + epsilon)
    normalized = (x - mean) * inverse
    d_beta = upstream.sum((0, 1))
    d_gamma = (upstream * normalized).sum((0, 1))
    d_x = gamma * inverse * (upstream - d_beta / count - normalized * d_gamma / count)
    return normalized * gamma + beta, d_x, d_gamma, d_beta, mean, variance


def outputs_and_gradients(layer, x, upstream):
    """Of a tensor (batch, time, channels), which the layer gets with its own order of axes."""
    if layer.axis == 1:
        y, d_x, *others = _outputs_and_gradients(layer, *(a.swapaxes(1, 2) for a in (x, upstream)))
        return [y.swapaxes(1, 2), d_x.swapaxes(1, 2), *others]
    return _outputs_and_gradients(layer, x, upstream)


def _outputs_and_gradients(layer, x, upstream):
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        @tf.function(autograph=False)
        def step(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True)
            sources = [x, layer.gamma.value, layer.beta.value]
            return [y, *tape.gradient(y, sources, output_gradients=upstream)]

        found = step(tf.constant(x))
    elif backend == "jax":
        import jax

        state = [v.value for v in layer.non_trainable_variables]

        def function(x, trainable):
            y, _ = layer.stateless_call(trainable, state, x, training=True)
            return y

        y, pull = jax.vjp(function, x, [v.value for v in layer.trainable_variables])
        d_x, (d_gamma, d_beta) = pull(ops.convert_to_tensor(upstream))
        layer(x, training=True)
        found = [y, d_x, d_gamma, d_beta]
    else:
        import torch

        x = torch.tensor(x, requires_grad=True)
        y = layer(x, training=True)
        y.backward(torch.tensor(upstream, dtype=y.dtype))
        found = [y, x.grad, layer.gamma.value.grad, layer.beta.value.grad]
    return [ops.convert_to_numpy(ops.stop_gradient(array)) for array in found]


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("shape", [(48, 59049, 3), (4, 2 * 59, 5), (3, 97, 2)])
def test_outputs_and_gradients_are_those_of_float64(shape, axis):
    if axis == 1 and keras.backend.backend() != "torch":
        pytest.skip("there the time is the second axis")
    generator = np.random.default_rng(0)
    x = np.maximum(generator.normal(size=shape), 0).astype("float32") + np.float32(0.3)
    upstream = (generator.normal(size=shape) * 1e-3 + 1e-4).astype("float32")
    layer = BatchNormalization(axis=axis, momentum=0.9, epsilon=1e-5)
    layer.build(shape if axis == -1 else (shape[0], shape[2], shape[1]))
    gamma, beta = generator.uniform(0.5, 1.5, (2, shape[-1]))
    layer.set_weights([gamma, beta, np.zeros(shape[-1]), np.ones(shape[-1])])
    found = outputs_and_gradients(layer, x, upstream)
    *expected, mean, variance = reference(x, gamma, beta, upstream, 1e-5)
    for one, two in zip(found, expected, strict=True):
        assert np.linalg.norm(one - two) < 2e-3 * np.linalg.norm(two)
    assert np.linalg.norm(found[0] - expected[0]) < 2e-5 * np.linalg.norm(expected[0])
    moving_mean, moving_variance = layer.get_weights()[2:]
    np.testing.assert_allclose(moving_mean, 0.1 * mean, rtol=1e-4)
    np.testing.assert_allclose(moving_variance, 0.9 + 0.1 * variance, rtol=1e-4)


def test_inference_and_frozen_layers_use_the_moving_statistics():
    x = np.random.default_rng(0).normal(size=(2, 27, 3)).astype("float32")
    layer, plain = BatchNormalization(), keras.layers.BatchNormalization()
    for each in (layer, plain):
        each.build(x.shape)
        each.set_weights(np.array([[1, 2, 3], [0, 1, 0], [0.1, 0.2, 0.3], [1, 2, 3]]))
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)), ops.convert_to_numpy(plain(x)))
    layer.trainable = False
    np.testing.assert_array_equal(
        ops.convert_to_numpy(layer(x, training=True)), ops.convert_to_numpy(plain(x))
    )


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="PyTorch's own operation")
@pytest.mark.parametrize("axis", [1, -1])
def test_millions_of_half_precision_values_are_added_up_exactly(axis):
    import torch

    shape = (48, 3, 59049)
    generator = np.random.default_rng(0)
    x = np.maximum(generator.normal(size=shape), 0).astype("float32") + np.float32(0.3)
    upstream = (generator.normal(size=shape) * 1e-3 + 1e-4).astype("float32")
    x, upstream = (torch.tensor(a).bfloat16().float().numpy() for a in (x, upstream))
    layer = BatchNormalization(axis=axis, momentum=0.0, epsilon=1e-5, dtype="mixed_bfloat16")
    by_time = [a.swapaxes(1, 2) for a in (x, upstream)]
    layer.build(shape if axis == 1 else by_time[0].shape)
    found = outputs_and_gradients(layer, *by_time)
    _, d_x, *expected, mean, variance = reference(by_time[0], 1, 0, by_time[1], 1e-5)
    for one, two in zip(found[2:], expected, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-3 * np.linalg.norm(upstream))
    assert np.linalg.norm(found[1] - d_x) < 5e-3 * np.linalg.norm(d_x)
    moving_mean, moving_variance = layer.get_weights()[2:]
    np.testing.assert_allclose(moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(moving_variance, variance, rtol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="PyTorch's own operation")
@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed_bfloat16"])
@pytest.mark.parametrize("axis", [1, -1])
def test_pytorch_computes_what_keras_does(dtype, axis):
    generator = np.random.default_rng(1)
    x, upstream = generator.normal(0.3, 1, (2, 6, 5, 243)).astype("float32")
    if axis == -1:
        x, upstream = (a.swapaxes(1, 2) for a in (x, upstream))
    layer = BatchNormalization(activation="relu", axis=axis, epsilon=1e-5, dtype=dtype)
    plain = keras.layers.BatchNormalization(axis=axis, epsilon=1e-5, dtype=dtype)
    for each in (layer, plain):
        each.build(x.shape)
        each.set_weights([np.linspace(0.5, 1.5, 5), np.linspace(-1, 1, 5), np.zeros(5), np.ones(5)])
    if dtype == "mixed_bfloat16":
        import torch

        x, upstream = (torch.tensor(a).bfloat16().float().numpy() for a in (x, upstream))
    rectified = keras.Sequential([plain, keras.layers.ReLU(dtype=dtype)])
    rectified.axis, rectified.gamma, rectified.beta = axis, plain.gamma, plain.beta
    ours, keras_own = (_outputs_and_gradients(each, x, upstream) for each in (layer, rectified))
    for one, two in zip(ours, keras_own, strict=True):
        np.testing.assert_allclose(one, two, atol=0.02 * np.abs(two).max(), rtol=0)
    for one, two in zip(layer.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5)
