from typing import Any

import keras
from keras import ops

from keras_tune.augment.augmentation import Augmentation, check_range
from keras_tune.types import Interval, Tensor


@keras.saving.register_keras_serializable(package="keras_tune")
class BackgroundMix(Augmentation):
    """Mix another clip of the batch into each waveform, at a drawn signal-to-noise ratio.

    The background of an example is another example of the batch, found at a distance drawn for each
    example, so that no example is mixed with itself. It is scaled so that its energy is a drawn
    number of dB below that of the waveform. In a batch of one, nothing is mixed in.

    Args:
        min_snr_db: Float, the lowest ratio of the waveform's energy to the background's, in dB.
            Defaults to 3.
        max_snr_db: Float, the highest ratio in dB. Defaults to 30.
        probability: Float, the probability that an example is changed. Defaults to 1.
        seed: Integer, the seed of the draws, or None for a random one. Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape: (batch, samples), waveforms, full scale is [-1, 1].
    Output shape: the same, float32.

    Raises:
        ValueError: If `min_snr_db` exceeds `max_snr_db`.

    Example:

    ```python
    layer = keras_tune.augment.BackgroundMix(min_snr_db=10, seed=1)
    mixed = layer(np.random.normal(0, 0.1, (8, 22050)), training=True)
    ```
    """

    def __init__(
        self,
        min_snr_db: float = 3.0,
        max_snr_db: float = 30.0,
        probability: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(probability=probability, seed=seed, **kwargs)
        check_range(Interval(), min_snr_db=min_snr_db, max_snr_db=max_snr_db)
        self.min_snr_db = min_snr_db
        self.max_snr_db = max_snr_db

    def draw_parameters(self, batch: int, samples: int) -> dict[str, Any]:
        others = ops.maximum(batch - 1, 1)
        distance = 1 + ops.cast(self.uniform((batch,)) * ops.cast(others, "float32"), "int32")
        partner = (ops.arange(batch, dtype="int32") + ops.minimum(distance, others)) % batch
        snr_db = self.uniform((batch,), self.min_snr_db, self.max_snr_db)
        return {"partner": partner, "snr_db": snr_db}

    def transform(self, waveforms: Tensor, parameters: dict[str, Any]) -> Tensor:
        partner = parameters["partner"]
        level = ops.sqrt(ops.mean(waveforms * waveforms, axis=1))
        background = ops.take(waveforms, partner, axis=0)
        background_level = ops.take(level, partner, axis=0)
        ratio = ops.power(10.0, parameters["snr_db"] / -20.0)
        # A silent background stays silent, because it cannot be scaled to any energy.
        factor = ops.where(
            background_level > 0.0, level * ratio / ops.maximum(background_level, 1e-30), 0.0
        )
        itself = partner == ops.arange(ops.shape(partner)[0], dtype="int32")
        factor = ops.where(itself, 0.0, factor)
        return waveforms + background * factor[:, None]
