"""Checks of what comes from outside: weights and numbers, encoders, archives."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterable
from typing import TYPE_CHECKING

from keras_tune.errors import UserError
from keras_tune.types import DEFAULT_SAMPLE_RATE, Tensor

if TYPE_CHECKING:
    import pathlib

    import keras

# The largest ratio of unpacked to packed size, and the unpacked size that is always allowed.
# Weights can hardly be compressed; the zeros in the state of a new optimizer can.
LARGEST_EXPANSION = 20
UNPACKED_BYTES = 2**26


def first_not_finite(arrays: Iterable[tuple[str, Tensor]]) -> str | None:
    """Return the name of the first array that contains NaN or infinity, None if there is none.

    Args:
        arrays: Pairs of a name and an array, of NumPy or of Keras' backend.
    """
    import numpy as np

    for name, array in arrays:
        if not isinstance(array, np.ndarray):
            import keras

            array = keras.ops.convert_to_numpy(array)
        if not np.isfinite(array).all():
            return name
    return None


def check_finite(name: object, arrays: Iterable[tuple[str, Tensor]], hint: str = "") -> None:
    """Raise unless all numbers are finite.

    Args:
        name: The name of what is checked, such as a file; the error begins with it.
        arrays: Iterable of pairs of a name and an array.
        hint: Advice at the end of the error. Defaults to none.

    Raises:
        UserError: One of the arrays contains NaN or infinity.
    """
    found = first_not_finite(arrays)
    if found is not None:
        raise UserError(f"{name}: {found} is not finite (contains NaN or infinity){hint}")


def check_weights(name: object, model: keras.Model, hint: str = "") -> None:
    """Raise a `UserError` that begins with `name` unless all weights of a model are finite."""
    check_finite(name, ((f"the weight {weight.path}", weight) for weight in model.weights), hint)


def check_encoder(name: object, encoder: keras.Model, sample_rate: int | None = None) -> None:
    """Raise unless a model is an encoder of mono waveforms, at the sample rate of the data.

    Args:
        name: The name of the model, such as its file; the error begins with it.
        encoder: Keras model.
        sample_rate: Integer, of the data, in Hz. A model without an attribute `sample_rate` is
            taken to be right. Defaults to None: any.

    Raises:
        UserError: The model does not map (batch, samples, 1) to (batch, d), or is made for another
            rate.
    """
    # Models with several inputs or outputs have lists or dicts of shapes.
    shapes = encoder.input_shape, encoder.output_shape
    single = all(
        isinstance(shape, tuple) and all(size is None or isinstance(size, int) for size in shape)
        for shape in shapes
    )
    if not (single and len(shapes[0]) == 3 and shapes[0][2] == 1 and len(shapes[1]) == 2):
        raise UserError(
            f"{name}: an encoder must map (batch, samples, 1) to (batch, d); this model has the "
            f"input shape {shapes[0]} and the output shape {shapes[1]}"
        )
    own = getattr(encoder, "sample_rate", None)
    if None not in (own, sample_rate) and own != sample_rate:
        raise UserError(
            f"{name}: made for audio at {own} Hz, not at {sample_rate} Hz; resample the audio "
            "or use another encoder"
        )


def sample_rate_of(encoder: keras.Model) -> int:
    """The sample rate of an encoder in Hz; that of the publications if it does not know its own."""
    return getattr(encoder, "sample_rate", None) or DEFAULT_SAMPLE_RATE


def check_unpacked(name: object, unpacked: int, packed: int) -> None:
    """Raise a `UserError` if a file of `packed` bytes is much too small for its unpacked bytes."""
    if unpacked > UNPACKED_BYTES + LARGEST_EXPANSION * packed:
        raise UserError(
            f"{name}: refused, as {packed:,} bytes would unpack to {unpacked:,}; weights cannot be "
            "compressed that much"
        )


def check_archive(path: pathlib.Path) -> None:
    """Raise a `UserError` if a zip archive, or an HDF5 file in it, would unpack to far too much.

    The sizes that the archive declares are checked before anything is unpacked; readers of zip
    archives never return more bytes than declared. Other kinds of files pass.
    """
    if not zipfile.is_zipfile(path):
        return
    packed = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            check_unpacked(path, sum(member.file_size for member in members), packed)
            for member in members:
                if member.filename.endswith(".h5"):
                    check_unpacked(path, _hdf5_bytes(archive.read(member)), packed)
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError):
        # A damaged archive: its reader says what is wrong.
        return


def _hdf5_bytes(content):
    """The bytes that the arrays of an HDF5 file have in memory.

    They may be compressed within the file, or not be stored at all where they are zero.
    """
    import h5py

    items = []
    with h5py.File(io.BytesIO(content), "r") as file:
        file.visititems(lambda name, item: items.append(item))
        arrays = [item for item in items if isinstance(item, h5py.Dataset)]
        return sum(math.prod(array.shape or (0,)) * array.dtype.itemsize for array in arrays)
