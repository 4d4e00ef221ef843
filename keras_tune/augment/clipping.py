from typing import Any

import keras
from keras import ops

from keras_tune.augment.augmentation import Augmentation, check_range
from keras_tune.types import Interval, Tensor


@keras.saving.register_keras_serializable(package="keras_tune")
class Clipping(Augmentation):
    """Cut off the peaks of each waveform, as an overdriven recording does.

    The threshold is drawn relative to the peak of the waveform, so the loudness does not matter.

    Args:
        min_threshold: Float, the lowest threshold as a fraction of the peak. Defaults to 0.3.
        max_threshold: Float, the highest threshold as a fraction of the peak. Defaults to 0.9.
        probability: Float, the probability that an example is changed. Defaults to 1.
        seed: Integer, the seed of the draws, or None for a random one. Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape: (batch, samples), waveforms, full scale is [-1, 1].
    Output shape: the same, float32.

    Raises:
        ValueError: If the thresholds are not ordered or not within 0 and 1.

    Example:

    ```python
    layer = keras_tune.augment.Clipping(min_threshold=0.5, seed=1)
    clipped = layer(np.random.normal(0, 0.1, (8, 22050)), training=True)
    ```
    """

    def __init__(
        self,
        min_threshold: float = 0.3,
        max_threshold: float = 0.9,
        probability: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(probability=probability, seed=seed, **kwargs)
        fractions = Interval(above=0, high=1)
        check_range(fractions, min_threshold=min_threshold, max_threshold=max_threshold)
        self.min_threshold = min_threshold
        self.max_threshold = max_threshold

    def draw_parameters(self, batch: int, samples: int) -> dict[str, Any]:
        return {"threshold": self.uniform((batch,), self.min_threshold, self.max_threshold)}

    def transform(self, waveforms: Tensor, parameters: dict[str, Any]) -> Tensor:
        peak = ops.max(ops.abs(waveforms), axis=1, keepdims=True)
        limit = peak * parameters["threshold"][:, None]
        return ops.clip(waveforms, -limit, limit)
