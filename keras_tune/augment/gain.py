import keras
from keras import ops

from keras_tune.augment.linear_augmentation import LinearAugmentation


@keras.saving.register_keras_serializable(package="keras_tune")
class Gain(LinearAugmentation):
    """Multiply each waveform by a gain drawn uniformly in decibels.

    Args:
        min_gain_db: Lowest gain in dB. Default -20.
        max_gain_db: Highest gain in dB. Default -1.
        probability: Probability that an example is changed. Default 1; CLMR uses 0.3.
        seed: Integer seed of the draws.
        **kwargs: Arguments of `keras.layers.Layer`.

    Source: Spijkervet and Burgoyne, Contrastive Learning of Musical Representations (ISMIR 2021).

    Example:

    ```python
    quieter = Gain(-6.0, 0.0, seed=1)(waveforms, training=True)
    ```
    """

    def __init__(self, min_gain_db=-20.0, max_gain_db=-1.0, probability=1.0, seed=None, **kwargs):
        super().__init__(probability=probability, seed=seed, **kwargs)
        if min_gain_db > max_gain_db:
            raise ValueError(
                "`min_gain_db` must not exceed `max_gain_db`. "
                f"Received: min_gain_db={min_gain_db}, max_gain_db={max_gain_db}"
            )
        self.min_gain_db = min_gain_db
        self.max_gain_db = max_gain_db

    def draw_parameters(self, batch, samples):
        return {"gain_db": self.uniform((batch,), self.min_gain_db, self.max_gain_db)}

    def response(self, parameters, grid):
        return ops.power(10.0, parameters["gain_db"] / 20.0)[:, None, None], 0.0

    def get_config(self):
        config = {"min_gain_db": self.min_gain_db, "max_gain_db": self.max_gain_db}
        return {**super().get_config(), **config}
