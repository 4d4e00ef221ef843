"""Convolution and batch normalization of (batch, time, channels) on PyTorch, for processors.

With the channels last in memory, oneDNN convolves few channels up to five times as fast. PyTorch
has one-dimensional convolutions for the other order only, but a tensor (batch, channels, 1, time)
may have its channels last, and is then a view of one whose time comes first.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras

from keras_tune.types import Tensor

# The most values of a row in which batch normalization sees its input.
WIDTH = 8192


def is_usable(inputs: Tensor) -> bool:
    """Whether the functions of this module are for a tensor: with values, on a CPU.

    Args:
        inputs: Tensor (batch, time, channels).
    """
    return inputs.device.type in ("cpu", "meta") and 0 not in inputs.shape


def padding_on_each_side(layer: keras.layers.Conv1D) -> int | None:
    """The zeros that a convolution adds on each side, or None if the two sides may differ.

    Args:
        layer: `keras.layers.Conv1D` with the padding "same" or "valid".
    """
    if layer.padding == "valid":
        return 0
    reach = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
    return reach // 2 if tuple(layer.strides) == (1,) and reach % 2 == 0 else None


def convolve(
    tensors: Sequence[Tensor],
    kernel: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    dilation: int = 1,
) -> Tensor:
    """Convolve several tensors as if their channels were concatenated.

    Each is convolved on its own, which is faster than a copy of all of them.

    Args:
        tensors: Tensors (batch, time, channels) that differ in the channels only.
        kernel: Tensor (kernel_size, sum of channels, filters), as in Keras.
        bias: Tensor (filters,) or None.
        stride: Integer, in time steps.
        padding: Integer, the zeros on each side.
        dilation: Integer, in time steps.

    Returns:
        Tensor (batch, new time, filters).
    """
    import torch

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
    """Multiply by a matrix and add a bias in the same operation.

    Args:
        inputs: Tensor (rows, channels).
        kernel: Tensor (channels, filters).
        bias: Tensor (filters,) or None.

    Returns:
        Tensor (rows, filters).
    """
    import torch

    return inputs @ kernel if bias is None else torch.addmm(bias, inputs, kernel)


def normalize_batch(
    inputs: Tensor, gamma: Tensor, beta: Tensor, epsilon: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize a batch (batch, time, channels) by its own mean and variance.

    PyTorch's operation adds up every channel one value after the other, and is slow where channels
    are few. Here several time steps count as one with as many more channels, whose moments are then
    combined. Sums are of some thousand values, and accurate to 1e-6.

    Args:
        inputs: Tensor (batch, time, channels).
        gamma: Scales, float32 (channels,).
        beta: Offsets, float32 (channels,).
        epsilon: Float, added to the variances.
        relu: Whether the outputs are rectified.

    Returns:
        The outputs in the precision of the inputs, and the batch's means and variances (channels,),
        which have no gradient.

    Source: Ioffe & Szegedy, "Batch Normalization" (ICML 2015), for the gradient; Chan, Golub &
    LeVeque, "Algorithms for Computing the Sample Variance" (The American Statistician, 1983), for
    moments that are combined.
    """
    return _normalization().apply(inputs, gamma, beta, epsilon, relu)


@functools.cache
def _normalization():
    """The normalization with its gradient; its class exists only once PyTorch is imported."""
    import torch

    class Normalization(torch.autograd.Function):
        @staticmethod
        def forward(ctx, inputs, gamma, beta, epsilon, relu):
            inputs = inputs.contiguous()
            mean, variance = _moments(inputs, epsilon)
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

    return Normalization


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


def _moments(inputs, epsilon):
    """Mean and variance of every channel, at least float32, from those of the steps of a row."""
    import torch

    width, channels = _width(inputs), inputs.shape[-1]
    dtype = torch.promote_types(inputs.dtype, torch.float32)
    ones = torch.ones(width * channels, device=inputs.device, dtype=dtype)
    _, mean, inverse = torch.native_batch_norm(
        _rows(inputs), ones, torch.zeros_like(ones), None, None, True, 0.0, epsilon
    )
    mean = mean.view(width, channels).double()
    variance = inverse.view(width, channels).double() ** -2 - epsilon
    between = mean.var(0, unbiased=False)
    return mean.mean(0).to(dtype), (variance.mean(0) + between).to(dtype)
