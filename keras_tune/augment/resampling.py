"""Reading waveforms faster or slower."""

import numpy as np
from keras import ops


def read_faster(waveforms, ratios, samples):
    """Read each waveform at its own speed, by cubic Lagrange interpolation.

    Args:
        waveforms: (batch, length), float32; `length` reaches three samples beyond
            `ratio * samples`. Before its first sample a waveform is taken to be silent.
        ratios: (batch,), the steps in samples.
        samples: Number of samples to give.

    Returns:
        (batch, samples), float32: sample n is the waveform at time n * ratio.
    """
    # A float32 product of ratio and n would be off by up to a hundredth of a sample. So the ratio
    # is split into 64ths, whose multiples are exact in integers, and a small rest.
    sixty_fourths = ops.cast(ops.round(ratios * 64.0), "int32")
    rest = ratios - ops.cast(sixty_fourths, "float32") / 64.0
    index = np.arange(samples, dtype="int32")[None]
    product = sixty_fourths[:, None] * ops.convert_to_tensor(index)
    position = ops.cast(product % 64, "float32") / 64.0
    position = position + rest[:, None] * ops.convert_to_tensor(index.astype("float32"))
    whole = ops.floor(position)
    t = position - whole
    # One silent sample in front, so that position 0 has a neighbour to its left.
    padded = ops.pad(waveforms, ((0, 0), (1, 0)))
    left = product // 64 + ops.cast(whole, "int32")
    a, b, c, d = (ops.take_along_axis(padded, left + shift, axis=1) for shift in range(4))
    return (t - 1.0) * (t - 2.0) * ((t + 1.0) * b / 2.0 - t * a / 6.0) + (t + 1.0) * t * (
        (t - 1.0) * d / 6.0 - (t - 2.0) * c / 2.0
    )
