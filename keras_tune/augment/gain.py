from typing import Any

import keras
from keras import ops

from keras_tune.augment.augmentation import check_range
from keras_tune.augment.spectral import LinearAugmentation, Pair, SpectralGrid
from keras_tune.types import Interval


@keras.saving.register_keras_serializable(package="keras_tune")
class Gain(LinearAugmentation):
    """Multiply each waveform by a gain drawn uniformly in decibels.

    Args:
        min_gain_db: Float, the lowest gain in dB. Defaults to -20.
        max_gain_db: Float, the highest gain in dB. Defaults to -1.
        probability: Float, the probability that an example is changed; CLMR uses 0.3.
            Defaults to 1.
        seed: Integer, the seed of the draws, or None for a random one. Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape: (batch, samples), waveforms, full scale is [-1, 1].
    Output shape: the same, float32.

    Raises:
        ValueError: If `min_gain_db` exceeds `max_gain_db`.

    Source: Spijkervet and Burgoyne, Contrastive Learning of Musical Representations (ISMIR 2021).

    Example:

    ```python
    layer = keras_tune.augment.Gain(-6.0, 0.0, seed=1)
    quieter = layer(np.random.normal(0, 0.1, (8, 22050)), training=True)
    ```
    """

    def __init__(
        self,
        min_gain_db: float = -20.0,
        max_gain_db: float = -1.0,
        probability: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(probability=probability, seed=seed, **kwargs)
        check_range(Interval(), min_gain_db=min_gain_db, max_gain_db=max_gain_db)
        self.min_gain_db = min_gain_db
        self.max_gain_db = max_gain_db

    def draw_parameters(self, batch: int, samples: int) -> dict[str, Any]:
        return {"gain_db": self.uniform((batch,), self.min_gain_db, self.max_gain_db)}

    def response(self, parameters: dict[str, Any], grid: SpectralGrid | None) -> Pair:
        return ops.power(10.0, parameters["gain_db"] / 20.0)[:, None, None], 0.0
