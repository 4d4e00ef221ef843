import functools
import math

import keras
from keras import ops

from keras_tune.augment.active_rows import map_active, works_in_chunks
from keras_tune.augment.augmentation import Augmentation
from keras_tune.augment.phase_vocoder import PhaseVocoder, check_frame_length
from keras_tune.augment.resampling import read_faster

# Fewer than elsewhere: there are two classes to fill up, and an example has many spectra.
CHUNK_SIZE = 4


@keras.saving.register_keras_serializable(package="keras_tune")
class PitchShift(Augmentation):
    """Shift the pitch of each waveform by a number of cents of its own; its duration is kept.

    A phase vocoder stretches the waveform by the frequency ratio 2^(cents/1200), then the
    stretched waveform is read that much faster by cubic interpolation. What would be shifted
    beyond half the sample rate is removed. A vocoder loses a little energy, because the phases of
    neighbouring partials do not quite add up; the result is scaled to the waveform's own energy.

    Args:
        min_cents: Lowest shift in cents (1/100 semitone). Default -700.
        max_cents: Highest shift in cents. Default 700.
        frame_length: Length of the vocoder's frames in samples, a multiple of 6. Default 1152,
            which is 52 ms at 22,050 Hz.
        probability: Probability that an example is changed. Default 1; CLMR uses 0.6.
        seed: Integer seed of the draws.
        **kwargs: Arguments of `keras.layers.Layer`.

    Sources: Spijkervet and Burgoyne, Contrastive Learning of Musical Representations (ISMIR 2021)
    for the range; see `keras_tune.augment.phase_vocoder` for the method.

    Example:

    ```python
    shifted = PitchShift(-200, 200, seed=1)(waveforms, training=True)
    ```
    """

    costly = True

    def __init__(
        self,
        min_cents=-700.0,
        max_cents=700.0,
        frame_length=1152,
        probability=1.0,
        seed=None,
        **kwargs,
    ):
        super().__init__(probability=probability, seed=seed, **kwargs)
        if min_cents > max_cents:
            raise ValueError(
                "`min_cents` must not exceed `max_cents`. "
                f"Received: min_cents={min_cents}, max_cents={max_cents}"
            )
        check_frame_length(frame_length)
        self.min_cents = min_cents
        self.max_cents = max_cents
        self.frame_length = frame_length

    def draw_parameters(self, batch, samples):
        return {"cents": self.uniform((batch,), self.min_cents, self.max_cents)}

    def apply(self, waveforms, parameters):
        # Where examples are worked on in chunks, those that are shifted down are done apart: the
        # waveforms in between are shorter than those of the highest shift.
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

    def transform(self, waveforms, parameters):
        return self._shift(waveforms, parameters, self.max_cents)

    def _shift(self, waveforms, parameters, max_cents):
        samples = waveforms.shape[1]
        peak = ops.maximum(ops.max(ops.abs(waveforms), axis=1, keepdims=True), 1e-30)
        waveforms = waveforms / peak
        # A chunk may be filled up with examples of other shifts, which are not kept.
        cents = ops.minimum(parameters["cents"], max_cents)
        ratios = ops.power(2.0, cents / 1200.0)
        # The cubic interpolation reads two samples beyond the last position.
        longest = math.ceil(samples * 2.0 ** (max_cents / 1200.0)) + 3
        vocoder = PhaseVocoder(samples, self.frame_length, longest)
        shifted = read_faster(vocoder.stretch(waveforms, ratios), ratios, samples)
        energy = ops.sum(waveforms * waveforms, axis=1, keepdims=True)
        shifted_energy = ops.sum(shifted * shifted, axis=1, keepdims=True)
        return shifted * ops.sqrt(energy / ops.maximum(shifted_energy, 1e-12)) * peak

    def get_config(self):
        config = {
            "min_cents": self.min_cents,
            "max_cents": self.max_cents,
            "frame_length": self.frame_length,
        }
        return {**super().get_config(), **config}
