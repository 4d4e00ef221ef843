import functools
import math
from typing import Any

import keras
from keras import ops

from keras_tune.augment.augmentation import (
    Augmentation,
    check_range,
    map_active,
    works_in_chunks,
)
from keras_tune.augment.phase_vocoder import PhaseVocoder, check_frame_length, read_faster
from keras_tune.types import Interval, Tensor, TensorLike

# Smaller than the default, because two groups are filled up, and an example has many spectra.
CHUNK_SIZE = 4


@keras.saving.register_keras_serializable(package="keras_tune")
class PitchShift(Augmentation):
    """Shift the pitch of each waveform by its own number of cents, and keep its duration.

    A phase vocoder stretches the waveform by the frequency ratio 2^(cents/1200), then the
    stretched waveform is read faster by the same ratio, with cubic interpolation. Frequencies that
    would be shifted beyond half the sample rate are removed. A vocoder loses a little energy,
    because the phases of neighbouring partials do not match exactly; the result is scaled to the
    energy of the original waveform.

    Args:
        min_cents: Float, the lowest shift in cents (1/100 semitone). Defaults to -700.
        max_cents: Float, the highest shift in cents. Defaults to 700.
        frame_length: Integer, the length of the vocoder's frames in samples, a multiple of 6.
            Defaults to 1152, which is 52 ms at 22,050 Hz.
        probability: Float, the probability that an example is changed; CLMR uses 0.6.
            Defaults to 1.
        seed: Integer, the seed of the draws, or None for a random one. Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape: (batch, samples), waveforms, full scale is [-1, 1].
    Output shape: the same, float32.

    Raises:
        ValueError: If `min_cents` exceeds `max_cents`, or `frame_length` is less than 18 or not a
            multiple of 6.

    Source: Spijkervet and Burgoyne, Contrastive Learning of Musical Representations (ISMIR 2021),
    for the range; see `keras_tune.augment.phase_vocoder` for the method.

    Example:

    ```python
    layer = keras_tune.augment.PitchShift(-200, 200, seed=1)
    shifted = layer(np.random.normal(0, 0.1, (8, 22050)), training=True)
    ```
    """

    costly = True

    def __init__(
        self,
        min_cents: float = -700.0,
        max_cents: float = 700.0,
        frame_length: int = 1152,
        probability: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(probability=probability, seed=seed, **kwargs)
        check_range(Interval(), min_cents=min_cents, max_cents=max_cents)
        check_frame_length(frame_length)
        self.min_cents = min_cents
        self.max_cents = max_cents
        self.frame_length = frame_length

    def draw_parameters(self, batch: int, samples: int) -> dict[str, Any]:
        return {"cents": self.uniform((batch,), self.min_cents, self.max_cents)}

    def apply(self, waveforms: TensorLike, parameters: dict[str, Any]) -> Tensor:
        # In chunks, the examples that are shifted down are processed separately: their intermediate
        # waveforms are shorter than those of the highest shift.
        if not works_in_chunks() or self.max_cents <= 0.0 or self.min_cents > 0.0:
            return super().apply(waveforms, parameters)
        down = parameters["cents"] <= 0.0
        for half, max_cents in ((down, 0.0), (ops.logical_not(down), self.max_cents)):
            waveforms = map_active(
                functools.partial(self._shift, max_cents=max_cents),
                waveforms,
                parameters,
                ops.logical_and(parameters["active"], half),
                CHUNK_SIZE,
            )
        return waveforms

    def transform(self, waveforms: Tensor, parameters: dict[str, Any]) -> Tensor:
        return self._shift(waveforms, parameters, self.max_cents)

    def _shift(self, waveforms, parameters, max_cents):
        samples = waveforms.shape[1]
        peak = ops.maximum(ops.max(ops.abs(waveforms), axis=1, keepdims=True), 1e-30)
        waveforms = waveforms / peak
        # A chunk may be filled up with examples of other shifts, whose results are not used.
        cents = ops.minimum(parameters["cents"], max_cents)
        ratios = ops.power(2.0, cents / 1200.0)
        # The cubic interpolation reads two samples beyond the last position.
        longest = math.ceil(samples * 2.0 ** (max_cents / 1200.0)) + 3
        vocoder = PhaseVocoder(samples, self.frame_length, longest)
        stretched = vocoder.stretch(waveforms, ratios, band_limited=True)
        shifted = read_faster(stretched, ratios, samples)
        energy = ops.sum(waveforms * waveforms, axis=1, keepdims=True)
        shifted_energy = ops.sum(shifted * shifted, axis=1, keepdims=True)
        return shifted * ops.sqrt(energy / ops.maximum(shifted_energy, 1e-12)) * peak
