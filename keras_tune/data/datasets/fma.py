"""fma: excerpts of 30 s of the Free Music Archive, with their top genre.

Citation: M. Defferrard, K. Benzi, P. Vandergheynst and X. Bresson, "FMA: a dataset for music
analysis", ISMIR 2017.

Licence: CC BY 4.0 (metadata); the audio has the licences that its artists chose.

Where to get it: https://github.com/mdeff/fma: `fma_metadata.zip` and one of `fma_small.zip`,
`fma_medium.zip`, `fma_large.zip`.

Layout expected:

    SOURCE/fma_metadata/tracks.csv
    SOURCE/fma_small/000/000002.mp3     or fma_medium, fma_large, which contain the smaller sets

Label: the category `genre` (`genre_top` of the table: 8 genres in small, 16 in medium). More than
half of the tracks of large have no top genre: their label is missing, so they are used for
pretraining, and are left out if genre is the target.

Split: the official one, in which no artist is in two splits: small 6,400 / 800 / 800, medium 19,922
/ 2,505 / 2,573, large 84,353 / 11,263 / 10,958. A few files are damaged or cut short in the
archives; they are left out and reported when the set is prepared.
"""

import csv
import itertools
import os

import pandas as pd

from keras_tune.data.datasets.layout import AS_TEXT, Table, locate, reading
from keras_tune.errors import UserError

SUBSETS = ("small", "medium", "large")
SPLIT_NAMES = {"training": "train", "validation": "valid", "test": "test"}
COLUMNS = (("set", "split"), ("set", "subset"), ("track", "genre_top"))
PUBLISHED = {
    "small": {"train": 6400, "valid": 800, "test": 800},
    "medium": {"train": 19922, "valid": 2505, "test": 2573},
    "large": {"train": 84353, "valid": 11263, "test": 10958},
}


def fma_manifest(source: str | os.PathLike, subset: str = "small") -> pd.DataFrame:
    """List the tracks of a subset of FMA with their top genre.

    Args:
        source: Folder with `fma_metadata` and the folder of the subset, or of a larger one.
        subset: "small", "medium" or "large"; each contains the smaller ones. Defaults to "small".

    Returns:
        DataFrame with the columns id (six digits), path, split and genre.

    Raises:
        UserError: If the table or the folder of audio is missing, or the table is damaged.

    Example:

    ```python
    from keras_tune.data.datasets import fma_manifest

    manifest = fma_manifest("fma", subset="medium")
    ```
    """
    if subset not in SUBSETS:
        raise UserError(f"`subset` must be 'small', 'medium' or 'large'. Received: subset={subset}")
    folder = locate(source, ["."], ["fma_metadata"], "Unpack fma_metadata.zip there.")
    file = folder / "fma_metadata" / "tracks.csv"
    larger = [f"fma_{name}" for name in SUBSETS[SUBSETS.index(subset) :]]
    locate(source, ["."], larger, f"Unpack fma_{subset}.zip there.")
    audio = next(folder / name for name in larger if (folder / name).is_dir())
    table = _tracks(file)
    table = table[table["subset"].isin(SUBSETS[: SUBSETS.index(subset) + 1])]
    ids = table["id"].str.zfill(6)
    manifest = pd.DataFrame(
        {
            "id": ids,
            "path": [str(audio / track[:3] / f"{track}.mp3") for track in ids],
            "split": table["split"].map(SPLIT_NAMES),
            "genre": table["genre_top"],
        }
    )
    manifest = manifest.reset_index(drop=True)
    manifest.attrs["published_counts"] = PUBLISHED[subset]
    return manifest


def _tracks(file):
    """Read the four columns of interest of a table that has three lines of header."""
    if not file.is_file():
        raise UserError(f"{file}: no such file. Unpack fma_metadata.zip there.")
    with reading(file), open(file, encoding="utf-8", newline="") as lines:
        header = list(zip(*itertools.islice(csv.reader(lines), 2), strict=False))
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise UserError(f"{file}: has no column {' '.join(missing[0])!r}. Download it again.")
    names = {0: "id"} | {header.index(column): column[1] for column in COLUMNS}
    with reading(file):
        table = pd.read_csv(file, header=None, skiprows=3, usecols=list(names), **AS_TEXT)
    table = table.rename(columns=names)
    Table(file, table).ids("id")
    for name, known in (("split", SPLIT_NAMES), ("subset", SUBSETS)):
        strange = table[~table[name].isin(known)]
        if len(strange):
            raise UserError(
                f"{file}: the {name} {strange[name].iloc[0]!r} of track {strange['id'].iloc[0]} "
                f"must be one of {', '.join(known)}. Download the table again."
            )
    return table
