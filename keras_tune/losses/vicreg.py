"""The two terms of VICReg against a collapse of the projections.

NT-Xent keeps projections apart from one another, but does not ask for all dimensions to be used.
The variance term asks every component to vary over the batch, the covariance term asks no two to
vary together.
"""

from keras import ops

from keras_tune.types import Tensor, TensorLike


def variance_loss(z: TensorLike, target: float = 1.0, epsilon: float = 1e-4) -> Tensor:
    """How far the standard deviations of the components are below a target.

    Args:
        z: Tensor (batch, d), projections before they are normalized.
        target: Float, the standard deviation to reach. Defaults to 1.
        epsilon: Float, added to the variance before its root is taken. Defaults to 1e-4.

    Returns:
        Float32 scalar, the mean over components of max(0, target − √(variance + epsilon)).

    Source: Bardes, Ponce & LeCun, "VICReg" (ICLR 2022), equations 1 and 2.

    Example:

    ```python
    keras_tune.losses.variance_loss(np.zeros((8, 4)))  # 0.99: nothing varies
    ```
    """
    centered, count = _centered(z)
    variance = ops.sum(ops.square(centered), axis=0) / (count - 1.0)
    return ops.mean(ops.relu(target - ops.sqrt(variance + epsilon)))


def covariance_loss(z: TensorLike) -> Tensor:
    """A penalty on components that vary together.

    Args:
        z: Tensor (batch, d), projections before they are normalized.

    Returns:
        Float32 scalar, the sum of the squared covariances of different components, divided by d.

    Source: Bardes, Ponce & LeCun, "VICReg" (ICLR 2022), equations 3 and 4.

    Example:

    ```python
    keras_tune.losses.covariance_loss(np.eye(4))  # 0.0208
    ```
    """
    centered, count = _centered(z)
    covariance = ops.matmul(ops.transpose(centered), centered) / (count - 1.0)
    width = z.shape[-1]
    apart = ops.square(covariance) * (1.0 - ops.eye(width, dtype="float32"))
    return ops.sum(apart) / width


def _centered(z):
    z = ops.cast(z, "float32")
    return z - ops.mean(z, axis=0, keepdims=True), ops.cast(ops.shape(z)[0], "float32")
