"""The baseline that every encoder must beat: itself before training."""

import keras


def untrained_copy(encoder, seed=0, level=None):
    """Build an encoder of the same shape with freshly initialized weights.

    Args:
        encoder: Keras model.
        seed: Integer from which the weights are drawn. Keras' global seed is set to it. Defaults to
            0.
        level: Float, the root mean square that waveforms are brought to first, or None to leave
            them to the encoder. Defaults to None.

    Returns:
        A new model of the encoder's class and configuration, with the level in it; a model that
        knows no level is built behind a layer that sets it.

    Example:

    ```python
    baseline = untrained_copy(encoder)
    ```
    """
    keras.utils.set_random_seed(seed)
    config = encoder.get_config()
    if level is None:
        return encoder.__class__.from_config(config)
    if "level" in config:
        return encoder.__class__.from_config({**config, "level": level})
    from keras_tune.layers import LevelNormalization

    # Names of their own: the model's fingerprint must not depend on what was built before.
    waveform = keras.Input(encoder.input_shape[1:], name="waveform")
    at_level = LevelNormalization(level, name="level")(waveform)
    return keras.Model(waveform, encoder.__class__.from_config(config)(at_level))
