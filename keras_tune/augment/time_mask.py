import keras
from keras import ops

from keras_tune.augment.augmentation import Augmentation


@keras.saving.register_keras_serializable(package="keras_tune")
class TimeMask(Augmentation):
    """Silence one stretch of each waveform.

    Args:
        min_fraction: Smallest length of the silence as a fraction of the waveform. Default 0.01.
        max_fraction: Largest length of the silence as a fraction of the waveform. Default 0.2.
        probability: Probability that an example is changed. Default 1.
        seed: Integer seed of the draws.
        **kwargs: Arguments of `keras.layers.Layer`.

    Source: Park et al., SpecAugment (Interspeech 2019), applied to the waveform.

    Example:

    ```python
    masked = TimeMask(max_fraction=0.1, seed=1)(waveforms, training=True)
    ```
    """

    def __init__(self, min_fraction=0.01, max_fraction=0.2, probability=1.0, seed=None, **kwargs):
        super().__init__(probability=probability, seed=seed, **kwargs)
        if not 0.0 <= min_fraction <= max_fraction <= 1.0:
            raise ValueError(
                "`min_fraction` and `max_fraction` must be ordered and within 0 and 1. "
                f"Received: min_fraction={min_fraction}, max_fraction={max_fraction}"
            )
        self.min_fraction = min_fraction
        self.max_fraction = max_fraction

    def draw_parameters(self, batch, samples):
        length = self.uniform((batch,), self.min_fraction, self.max_fraction)
        return {"start": self.uniform((batch,)) * (1.0 - length), "length": length}

    def transform(self, waveforms, parameters):
        samples = ops.shape(waveforms)[1]
        time = ops.arange(samples, dtype="float32")[None] / ops.cast(samples, "float32")
        start = parameters["start"][:, None]
        silent = (time >= start) & (time < start + parameters["length"][:, None])
        return ops.where(silent, 0.0, waveforms)

    def get_config(self):
        config = {"min_fraction": self.min_fraction, "max_fraction": self.max_fraction}
        return {**super().get_config(), **config}
