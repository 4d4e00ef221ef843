"""Model files: `.keras` files, and the trained weights that come with the package.

Damaged files are refused, and weights that are not finite are not written.
"""

from __future__ import annotations

import json
import os
import pathlib

import keras
import numpy as np

from keras_tune.checks import check_archive, check_weights
from keras_tune.errors import UserError
from keras_tune.files import atomic_path
from keras_tune.models.presets import PRESETS, is_trained

# What an encoder may be built with otherwise than the one whose weights are in a file.
FREE = ("input_samples", "dtype", "name", "trainable", "layers_trainable")


def load_saved_model(path: str | os.PathLike, compile: bool = False) -> keras.Model:
    """Load a `.keras` file, the encoder in the folder of a run, or a preset by its name.

    With `compile=True` the optimizer is loaded too.

    Raises:
        UserError: There is no such file or preset, the file contains no model, unpacks to far more
            than its size, or has weights that are not finite.
    """
    # TUNe itself reads the weights of presets with this module.
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

    Raises:
        UserError: A weight is not finite; nothing is written. The message ends with `hint`.
    """
    check_weights(path, model, hint)
    with atomic_path(path) as temporary:
        model.save(temporary)


def write_weights(encoder: keras.Model, path: str | os.PathLike, **about: str) -> None:
    """Write an encoder's weights as a safetensors file, kernels in half precision.

    Biases and batch normalization keep full precision: they are few, and variances may be smaller
    than half precision can represent. The file's header has the configuration of the encoder and
    `about`.

    Raises:
        ValueError: A weight is not finite, or is too large for half precision.
    """
    from safetensors.numpy import save

    arrays = {}
    for name, variable in _variables(encoder).items():
        array = np.asarray(variable.numpy(), "float32")
        with np.errstate(over="ignore"):
            arrays[name] = array.astype("float16") if array.ndim > 1 else array
        if not np.isfinite(arrays[name]).all():
            raise ValueError(
                f"the weights must be finite as {arrays[name].dtype}. Received: {name}, of which "
                f"the largest is {np.abs(array).max()}"
            )
    header = {"config": json.dumps(encoder.get_config()), **about}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(arrays, header))


def read_about(path: str | os.PathLike) -> dict[str, str]:
    """Read the header of a file that `write_weights` has written, a dict of strings."""
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        return file.metadata()


def read_weights(encoder: keras.Model, path: str | os.PathLike) -> None:
    """Set an encoder's weights to those of a file that `write_weights` has written.

    The encoder may differ in the length of its windows, and be without `pooled_stages`.

    Raises:
        ValueError: The weights are those of another encoder.
    """
    from safetensors.numpy import load_file

    trained, config = json.loads(read_about(path)["config"]), encoder.get_config()
    free = FREE
    if not config["pooled_stages"]:
        free += ("pooled_stages", "pooled_dim", "acoustic_features")
    for key, value in trained.items():
        if key not in free and config[key] != value:
            raise ValueError(
                f"`{key}` must be {value}, as in the trained weights, unless `load_weights=False`. "
                f"Received: {key}={config[key]}"
            )
    arrays = load_file(path)
    for name, variable in _variables(encoder).items():
        variable.assign(arrays[name].astype("float32"))


def _variables(encoder):
    """An encoder's variables by their path, whatever the encoder is called."""
    return {
        variable.path.removeprefix(f"{encoder.name}/"): variable for variable in encoder.weights
    }
