from typing import Any

import keras

from keras_tune.augment.spectral import LinearAugmentation, Pair, SpectralGrid


@keras.saving.register_keras_serializable(package="keras_tune")
class PolarityInversion(LinearAugmentation):
    """Invert the polarity of waveforms: x becomes -x.

    Args:
        probability: Float, the probability that an example is inverted; CLMR uses 0.8.
            Defaults to 1.
        seed: Integer, the seed of the draws, or None for a random one. Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape: (batch, samples), waveforms, full scale is [-1, 1].
    Output shape: the same, float32.

    Source: Spijkervet and Burgoyne, Contrastive Learning of Musical Representations (ISMIR 2021).

    Example:

    ```python
    layer = keras_tune.augment.PolarityInversion(probability=0.8, seed=1)
    inverted = layer(np.random.normal(0, 0.1, (8, 22050)), training=True)
    ```
    """

    def draw_parameters(self, batch: int, samples: int) -> dict[str, Any]:
        return {}

    def response(self, parameters: dict[str, Any], grid: SpectralGrid | None) -> Pair:
        return -1.0, 0.0
