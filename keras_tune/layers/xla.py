"""Compiling a part of a TensorFlow graph, where compiling all of it does not pay."""

import math

import keras


def compiled(function):
    """Compile a function of tensors with XLA, on the TensorFlow backend.

    On a CPU the convolutions of these models run several times faster outside XLA, and what is
    done value by value several times faster inside. So the parts are compiled, and not the step.

    Args:
        function: Takes and returns tensors; hashable arguments of other kinds are constants.

    Returns:
        The compiled function.

    Example:

    ```python
    square = compiled(lambda x: x * x)
    ```
    """
    # Layers are for any backend; what needs TensorFlow is imported where it runs.
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)


def worth_compiling(tensor):
    """Whether to compile what is done with a tensor: in a TensorFlow graph, and if it is large.

    Compiling takes seconds in all, which examples of a few thousand values do not bring in again.

    Args:
        tensor: The tensor, its first axis the batch.
    """
    if keras.backend.backend() != "tensorflow" or None in tensor.shape[1:]:
        return False
    import tensorflow as tf

    return not tf.executing_eagerly() and math.prod(tensor.shape[1:]) >= 2**14
