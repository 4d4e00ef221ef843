"""Transposed convolution whose kernel is as long as its stride, as a matrix product."""

from typing import Any

import keras
from keras import ops

from keras_tune.layers.torch_fast_paths import multiply
from keras_tune.types import Tensor


@keras.saving.register_keras_serializable(package="keras_tune")
class StridedConv1DTranspose(keras.layers.Conv1DTranspose):
    """Conv1DTranspose with a stride as long as the kernel.

    Each time step then determines `factor` output steps on its own, which is a matrix product. On a
    CPU it takes at most half the time of a transposed convolution. With `channels_first` this is
    the transposed convolution.

    Args:
        filters: Integer, the number of output channels.
        factor: Integer, the kernel size and stride. Defaults to 3.
        **kwargs: Arguments of `keras.layers.Conv1DTranspose`, except `kernel_size`, `strides`,
            `padding`, `output_padding` and `dilation_rate`.

    Input shape: (batch, time, channels); (batch, channels, time) with `channels_first`.
    Output shape: (batch, factor·time, filters); (batch, filters, factor·time).

    Example:

    ```python
    layer = keras_tune.layers.StridedConv1DTranspose(8, data_format="channels_last")
    layer(np.zeros((2, 27, 16))).shape  # (2, 81, 8)
    ```
    """

    def __init__(self, filters: int, factor: int = 3, **kwargs: Any):
        super().__init__(filters, factor, strides=factor, padding="valid", **kwargs)
        self.factor = factor

    def call(self, inputs: Tensor) -> Tensor:
        if self.data_format == "channels_first":
            return super().call(inputs)
        factor, filters, channels = self.kernel.shape
        batch, time = ops.shape(inputs)[:2]
        kernel = ops.reshape(ops.transpose(self.kernel, (2, 0, 1)), (channels, factor * filters))
        bias = ops.tile(self.bias, (factor,)) if self.use_bias else None
        rows, backend = ops.reshape(inputs, (-1, channels)), keras.backend.backend()
        if backend == "torch":
            outputs, bias = multiply(rows, kernel, bias), None
        elif backend == "tensorflow":
            # A convolution of length 1, which TensorFlow fuses with the bias.
            outputs = ops.conv(inputs[:, None], kernel[None, None], data_format="channels_last")
        else:
            outputs = ops.matmul(rows, kernel)
        if bias is not None:
            outputs = outputs + bias
        return self.activation(ops.reshape(outputs, (batch, factor * time, filters)))

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), "factor": self.factor}
        for fixed in ("kernel_size", "strides", "padding", "output_padding", "dilation_rate"):
            config.pop(fixed, None)
        return config
