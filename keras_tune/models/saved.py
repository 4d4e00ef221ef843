"""Files of models: in without surprises, out without numbers that are not finite."""

import pathlib

from keras_tune.checks import check_archive, check_weights
from keras_tune.errors import UserError
from keras_tune.files import atomic_path


def load_saved_model(path, compile=False):
    """Load a `.keras` file.

    Args:
        path: The file.
        compile: Whether to load the optimizer too. Defaults to False.

    Returns:
        Keras model.

    Raises:
        UserError: There is no such file, it holds no model, unpacks to far more than its size, or
            has weights that are not finite.

    Example:

    ```python
    encoder = load_saved_model("runs/mine/encoder.keras")
    ```
    """
    import keras

    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a .keras file or the folder of a finished run")
    check_archive(path)
    try:
        model = keras.models.load_model(path, compile=compile)
    except Exception as error:  # Keras raises whatever its parts raise on a damaged file.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(f"{path}: cannot be loaded ({type(error).__name__}: {reason})") from error
    check_weights(path, model)
    return model


def save_model(model, path, hint=""):
    """Write a model to a `.keras` file, in one step.

    Args:
        model: Keras model.
        path: The file.
        hint: What to do about weights that are not finite. Defaults to nothing.

    Raises:
        UserError: A weight is not finite; nothing is written.

    Example:

    ```python
    save_model(encoder, "encoder.keras")
    ```
    """
    check_weights(path, model, hint)
    with atomic_path(path) as temporary:
        model.save(temporary)
