"""Model files: damaged ones are refused, and weights that are not finite are not written."""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING

from keras_tune.checks import check_archive, check_weights
from keras_tune.errors import UserError
from keras_tune.files import atomic_path

if TYPE_CHECKING:
    import keras


def load_saved_model(path: str | os.PathLike, compile: bool = False) -> keras.Model:
    """Load a `.keras` file, the encoder of a run, or a preset with its trained weights.

    Args:
        path: The file, the folder of a run, or the name of a preset that has trained weights.
        compile: Whether to load the optimizer too. Defaults to False.

    Returns:
        Keras model.

    Raises:
        UserError: There is no such file or preset, the file contains no model, unpacks to far more
            than its size, or has weights that are not finite.
    """
    import keras

    from keras_tune.models.presets import PRESETS, is_trained
    from keras_tune.models.tune import TUNe

    if is_trained(str(path)):
        return TUNe.from_preset(str(path))
    path = pathlib.Path(path)
    if path.is_dir():
        path = path / "encoder.keras"
    if not path.is_file():
        trained = " or ".join(filter(is_trained, PRESETS))
        raise UserError(
            f"{path}: no such file; give a .keras file, the folder of a finished run, or {trained}"
        )
    check_archive(path)
    try:
        model = keras.models.load_model(path, compile=compile)
    except Exception as error:  # Keras raises whatever its parts raise on a damaged file.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(f"{path}: cannot be loaded ({type(error).__name__}: {reason})") from error
    check_weights(path, model)
    return model


def save_model(model: keras.Model, path: str | os.PathLike, hint: str = "") -> None:
    """Write a model to a `.keras` file, in one step.

    Args:
        model: Keras model.
        path: The file.
        hint: Advice for weights that are not finite, at the end of the error. Defaults to none.

    Raises:
        UserError: A weight is not finite; nothing is written.
    """
    check_weights(path, model, hint)
    with atomic_path(path) as temporary:
        model.save(temporary)
