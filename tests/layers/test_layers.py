import keras
import numpy as np
import pytest
from keras import ops

from keras_tune.layers import (
    CropToMultiple,
    FusedConv1D,
    LevelNormalization,
    MaxPooling1D,
    SampleCNNBlock,
    StatisticsPooling1D,
    StridedConv1DTranspose,
    TailBlock,
    UpsampleBlock,
)


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


CASES = [
    (SampleCNNBlock(4, data_format="channels_last"), [(2, 27, 3)], (2, 27, 4)),
    (
        SampleCNNBlock(4, strides=3, padding="valid", data_format="channels_last"),
        [(2, 27, 3)],
        (2, 9, 4),
    ),
    (FusedConv1D(4, 3, strides=3, data_format="channels_last"), [(2, 27, 3)], (2, 9, 4)),
    (FusedConv1D(4, 3, data_format="channels_last"), [(2, 9, 3), (2, 9, 2)], (2, 7, 4)),
    (StridedConv1DTranspose(4, 5, data_format="channels_last"), [(2, 9, 8)], (2, 45, 4)),
    (UpsampleBlock(4, data_format="channels_last"), [(2, 9, 8), (2, 27, 5)], (2, 27, 4)),
    (
        UpsampleBlock(1, upsampled_filters=4, data_format="channels_last"),
        [(2, 9, 8), (2, 27, 5)],
        (2, 27, 1),
    ),
    (TailBlock(4, data_format="channels_last"), [(2, 28, 3)], (2, 9, 4)),
    (TailBlock(4, data_format="channels_last"), [(2, 27, 3), (2, 9, 2)], (2, 9, 4)),
    (CropToMultiple(9), [(2, 30, 1)], (2, 27, 1)),
    (LevelNormalization(0.2), [(2, 30, 1)], (2, 30, 1)),
    (StatisticsPooling1D("channels_last"), [(2, 30, 3)], (2, 6)),
    (StatisticsPooling1D("channels_first"), [(2, 3, 30)], (2, 6)),
]


@pytest.mark.parametrize("layer, shapes, expected", CASES)
def test_shapes_and_config(layer, shapes, expected):
    layer = type(layer).from_config(layer.get_config())
    inputs = [noise(*shape) for shape in shapes]
    inputs, shape = (inputs, shapes) if len(inputs) > 1 else (inputs[0], shapes[0])
    assert tuple(layer.compute_output_shape(shape)) == expected
    output = layer(inputs)
    assert tuple(output.shape) == expected
    copy = type(layer).from_config(layer.get_config())
    copy(inputs)
    copy.set_weights(layer.get_weights())
    np.testing.assert_array_equal(ops.convert_to_numpy(copy(inputs)), ops.convert_to_numpy(output))


@pytest.mark.parametrize("options", [{}, {"use_bias": False}, {"activation": "relu"}])
def test_upsampling_is_the_transposed_convolution(options):
    ours = StridedConv1DTranspose(4, 3, data_format="channels_last", **options)
    same(ours, keras.layers.Conv1DTranspose(4, 3, 3, data_format="channels_last", **options))


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same", "activation": "relu"},
        {"strides": 3, "activation": "relu"},
        {"dilation_rate": 2, "use_bias": False, "padding": "same"},
        {"activation": "tanh"},
    ],
)
def test_fused_convolution_is_the_convolution(options, data_format):
    if data_format == "channels_first" and keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow's convolutions on a CPU take channels_last only")
    options = {**options, "data_format": data_format}
    same(FusedConv1D(4, 3, **options), keras.layers.Conv1D(4, 3, **options))


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("mixed_bfloat16", 3e-2)])
@pytest.mark.parametrize("options", [{"activation": "relu"}, {"use_bias": False}])
def test_fused_convolution_of_several_is_that_of_their_concatenation(options, dtype, tolerance):
    options = {"padding": "same", "data_format": "channels_last", **options}
    parts = [noise(2, 9, width) for width in (3, 5, 2)]
    plain = keras.layers.Conv1D(4, 3, **options)
    expected = ops.convert_to_numpy(plain(np.concatenate(parts, axis=-1)))
    inputs = [keras.Input(part.shape[1:]) for part in parts]
    fused = FusedConv1D(4, 3, dtype=dtype, **options)
    model = keras.Model(inputs, fused(inputs))
    assert model.output_shape == (None, 9, 4)
    fused.set_weights(plain.get_weights())
    np.testing.assert_allclose(
        model.predict(parts, verbose=0).astype("float32"), expected, rtol=tolerance, atol=tolerance
    )


