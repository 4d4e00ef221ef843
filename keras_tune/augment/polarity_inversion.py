import keras

from keras_tune.augment.linear_augmentation import LinearAugmentation


@keras.saving.register_keras_serializable(package="keras_tune")
class PolarityInversion(LinearAugmentation):
    """Turn waveforms upside down: x becomes -x.

    Args:
        probability: Probability that an example is inverted. Default 1; CLMR uses 0.8.
        seed: Integer seed of the draws.
        **kwargs: Arguments of `keras.layers.Layer`.

    Source: Spijkervet and Burgoyne, Contrastive Learning of Musical Representations (ISMIR 2021).

    Example:

    ```python
    inverted = PolarityInversion(probability=0.8, seed=1)(waveforms, training=True)
    ```
    """

    def draw_parameters(self, batch, samples):
        return {}

    def response(self, parameters, grid):
        return -1.0, 0.0
