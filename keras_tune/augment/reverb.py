import functools
import math
from typing import Any

import keras
import numpy as np
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
from keras_tune.types import Interval

# Freeverb's delay lines, in samples at 44,100 Hz.
COMB_LENGTHS = (1116, 1188, 1277, 1356, 1422, 1491, 1557, 1617)
ALLPASS_LENGTHS = (225, 341, 441, 556)
ALLPASS_FEEDBACK = 0.5
MIN_FEEDBACK, MAX_FEEDBACK = 0.3, 0.98
MIN_DAMPING, MAX_DAMPING = 0.2, 0.5
WET_SCALE = 0.015


@functools.lru_cache(maxsize=8)
def _allpass_response(grid, sample_rate):
    """The four all-pass sections and the wet gain, the same for every draw, in NumPy."""
    response = WET_SCALE
    for length in ALLPASS_LENGTHS:
        delay = grid.points ** -math.floor(length * sample_rate / 44100.0 + 0.5)
        response *= ((1.0 + ALLPASS_FEEDBACK) * delay - 1.0) / (1.0 - ALLPASS_FEEDBACK * delay)
    return response


@keras.saving.register_keras_serializable(package="keras_tune")
class Reverb(LinearAugmentation):
    """Add the reverberation of a random room to each waveform: Freeverb, as in SoX' `reverb`.

    Eight comb filters in parallel, each with a one-pole low-pass in its loop, then four all-pass
    sections in series; the result is added to the dry waveform. Since this is linear, the layer
    multiplies the spectrum by the transfer function in closed form instead of running the loops.

    With d samples of delay, feedback g and damping h a comb is
    C(z) = z^-d / (1 - g z^-d (1 - h) / (1 - h z^-1)), and an all-pass section is
    A(z) = (1.5 z^-d - 1) / (1 - 0.5 z^-d). The wet gain is 0 dB, the pre-delay 0 and the stereo
    depth 0 (one bank of filters).

    Args:
        sample_rate: Integer, the sample rate of the waveforms in Hz.
        min_reverberance: Float, the lowest reverberance in percent. Defaults to 0 (feedback
            0.3).
        max_reverberance: Float, the highest reverberance in percent. Defaults to 100 (feedback
            0.98).
        min_damping: Float, the lowest damping of high frequencies in percent. Defaults to 0.
        max_damping: Float, the highest damping of high frequencies in percent. Defaults to 100.
        min_room_size: Float, the smallest room scale in percent. Defaults to 0.
        max_room_size: Float, the largest room scale in percent. Defaults to 100.
        probability: Float, the probability that an example is changed; CLMR uses 0.6.
            Defaults to 1.
        seed: Integer, the seed of the draws, or None for a random one. Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape: (batch, samples), waveforms, full scale is [-1, 1].
    Output shape: the same, float32.

    Raises:
        ValueError: If a range is not ordered or not within 0 and 100 percent.

    Source: J. Wakefield ("Jezar at Dreampoint"), Freeverb (2000); SoX, effect `reverb`
    (parameters and their mapping to feedback, damping and delay lengths).

    Example:

    ```python
    layer = keras_tune.augment.Reverb(22050, min_reverberance=50, seed=1)
    wet = layer(np.random.normal(0, 0.1, (8, 22050)), training=True)
    ```
    """

    rings = True

    def __init__(
        self,
        sample_rate: int,
        min_reverberance: float = 0.0,
        max_reverberance: float = 100.0,
        min_damping: float = 0.0,
        max_damping: float = 100.0,
        min_room_size: float = 0.0,
        max_room_size: float = 100.0,
        probability: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(probability=probability, seed=seed, **kwargs)
        self.sample_rate = sample_rate
        self.ranges = {
            "reverberance": (min_reverberance, max_reverberance),
            "damping": (min_damping, max_damping),
            "room_size": (min_room_size, max_room_size),
        }
        for name, (low, high) in self.ranges.items():
            check_range(Interval(0, 100), **{f"min_{name}": low, f"max_{name}": high})

    def draw_parameters(self, batch: int, samples: int) -> dict[str, Any]:
        return {name: self.uniform((batch,), *limits) for name, limits in self.ranges.items()}

    def tail(self, samples: int) -> int:
        # Padding for the whole response would take 1.7 times as long on a CPU.
        return max(samples // 4, 1)

    def response(self, parameters: dict[str, Any], grid: SpectralGrid) -> Pair:
        slope = -1.0 / math.log(1.0 - MIN_FEEDBACK)
        scale = 100.0 / (math.log(1.0 - MAX_FEEDBACK) * slope + 1.0)
        exponent = (parameters["reverberance"] - scale) / (slope * scale)
        feedback = (1.0 - ops.exp(exponent))[:, None, None]
        damping = parameters["damping"] / 100.0 * (MAX_DAMPING - MIN_DAMPING) + MIN_DAMPING
        damping = damping[:, None, None]
        room = parameters["room_size"] / 100.0 * 0.9 + 0.1

        real, imaginary = to_pair(1.0 / grid.points)
        loss = 1.0 - damping * real, -damping * imaginary
        low_pass = divide((feedback * (1.0 - damping), 0.0), loss)
        lengths = self.sample_rate / 44100.0 * np.array(COMB_LENGTHS)[:, None]
        # A little more than one half, because 638.5 may be slightly smaller in float32.
        lines = ops.floor(room * ops.convert_to_tensor(lengths, dtype="float32") + 0.501)
        # z^d instead of z^-d: a comb is then 1 / (z^d - g (1 - h) / (1 - h z^-1)).
        real, imaginary = 0.0, 0.0
        for line in grid.delays(-ops.cast(lines, "int32")):
            loop = line[0] - low_pass[0], line[1] - low_pass[1]
            scale = 1.0 / (loop[0] * loop[0] + loop[1] * loop[1])
            real, imaginary = real + loop[0] * scale, imaginary - loop[1] * scale
        wet = multiply((real, imaginary), to_pair(_allpass_response(grid, self.sample_rate)))
        return 1.0 + wet[0], wet[1]

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {"sample_rate": self.sample_rate}
        for name, (low, high) in self.ranges.items():
            config |= {f"min_{name}": low, f"max_{name}": high}
        return {**super().get_config(), **config}
