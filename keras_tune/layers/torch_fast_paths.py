"""Operations for which PyTorch has a faster form than the one that Keras uses."""

from __future__ import annotations

import functools

from keras_tune.types import Tensor


def can_normalize(inputs: Tensor) -> bool:
    """Whether `normalize_batch` can be used: on a CPU or a GPU of NVIDIA's, on a batch with values.

    Args:
        inputs: Tensor (batch, channels, time).
    """
    return inputs.device.type in ("cpu", "cuda", "meta") and 0 not in inputs.shape


def normalize_batch(
    inputs: Tensor, gamma: Tensor, beta: Tensor, epsilon: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize a batch (batch, channels, time) by its own mean and variance.

    Keras computes the moments and the outputs one operation at a time, in mixed precision on a
    float32 copy, and PyTorch stores what each of them needs for its gradient. PyTorch's own
    operation does not. On a CPU it adds float32 values up in double precision, but bfloat16 values
    one after the other in float32, and is then 0.3 % off in the mean of 5 million values. So there
    the moments are computed for every example and channel, and then combined, which is accurate for
    examples of up to half a million steps.

    Args:
        inputs: Tensor (batch, channels, time).
        gamma: Scales, float32 (channels,).
        beta: Offsets, float32 (channels,).
        epsilon: Float, added to the variances.
        relu: Whether the outputs are rectified.

    Returns:
        The outputs in the precision of the inputs, and the batch's means and variances, float32
        (channels,), which have no gradient.
    """
    import torch

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


@functools.cache
def _half_precision_norm():
    """The normalization with its gradient; its class exists only once PyTorch is imported."""
    import torch

    class HalfPrecisionNorm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, inputs, gamma, beta, epsilon):
            mean, variance = _moments(inputs, epsilon)
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


def _moments(inputs, epsilon):
    """Mean and variance of every channel, float32, from those of its examples."""
    import torch

    batch, channels, time = inputs.shape
    ones, zeros = torch.ones(batch * channels), torch.zeros(batch * channels)
    rows = inputs.reshape(1, batch * channels, time)
    _, mean, inverse = torch.native_batch_norm(rows, ones, zeros, None, None, True, 0.0, epsilon)
    mean = mean.view(batch, channels).double()
    variance = inverse.view(batch, channels).double() ** -2 - epsilon
    between = mean.var(0, unbiased=False)
    return mean.mean(0).float(), (variance.mean(0) + between).float()


def by_channel(inputs: Tensor) -> Tensor:
    """The same tensor (batch, channels, time), one channel after the other in memory.

    A waveform (batch, samples, 1) whose axes were swapped counts as one with the channels last, and
    a convolution then puts out such a tensor, on which all that follows is slow.

    Args:
        inputs: Tensor (batch, channels, time).

    Returns:
        The same values; copied only where the memory is in another order.
    """
    return inputs[:, 0].contiguous()[:, None] if inputs.shape[1] == 1 else inputs.contiguous()


def convolve(
    inputs: Tensor, kernel: Tensor, bias: Tensor | None, stride: int, padding: int, dilation: int
) -> Tensor:
    """Convolve a tensor (batch, channels, time), with the bias in the same operation.

    Args:
        inputs: Tensor (batch, channels, time).
        kernel: Tensor (kernel_size, channels, filters), as in Keras.
        bias: Tensor (filters,) or None.
        stride: Integer, in time steps.
        padding: Integer, the zeros on each side.
        dilation: Integer, in time steps.

    Returns:
        Tensor (batch, filters, new time).
    """
    import torch

    weights = kernel.permute(2, 1, 0)
    return torch.nn.functional.conv1d(by_channel(inputs), weights, bias, stride, padding, dilation)


def can_pool(inputs: Tensor) -> bool:
    """Whether `max_of_windows` can be used: on a CPU, unless PyTorch compiles the model.

    Args:
        inputs: Tensor.
    """
    import torch

    return inputs.device.type == "cpu" and not torch.compiler.is_compiling()


def max_of_windows(inputs: Tensor, size: int, axis: int) -> Tensor:
    """The maximum of every `size` adjacent values along an axis, whose length they divide.

    The gradient goes to the first of several equal maxima, as in PyTorch's own pooling.

    Args:
        inputs: Tensor (batch, channels, time), or (batch, time, channels).
        size: Integer, the values of a window.
        axis: Integer, the axis of the time, 1 or 2.

    Returns:
        Tensor (batch, channels, time / size), or (batch, time / size, channels).
    """
    return _window_maximum().apply(inputs, size, axis)


@functools.cache
def _window_maximum():
    """The function with its gradient; its class exists only once PyTorch is imported."""
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
