"""The parts of a batch that lie on several devices, put together again.

JAX needs none of this: what its models compute with is the whole batch, wherever it lies. Under
`tf.distribute` each replica has its part of the batch, and its own copy of the code.
"""

import keras
from keras import ops

# A step between the seeds of the replicas; the golden ratio of 32 bits.
SEED_STEP = 0x9E3779B1


def count():
    """How many replicas the current code is one of; 1 outside of `tf.distribute`."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def gather(tensor):
    """The rows of all replicas, one replica's after the other's, with their gradients.

    Every replica goes on to compute the same from them. The gradients come back to each summed over
    replicas, so a loss must be divided by their `count`, as `keras.losses.Loss` does.

    Args:
        tensor: Tensor (rows, ...).

    Returns:
        Tensor (rows of all replicas, ...).

    Example:

    ```python
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
    # What comes straight from the data lies on no device yet, and machines need one to gather to.
    return context.all_gather(tf.identity(tensor), axis=0)


def as_reported(logs):
    """What a training step gives back, in the shape that Keras can reduce over machines.

    Under `MultiWorkerMirroredStrategy` Keras reduces metrics along their first axis, and they have
    none.

    Args:
        logs: What Keras' own step gives back.

    Returns:
        The same, with an axis more where it needs one.
    """
    if keras.backend.backend() != "tensorflow":
        return logs
    import tensorflow as tf

    if not isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
        return logs
    return {name: ops.reshape(value, (1,)) for name, value in logs.items()}


def spread_seeds(model, states):
    """Let each replica draw numbers of its own, which begin as copies of the same state.

    Args:
        model: Keras model.
        states: List of the variables that hold the state of its random generators.
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
