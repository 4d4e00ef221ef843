"""Importing TensorFlow only when it is needed, and without the GPUs of another framework."""

from keras_tune.storage import import_tensorflow


def import_tensorflow_for_reading():
    """Import TensorFlow for data pipelines.

    If Keras runs on JAX or PyTorch, the GPUs are hidden from TensorFlow, which would reserve their
    memory without using it.

    Returns:
        The module `tensorflow`.

    Raises:
        UserError: If it is not installed.

    Example:

    ```python
    tf = import_tensorflow_for_reading()
    ```
    """
    tf = import_tensorflow()
    import keras

    if keras.config.backend() != "tensorflow":
        try:
            tf.config.set_visible_devices([], "GPU")
        except RuntimeError:
            # TensorFlow is initialized already, and its devices can no longer be changed.
            pass
    return tf


def pipeline_options(tf):
    """Return the common options of all pipelines over shards.

    tf.data's autotuner is off. In TensorFlow 2.21, deleting an iterator sometimes waits for the
    autotuner's next run, and the time between its runs doubles each time: a `fit` of 12.5 s took
    20.5 s. Without it, as many calls run in parallel as there are cores.

    Args:
        tf: The module `tensorflow`.

    Returns:
        A `tf.data.Options`.

    Example:

    ```python
    dataset = dataset.with_options(pipeline_options(tf))
    ```
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options
