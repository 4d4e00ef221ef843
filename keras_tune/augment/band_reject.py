import math

import keras
from keras import ops

from keras_tune.augment.filters import QUALITY, check_cutoffs, impulse_length, notch
from keras_tune.augment.linear_augmentation import LinearAugmentation


@keras.saving.register_keras_serializable(package="keras_tune")
class BandReject(LinearAugmentation):
    """Take one band of frequencies out of each waveform: a frequency mask.

    The filter is the second-order band-reject biquad, with its -3 dB points at the edges of the
    band and full suppression at its centre. Centres are drawn uniformly in octaves.

    Args:
        sample_rate: Sample rate of the waveforms in Hz.
        min_center: Lowest centre of the band in Hz. Default 200.
        max_center: Highest centre of the band in Hz. Default 4000.
        min_octaves: Smallest width of the band in octaves. Default 0.5.
        max_octaves: Largest width of the band in octaves. Default 2.
        probability: Probability that an example is changed. Default 1.
        seed: Integer seed of the draws.
        **kwargs: Arguments of `keras.layers.Layer`.

    Source: R. Bristow-Johnson, Cookbook formulae for audio equalizer biquad filter coefficients
    (notch).

    Example:

    ```python
    masked = BandReject(22050, max_octaves=1.0, seed=1)(waveforms, training=True)
    ```
    """

    def __init__(
        self,
        sample_rate,
        min_center=200.0,
        max_center=4000.0,
        min_octaves=0.5,
        max_octaves=2.0,
        probability=1.0,
        seed=None,
        **kwargs,
    ):
        super().__init__(probability=probability, seed=seed, **kwargs)
        check_cutoffs(min_center, max_center, sample_rate, ("min_center", "max_center"))
        if not 0.0 < min_octaves <= max_octaves:
            raise ValueError(
                "`min_octaves` and `max_octaves` must be ordered and positive. "
                f"Received: min_octaves={min_octaves}, max_octaves={max_octaves}"
            )
        self.sample_rate = sample_rate
        self.min_center = min_center
        self.max_center = max_center
        self.min_octaves = min_octaves
        self.max_octaves = max_octaves

    def draw_parameters(self, batch, samples):
        low, high = math.log2(self.min_center), math.log2(self.max_center)
        return {
            "center": ops.power(2.0, self.uniform((batch,), low, high)),
            "octaves": self.uniform((batch,), self.min_octaves, self.max_octaves),
        }

    def tail(self, samples):
        # A notch rings like a low-pass of the same quality, and narrow ones ring longest.
        quality = 0.5 / math.sinh(math.log(2.0) / 2.0 * self.min_octaves)
        cutoff = self.min_center * QUALITY / max(quality, QUALITY)
        return min(samples, impulse_length(cutoff, self.sample_rate))

    def response(self, parameters, grid):
        return notch(parameters["center"], parameters["octaves"], self.sample_rate, grid)

    def get_config(self):
        config = {
            "sample_rate": self.sample_rate,
            "min_center": self.min_center,
            "max_center": self.max_center,
            "min_octaves": self.min_octaves,
            "max_octaves": self.max_octaves,
        }
        return {**super().get_config(), **config}
