from typing import Any

import keras
from keras import ops

from keras_tune.augment.augmentation import Augmentation, check_range
from keras_tune.types import Interval, Tensor


@keras.saving.register_keras_serializable(package="keras_tune")
class TimeMask(Augmentation):
    """Silence one segment of each waveform.

    Args:
        min_fraction: Float, the smallest length of the silence as a fraction of the waveform.
            Defaults to 0.01.
        max_fraction: Float, the largest length of the silence as a fraction of the waveform.
            Defaults to 0.2.
        probability: Float, the probability that an example is changed. Defaults to 1.
        seed: Integer, the seed of the draws, or None for a random one. Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape: (batch, samples), waveforms, full scale is [-1, 1].
    Output shape: the same, float32.

    Raises:
        ValueError: If the fractions are not ordered or not within 0 and 1.

    Source: Park et al., SpecAugment (Interspeech 2019), applied to the waveform.

    Example:

    ```python
    layer = keras_tune.augment.TimeMask(max_fraction=0.1, seed=1)
    masked = layer(np.random.normal(0, 0.1, (8, 22050)), training=True)
    ```
    """

    def __init__(
        self,
        min_fraction: float = 0.01,
        max_fraction: float = 0.2,
        probability: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(probability=probability, seed=seed, **kwargs)
        check_range(Interval(0, 1), min_fraction=min_fraction, max_fraction=max_fraction)
        self.min_fraction = min_fraction
        self.max_fraction = max_fraction

    def draw_parameters(self, batch: int, samples: int) -> dict[str, Any]:
        length = self.uniform((batch,), self.min_fraction, self.max_fraction)
        return {"start": self.uniform((batch,)) * (1.0 - length), "length": length}

    def transform(self, waveforms: Tensor, parameters: dict[str, Any]) -> Tensor:
        samples = ops.shape(waveforms)[1]
        time = ops.arange(samples, dtype="float32")[None] / ops.cast(samples, "float32")
        start = parameters["start"][:, None]
        silent = (time >= start) & (time < start + parameters["length"][:, None])
        return ops.where(silent, 0.0, waveforms)
