"""Second-order high-pass, low-pass and band-reject filters."""

import math
from typing import Any

import keras
from keras import ops

from keras_tune.augment.augmentation import check_range
from keras_tune.augment.spectral import (
    LinearAugmentation,
    Pair,
    SpectralGrid,
    divide,
    multiply,
    to_pair,
)
from keras_tune.types import Interval, Tensor

# The quality factor of a Butterworth filter.
QUALITY = 1.0 / math.sqrt(2.0)


class _CutoffFilter(LinearAugmentation):
    """A second-order Butterworth filter (12 dB an octave), for `HighPass` and `LowPass`."""

    passes_high: bool

    def __init__(
        self,
        sample_rate: int,
        min_cutoff: float,
        max_cutoff: float,
        probability: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(probability=probability, seed=seed, **kwargs)
        check_range(_frequencies(sample_rate), min_cutoff=min_cutoff, max_cutoff=max_cutoff)
        self.sample_rate = sample_rate
        self.min_cutoff = min_cutoff
        self.max_cutoff = max_cutoff

    def draw_parameters(self, batch: int, samples: int) -> dict[str, Any]:
        return {"cutoff": self.uniform((batch,), self.min_cutoff, self.max_cutoff)}

    def tail(self, samples: int) -> int:
        return min(samples, _impulse_length(self.min_cutoff, self.sample_rate))

    def response(self, parameters: dict[str, Any], grid: SpectralGrid) -> Pair:
        cutoff = parameters["cutoff"]
        passes_high = ops.full_like(cutoff, self.passes_high, dtype="bool")
        return butterworth(cutoff, passes_high, self.sample_rate, grid)


@keras.saving.register_keras_serializable(package="keras_tune")
class HighPass(_CutoffFilter):
    """Remove frequencies below a cutoff that is drawn for each waveform.

    The filter is a second-order Butterworth high-pass (12 dB an octave).

    Args:
        sample_rate: Integer, the sample rate of the waveforms in Hz.
        min_cutoff: Float, the lowest cutoff frequency in Hz. Defaults to 200.
        max_cutoff: Float, the highest cutoff frequency in Hz. Defaults to 1200.
        probability: Float, the probability that an example is changed. Defaults to 1.
        seed: Integer, the seed of the draws, or None for a random one. Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape: (batch, samples), waveforms, full scale is [-1, 1].
    Output shape: the same, float32.

    Raises:
        ValueError: If the cutoff frequencies are not ordered, positive and below half the sample
            rate.

    Source: Spijkervet and Burgoyne, Contrastive Learning of Musical Representations (ISMIR 2021),
    for the range; see `HighLowPass` for the kind of filter.

    Example:

    ```python
    waveforms = np.random.normal(0, 0.1, (8, 22050))
    filtered = keras_tune.augment.HighPass(22050, seed=1)(waveforms, training=True)
    ```
    """

    passes_high = True

    def __init__(
        self,
        sample_rate: int,
        min_cutoff: float = 200.0,
        max_cutoff: float = 1200.0,
        probability: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(sample_rate, min_cutoff, max_cutoff, probability, seed, **kwargs)


@keras.saving.register_keras_serializable(package="keras_tune")
class LowPass(_CutoffFilter):
    """Remove frequencies above a cutoff that is drawn for each waveform.

    The filter is a second-order Butterworth low-pass (12 dB an octave).

    Args:
        sample_rate: Integer, the sample rate of the waveforms in Hz.
        min_cutoff: Float, the lowest cutoff frequency in Hz. Defaults to 2200.
        max_cutoff: Float, the highest cutoff frequency in Hz. Defaults to 4000.
        probability: Float, the probability that an example is changed. Defaults to 1.
        seed: Integer, the seed of the draws, or None for a random one. Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape: (batch, samples), waveforms, full scale is [-1, 1].
    Output shape: the same, float32.

    Raises:
        ValueError: If the cutoff frequencies are not ordered, positive and below half the sample
            rate.

    Source: Spijkervet and Burgoyne, Contrastive Learning of Musical Representations (ISMIR 2021),
    for the range; see `HighLowPass` for the kind of filter.

    Example:

    ```python
    waveforms = np.random.normal(0, 0.1, (8, 22050))
    filtered = keras_tune.augment.LowPass(22050, seed=1)(waveforms, training=True)
    ```
    """

    passes_high = False

    def __init__(
        self,
        sample_rate: int,
        min_cutoff: float = 2200.0,
        max_cutoff: float = 4000.0,
        probability: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(sample_rate, min_cutoff, max_cutoff, probability, seed, **kwargs)


@keras.saving.register_keras_serializable(package="keras_tune")
class HighLowPass(LinearAugmentation):
    """Filter each waveform by a high-pass or a low-pass, with equal probability.

    The filters are second-order Butterworth filters (12 dB an octave). The published code has
    changed its filters over time: first-order recursive ones at first (6 dB an octave), later
    windowed sincs, which are much steeper. These filters are between the two.

    Args:
        sample_rate: Integer, the sample rate of the waveforms in Hz.
        min_high_pass: Float, the lowest cutoff frequency of the high-pass in Hz. Defaults to 200.
        max_high_pass: Float, the highest cutoff frequency of the high-pass in Hz. Defaults to 1200.
        min_low_pass: Float, the lowest cutoff frequency of the low-pass in Hz. Defaults to 2200.
        max_low_pass: Float, the highest cutoff frequency of the low-pass in Hz. Defaults to 4000.
        probability: Float, the probability that an example is changed; CLMR uses 0.8. Defaults
            to 1.
        seed: Integer, the seed of the draws, or None for a random one. Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape: (batch, samples), waveforms, full scale is [-1, 1].
    Output shape: the same, float32.

    Raises:
        ValueError: If the cutoff frequencies are not ordered, positive and below half the sample
            rate.

    Source: Spijkervet and Burgoyne, Contrastive Learning of Musical Representations (ISMIR 2021).

    Example:

    ```python
    layer = keras_tune.augment.HighLowPass(22050, probability=0.8, seed=1)
    filtered = layer(np.random.normal(0, 0.1, (8, 22050)), training=True)
    ```
    """

    def __init__(
        self,
        sample_rate: int,
        min_high_pass: float = 200.0,
        max_high_pass: float = 1200.0,
        min_low_pass: float = 2200.0,
        max_low_pass: float = 4000.0,
        probability: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(probability=probability, seed=seed, **kwargs)
        allowed = _frequencies(sample_rate)
        check_range(allowed, min_high_pass=min_high_pass, max_high_pass=max_high_pass)
        check_range(allowed, min_low_pass=min_low_pass, max_low_pass=max_low_pass)
        self.sample_rate = sample_rate
        self.min_high_pass = min_high_pass
        self.max_high_pass = max_high_pass
        self.min_low_pass = min_low_pass
        self.max_low_pass = max_low_pass

    def draw_parameters(self, batch: int, samples: int) -> dict[str, Any]:
        high_pass = self.uniform((batch,)) < 0.5
        cutoff = ops.where(
            high_pass,
            self.uniform((batch,), self.min_high_pass, self.max_high_pass),
            self.uniform((batch,), self.min_low_pass, self.max_low_pass),
        )
        return {"high_pass": high_pass, "cutoff": cutoff}

    def tail(self, samples: int) -> int:
        lowest = min(self.min_high_pass, self.min_low_pass)
        return min(samples, _impulse_length(lowest, self.sample_rate))

    def response(self, parameters: dict[str, Any], grid: SpectralGrid) -> Pair:
        return butterworth(parameters["cutoff"], parameters["high_pass"], self.sample_rate, grid)


@keras.saving.register_keras_serializable(package="keras_tune")
class BandReject(LinearAugmentation):
    """Remove one frequency band from each waveform: a frequency mask.

    The filter is the second-order band-reject biquad, with its -3 dB points near the edges of the
    band and full suppression at its center. If the upper edge is beyond half the sample rate, the
    lower edge is exact. Centers are drawn uniformly in octaves.

    Args:
        sample_rate: Integer, the sample rate of the waveforms in Hz.
        min_center: Float, the lowest center of the band in Hz. Defaults to 200.
        max_center: Float, the highest center of the band in Hz. Defaults to 4000.
        min_octaves: Float, the smallest width of the band in octaves. Defaults to 0.5.
        max_octaves: Float, the largest width of the band in octaves. Defaults to 2.
        probability: Float, the probability that an example is changed. Defaults to 1.
        seed: Integer, the seed of the draws, or None for a random one. Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape: (batch, samples), waveforms, full scale is [-1, 1].
    Output shape: the same, float32.

    Raises:
        ValueError: If the centers are not ordered, positive and below half the sample rate, or the
            widths not ordered and positive.

    Source: R. Bristow-Johnson, Cookbook formulae for audio equalizer biquad filter coefficients
    (notch).

    Example:

    ```python
    layer = keras_tune.augment.BandReject(22050, max_octaves=1.0, seed=1)
    masked = layer(np.random.normal(0, 0.1, (8, 22050)), training=True)
    ```
    """

    def __init__(
        self,
        sample_rate: int,
        min_center: float = 200.0,
        max_center: float = 4000.0,
        min_octaves: float = 0.5,
        max_octaves: float = 2.0,
        probability: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(probability=probability, seed=seed, **kwargs)
        check_range(_frequencies(sample_rate), min_center=min_center, max_center=max_center)
        check_range(Interval(above=0), min_octaves=min_octaves, max_octaves=max_octaves)
        self.sample_rate = sample_rate
        self.min_center = min_center
        self.max_center = max_center
        self.min_octaves = min_octaves
        self.max_octaves = max_octaves

    def draw_parameters(self, batch: int, samples: int) -> dict[str, Any]:
        low, high = math.log2(self.min_center), math.log2(self.max_center)
        return {
            "center": ops.power(2.0, self.uniform((batch,), low, high)),
            "octaves": self.uniform((batch,), self.min_octaves, self.max_octaves),
        }

    def tail(self, samples: int) -> int:
        # A notch rings like a low-pass of the same quality, and narrow ones ring longest.
        quality = 0.5 / math.sinh(math.log(2.0) / 2.0 * self.min_octaves)
        cutoff = self.min_center * QUALITY / max(quality, QUALITY)
        return min(samples, _impulse_length(cutoff, self.sample_rate))

    def response(self, parameters: dict[str, Any], grid: SpectralGrid) -> Pair:
        """The bilinear transform of (s^2 + 1) / (s^2 + s/Q + 1)."""
        center, octaves = parameters["center"], parameters["octaves"]
        # The bilinear transform warps frequencies; the cookbook widens the band to compensate.
        angle = 2.0 * math.pi / self.sample_rate * center
        width = math.log(2.0) / 2.0 * octaves * angle / ops.sin(angle)
        inverse_quality = 2.0 * ops.sinh(ops.minimum(width, 10.0))
        # Where the upper edge is beyond half the sample rate, that would widen it without limit.
        half = ops.power(2.0, octaves / 2.0)
        lower = ops.tan(math.pi / self.sample_rate * center / half)
        ratio = ops.tan(angle / 2.0) / lower
        within = center * half < self.sample_rate / 2.0
        inverse_quality = ops.where(within, inverse_quality, ratio - 1.0 / ratio)
        scale, square, denominator = _second_order(
            center, inverse_quality[:, None, None], self.sample_rate, grid
        )
        return divide((square[0] + scale * scale, square[1]), denominator)


def butterworth(cutoff: Tensor, high_pass: Tensor, sample_rate: int, grid: SpectralGrid) -> Pair:
    """Response of second-order Butterworth filters, high-passes where `high_pass` is true.

    They are the bilinear transforms of s^2 / (s^2 + s/Q + 1) and 1 / (s^2 + s/Q + 1), with
    Q = 1/sqrt(2). Cutoffs (batch,) are the -3 dB frequencies in Hz.

    Source: R. Bristow-Johnson, Cookbook formulae for audio equalizer biquad filter coefficients.
    """
    high_pass = high_pass[:, None, None]
    scale, square, denominator = _second_order(cutoff, 1.0 / QUALITY, sample_rate, grid)
    numerator = (
        ops.where(high_pass, square[0], scale * scale),
        ops.where(high_pass, square[1], 0.0),
    )
    return divide(numerator, denominator)


def _second_order(frequency, inverse_quality, sample_rate, grid):
    """Compute k = tan(w/2), u^2 and u^2 + k u/Q + k^2 for u = k s = (1 - 1/z) / (1 + 1/z).

    Written in terms of u, and not of the biquad's coefficients, it loses no accuracy in float32 at
    low frequencies.
    """
    inverse = 1.0 / grid.points
    real, imaginary = to_pair((1.0 - inverse) / (1.0 + inverse))
    square = multiply((real, imaginary), (real, imaginary))
    scale = ops.tan(math.pi / sample_rate * frequency)[:, None, None]
    slope = scale * inverse_quality
    denominator = (
        slope * real + scale * scale + square[0],
        slope * imaginary + square[1],
    )
    return scale, square, denominator


def _frequencies(sample_rate):
    """The frequencies in Hz that a filter may have: below half the sample rate."""
    return Interval(above=0, below=sample_rate / 2)


def _impulse_length(cutoff, sample_rate):
    """The number of samples after which the filter's impulse response has fallen by 140 dB.

    The response decays as exp(-w n / 2Q), with w the angular cutoff frequency in radians a sample.
    """
    decay = math.pi * cutoff / sample_rate / QUALITY
    return math.ceil(math.log(1e7) / decay)
