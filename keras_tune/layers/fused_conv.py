"""Convolution, bias and activation that TensorFlow can run as one operation."""

import keras
import numpy as np
from keras import ops

from keras_tune.layers.data_format import channel_axis


@keras.saving.register_keras_serializable(package="keras_tune")
class FusedConv1D(keras.layers.Conv1D):
    """Conv1D of one tensor or of several side by side, in one pass over memory where possible.

    Several tensors are convolved as if their channels were concatenated. TensorFlow runs a
    one-dimensional convolution as a two-dimensional one of height 1, and takes the height away
    again before the bias, which hides from it that bias and ReLU, or the sum with another
    convolution, could be part of the same operation. Here the height goes last, and each tensor is
    convolved by itself, added to what there is. Elsewhere, and with `channels_first`, it is
    concatenation and Conv1D.

    Args: those of `keras.layers.Conv1D`; `groups` must be 1 and `padding` "same" or "valid".

    Input shape: (batch, time, channels), or a list of such shapes that differ in the channels
    only; (batch, channels, time) with `channels_first`.
    Output shape: (batch, time, filters); (batch, filters, time) with `channels_first`.

    Example:

    ```python
    layer = keras_tune.layers.FusedConv1D(8, 3, padding="same", activation="relu")
    layer([np.zeros((2, 27, 4)), np.zeros((2, 27, 2))]).shape  # (2, 27, 8)
    ```
    """

    def __init__(self, filters, kernel_size, **kwargs):
        super().__init__(filters, kernel_size, **kwargs)
        if self.groups != 1 or self.padding not in ("same", "valid"):
            raise ValueError(
                "`groups` must be 1 and `padding` same or valid. "
                f"Received: groups={self.groups}, padding={self.padding}"
            )
        # Keras' own knows one tensor only.
        self.input_spec = None

    def build(self, input_shape):
        super().build(self._joined(input_shape))
        self.input_spec = None

    def call(self, inputs):
        tensors = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        if keras.backend.backend() == "tensorflow" and self.data_format == "channels_last":
            return self._in_one_pass(tensors)
        if len(tensors) > 1:
            return super().call(ops.concatenate(tensors, axis=channel_axis(self.data_format)))
        return super().call(tensors[0])

    def _in_one_pass(self, tensors):
        # TensorFlow looks for its own addition of a bias, for which Keras has no name.
        import tensorflow as tf

        ends = np.cumsum([0, *(tensor.shape[-1] for tensor in tensors)])
        kernel = ops.convert_to_tensor(self.kernel)
        total = None
        # The first is the last, which takes bias, sum and activation along.
        for place in reversed(range(len(tensors))):
            outputs = ops.conv(
                tensors[place][:, None],
                kernel[None, :, ends[place] : ends[place + 1]],
                strides=(1, *self.strides),
                padding=self.padding,
                dilation_rate=(1, *self.dilation_rate),
                data_format=self.data_format,
            )
            if self.use_bias and not place:
                outputs = tf.nn.bias_add(outputs, ops.convert_to_tensor(self.bias))
            total = outputs if total is None else ops.add(outputs, total)
        if self.activation is not None:
            total = self.activation(total)
        return ops.squeeze(total, 1)

    def _joined(self, shape):
        """The shape of the concatenated inputs."""
        if not isinstance(shape[0], (list, tuple)):
            return shape
        joined, axis = list(shape[0]), channel_axis(self.data_format)
        joined[axis] = sum(one[axis] for one in shape)
        return tuple(joined)

    def compute_output_shape(self, input_shape):
        return super().compute_output_shape(self._joined(input_shape))
