"""Second-order high-pass and low-pass filters in closed form."""

import math

from keras import ops

from keras_tune.augment.complex_pairs import divide, multiply

QUALITY = 1.0 / math.sqrt(2.0)


def check_cutoffs(low, high, sample_rate, names):
    """Raise ValueError unless 0 < low <= high < sample_rate / 2."""
    if not 0.0 < low <= high < sample_rate / 2:
        raise ValueError(
            "Cutoff frequencies must be ordered, positive and below half the sample rate. "
            f"Received: {names[0]}={low}, {names[1]}={high}, sample_rate={sample_rate}"
        )


def impulse_length(cutoff, sample_rate):
    """Number of samples after which the filter's impulse response has fallen by 140 dB.

    The response decays as exp(-w n / 2Q), with w the angular cutoff frequency in radians a sample.
    """
    decay = math.pi * cutoff / sample_rate / QUALITY
    return math.ceil(math.log(1e7) / decay)


def butterworth(cutoff, high_pass, sample_rate, grid):
    """Response of second-order Butterworth filters (biquads with Q = 1/sqrt(2), 12 dB an octave).

    They are the bilinear transforms of s^2 / (s^2 + s/Q + 1) and 1 / (s^2 + s/Q + 1).

    Args:
        cutoff: (batch,), the -3 dB frequencies in Hz.
        high_pass: (batch,), bool; low-pass where false.
        sample_rate: Sample rate in Hz.
        grid: The `SpectralGrid`.

    Returns:
        A pair of float32 tensors (batch, *grid.shape).

    Source: R. Bristow-Johnson, Cookbook formulae for audio equalizer biquad filter coefficients.
    """
    high_pass = high_pass[:, None, None]
    scale, square, denominator = _second_order(cutoff, 1.0 / QUALITY, sample_rate, grid)
    numerator = (
        ops.where(high_pass, square[0], scale * scale),
        ops.where(high_pass, square[1], 0.0),
    )
    return divide(numerator, denominator)


def notch(center, octaves, sample_rate, grid):
    """Response of second-order notches: bilinear transforms of (s^2 + 1) / (s^2 + s/Q + 1).

    Args:
        center: (batch,), the frequencies that are suppressed, in Hz.
        octaves: (batch,), the distance of the -3 dB points in octaves.
        sample_rate: Sample rate in Hz.
        grid: The `SpectralGrid`.

    Returns:
        A pair of float32 tensors (batch, *grid.shape).

    Source: R. Bristow-Johnson, Cookbook formulae for audio equalizer biquad filter coefficients.
    """
    # The bilinear transform warps frequencies; the cookbook widens the band to make up for it.
    angle = 2.0 * math.pi / sample_rate * center
    inverse_quality = 2.0 * ops.sinh(math.log(2.0) / 2.0 * octaves * angle / ops.sin(angle))
    scale, square, denominator = _second_order(
        center, inverse_quality[:, None, None], sample_rate, grid
    )
    return divide((square[0] + scale * scale, square[1]), denominator)


def _second_order(frequency, inverse_quality, sample_rate, grid):
    """Give k = tan(w/2), u^2 and u^2 + k u/Q + k^2 for u = k s = (1 - 1/z) / (1 + 1/z).

    Written in u, and not in the coefficients of the biquad, float32 loses nothing at low
    frequencies.
    """
    inverse = 1.0 / grid.points
    u = (1.0 - inverse) / (1.0 + inverse)
    real, imaginary = (ops.convert_to_tensor(part, dtype="float32") for part in (u.real, u.imag))
    square = multiply((real, imaginary), (real, imaginary))
    scale = ops.tan(math.pi / sample_rate * frequency)[:, None, None]
    slope = scale * inverse_quality
    denominator = (
        slope * real + scale * scale + square[0],
        slope * imaginary + square[1],
    )
    return scale, square, denominator
