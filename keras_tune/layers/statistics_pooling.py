"""Mean and standard deviation over time."""

from typing import Any

import keras
from keras import ops

from keras_tune.layers.common import ConfiguredLayer, standardize_data_format
from keras_tune.types import Shape, Tensor

# Added to the variance, so that the gradient of its root is finite for a constant channel.
EPSILON = 1e-12


@keras.saving.register_keras_serializable(package="keras_tune")
class StatisticsPooling1D(ConfiguredLayer):
    """Concatenate the mean and the standard deviation of every channel over time.

    Computations are in float32. The deviation is the square root of the variance plus 1e-12.

    Args:
        data_format: "channels_last", "channels_first" or None for the faster one on the backend.
            Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`. `dtype` defaults to "float32".

    Input shape: (batch, time, channels); (batch, channels, time) with `channels_first`.
    Output shape: (batch, 2 · channels), the means first.

    Source: Snyder et al., "X-vectors: Robust DNN Embeddings for Speaker Recognition" (ICASSP 2018),
    section 2.1 ("statistics pooling").

    Example:

    ```python
    layer = keras_tune.layers.StatisticsPooling1D("channels_last")
    layer(np.array([[[1.0], [3.0]]]))  # [[2.0, 1.0]]
    ```
    """

    def __init__(self, data_format: str | None = None, **kwargs: Any):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.data_format = standardize_data_format(data_format)

    def call(self, inputs: Tensor) -> Tensor:
        axis = 1 if self.data_format == "channels_last" else 2
        mean = ops.mean(inputs, axis=axis, keepdims=True)
        variance = ops.mean(ops.square(inputs - mean), axis=axis)
        return ops.concatenate([ops.squeeze(mean, axis), ops.sqrt(variance + EPSILON)], axis=-1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        channels = input_shape[2 if self.data_format == "channels_last" else 1]
        return (input_shape[0], None if channels is None else 2 * channels)
