"""The yardstick that every encoder must beat: itself before training."""

import keras


def untrained_copy(encoder, seed=0):
    """Build an encoder of the same shape with freshly initialized weights.

    Args:
        encoder: Keras model.
        seed: Integer from which the weights are drawn. Keras' global seed is set to it. Defaults to
            0.

    Returns:
        A new model of the encoder's class and configuration.

    Example:

    ```python
    yardstick = untrained_copy(encoder)
    ```
    """
    keras.utils.set_random_seed(seed)
    return encoder.__class__.from_config(encoder.get_config())
