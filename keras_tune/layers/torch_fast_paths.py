"""Operations for which PyTorch has a faster form than the one that Keras uses.

With the channels last in memory, oneDNN convolves few channels up to five times as fast. PyTorch
has one-dimensional convolutions for the other order only, but a tensor (batch, channels, 1, time)
may have its channels last, and is then a view of one whose time comes first. So on a CPU there is a
form of its own for tensors (batch, time, channels).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras

from keras_tune.layers.common import concatenate_channels
from keras_tune.types import Tensor

# The most values of a row in which batch normalization sees a tensor (batch, time, channels).
WIDTH = 8192


def convolve(
    layer: keras.layers.Conv1D, tensors: Sequence[Tensor], kernel: Tensor, bias: Tensor | None
) -> Tensor | None:
    """Convolve several tensors as if their channels were concatenated.

    With `channels_last` each is convolved on its own, which is faster than a copy of all of them.
    The kernel (kernel_size, sum of channels, filters) and the bias are given; data format, strides,
    padding and dilation are those of the layer. Its activation is left to the caller.

    Returns:
        Tensor, or None where Keras' own convolution is to be used: if the zeros on the two sides
        may differ, and with `channels_last` on a GPU and without values.
    """
    import torch

    padding = _padding_on_each_side(layer)
    if padding is None:
        return None
    stride, dilation = layer.strides[0], layer.dilation_rate[0]
    if layer.data_format == "channels_first":
        joined = _by_channel(concatenate_channels(tensors, layer.data_format))
        weights = kernel.permute(2, 1, 0)
        return torch.nn.functional.conv1d(joined, weights, bias, stride, padding, dilation)
    if not all(map(_is_on_cpu, tensors)):
        return None
    if len(tensors) == 1 and tensors[0].shape[-1] == 1 and dilation == 1:
        return _convolve_one_channel(tensors[0], kernel, bias, stride, padding)
    channels = [tensor.shape[-1] for tensor in tensors]
    total: Any = None
    for tensor, part in zip(tensors, kernel.split(channels, dim=1), strict=True):
        outputs = torch.nn.functional.conv2d(
            tensor.contiguous().unsqueeze(1).permute(0, 3, 1, 2),
            part.permute(2, 1, 0).unsqueeze(2),
            bias if total is None else None,
            (1, stride),
            (0, padding),
            (1, dilation),
        )
        total = outputs if total is None else total.add_(outputs)
    return total.permute(0, 2, 3, 1).squeeze(1)


def _padding_on_each_side(layer):
    """The zeros that a convolution adds on each side, or None if the two sides may differ."""
    if layer.padding == "valid":
        return 0
    reach = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
    return reach // 2 if tuple(layer.strides) == (1,) and reach % 2 == 0 else None


def _is_on_cpu(inputs):
    """Whether the forms for (batch, time, channels) are for a tensor: with values, on a CPU."""
    return inputs.device.type in ("cpu", "meta") and 0 not in inputs.shape


def _convolve_one_channel(inputs, kernel, bias, stride, padding):
    """A product with a matrix of windows: for a single channel, oneDNN is slow."""
    import torch

    size, _, filters = kernel.shape
    padded = torch.nn.functional.pad(inputs.squeeze(2), (padding, padding))
    windows = padded.unfold(1, size, stride)
    batch, steps, _ = windows.shape
    outputs = multiply(windows.reshape(-1, size), kernel.squeeze(1), bias)
    return outputs.view(batch, steps, filters)


def multiply(inputs: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply (rows, channels) by (channels, filters) and add a bias in the same operation."""
    import torch

    return inputs @ kernel if bias is None else torch.addmm(bias, inputs, kernel)


def _by_channel(inputs):
    """The same tensor (batch, channels, time), one channel after the other in memory.

    A waveform (batch, samples, 1) whose axes were swapped counts as one with the channels last, and
    a convolution then puts out such a tensor, on which all that follows is slow.
    """
    return inputs[:, 0].contiguous()[:, None] if inputs.shape[1] == 1 else inputs.contiguous()


def can_normalize(inputs: Tensor, axis: int) -> bool:
    """Whether `normalize_batch` can be used: on a CPU, and with `axis=1` on a GPU of NVIDIA's."""
    if axis == 1:
        return inputs.device.type in ("cpu", "cuda", "meta") and 0 not in inputs.shape
    return axis in (2, -1) and _is_on_cpu(inputs)


