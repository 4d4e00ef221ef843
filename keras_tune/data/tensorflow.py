"""TensorFlow, imported when it is needed and kept off the GPU of another framework."""

from keras_tune.storage import import_tensorflow


def import_tensorflow_for_reading():
    """Import TensorFlow to run pipelines with it.

    Where Keras runs on JAX or PyTorch, TensorFlow is told to leave the GPUs alone: it would take
    their memory for itself, without a use for it.

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
            # TensorFlow has its devices already, so whoever ran it before has decided.
            pass
    return tf


def pipeline_options(tf):
    """Give the options that pipelines over shards have in common.

    tf.data's autotuner is off. Now and then an iterator that goes away waits for it until its next
    look at the pipeline (TensorFlow 2.21), and its looks come at twice the distance each time: a
    `fit` of 12.5 s took 20.5. Without it as many calls run in parallel as there are cores.

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
