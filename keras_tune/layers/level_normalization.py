"""Waveforms brought to one level."""

import keras
from keras import ops

# Digital silence would be divided by zero, and dither amplified to music: below this RMS, -80 dB of
# full scale, a waveform is amplified by a constant factor.
FLOOR = 1e-4


@keras.saving.register_keras_serializable(package="keras_tune")
class LevelNormalization(keras.layers.Layer):
    """Scale every waveform to the same root mean square (RMS) level.

    How loud a recording was mastered says little about the music, but it is the easiest thing for
    an encoder to tell two clips apart by. Behind this layer, no later one can see it. Waveforms
    quieter than an RMS of 1e-4 (-80 dB of full scale) are amplified by `level / 1e-4`, so silence
    stays silent. Computed in float32.

    Args:
        level: Float, the RMS of the output; full scale is 1. Defaults to 0.1 (-20 dB).
        **kwargs: `name` and the other arguments of a Keras layer.

    Input shape: (batch, time, channels); the RMS is taken over time and channels.
    Output shape: the same.

    Raises:
        ValueError: A level that is not a positive finite number.

    Example:

    ```python
    layer = keras_tune.layers.LevelNormalization(0.1)
    layer(0.5 * np.ones((1, 4, 1)))  # 0.1 everywhere
    ```
    """

    def __init__(self, level=0.1, **kwargs):
        if not 0 < level < float("inf"):
            raise ValueError(f"`level` must be positive. Received: level={level}")
        super().__init__(**{"dtype": "float32", **kwargs})
        self.level = float(level)

    def call(self, inputs):
        rms = ops.sqrt(ops.mean(ops.square(inputs), axis=(1, 2), keepdims=True))
        return inputs * (self.level / ops.maximum(rms, FLOOR))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "level": self.level}
