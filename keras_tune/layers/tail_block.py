"""One step of the tail, with a third of the resolution and an optional link to the U-Net."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_tune.layers.common import ConfiguredLayer, standardize_data_format
from keras_tune.layers.max_pooling import MaxPooling1D
from keras_tune.layers.sample_cnn_block import SampleCNNBlock
from keras_tune.types import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_tune")
class TailBlock(ConfiguredLayer):
    """Max pooling, in TUNe+ a link to the expansive path, then a `SampleCNNBlock`.

    Args:
        filters: Integer, the number of output channels.
        factor: Integer, the size and stride of the pooling. Defaults to 3.
        data_format: "channels_last", "channels_first", or None for the backend's faster one.
            Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape: (batch, time, channels), or a list of this shape and that of the link, (batch,
    time // factor, link channels); with `channels_first` the last two axes are swapped.
    Output shape: (batch, time // factor, filters).

    Source: Vélez Vásquez & Burgoyne, "Tailed U-Net" (ISMIR 2022), section 3.

    Example:

    ```python
    block = keras_tune.layers.TailBlock(32, data_format="channels_last")
    block(np.zeros((2, 81, 8))).shape  # (2, 27, 32)
    block = keras_tune.layers.TailBlock(32, data_format="channels_last")
    block([np.zeros((2, 81, 8)), np.zeros((2, 27, 16))]).shape  # (2, 27, 32)
    ```
    """

    def __init__(
        self, filters: int, factor: int = 3, data_format: str | None = None, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.factor = factor
        self.data_format = standardize_data_format(data_format)
        self.pooling = MaxPooling1D(
            factor, data_format=self.data_format, dtype=self.dtype_policy, name="pooling"
        )
        self.block = SampleCNNBlock(
            filters, data_format=self.data_format, dtype=self.dtype_policy, name="block"
        )

    def _pooled_shape(self, input_shape):
        if isinstance(input_shape[0], (list, tuple)):
            inputs, link = input_shape
            return [self.pooling.compute_output_shape(inputs), link]
        return self.pooling.compute_output_shape(input_shape)

    def build(self, input_shape: Shape | Sequence[Shape]) -> None:
        self.block.build(self._pooled_shape(input_shape))

    def call(self, inputs: Tensor | Sequence[Tensor], training: bool = False) -> Tensor:
        if isinstance(inputs, (list, tuple)):
            inputs, link = inputs
            return self.block([self.pooling(inputs), link], training=training)
        return self.block(self.pooling(inputs), training=training)

    def compute_output_shape(self, input_shape: Shape | Sequence[Shape]) -> Shape:
        return self.block.compute_output_shape(self._pooled_shape(input_shape))
