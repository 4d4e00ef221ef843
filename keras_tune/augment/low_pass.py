import keras
from keras import ops

from keras_tune.augment.filters import butterworth, check_cutoffs, impulse_length
from keras_tune.augment.linear_augmentation import LinearAugmentation


@keras.saving.register_keras_serializable(package="keras_tune")
class LowPass(LinearAugmentation):
    """Take away what lies above a cutoff frequency drawn for each waveform.

    The filter is a second-order Butterworth low-pass (12 dB an octave).

    Args:
        sample_rate: Sample rate of the waveforms in Hz.
        min_cutoff: Lowest cutoff frequency in Hz. Default 2200.
        max_cutoff: Highest cutoff frequency in Hz. Default 4000.
        probability: Probability that an example is changed. Default 1.
        seed: Integer seed of the draws.
        **kwargs: Arguments of `keras.layers.Layer`.

    Source: Spijkervet and Burgoyne, Contrastive Learning of Musical Representations (ISMIR 2021),
    for the range; see `HighLowPass` for the kind of filter.

    Example:

    ```python
    filtered = LowPass(22050, seed=1)(waveforms, training=True)
    ```
    """

    def __init__(
        self,
        sample_rate,
        min_cutoff=2200.0,
        max_cutoff=4000.0,
        probability=1.0,
        seed=None,
        **kwargs,
    ):
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
        high_pass = ops.full_like(cutoff, False, dtype="bool")
        return butterworth(cutoff, high_pass, self.sample_rate, grid)

    def get_config(self):
        config = {
            "sample_rate": self.sample_rate,
            "min_cutoff": self.min_cutoff,
            "max_cutoff": self.max_cutoff,
        }
        return {**super().get_config(), **config}
