import keras
from keras import ops

from keras_tune.augment.filters import butterworth, check_cutoffs, impulse_length
from keras_tune.augment.linear_augmentation import LinearAugmentation


@keras.saving.register_keras_serializable(package="keras_tune")
class HighLowPass(LinearAugmentation):
    """Filter each waveform by a high-pass or a low-pass, with even odds.

    The filters are second-order Butterworth filters (12 dB an octave). The published code has
    changed its filters over time: first-order recursive ones at first (6 dB an octave), later
    windowed sincs, which are much steeper. These lie between the two.

    Args:
        sample_rate: Sample rate of the waveforms in Hz.
        min_high_pass: Lowest cutoff frequency of the high-pass in Hz. Default 200.
        max_high_pass: Highest cutoff frequency of the high-pass in Hz. Default 1200.
        min_low_pass: Lowest cutoff frequency of the low-pass in Hz. Default 2200.
        max_low_pass: Highest cutoff frequency of the low-pass in Hz. Default 4000.
        probability: Probability that an example is changed. Default 1; CLMR uses 0.8.
        seed: Integer seed of the draws.
        **kwargs: Arguments of `keras.layers.Layer`.

    Source: Spijkervet and Burgoyne, Contrastive Learning of Musical Representations (ISMIR 2021).

    Example:

    ```python
    filtered = HighLowPass(22050, probability=0.8, seed=1)(waveforms, training=True)
    ```
    """

    def __init__(
        self,
        sample_rate,
        min_high_pass=200.0,
        max_high_pass=1200.0,
        min_low_pass=2200.0,
        max_low_pass=4000.0,
        probability=1.0,
        seed=None,
        **kwargs,
    ):
        super().__init__(probability=probability, seed=seed, **kwargs)
        names = ("min_high_pass", "max_high_pass")
        check_cutoffs(min_high_pass, max_high_pass, sample_rate, names)
        names = ("min_low_pass", "max_low_pass")
        check_cutoffs(min_low_pass, max_low_pass, sample_rate, names)
        self.sample_rate = sample_rate
        self.min_high_pass = min_high_pass
        self.max_high_pass = max_high_pass
        self.min_low_pass = min_low_pass
        self.max_low_pass = max_low_pass

    def draw_parameters(self, batch, samples):
        high_pass = self.uniform((batch,)) < 0.5
        cutoff = ops.where(
            high_pass,
            self.uniform((batch,), self.min_high_pass, self.max_high_pass),
            self.uniform((batch,), self.min_low_pass, self.max_low_pass),
        )
        return {"high_pass": high_pass, "cutoff": cutoff}

    def tail(self, samples):
        lowest = min(self.min_high_pass, self.min_low_pass)
        return min(samples, impulse_length(lowest, self.sample_rate))

    def response(self, parameters, grid):
        return butterworth(parameters["cutoff"], parameters["high_pass"], self.sample_rate, grid)

    def get_config(self):
        config = {
            "sample_rate": self.sample_rate,
            "min_high_pass": self.min_high_pass,
            "max_high_pass": self.max_high_pass,
            "min_low_pass": self.min_low_pass,
            "max_low_pass": self.max_low_pass,
        }
        return {**super().get_config(), **config}
