"""folder: any set that is a folder of audio files.

Layout expected: audio files, in sub-folders named for their label (`rock/01.mp3`, or
`jazz/live/02.wav`: the first folder counts), like GTZAN's `genres` folder, or all in one folder,
without a label.

Splits: 80, 10 and 10 % of each label, drawn by a hash of the file's name. A label of three files or
more is in all splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_tune.data.datasets.splits import stratified_split
from keras_tune.errors import UserError
from keras_tune.files import text_fault
from keras_tune.storage import AnyPath, FilePath, files_below, to_path

if TYPE_CHECKING:
    import pathlib

    import pandas as pd

# libsndfile does not decode the last four: such files are listed too, so that they are reported.
SUFFIXES = frozenset(
    ".aif .aiff .au .caf .flac .mp3 .oga .ogg .opus .w64 .wav .aac .m4a .mp4 .wma".split()
)


def audio_files(folder: FilePath) -> list[pathlib.PurePath]:
    """List the audio files in a folder and its sub-folders, without hidden ones.

    The paths are sorted and relative to the folder. A name that is not in UTF-8, which tables
    cannot store, raises a `UserError`.
    """
    found = [
        path
        for path in files_below(folder)
        # Archives made on a Mac contain a hidden "._01.mp3" for each file.
        if path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)
    ]
    for path in found:
        wrong = text_fault(path)
        if wrong:
            shown = ascii(str(folder / path))
            raise UserError(f"{shown}: the file's name {wrong}. Rename the file.")
    return found


def folder_manifest(
    source: AnyPath, label: str = "label", fractions: Sequence[float] = (0.8, 0.1, 0.1)
) -> pd.DataFrame:
    """List the audio files of a folder.

    Args:
        source: The folder, or its URL in a store.
        label: Name of the label that the sub-folders stand for. Defaults to "label".
        fractions: Shares of train, valid and test. Defaults to 80, 10 and 10 %.

    Returns:
        DataFrame with the columns id (path within the folder), path, split and, if there are
        sub-folders, the label.

    Raises:
        UserError: If the folder is missing or contains no audio file, or the label's name is that
            of another column.

    Example:

    ```python
    import pathlib

    from keras_tune.data.datasets import folder_manifest

    for genre in ("jazz", "rock"):
        pathlib.Path("genres", genre).mkdir(parents=True)
        pathlib.Path("genres", genre, "01.mp3").touch()
    manifest = folder_manifest("genres", label="genre")
    ```
    """
    import pandas as pd

    if label in ("id", "path", "split"):
        raise UserError(
            f"`label` must not be a column that every manifest has. Received: label={label}"
        )
    source = to_path(source)
    if not source.is_dir():
        raise UserError(f"{source}: no such folder. `source` must be a folder of audio files.")
    within = audio_files(source)
    if not within:
        raise UserError(f"{source}: contains no audio file.")
    ids = [path.as_posix() for path in within]
    labels = [path.parts[0] if len(path.parts) > 1 else None for path in within]
    splits = stratified_split(ids, labels, fractions)
    manifest = pd.DataFrame(
        {"id": ids, "path": [str(source / path) for path in within], "split": splits}
    )
    if any(labels):
        manifest[label] = labels
    return manifest
