import keras
from keras import ops

from keras_tune.augment.augmentation import Augmentation


@keras.saving.register_keras_serializable(package="keras_tune")
class BackgroundMix(Augmentation):
    """Mix another clip of the batch into each waveform, at a drawn signal-to-noise ratio.

    The background of an example is the example a few places on in the batch, by a distance drawn
    for each example, so that no example is mixed with itself. It is scaled so that the energy of
    the waveform is `snr_db` above its own. In a batch of one there is nothing to mix in.

    Args:
        min_snr_db: Lowest ratio of the waveform's energy to the background's, in dB. Default 3.
        max_snr_db: Highest ratio in dB. Default 30.
        probability: Probability that an example is changed. Default 1.
        seed: Integer seed of the draws.
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:

    ```python
    mixed = BackgroundMix(min_snr_db=10, seed=1)(waveforms, training=True)
    ```
    """

    def __init__(self, min_snr_db=3.0, max_snr_db=30.0, probability=1.0, seed=None, **kwargs):
        super().__init__(probability=probability, seed=seed, **kwargs)
        if min_snr_db > max_snr_db:
            raise ValueError(
                "`min_snr_db` must not exceed `max_snr_db`. "
                f"Received: min_snr_db={min_snr_db}, max_snr_db={max_snr_db}"
            )
        self.min_snr_db = min_snr_db
        self.max_snr_db = max_snr_db

    def draw_parameters(self, batch, samples):
        others = ops.maximum(batch - 1, 1)
        distance = 1 + ops.cast(self.uniform((batch,)) * ops.cast(others, "float32"), "int32")
        partner = (ops.arange(batch, dtype="int32") + ops.minimum(distance, others)) % batch
        snr_db = self.uniform((batch,), self.min_snr_db, self.max_snr_db)
        return {"partner": partner, "snr_db": snr_db}

    def transform(self, waveforms, parameters):
        partner = parameters["partner"]
        level = ops.sqrt(ops.mean(waveforms * waveforms, axis=1))
        background = ops.take(waveforms, partner, axis=0)
        background_level = ops.take(level, partner, axis=0)
        ratio = ops.power(10.0, parameters["snr_db"] / -20.0)
        # A silent background stays silent, whatever factor would bring it up to the level.
        factor = ops.where(
            background_level > 0.0, level * ratio / ops.maximum(background_level, 1e-30), 0.0
        )
        itself = partner == ops.arange(ops.shape(partner)[0], dtype="int32")
        factor = ops.where(itself, 0.0, factor)
        return waveforms + background * factor[:, None]

    def get_config(self):
        config = {"min_snr_db": self.min_snr_db, "max_snr_db": self.max_snr_db}
        return {**super().get_config(), **config}
