"""Working on the active examples of a batch only, where that saves time."""

import functools

import keras
from keras import ops


def map_active(function, waveforms, parameters, active, chunk_size=8):
    """Apply a costly function to the active examples, and leave the others as they are.

    On a CPU the active examples are collected and worked on in chunks of a fixed size, as many as
    there are: examples whose coin did not fall cost nothing, and a chunk stays in the caches. On
    an accelerator, which wants everything at once, all examples are worked on.

    Args:
        function: Takes waveforms and parameters, gives waveforms of the same shape; it must treat
            every example by itself.
        waveforms: (batch, samples), float32.
        parameters: A nested structure of tensors whose first axis is the batch.
        active: (batch,), bool.
        chunk_size: Examples of a chunk. Defaults to 8; the more memory an example takes, the fewer.
            PyTorch takes four times as many.

    Returns:
        (batch, samples), float32.
    """
    if not works_in_chunks():
        return ops.where(active[:, None], function(waveforms, parameters), waveforms)
    if keras.backend.backend() == "torch":
        # Not compiled: larger chunks, because each operation has a price of its own.
        chunk_size *= 4
    batch = ops.shape(waveforms)[0]
    order = ops.argsort(ops.cast(ops.logical_not(active), "int32"))
    order = ops.cast(order, "int32")
    count = ops.sum(ops.cast(active, "int32"))

    def step(done, result):
        # The last chunk is filled up with other examples; those that are not active stay.
        rows = ops.take(order, (done + ops.arange(chunk_size, dtype="int32")) % batch, axis=0)
        chosen = ops.take(waveforms, rows, axis=0)
        chosen_parameters = keras.tree.map_structure(
            lambda tensor: ops.take(tensor, rows, axis=0), parameters
        )
        changed = function(chosen, chosen_parameters)
        changed = ops.where(ops.take(active, rows, axis=0)[:, None], changed, chosen)
        return done + chunk_size, ops.scatter_update(result, rows[:, None], changed)

    done = ops.zeros((), dtype="int32")
    return ops.while_loop(lambda done, result: done < count, step, (done, waveforms))[1]


@functools.cache
def works_in_chunks():
    """Whether `map_active` works on chunks of active examples, as it does on a CPU."""
    if keras.backend.backend() == "torch":
        return ops.zeros(()).device.type == "cpu"
    return all(name.startswith("cpu") for name in keras.distribution.list_devices())
