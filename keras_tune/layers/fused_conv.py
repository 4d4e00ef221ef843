"""Convolution, bias and activation that TensorFlow can run as one operation."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_tune.layers.common import concatenate_channels, concatenated_shape
from keras_tune.layers.tensorflow_fast_paths import convolve_in_one_pass
from keras_tune.layers.torch_fast_paths import convolve
from keras_tune.types import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_tune")
class FusedConv1D(keras.layers.Conv1D):
    """Conv1D of one tensor or of several side by side, in one pass over memory where possible.

    Several tensors are convolved as if their channels were concatenated. With TensorFlow and
    `channels_last` each tensor is convolved separately and added to the sum of the others, in one
    operation with bias and ReLU. With PyTorch on a CPU and `channels_last` they are convolved
    separately as well. With PyTorch and `channels_first` they are concatenated, and bias and ReLU
    need no memory of their own. Elsewhere this is a concatenation and Conv1D.

    Args:
        filters: Integer, the number of output channels.
        kernel_size: Integer, in time steps.
        **kwargs: Arguments of `keras.layers.Conv1D`; `groups` must be 1 and `padding` "same" or
            "valid".

    Input shape: (batch, time, channels), or a list of such shapes that differ in the channels
    only; (batch, channels, time) with `channels_first`.
    Output shape: (batch, time, filters); (batch, filters, time) with `channels_first`.

    Raises:
        ValueError: If `groups` is not 1, or for another `padding`.

    Example:

    ```python
    layer = keras_tune.layers.FusedConv1D(8, 3, padding="same", activation="relu")
    layer([np.zeros((2, 27, 4)), np.zeros((2, 27, 2))]).shape  # (2, 27, 8)
    ```
    """

    def __init__(self, filters: int, kernel_size: int, **kwargs: Any):
        super().__init__(filters, kernel_size, **kwargs)
        if self.groups != 1 or self.padding not in ("same", "valid"):
            raise ValueError(
                "`groups` must be 1 and `padding` 'same' or 'valid'. "
                f"Received: groups={self.groups}, padding={self.padding}"
            )
        # Keras' own specification allows one tensor only.
        self.input_spec = None

    def build(self, input_shape: Shape | Sequence[Shape]) -> None:
        super().build(concatenated_shape(input_shape, self.data_format))
        self.input_spec = None

    def call(self, inputs: Tensor | Sequence[Tensor]) -> Tensor:
        tensors = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        kernel = ops.convert_to_tensor(self.kernel)
        bias = ops.convert_to_tensor(self.bias) if self.use_bias else None
        backend, outputs = keras.backend.backend(), None
        if backend == "tensorflow" and self.data_format == "channels_last":
            return convolve_in_one_pass(self, tensors, kernel, bias)
        if backend == "torch":
            outputs = convolve(self, tensors, kernel, bias)
        if outputs is None:
            return super().call(concatenate_channels(tensors, self.data_format))
        if self.activation is keras.activations.relu:
            return outputs.relu_()
        return outputs if self.activation is None else self.activation(outputs)

    def compute_output_shape(self, input_shape: Shape | Sequence[Shape]) -> Shape:
        return super().compute_output_shape(concatenated_shape(input_shape, self.data_format))
