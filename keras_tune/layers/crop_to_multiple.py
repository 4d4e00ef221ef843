"""Cropping to a length that the pooling of a U-Net divides without a remainder."""

from typing import Any

import keras

from keras_tune.layers.common import ConfiguredLayer
from keras_tune.types import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_tune")
class CropToMultiple(ConfiguredLayer):
    """Drop the last time steps, so that the length is a multiple of `multiple`.

    Max pooling drops a remainder at every stage. Dropping it once, at the input, keeps the skip
    connections of a U-Net as long as the upsampled tensors with which they are concatenated.

    Args:
        multiple: Integer, the number of which the length becomes a multiple.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape: (batch, time, channels).
    Output shape: (batch, time // multiple * multiple, channels).

    Example:

    ```python
    keras_tune.layers.CropToMultiple(81)(np.zeros((2, 100, 1))).shape  # (2, 81, 1)
    ```
    """

    def __init__(self, multiple: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.multiple = multiple

    def call(self, inputs: Tensor) -> Tensor:
        length = keras.ops.shape(inputs)[1]
        return inputs[:, : length // self.multiple * self.multiple]

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, length, channels = input_shape
        if length is not None:
            length = length // self.multiple * self.multiple
        return (batch, length, channels)