def test_fused_convolution_refuses_groups_and_other_padding():
    with pytest.raises(ValueError, match="Received: groups=2, padding=same"):
        FusedConv1D(4, 3, groups=2, padding="same")
    with pytest.raises(ValueError, match="Received: groups=1, padding=causal"):
        FusedConv1D(4, 3, padding="causal")


def same(ours, plain):
    """Compare two layers of the same weights, compiled, on noise."""
    x = noise(2, 9, 8)
    ours(x), plain(x)
    weights = [noise(*weight.shape) for weight in ours.get_weights()]
    ours.set_weights(weights), plain.set_weights(weights)
    expected, found = (
        keras.Sequential([keras.Input(x.shape[1:]), layer]).predict(x, verbose=0)
        for layer in (plain, ours)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_training_normalizes_over_batch_and_time():
    block = SampleCNNBlock(4, data_format="channels_last")
    x = 3 + 2 * noise(8, 81, 2)
    block(x)
    rectified = ops.convert_to_numpy(block(x, training=True))
    # gamma 1 and beta 0: what is rectified is standard, so half of it is cut off at zero.
    before = ops.convert_to_numpy(block.convolution(x))
    mean, variance = before.mean(axis=(0, 1)), before.var(axis=(0, 1))
    expected = np.maximum((before - mean) / np.sqrt(variance + 1e-5), 0)
    np.testing.assert_allclose(rectified, expected, atol=1e-4)
    moving = ops.convert_to_numpy(block.normalization.moving_mean)
    np.testing.assert_allclose(moving, 0.1 * mean, rtol=1e-4, atol=1e-6)


def test_initialization_is_he_uniform_and_biases_are_kept():
    block = SampleCNNBlock(512, data_format="channels_last")
    block.build((None, 27, 128))
    kernel = ops.convert_to_numpy(block.convolution.kernel)
    bound = np.sqrt(6 / (3 * 128))
    assert 0.99 * bound < np.abs(kernel).max() <= bound * 1.0001
    assert block.convolution.use_bias


def test_cropping_a_length_that_only_the_data_knows():
    inputs = keras.Input((None, 1))
    model = keras.Model(inputs, CropToMultiple(9)(inputs))
    assert model.output_shape == (None, None, 1)
    x = noise(1, 30, 1)
    np.testing.assert_array_equal(ops.convert_to_numpy(model(x)), x[:, :27])


def test_unknown_data_format():
    with pytest.raises(ValueError, match="Received: data_format=first"):
        SampleCNNBlock(4, data_format="first")


def test_seeded_initial_weights_are_drawn_with_numpy():
    keras.utils.set_random_seed(1)
    first = SampleCNNBlock(4)
    first.build((None, 27, 2) if first.data_format == "channels_last" else (None, 2, 27))
    seed = first.convolution.kernel_initializer.seed
    limit = np.sqrt(6 / (3 * 2))
    expected = np.random.default_rng(seed).uniform(-limit, limit, (3, 2, 4))
    np.testing.assert_allclose(first.get_weights()[0], expected, rtol=1e-6)
    keras.utils.set_random_seed(1)
    assert SampleCNNBlock(4).convolution.kernel_initializer.seed == seed
    keras.utils.set_random_seed(2)
    assert SampleCNNBlock(4).convolution.kernel_initializer.seed != seed


def test_every_waveform_is_brought_to_the_level():
    loud = noise(3, 5000, 1)
    levels = np.array([1e-3, 0.5, 20.0])[:, None, None]
    found = ops.convert_to_numpy(LevelNormalization(0.1)(loud * levels))
    expected = [0.1 * x / np.sqrt(np.mean(np.square(x, dtype="float64"))) for x in loud]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


def test_what_is_nearly_silent_is_not_blown_up():
    layer = LevelNormalization(0.1)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(np.zeros((1, 9, 1)))), 0)
    # Noise of -100 dB is amplified by 60 dB at most.
    quiet = 1e-5 * np.sign(noise(1, 900, 1))
    np.testing.assert_allclose(ops.convert_to_numpy(layer(quiet)), 1e3 * quiet, rtol=1e-5)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_mean_and_deviation_over_time(data_format):
    inputs = 3 + noise(2, 50, 4)
    expected = np.concatenate([inputs.mean(axis=1), inputs.std(axis=1)], axis=1)
    if data_format == "channels_first":
        inputs = inputs.transpose(0, 2, 1)
    found = ops.convert_to_numpy(StatisticsPooling1D(data_format)(inputs))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "layer, outputs, constant",
    [(StatisticsPooling1D("channels_last"), (2,), 1.0), (LevelNormalization(), (9, 1), 0.0)],
)
def test_the_gradient_of_a_constant_is_finite(layer, outputs, constant):
    layer = type(layer).from_config(layer.get_config())
    # A layer in front of it whose output is constant over time, as a dead channel's, or silent.
    bias = keras.initializers.Constant(constant)
    dense = keras.layers.Dense(1, kernel_initializer="zeros", bias_initializer=bias)
    model = keras.Sequential([keras.Input((9, 2)), dense, layer])
    model.compile("sgd", "mse")
    model.fit(noise(4, 9, 2), np.zeros((4, *outputs)), verbose=0)
    assert all(np.isfinite(ops.convert_to_numpy(weight)).all() for weight in model.weights)


