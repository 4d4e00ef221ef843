"""Finding a set's folders and files in the layout of its archives."""

import pathlib

from keras_tune.errors import UserError


def locate(source, folders, holds, fix):
    """Return the first of some folders that contains one of the given names.

    Args:
        source: The set's folder.
        folders: Paths within it, with "." for the folder itself.
        holds: Names of files or folders. The right folder contains at least one of them.
        fix: What to do if there is none, for the error.

    Returns:
        `pathlib.Path` of a folder.

    Raises:
        UserError: If the folder is missing, or no folder contains any of the names.

    Example:

    ```python
    folder = locate("gtzan", [".", "genres"], ["blues"], "Unpack genres.tar.gz there.")
    ```
    """
    source = pathlib.Path(source)
    if not source.is_dir():
        raise UserError(f"{source}: no such folder. {fix}")
    for folder in folders:
        if any((source / folder / name).exists() for name in holds):
            return source / folder
    raise UserError(f"{source}: contains no {' or '.join(holds)}. {fix}")


def audio_path(folder, stem, suffixes):
    """Return the path of an audio file, with the first suffix if it does not exist with any.

    Args:
        folder: The folder of the file.
        stem: Its name, without the suffix.
        suffixes: The suffixes it may have, e.g. `(".wav", ".au")`.

    Returns:
        The path, a text.

    Example:

    ```python
    audio_path("gtzan/genres/blues", "blues.00000", (".wav", ".au"))
    ```
    """
    paths = [pathlib.Path(folder) / f"{stem}{suffix}" for suffix in suffixes]
    return str(next((path for path in paths if path.is_file()), paths[0]))
