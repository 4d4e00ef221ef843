"""Transposed convolution whose kernel is as long as its stride, as a matrix product."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_tune")
class StridedConv1DTranspose(keras.layers.Conv1DTranspose):
    """Conv1DTranspose with a stride as long as the kernel.

    Every step then gives `factor` steps that are its alone: a matrix product, which takes half the
    time of a transposed convolution on a CPU, or less. With `channels_first` it is the transposed
    convolution.

    Args:
        filters: Integer, the number of output channels.
        factor: Integer, kernel size and stride. Defaults to 3.
        **kwargs: `data_format`, `name`, `dtype`, initializers and the other arguments of
            `keras.layers.Conv1DTranspose`, but for those of the kernel's geometry.

    Input shape: (batch, time, channels); (batch, channels, time) with `channels_first`.
    Output shape: (batch, factor·time, filters); (batch, filters, factor·time).

    Example:

    ```python
    layer = keras_tune.layers.StridedConv1DTranspose(8, data_format="channels_last")
    layer(np.zeros((2, 27, 16))).shape  # (2, 81, 8)
    ```
    """

    def __init__(self, filters, factor=3, **kwargs):
        super().__init__(filters, factor, strides=factor, padding="valid", **kwargs)
        self.factor = factor

    def call(self, inputs):
        if self.data_format == "channels_first":
            return super().call(inputs)
        factor, filters, channels = self.kernel.shape
        batch, time = ops.shape(inputs)[:2]
        kernel = ops.reshape(ops.transpose(self.kernel, (2, 0, 1)), (channels, factor * filters))
        if keras.backend.backend() == "tensorflow":
            # A convolution of length 1, which TensorFlow fuses with the bias.
            outputs = ops.conv(inputs[:, None], kernel[None, None], data_format="channels_last")
        else:
            outputs = ops.matmul(ops.reshape(inputs, (-1, channels)), kernel)
        if self.use_bias:
            outputs = outputs + ops.tile(self.bias, (factor,))
        return self.activation(ops.reshape(outputs, (batch, factor * time, filters)))

    def get_config(self):
        config = {**super().get_config(), "factor": self.factor}
        for fixed in ("kernel_size", "strides", "padding", "output_padding", "dilation_rate"):
            config.pop(fixed, None)
        return config
