"""What is faster on TensorFlow in another way than on the other backends.

The only module of the layers and augmentations that imports TensorFlow, inside functions: layers
must work without it.
"""

import functools
import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

from keras_tune.types import Tensor


def compiled(function: Callable) -> Callable:
    """Compile a function of tensors with XLA, on the TensorFlow backend.

    On a CPU the convolutions of these models are several times faster outside XLA, and elementwise
    operations several times faster inside. So parts of a step are compiled, and not the whole step.
    Arguments that are not tensors must be hashable, and are constants.
    """
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)


def worth_compiling(tensor: Tensor) -> bool:
    """Whether to compile operations on a tensor: if it is large and in a TensorFlow graph.

    Compiling takes seconds in all, more than it saves for examples of a few thousand values.
    """
    if keras.backend.backend() != "tensorflow" or None in tensor.shape[1:]:
        return False
    import tensorflow as tf

    return not tf.executing_eagerly() and math.prod(tensor.shape[1:]) >= 2**14


def convolve_in_one_pass(
    layer: keras.layers.Conv1D, tensors: Sequence[Tensor], kernel: Tensor, bias: Tensor | None
) -> Tensor:
    """Convolve several tensors (batch, time, channels) as if their channels were concatenated.

    The kernel (kernel_size, sum of channels, filters) and the bias are given; strides, padding,
    dilation and activation are those of the layer.

    TensorFlow computes a convolution, the sum with another one, the addition of a bias and a ReLU
    as one operation, if they follow each other directly. Keras' one-dimensional convolution is a
    two-dimensional one of height 1 that removes the height before the bias, which prevents this.
    Here the height is removed last.
    """
    # TensorFlow only recognizes its own operation for a bias, which Keras does not have.
    import tensorflow as tf

    ends = np.cumsum([0, *(tensor.shape[-1] for tensor in tensors)])
    total = None
    # The first tensor is convolved last, in one operation with bias, sum and activation.
    for index in reversed(range(len(tensors))):
        outputs = ops.conv(
            tensors[index][:, None],
            kernel[None, :, ends[index] : ends[index + 1]],
            strides=(1, *layer.strides),
            padding=layer.padding,
            dilation_rate=(1, *layer.dilation_rate),
            data_format="channels_last",
        )
        if bias is not None and index == 0:
            outputs = tf.nn.bias_add(outputs, bias)
        total = outputs if total is None else ops.add(outputs, total)
    if layer.activation is not None:
        total = layer.activation(total)
    return ops.squeeze(total, 1)


def normalize_batch(
    inputs: Tensor, gamma: Tensor, beta: Tensor, epsilon: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize a batch (batch, time, channels) of known length by its own mean and variance.

    Sums are added up in stages of a few hundred terms, which is exact to 1e-6, and XLA compiles
    what lies between two sums into one pass over memory.

    Returns:
        The outputs in the precision of the inputs, and the batch's means and variances, float32
        (channels,), which have no gradient.
    """
    run = _compiled_once if worth_compiling(inputs) else lambda function: function

    @ops.custom_gradient
    def normalize(x, gamma, beta):
        count = ops.cast(ops.shape(x)[0] * ops.shape(x)[1], "float32")
        # Squares are taken about a rough mean, or their sum would cancel against the mean's.
        rough = ops.mean(ops.cast(x[:, :: max(1, x.shape[1] // 16)], "float32"), axis=(0, 1))
        shift, square = (_finish(part) / count for part in run(_moments)(x, rough))
        mean, variance = rough + shift, ops.maximum(square - ops.square(shift), 0.0)
        inverse = ops.rsqrt(variance + epsilon)
        scale = gamma * inverse
        offset = beta - mean * scale
        outputs = run(_apply)(x, scale, offset, relu)

        def gradient(upstream, *unused):
            # Mean and variance are returned for the moving averages only, which have no gradient.
            sums = run(_gradient_sums)(x, upstream, mean, scale, offset, relu)
            d_beta, d_gamma = (_finish(part) for part in sums)
            d_gamma = d_gamma * inverse
            slope = -scale * inverse * d_gamma / count
            constant = -scale * d_beta / count - slope * mean
            d_x = run(_input_gradient)(x, upstream, scale, offset, slope, constant, relu)
            return d_x, d_gamma, d_beta

        return (outputs, mean, variance), gradient

    return normalize(inputs, gamma, beta)


# All layers share one set of compiled loops, so each is compiled once for each shape.
_compiled_once = functools.cache(compiled)

# The four passes over a tensor, each compiled into one loop if that is worth it. Time is cut into
# rows of some steps, so that loops run over many adjacent values and not over a few channels.
# Partial sums are over some rows and are added up outside: inside, XLA would merge all stages into
# one.


def _moments(x, rough):
    values = _in_rows(x) - _tiled(rough, x)
    return _partial_sums(values, x), _partial_sums(values * values, x)


def _apply(x, scale, offset, relu):
    values = _affine(x, scale, offset)
    values = ops.relu(values) if relu else values
    return ops.reshape(ops.cast(values, x.dtype), ops.shape(x))


def _gradient_sums(x, upstream, mean, scale, offset, relu):
    upstream = _before_relu(x, upstream, scale, offset, relu)
    centered = _in_rows(x) - _tiled(mean, x)
    return _partial_sums(upstream, x), _partial_sums(upstream * centered, x)


def _input_gradient(x, upstream, scale, offset, slope, constant, relu):
    values = _before_relu(x, upstream, scale, offset, relu) * _tiled(scale, x)
    values += _affine(x, slope, constant)
    return ops.reshape(ops.cast(values, x.dtype), ops.shape(x))


def _before_relu(x, upstream, scale, offset, relu):
    """The gradient of what the ReLU takes, in rows."""
    upstream = _in_rows(upstream)
    return ops.where(_affine(x, scale, offset) > 0, upstream, 0.0) if relu else upstream


def _affine(x, scale, offset):
    return _in_rows(x) * _tiled(scale, x) + _tiled(offset, x)


def _rows(x):
    """Steps in a row, about a hundred, and rows in a partial sum: divisors of the time."""
    width = _divisor(x.shape[1], 243 if x.shape[2] < 64 else 81)
    return width, _divisor(x.shape[1] // width, 9)


def _divisor(number, limit):
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)


def _in_rows(x):
    width, _ = _rows(x)
    return ops.cast(ops.reshape(x, (-1, x.shape[1] // width, width * x.shape[2])), "float32")


def _tiled(vector, x):
    """A vector (channels,) for every step of a row of `x`."""
    return ops.tile(vector, (_rows(x)[0],))


def _partial_sums(values, x):
    """The sums of some adjacent rows of `x`: (batch, rows, steps of a row, channels)."""
    width, length = _rows(x)
    count, size = values.shape[1:]
    values = ops.reshape(values, (-1, count // length, length, size))
    # XLA adds single values up in a reduction, and many at once in additions.
    total = values[:, :, 0]
    for index in range(1, length):
        total += values[:, :, index]
    return ops.reshape(total, (-1, count // length, width, size // width))


def _finish(partial):
    """Add up the partial sums, in stages again."""
    return ops.sum(ops.sum(ops.sum(partial, axis=2), axis=1), axis=0)
