"""One step of the expansive path: upsampling, and concatenation with the skip connection."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_tune.layers.common import ConfiguredLayer, standardize_data_format
from keras_tune.layers.sample_cnn_block import HeUniform, SampleCNNBlock
from keras_tune.layers.strided_conv_transpose import StridedConv1DTranspose
from keras_tune.types import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_tune")
class UpsampleBlock(ConfiguredLayer):
    """Transposed convolution, concatenation with the skip connection, then a `SampleCNNBlock`.

    Args:
        filters: Integer, the number of output channels of the block.
        upsampled_filters: Integer, the channels of the transposed convolution. Defaults to
            `filters`.
        factor: Integer, the kernel size and stride of the transposed convolution. Defaults to 3.
        data_format: "channels_last", "channels_first", or None for the backend's faster one.
            Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape: a list of (batch, time, channels) and, for the skip connection, (batch,
    factor·time, skip channels); with `channels_first` the last two axes are swapped.
    Output shape: (batch, factor·time, filters).

    Source: Vélez Vásquez & Burgoyne, "Tailed U-Net" (ISMIR 2022), section 3.

    Example:

    ```python
    block = keras_tune.layers.UpsampleBlock(8, data_format="channels_last")
    block([np.zeros((2, 27, 16)), np.zeros((2, 81, 8))]).shape  # (2, 81, 8)
    ```
    """

    def __init__(
        self,
        filters: int,
        upsampled_filters: int | None = None,
        factor: int = 3,
        data_format: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.upsampled_filters = upsampled_filters or filters
        self.factor = factor
        self.data_format = standardize_data_format(data_format)
        self.upsampling = StridedConv1DTranspose(
            self.upsampled_filters,
            factor,
            data_format=self.data_format,
            kernel_initializer=HeUniform(),
            dtype=self.dtype_policy,
            name="upsampling",
        )
        self.block = SampleCNNBlock(
            filters, data_format=self.data_format, dtype=self.dtype_policy, name="block"
        )

    def _upsampled_shape(self, input_shape):
        inputs, skip = input_shape
        return [self.upsampling.compute_output_shape(inputs), skip]

    def build(self, input_shape: Sequence[Shape]) -> None:
        self.upsampling.build(input_shape[0])
        self.block.build(self._upsampled_shape(input_shape))

    def call(self, inputs: Sequence[Tensor], training: bool = False) -> Tensor:
        inputs, skip = inputs
        return self.block([self.upsampling(inputs), skip], training=training)

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        return self.block.compute_output_shape(self._upsampled_shape(input_shape))
