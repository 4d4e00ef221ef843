from keras import ops

from keras_tune.augment.filters import butterworth, check_cutoffs, impulse_length
from keras_tune.augment.linear_augmentation import LinearAugmentation


class CutoffFilter(LinearAugmentation):
    """What `HighPass` and `LowPass` share: a second-order Butterworth filter (12 dB an octave).

    Args:
        sample_rate: Sample rate of the waveforms in Hz.
        min_cutoff: Lowest cutoff frequency in Hz.
        max_cutoff: Highest cutoff frequency in Hz.
        probability: Probability that an example is changed. Default 1.
        seed: Integer seed of the draws.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    passes_high = None

    def __init__(self, sample_rate, min_cutoff, max_cutoff, probability=1.0, seed=None, **kwargs):
        super().__init__(probability=probability, seed=seed, **kwargs)
        check_cutoffs(min_cutoff, max_cutoff, sample_rate, ("min_cutoff", "max_cutoff"))
        self.sample_rate = sample_rate
        self.min_cutoff = min_cutoff
        self.max_cutoff = max_cutoff

    def draw_parameters(self, batch, samples):
        return {"cutoff": self.uniform((batch,), self.min_cutoff, self.max_cutoff)}

    def tail(self, samples):
        return min(samples, impulse_length(self.min_cutoff, self.sample_rate))

    def response(self, parameters, grid):
        cutoff = parameters["cutoff"]
        passes_high = ops.full_like(cutoff, self.passes_high, dtype="bool")
        return butterworth(cutoff, passes_high, self.sample_rate, grid)

    def get_config(self):
        config = {
            "sample_rate": self.sample_rate,
            "min_cutoff": self.min_cutoff,
            "max_cutoff": self.max_cutoff,
        }
        return {**super().get_config(), **config}
