"""Maximum over adjacent time steps, fast on all backends."""

import keras

from keras_tune.layers.jax_fast_paths import max_of_steps
from keras_tune.layers.torch_fast_paths import max_of_windows
from keras_tune.types import Tensor


@keras.saving.register_keras_serializable(package="keras_tune")
class MaxPooling1D(keras.layers.MaxPooling1D):
    """Keras' max pooling, fast also where windows neither overlap nor leave a remainder.

    JAX and PyTorch pool one value at a time on a CPU, which takes a fifth of a training step of
    TUNe. There the maximum of a few strided views of the tensor gives the same values, and the same
    gradients but for the order of equal maxima, of which the first one gets it.

    Args:
        **kwargs: Arguments of `keras.layers.MaxPooling1D`.

    Input shape: (batch, time, channels); (batch, channels, time) with `channels_first`.
    Output shape: (batch, time / pool_size, channels); (batch, channels, time / pool_size) with
        `channels_first`.

    Example:

    ```python
    keras_tune.layers.MaxPooling1D(pool_size=3)(np.zeros((2, 81, 4))).shape  # (2, 27, 4)
    ```
    """

    def call(self, inputs: Tensor) -> Tensor:
        backend, size = keras.backend.backend(), self.pool_size[0]
        steps = inputs.shape[1 if self.data_format == "channels_last" else 2]
        # Where a graph is made for any length, it is no integer.
        whole = isinstance(steps, int) and steps > 0 and steps % size == 0
        if not whole or self.strides != self.pool_size:
            return super().call(inputs)
        if backend == "jax" and self.data_format == "channels_last":
            return max_of_steps(inputs, size)
        on_cpu = backend == "torch" and inputs.device.type == "cpu"
        if on_cpu and self.data_format == "channels_first":
            return max_of_windows(inputs, size)
        return super().call(inputs)
