"""Initial weights that are the same on every backend."""

import keras
import numpy as np


@keras.saving.register_keras_serializable(package="keras_tune")
class HeUniform(keras.initializers.HeUniform):
    """He-uniform weights, drawn with NumPy.

    Backends draw different numbers from the same seed, and JAX compiles a program for every shape
    it draws. NumPy does neither, so `keras.utils.set_random_seed` fixes the weights of a model
    whatever the backend.

    Args:
        seed: Integer. Defaults to one drawn from Python's random generator, which
            `keras.utils.set_random_seed` seeds.

    Source: He et al., "Delving Deep into Rectifiers" (ICCV 2015).

    Example:

    ```python
    keras.layers.Conv1D(8, 3, kernel_initializer=HeUniform(seed=1))
    ```
    """

    def __call__(self, shape, dtype=None):
        """Draw a kernel of `shape`, whose last two axes are input and output channels."""
        fan_in = np.prod(shape[:-1])
        limit = np.sqrt(6.0 / fan_in)
        values = np.random.default_rng(self.seed).uniform(-limit, limit, shape)
        return keras.ops.convert_to_tensor(values.astype("float32"), dtype=dtype)
