import keras

from keras_tune.augment.chain import Chain


@keras.saving.register_keras_serializable(package="keras_tune")
class RandomApply(Chain):
    """Apply one augmentation, or several together, to each example with a given probability.

    Args:
        layers: An `Augmentation`, or a list of them that are applied together.
        probability: Probability that an example is changed. Default 0.5.
        seed: Integer seed, from which the inner layers are seeded too.
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:

    ```python
    layer = RandomApply([PolarityInversion(), Gain()], probability=0.3, seed=1)
    views = layer(waveforms, training=True)
    ```
    """

    def __init__(self, layers, probability=0.5, seed=None, **kwargs):
        layers = layers if isinstance(layers, (list, tuple)) else [layers]
        super().__init__(layers, probability=probability, seed=seed, **kwargs)
