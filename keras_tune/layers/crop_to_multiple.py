"""Lengths that the pooling of a U-Net divides without a remainder."""

import keras


@keras.saving.register_keras_serializable(package="keras_tune")
class CropToMultiple(keras.layers.Layer):
    """Drop the last time steps, so that the length is a multiple of `multiple`.

    Max pooling drops a remainder at every stage; dropping it once, at the input, keeps the skips of
    a U-Net aligned with what is upsampled to meet them.

    Args:
        multiple: Integer.
        **kwargs: `name`, `dtype` and the other arguments of a Keras layer.

    Input shape: (batch, time, channels).
    Output shape: (batch, time // multiple * multiple, channels).

    Example:

    ```python
    keras_tune.layers.CropToMultiple(81)(np.zeros((2, 100, 1))).shape  # (2, 81, 1)
    ```
    """

    def __init__(self, multiple, **kwargs):
        super().__init__(**kwargs)
        self.multiple = multiple

    def call(self, inputs):
        length = keras.ops.shape(inputs)[1]
        return inputs[:, : length // self.multiple * self.multiple]

    def compute_output_shape(self, input_shape):
        batch, length, channels = input_shape
        if length is not None:
            length = length // self.multiple * self.multiple
        return (batch, length, channels)

    def get_config(self):
        return {**super().get_config(), "multiple": self.multiple}
