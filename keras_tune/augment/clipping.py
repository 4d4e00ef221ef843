import keras
from keras import ops

from keras_tune.augment.augmentation import Augmentation


@keras.saving.register_keras_serializable(package="keras_tune")
class Clipping(Augmentation):
    """Cut off the peaks of each waveform, as an overdriven recording does.

    The threshold is drawn relative to the waveform's own peak, so the loudness does not matter.

    Args:
        min_threshold: Lowest threshold as a fraction of the peak. Default 0.3.
        max_threshold: Highest threshold as a fraction of the peak. Default 0.9.
        probability: Probability that an example is changed. Default 1.
        seed: Integer seed of the draws.
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:

    ```python
    clipped = Clipping(min_threshold=0.5, seed=1)(waveforms, training=True)
    ```
    """

    def __init__(self, min_threshold=0.3, max_threshold=0.9, probability=1.0, seed=None, **kwargs):
        super().__init__(probability=probability, seed=seed, **kwargs)
        if not 0.0 < min_threshold <= max_threshold <= 1.0:
            raise ValueError(
                "`min_threshold` and `max_threshold` must be ordered and within 0 and 1. "
                f"Received: min_threshold={min_threshold}, max_threshold={max_threshold}"
            )
        self.min_threshold = min_threshold
        self.max_threshold = max_threshold

    def draw_parameters(self, batch, samples):
        return {"threshold": self.uniform((batch,), self.min_threshold, self.max_threshold)}

    def transform(self, waveforms, parameters):
        peak = ops.max(ops.abs(waveforms), axis=1, keepdims=True)
        limit = peak * parameters["threshold"][:, None]
        return ops.clip(waveforms, -limit, limit)

    def get_config(self):
        config = {"min_threshold": self.min_threshold, "max_threshold": self.max_threshold}
        return {**super().get_config(), **config}
