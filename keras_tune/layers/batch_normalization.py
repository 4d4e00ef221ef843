"""Batch normalization that is accurate over millions of time steps."""

from typing import Any

import keras
from keras import ops

from keras_tune.layers import tensorflow_fast_paths, torch_fast_paths
from keras_tune.types import Tensor


@keras.saving.register_keras_serializable(package="keras_tune")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' batch normalization, fast and exact over millions of time steps.

    A batch of waveforms at full resolution has millions of values per channel. TensorFlow on a CPU
    adds them one after the other in float32: over 96 views of 59,049 samples the error of the mean
    is 2 %, and the gradient of `gamma` is lost in rounding. Adding in stages of a few hundred terms
    is exact to 1e-6. TensorFlow also makes a pass over the whole tensor for every operation, and
    in mixed precision a float32 copy of it; here XLA compiles what lies between two sums into one
    pass. PyTorch has an operation of its own for this, without Keras' copies. JAX adds in a tree
    and fuses operations already. So this is Keras' layer except when training on a tensor of three
    axes: (batch, time, channels) of known length on TensorFlow, (batch, channels, time) on PyTorch,
    and there on a CPU also (batch, time, channels).

    Args:
        activation: "relu", applied to the output in the same pass, or None. Defaults to None.
        **kwargs: Arguments of `keras.layers.BatchNormalization`.

    Input shape: any; (batch, time, channels) for the fast path.
    Output shape: the same.

    Raises:
        ValueError: If `activation` is neither "relu" nor None.

    Source: Ioffe & Szegedy, "Batch Normalization" (ICML 2015), for the gradient; Higham, "The
    accuracy of floating point summation" (1993), for the errors of different orders of adding.

    Example:

    ```python
    layer = keras_tune.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    layer(np.ones((2, 81, 4)), training=True).shape  # (2, 81, 4)
    ```
    """

    def __init__(self, activation: str | None = None, **kwargs: Any):
        if activation not in (None, "relu"):
            raise ValueError(
                f"`activation` must be 'relu' or None. Received: activation={activation}"
            )
        super().__init__(**kwargs)
        self.activation = activation

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        in_training = (
            training
            and self.trainable
            and len(inputs.shape) == 3
            and mask is None
            and self.scale
            and self.center
            and not (self.renorm or self.synchronized)
        )
        normalized = self._normalize(inputs) if in_training else None
        if normalized is None:
            outputs = super().call(inputs, training=training, mask=mask)
            return ops.relu(outputs) if self.activation else outputs
        outputs, mean, variance = normalized
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + value * (1.0 - self.momentum))
        return ops.cast(outputs, self.compute_dtype)

    def _normalize(self, inputs):
        """Outputs, means and variances by the backend's own function, or None if it has none."""
        # TensorFlow's custom gradients take tensors only; a reshape turns variables into tensors.
        parameters = ops.reshape(self.gamma, (-1,)), ops.reshape(self.beta, (-1,))
        backend, options = keras.backend.backend(), (self.epsilon, bool(self.activation))
        if backend == "tensorflow" and self.axis in (2, -1) and inputs.shape[1] is not None:
            return tensorflow_fast_paths.normalize_batch(inputs, *parameters, *options)
        if backend == "torch" and torch_fast_paths.can_normalize(inputs, self.axis):
            return torch_fast_paths.normalize_batch(inputs, *parameters, self.axis, *options)
        return None

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "activation": self.activation}
