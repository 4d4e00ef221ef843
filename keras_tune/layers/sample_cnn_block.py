"""Convolution, batch normalization, ReLU: what every stage of TUNe and SampleCNN is made of."""

import keras
from keras import ops

from keras_tune.layers.batch_normalization import BatchNormalization
from keras_tune.layers.data_format import channel_axis, standardize_data_format
from keras_tune.layers.initializers import HeUniform


@keras.saving.register_keras_serializable(package="keras_tune")
class SampleCNNBlock(keras.layers.Layer):
    """Conv1D, batch normalization and ReLU, as in SampleCNN (Lee et al. 2017).

    Args:
        filters: Integer, the number of output channels.
        kernel_size: Integer, in time steps. Defaults to 3.
        strides: Integer. Defaults to 1. SampleCNN's stem has 3.
        padding: "same" (zeros on each side) or "valid". Defaults to "same".
        data_format: "channels_last", "channels_first", or None for the backend's faster one.
        **kwargs: `name`, `dtype` and the other arguments of a Keras layer.

    Input shape: (batch, time, channels); (batch, channels, time) with `channels_first`.
    Output shape: (batch, time, filters); (batch, filters, time) with `channels_first`.

    Source: Vélez Vásquez & Burgoyne, "Tailed U-Net" (ISMIR 2022), section 3.

    Example:

    ```python
    block = keras_tune.layers.SampleCNNBlock(16, data_format="channels_last")
    block(np.zeros((2, 81, 1))).shape  # (2, 81, 16)
    ```
    """

    def __init__(
        self, filters, kernel_size=3, strides=1, padding="same", data_format=None, **kwargs
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
        # The published models keep PyTorch's defaults, which are these in Keras' terms.
        self.normalization = BatchNormalization(
            axis=channel_axis(self.data_format),
            momentum=0.9,
            epsilon=1e-5,
            activation="relu",
            dtype=self.dtype_policy,
            name="normalization",
        )

    def build(self, input_shape):
        self.convolution.build(input_shape)
        self.normalization.build(self.convolution.compute_output_shape(input_shape))

    def call(self, inputs, training=False):
        if not (training and self.normalization.trainable):
            return self.normalization(self.convolution(inputs), training=training)
        # Batch normalization takes any bias out again, so that training does without adding it
        # and without its gradient, which is zero (here exactly, elsewhere but for rounding). Only
        # the moving average has to know of it.
        bias = self.convolution.bias
        kernel = self.convolution.kernel + 0.0 * bias
        outputs = self.convolution.convolution_op(inputs, kernel)
        outputs = self.normalization(outputs, training=True)
        moving = self.normalization.moving_mean
        moving.assign(moving + (1.0 - self.normalization.momentum) * ops.stop_gradient(bias))
        return outputs

    def compute_output_shape(self, input_shape):
        return self.convolution.compute_output_shape(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "data_format": self.data_format,
        }
