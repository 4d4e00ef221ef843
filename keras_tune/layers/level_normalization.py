"""Normalization of the level of waveforms."""

from typing import Any

import keras
from keras import ops

from keras_tune.layers.common import ConfiguredLayer
from keras_tune.types import Shape, Tensor

# Below this RMS, -80 dB of full scale, a waveform is amplified by a constant factor. Otherwise
# digital silence would be divided by zero, and dither amplified to the level of music.
FLOOR = 1e-4


@keras.saving.register_keras_serializable(package="keras_tune")
class LevelNormalization(ConfiguredLayer):
    """Scale every waveform to the same root mean square (RMS) level.

    The level at which a recording was mastered says little about the music, but it makes it easy
    for an encoder to tell two clips apart. After this layer the level is the same for all.
    Waveforms with an RMS below 1e-4 (-80 dB of full scale) are amplified by `level / 1e-4`, so
    silence stays silent. Computations are in float32.

    Args:
        level: Float, the RMS of the output; full scale is 1. Defaults to 0.1, which is -20 dB.
        **kwargs: Arguments of `keras.layers.Layer`. `dtype` defaults to "float32".

    Input shape: (batch, time, channels); the RMS is taken over time and channels.
    Output shape: the same.

    Raises:
        ValueError: If `level` is not a positive finite number.

    Example:

    ```python
    layer = keras_tune.layers.LevelNormalization(0.1)
    layer(0.5 * np.ones((1, 4, 1)))  # 0.1 everywhere
    ```
    """

    def __init__(self, level: float = 0.1, **kwargs: Any):
        if not 0 < level < float("inf"):
            raise ValueError(f"`level` must be positive and finite. Received: level={level}")
        super().__init__(**{"dtype": "float32", **kwargs})
        self.level = float(level)

    def call(self, inputs: Tensor) -> Tensor:
        power = ops.mean(ops.square(inputs), axis=(1, 2), keepdims=True)
        # The maximum is taken first, since a root of 0 has no finite gradient.
        return inputs * (self.level / ops.sqrt(ops.maximum(power, FLOOR**2)))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape
