"""Putting together the parts of a batch that are on several devices.

JAX needs none of this, since its models compute with the whole batch, wherever its parts are. With
`tf.distribute` each replica has its part of the batch, and its own copy of the code.
"""

from __future__ import annotations

import keras
from keras import ops

from keras_tune.types import Tensor

# A step between the seeds of the replicas; the golden ratio of 32 bits.
SEED_STEP = 0x9E3779B1


def count() -> int:
    """The number of replicas that run the current code; 1 outside of `tf.distribute`."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def gather(tensor: Tensor) -> Tensor:
    """Concatenate the rows of all replicas, with their gradients.

    Every replica then computes the same with them. Gradients are summed over replicas, so a loss
    must be divided by their `count`, as `keras.losses.Loss` does.

    Args:
        tensor: Tensor (rows, ...).

    Returns:
        Tensor (rows of all replicas, ...).

    Example:

    ```python
    from keras_tune.losses.nt_xent import nt_xent
    from keras_tune.training.replicas import count, gather

    z_i, z_j = np.random.normal(size=(2, 4, 8)).astype("float32")
    loss = ops.mean(nt_xent(gather(z_i), gather(z_j))) / count()
    ```
    """
    if count() == 1:
        return tensor
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    # None while Keras builds the model symbolically.
    if context is None:
        return tensor
    # Data is not on a device yet, and machines need one to gather to.
    return context.all_gather(tf.identity(tensor), axis=0)


def as_reported(logs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the result of a training step the shape that Keras can reduce over machines.

    With `MultiWorkerMirroredStrategy` Keras reduces metrics along their first axis, which they do
    not have.

    Args:
        logs: What Keras' own step returns.

    Returns:
        The same, with one more axis if it is needed.
    """
    if keras.backend.backend() != "tensorflow":
        return logs
    import tensorflow as tf

    if not isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
        return logs
    return {name: ops.reshape(value, (1,)) for name, value in logs.items()}


def spread_seeds(model: keras.Model, states: list[keras.Variable]) -> None:
    """Let each replica draw its own random numbers, by changing its copy of the state.

    Args:
        model: Keras model.
        states: List of the variables with the state of its random generators.
    """
    if keras.backend.backend() != "tensorflow":
        return
    strategy = model.distribute_strategy
    if strategy.num_replicas_in_sync == 1:
        return
    import tensorflow as tf

    def shift():
        context = tf.distribute.get_replica_context()
        number = ops.cast(context.replica_id_in_sync_group, states[0].dtype)
        step = ops.cast(SEED_STEP & 0x7FFFFFFF, states[0].dtype)
        for state in states:
            state.assign(state + ops.stack([number * step, ops.zeros_like(number)]))

    strategy.run(shift)
