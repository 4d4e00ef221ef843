"""Initial weights that are the same on every backend."""

import keras
import numpy as np

from keras_tune.types import DType, Tensor


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