@pytest.mark.parametrize("level", [0, -0.1, float("nan"), float("inf")])
def test_levels_that_are_none(level):
    with pytest.raises(ValueError, match="level="):
        LevelNormalization(level)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="PyTorch's own operation")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("size", "steps"), [(3, 243), (2, 10), (3, 244)])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_pooling_and_its_gradient_are_pytorch_s(size, steps, dtype, data_format):
    import torch

    generator = np.random.default_rng(0)
    # Many windows have the same value several times, as after a ReLU.
    values = np.maximum(generator.integers(-3, 3, (2, 5, steps)), 0).astype("float32")
    upstream = torch.tensor(generator.normal(size=(2, 5, steps // size))).to(getattr(torch, dtype))
    layer = MaxPooling1D(size, data_format=data_format, dtype=dtype)

    def ours(x):
        if data_format == "channels_first":
            return layer(x)
        return layer(x.permute(0, 2, 1)).permute(0, 2, 1)

    found = []
    for pool in (ours, lambda x: torch.nn.functional.max_pool1d(x, size)):
        x = torch.tensor(values).to(getattr(torch, dtype)).requires_grad_()
        outputs = pool(x)
        outputs.backward(upstream)
        found.append((outputs, x.grad))
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="two layouts of PyTorch's")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("channels", "options"),
    [
        ([1], {"strides": 3, "padding": "valid"}),
        ([1], {}),
        ([4], {"kernel_size": 4}),
        ([4], {"strides": 3}),
        ([3, 2], {}),
    ],
)
def test_a_block_computes_the_same_in_both_layouts(channels, options, training):
    import torch

    parts = [noise(3, 54, width) for width in channels]
    found = []
    for data_format in ("channels_last", "channels_first"):
        first = data_format == "channels_first"
        block = SampleCNNBlock(6, data_format=data_format, **options)
        inputs = [torch.tensor(p.swapaxes(1, 2).copy() if first else p) for p in parts]
        inputs = [one.requires_grad_() for one in inputs]
        block.build([tuple(one.shape) for one in inputs])
        generator = np.random.default_rng(1)
        block.set_weights([generator.uniform(0.5, 1, w.shape) for w in block.weights])
        outputs = block(inputs if len(inputs) > 1 else inputs[0], training=training)
        outputs = outputs.swapaxes(1, 2) if first else outputs
        (outputs**2).sum().backward()
        gradients = [one.grad.swapaxes(1, 2) if first else one.grad for one in inputs]
        gradients += [weight.value.grad for weight in block.trainable_weights]
        found.append([outputs.detach(), *gradients, *map(torch.tensor, block.get_weights())])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX has its own gradient")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pooling_and_its_gradient_are_keras_own(dtype):
    import jax

    generator = np.random.default_rng(0)
    # A window of zeros, as after a ReLU, gives its gradient to the first of them.
    x = np.concatenate([np.zeros((2, 3, 5)), generator.normal(size=(2, 240, 5))], axis=1)
    x = ops.cast(x, dtype)
    layers = [pool(3, dtype=dtype) for pool in (MaxPooling1D, keras.layers.MaxPooling1D)]
    (one, gradient), (two, expected) = (
        (layer(x), jax.grad(lambda x, layer=layer: (layer(x) ** 2 + layer(x)).sum())(x))
        for layer in layers
    )
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(gradient[:, 3:], expected[:, 3:])
    np.testing.assert_array_equal(gradient[:, :3], [[[1] * 5, [0] * 5, [0] * 5]] * 2)


def test_pooling_of_no_examples():
    first = keras.backend.backend() == "torch"
    layer = MaxPooling1D(3, data_format="channels_first" if first else "channels_last")
    shapes = ((0, 2, 27), (0, 2, 9)) if first else ((0, 27, 2), (0, 9, 2))
    assert tuple(layer(np.zeros(shapes[0])).shape) == shapes[1]
