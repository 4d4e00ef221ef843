"""Convolution, batch normalization and ReLU: the block of every stage of TUNe and SampleCNN."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tune.layers.batch_normalization import BatchNormalization
from keras_tune.layers.common import (
    ConfiguredLayer,
    channel_axis,
    concatenate_channels,
    concatenated_shape,
    standardize_data_format,
)
from keras_tune.layers.torch_fast_paths import convolve
from keras_tune.types import DType, Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_tune")
class HeUniform(keras.initializers.HeUniform):
    """He-uniform weights, drawn with NumPy.

    Backends draw different numbers from the same seed, and JAX compiles a program for every shape.
    With NumPy `keras.utils.set_random_seed` determines the weights of a model on any backend.

    Args:
        seed: Integer. Defaults to one drawn from Python's random generator, which
            `keras.utils.set_random_seed` seeds.

    Source: He et al., "Delving Deep into Rectifiers" (ICCV 2015).

    Example:

    ```python
    initializer = keras_tune.layers.HeUniform(seed=1)
    layer = keras.layers.Conv1D(8, 3, kernel_initializer=initializer)
    ```
    """

    def __call__(self, shape: tuple[int, ...], dtype: DType = None) -> Tensor:
        """Draw a kernel of `shape`, whose last two axes are input and output channels."""
        fan_in = np.prod(shape[:-1])
        limit = np.sqrt(6.0 / fan_in)
        values = np.random.default_rng(self.seed).uniform(-limit, limit, shape)
        return keras.ops.convert_to_tensor(values.astype("float32"), dtype=dtype)


@keras.saving.register_keras_serializable(package="keras_tune")
class SampleCNNBlock(ConfiguredLayer):
    """Conv1D, batch normalization and ReLU, as in SampleCNN (Lee et al. 2017).

    Args:
        filters: Integer, the number of output channels.
        kernel_size: Integer, in time steps. Defaults to 3.
        strides: Integer, 3 for SampleCNN's stem. Defaults to 1.
        padding: "same" (zeros on each side) or "valid". Defaults to "same".
        data_format: "channels_last", "channels_first", or None for the backend's faster one.
            Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape: (batch, time, channels); (batch, channels, time) with `channels_first`; or a list
        of such shapes that differ in the channels only, which are convolved as if they were
        concatenated.
    Output shape: (batch, time, filters); (batch, filters, time) with `channels_first`.

    Source: Vélez Vásquez & Burgoyne, "Tailed U-Net" (ISMIR 2022), section 3.

    Example:

    ```python
    block = keras_tune.layers.SampleCNNBlock(16, data_format="channels_last")
    block(np.zeros((2, 81, 1))).shape  # (2, 81, 16)
    ```
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int = 3,
        strides: int = 1,
        padding: str = "same",
        data_format: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.padding = padding
        self.data_format = standardize_data_format(data_format)
        self.convolution = keras.layers.Conv1D(
            filters,
            kernel_size,
            strides=strides,
            padding=padding,
            data_format=self.data_format,
            kernel_initializer=HeUniform(),
            dtype=self.dtype_policy,
            name="convolution",
        )
        # These are PyTorch's defaults, which the published models use.
        self.normalization = BatchNormalization(
            axis=channel_axis(self.data_format),
            momentum=0.9,
            epsilon=1e-5,
            activation="relu",
            dtype=self.dtype_policy,
            name="normalization",
        )

    def build(self, input_shape: Shape | Sequence[Shape]) -> None:
        input_shape = concatenated_shape(input_shape, self.data_format)
        self.convolution.build(input_shape)
        self.normalization.build(self.convolution.compute_output_shape(input_shape))

    def call(self, inputs: Tensor | Sequence[Tensor], training: bool = False) -> Tensor:
        if not (training and self.normalization.trainable):
            return self.normalization(self._convolve(inputs), training=training)
        # Batch normalization cancels any bias, so in training it is not added. Its gradient is zero
        # (exactly here, otherwise up to rounding). Only the moving average depends on it.
        bias = self.convolution.bias
        kernel = self.convolution.kernel + 0.0 * bias
        outputs = self._convolve(inputs, kernel)
        outputs = self.normalization(outputs, training=True)
        moving = self.normalization.moving_mean
        moving.assign(moving + (1.0 - self.normalization.momentum) * ops.stop_gradient(bias))
        return outputs

    def _convolve(self, inputs, kernel=None):
        """The convolution, without the bias if its kernel is given."""
        tensors = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        layer, outputs = self.convolution, None
        if keras.backend.backend() == "torch":
            bias = ops.convert_to_tensor(layer.bias) if kernel is None else None
            weights = ops.convert_to_tensor(layer.kernel) if kernel is None else kernel
            outputs = convolve(layer, tensors, weights, bias)
        if outputs is not None:
            return outputs
        joined = concatenate_channels(tensors, self.data_format)
        return layer(joined) if kernel is None else layer.convolution_op(joined, kernel)

    def compute_output_shape(self, input_shape: Shape | Sequence[Shape]) -> Shape:
        joined = concatenated_shape(input_shape, self.data_format)
        return self.convolution.compute_output_shape(joined)