def normalize_batch(
    inputs: Tensor, gamma: Tensor, beta: Tensor, axis: int, epsilon: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize a batch by its own mean and variance; `axis` is that of the channels.

    Keras computes the moments and the outputs one operation at a time, in mixed precision on a
    float32 copy, and PyTorch stores what each of them needs for its gradient. PyTorch's own
    operation does not, but falls short in two cases.

    On a CPU it adds float32 values up in double precision, but bfloat16 values one after the other
    in float32, and is then 0.3 % off in the mean of 5 million values. So there the moments are
    computed for every example and channel, and then combined, which is accurate for examples of up
    to half a million steps.

    With the channels last it adds up every channel one value after the other, and is slow where
    channels are few. There several time steps count as one with as many more channels, whose
    moments are then combined. Sums are of some thousand values, and accurate to 1e-6.

    Returns:
        The outputs in the precision of the inputs, and the batch's means and variances, float32
        (channels,), which have no gradient.

    Source: Chan, Golub & LeVeque, "Algorithms for Computing the Sample Variance" (The American
    Statistician, 1983), for moments that are combined.
    """
    import torch

    if axis != 1:
        return _channels_last_norm().apply(inputs, gamma, beta, epsilon, relu)
    if inputs.device.type == "cpu" and inputs.itemsize == 2:
        outputs, mean, variance = _half_precision_norm().apply(inputs, gamma, beta, epsilon)
    else:
        outputs, mean, inverse = torch.native_batch_norm(
            inputs, gamma, beta, None, None, True, 0.0, epsilon
        )
        variance = inverse.detach().square().reciprocal() - epsilon
    if relu:
        outputs = torch.relu_(outputs)
    return outputs, mean.detach(), variance.detach()


# The classes with a gradient of their own exist only once PyTorch is imported.


@functools.cache
def _half_precision_norm():
    """The normalization of (batch, channels, time) in half precision, on a CPU."""
    import torch

    class HalfPrecisionNorm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, inputs, gamma, beta, epsilon):
            batch, channels, time = inputs.shape
            rows = inputs.reshape(1, batch * channels, time)
            mean, variance = _combined_moments(rows, channels, epsilon)
            outputs, _, _ = torch.native_batch_norm(
                inputs, gamma, beta, mean, variance, False, 0.0, epsilon
            )
            ctx.save_for_backward(inputs, gamma, mean, (variance + epsilon).rsqrt())
            ctx.epsilon = epsilon
            ctx.mark_non_differentiable(mean, variance)
            return outputs, mean, variance

        @staticmethod
        def backward(ctx, upstream, *unused):
            inputs, gamma, mean, inverse = ctx.saved_tensors
            gradients = torch.ops.aten.native_batch_norm_backward(
                upstream, inputs, gamma, None, None, mean, inverse, True, ctx.epsilon, [True] * 3
            )
            return (*gradients, None)

    return HalfPrecisionNorm


@functools.cache
def _channels_last_norm():
    """The normalization of (batch, time, channels), on a CPU."""
    import torch

    class ChannelsLastNorm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, inputs, gamma, beta, epsilon, relu):
            inputs = inputs.contiguous()
            mean, variance = _combined_moments(_rows(inputs), inputs.shape[-1], epsilon)
            outputs = _affine(inputs, gamma, beta, mean, variance, epsilon)
            if relu:
                outputs.relu_()
            ctx.save_for_backward(inputs, gamma, mean, variance, *[outputs] * relu)
            ctx.epsilon = epsilon
            ctx.mark_non_differentiable(mean, variance)
            return outputs, mean, variance

        @staticmethod
        def backward(ctx, upstream, *unused):
            inputs, gamma, mean, variance, *outputs = ctx.saved_tensors
            upstream = upstream.contiguous()
            if outputs:
                upstream = torch.ops.aten.threshold_backward(upstream, outputs[0], 0)
            width, channels = _width(inputs), inputs.shape[-1]
            tiled = (vector.repeat(width) for vector in (gamma, mean, variance))
            direct, *sums = torch.ops.aten.native_batch_norm_backward(
                *(_rows(tensor) for tensor in (upstream, inputs)),
                *tiled,
                None,
                None,
                False,
                ctx.epsilon,
                [True] * 3,
            )
            d_gamma, d_beta = (part.view(width, channels).sum(0) for part in sums)
            count = inputs.shape[0] * inputs.shape[1]
            inverse = (variance + ctx.epsilon).rsqrt()
            slope = -gamma * inverse.square() * d_gamma / count
            constant = -gamma * inverse * d_beta / count - slope * mean
            # What mean and variance add to the gradient: a linear function of the inputs.
            zeros, ones = torch.zeros_like(mean), torch.ones_like(mean)
            d_inputs = _affine(inputs, slope, constant, zeros, ones, 0.0)
            d_inputs += direct.permute(0, 2, 3, 1).reshape(inputs.shape)
            return d_inputs, d_gamma, d_beta, None, None

    return ChannelsLastNorm


def _combined_moments(rows, channels, epsilon):
    """Mean and variance of every channel, at least float32, from those of parts of the tensor.

    The second axis of `rows` has all channels of the first part, then those of the second, …
    """
    import torch

    dtype = torch.promote_types(rows.dtype, torch.float32)
    ones = torch.ones(rows.shape[1], device=rows.device, dtype=dtype)
    _, mean, inverse = torch.native_batch_norm(
        rows, ones, torch.zeros_like(ones), None, None, True, 0.0, epsilon
    )
    mean = mean.view(-1, channels).double()
    variance = inverse.view(-1, channels).double() ** -2 - epsilon
    between = mean.var(0, unbiased=False)
    return mean.mean(0).to(dtype), (variance.mean(0) + between).to(dtype)


def _width(tensor):
    """The steps of a row: the largest divisor of the time with no more values than `WIDTH`."""
    _, steps, channels = tensor.shape
    most = max(1, min(steps, WIDTH // channels))
    return next(d for d in range(most, 0, -1) if steps % d == 0)


def _rows(tensor):
    """A view (batch, width · channels, 1, time / width) with its channels last in memory."""
    batch, steps, channels = tensor.shape
    width = _width(tensor)
    return tensor.view(batch, 1, steps // width, width * channels).permute(0, 3, 1, 2)


def _affine(inputs, gamma, beta, mean, variance, epsilon):
    """The inputs, less the mean and over the deviation, scaled and shifted."""
    import torch

    tiled = (vector.repeat(_width(inputs)) for vector in (gamma, beta, mean, variance))
    outputs, _, _ = torch.native_batch_norm(_rows(inputs), *tiled, False, 0.0, epsilon)
    return outputs.permute(0, 2, 3, 1).reshape(inputs.shape)


def can_pool(inputs: Tensor) -> bool:
    """Whether `max_of_windows` can be used: on a CPU, unless PyTorch compiles the model."""
    import torch

    return inputs.device.type == "cpu" and not torch.compiler.is_compiling()


def max_of_windows(inputs: Tensor, size: int, axis: int) -> Tensor:
    """The maximum of every `size` adjacent values along the axis of the time, which they divide.

    The gradient goes to the first of several equal maxima, as in PyTorch's own pooling.
    """
    return _window_maximum().apply(inputs, size, axis)


@functools.cache
def _window_maximum():
    """The function with its gradient."""
    import torch

    class WindowMaximum(torch.autograd.Function):
        @staticmethod
        def forward(ctx, inputs, size, axis):
            windows = _windows(inputs, size, axis)
            outputs = functools.reduce(torch.maximum, windows.unbind(axis + 1))
            ctx.save_for_backward(inputs, outputs)
            ctx.size, ctx.axis = size, axis
            return outputs

        @staticmethod
        def backward(ctx, upstream):
            inputs, outputs = ctx.saved_tensors
            # Bits are compared several times as fast as bfloat16 numbers.
            bits = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[inputs.itemsize]
            windows, outputs = _windows(inputs, ctx.size, ctx.axis).view(bits), outputs.view(bits)
            taken, gradients = torch.zeros_like(outputs, dtype=torch.bool), []
            for values in windows.unbind(ctx.axis + 1)[:-1]:
                # Greater than: and not one before.
                found = (values == outputs) > taken
                gradients.append(upstream * found)
                taken |= found
            gradients.append(upstream * ~taken)
            gradient = torch.stack(gradients, ctx.axis + 1)
            return gradient.view(inputs.shape), None, None

    return WindowMaximum


def _windows(tensor, size, axis):
    """The tensor with the steps of windows as an axis of their own, behind that of the time."""
    return tensor.contiguous().unflatten(axis, (tensor.shape[axis] // size, size))
