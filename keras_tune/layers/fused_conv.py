"""Convolution, bias and activation that TensorFlow can run as one operation."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_tune")
class FusedConv1D(keras.layers.Conv1D):
    """Conv1D written so that TensorFlow fuses bias and activation into the convolution.

    TensorFlow runs a one-dimensional convolution as a two-dimensional one of height 1, and takes
    the height away again before the bias, which hides from it that bias and ReLU could be part of
    the same pass over memory. Here the height goes last. Elsewhere, and with `channels_first`, it
    is Conv1D.

    Args: those of `keras.layers.Conv1D`.

    Input shape: (batch, time, channels); (batch, channels, time) with `channels_first`.
    Output shape: (batch, time, filters); (batch, filters, time) with `channels_first`.

    Example:

    ```python
    layer = keras_tune.layers.FusedConv1D(8, 3, padding="same", activation="relu")
    layer(np.zeros((2, 27, 4))).shape  # (2, 27, 8)
    ```
    """

    def call(self, inputs):
        flat = self.data_format == "channels_last" and self.padding in ("same", "valid")
        if keras.backend.backend() != "tensorflow" or not flat:
            return super().call(inputs)
        outputs = ops.conv(
            ops.expand_dims(inputs, 1),
            ops.expand_dims(self.kernel, 0),
            strides=(1, *self.strides),
            padding=self.padding,
            dilation_rate=(1, *self.dilation_rate),
            data_format=self.data_format,
        )
        if self.use_bias:
            outputs = ops.add(outputs, self.bias)
        if self.activation is not None:
            outputs = self.activation(outputs)
        return ops.squeeze(outputs, 1)
