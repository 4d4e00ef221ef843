"""Operations that PyTorch computes faster in another way than in Keras'."""

from __future__ import annotations

import functools

from keras_tune.types import Tensor


def normalize_batch(
    inputs: Tensor, gamma: Tensor, beta: Tensor, epsilon: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize a batch (batch, channels, time) by its own mean and variance.

    Keras computes the moments and the outputs one operation at a time, in mixed precision on a
    float32 copy, and PyTorch stores what each of them needs for its gradient. PyTorch's own
    operation passes over the inputs twice, in their precision, and adds up in double precision.

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

    outputs, mean, inverse = torch.native_batch_norm(
        inputs, gamma, beta, None, None, True, 0.0, epsilon
    )
    if relu:
        outputs = torch.relu_(outputs)
    mean, inverse = mean.detach(), inverse.detach()
    return outputs, mean, inverse.square().reciprocal() - epsilon


def by_channel(inputs: Tensor) -> Tensor:
    """The same tensor (batch, channels, time), one channel after the other in memory.

    A waveform (batch, samples, 1) whose axes were swapped counts as one with the channels last, and
    a convolution then puts out such a tensor, on which all that follows is slow.

    Args:
        inputs: Tensor (batch, channels, time).

    Returns:
        The same, without a copy if there is one channel.
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


def max_of_windows(inputs: Tensor, size: int) -> Tensor:
    """The maximum of every `size` adjacent values along the last axis, whose length they divide.

    The gradient goes to the first of several equal maxima, as in PyTorch's own pooling.

    Args:
        inputs: Tensor (…, time).
        size: Integer, the values of a window.

    Returns:
        Tensor (…, time / size).
    """
    return _window_maximum().apply(inputs, size)


@functools.cache
def _window_maximum():
    """The function with its gradient; its class exists only once PyTorch is imported."""
    import torch

    class WindowMaximum(torch.autograd.Function):
        @staticmethod
        def forward(ctx, inputs, size):
            windows = _windows(inputs, size)
            outputs = functools.reduce(torch.maximum, windows.unbind(-1))
            ctx.save_for_backward(inputs, outputs)
            ctx.size = size
            return outputs

        @staticmethod
        def backward(ctx, upstream):
            inputs, outputs = ctx.saved_tensors
            windows = _windows(inputs, ctx.size)
            gradient = torch.empty_like(windows)
            taken = torch.zeros_like(outputs, dtype=torch.bool)
            for place in range(ctx.size - 1):
                found = (windows[..., place] == outputs) & ~taken
                gradient[..., place] = upstream * found
                taken = taken | found
            gradient[..., -1] = upstream * ~taken
            return gradient.view(inputs.shape), None

    return WindowMaximum


def _windows(tensor, size):
    """The tensor with windows as its last axis: (…, time / size, size)."""
    return tensor.contiguous().view(*tensor.shape[:-1], -1, size)
