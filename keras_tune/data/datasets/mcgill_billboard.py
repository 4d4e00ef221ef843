"""mcgill_billboard: songs of the Billboard Hot 100, 1958 to 1991, with the user's own audio.

Citation: J. A. Burgoyne, J. Wild and I. Fujinaga, "An expert ground truth set for audio chord
recognition and music analysis", ISMIR 2011.

Licence: CC0 (index and annotations). The audio is commercial music and is not distributed.

Where to get it: the index `billboard-2.0-index.csv` from
https://ddmal.music.mcgill.ca/research/The_McGill_Billboard_Project_(Chord_Analysis_Dataset); the
songs from your own collection.

Layout expected: audio files that are named after a slot of the chart, like the annotations, in
SOURCE/audio or any folder below it:

    SOURCE/billboard-2.0-index.csv     id, chart_date, target_rank, ..., title, artist, ...
    SOURCE/audio/0003.mp3              slot 3; any format, with or without leading zeros

Uses: pretraining on whole songs, as TUNe's authors did, and probing the labels of the index. The
chords are not used here. The index has 1,300 slots, of which 890 have a title and annotations; they
are 740 distinct songs, since a song may be drawn for several slots. Each song is listed once, and
its file may be named after any of its slots.

Labels: the category `artist` and the number `year` of the chart.

Split: none is published for this use. A hash of the artist draws 80, 10 and 10 %, so that no artist
is in two splits ("Rolling Stones" and "The Rolling Stones" count as one).
"""

import os
import pathlib
from collections.abc import Sequence

import pandas as pd

from keras_tune.data.datasets.folder import SUFFIXES
from keras_tune.data.datasets.layout import Table, line_of
from keras_tune.data.datasets.splits import hash_split, plain_name
from keras_tune.errors import UserError

INDEX = "billboard-2.0-index.csv"


def mcgill_billboard_manifest(
    source: str | os.PathLike, fractions: Sequence[float] = (0.8, 0.1, 0.1)
) -> pd.DataFrame:
    """List the songs of the McGill Billboard index, each once.

    Args:
        source: Folder with `billboard-2.0-index.csv` and the folder `audio`.
        fractions: Shares of train, valid and test. Defaults to 80, 10 and 10 %.

    Returns:
        DataFrame with the columns id (four digits: the song's first slot), path, split, artist and
        year. The path of a song without a file is that of its first slot with the suffix `.*`.

    Raises:
        UserError: If the index is missing or damaged, or no audio file is named after a slot.

    Example:

    ```python
    from keras_tune.data.datasets import mcgill_billboard_manifest

    manifest = mcgill_billboard_manifest("billboard")
    ```
    """
    source = pathlib.Path(source)
    table = Table.read(source / INDEX, f"`source` must be the folder with {INDEX}.")
    slots = table.ids("id")
    dates = table.column("chart_date", complete=True)
    strange = ~(slots.str.fullmatch(r"\d{1,4}") & dates.str.fullmatch(r"\d{4}-\d\d-\d\d"))
    if strange.any():
        raise UserError(
            f"{table.file}: line {line_of(strange)} must begin with a slot's number and a date "
            "like 1987-11-25. Download the index again."
        )
    songs = pd.DataFrame(
        {
            "slot": slots.astype(int),
            "year": dates.str[:4].astype(float),
            "title": table.column("title").str.strip().str.casefold(),
            "artist": table.column("artist").fillna("").str.strip(),
        }
    )
    # A slot without a title has no annotations.
    songs = songs[songs["title"].notna()]
    files = _numbered_files(source / "audio")
    rows = []
    for _, song in songs.groupby([songs["artist"].map(_group), "title"], sort=False):
        slot, artist, year = song[["slot", "artist", "year"]].iloc[0]
        found = [files[number] for number in song["slot"] if number in files]
        path = found[0] if found else str(source / "audio" / f"{slot:04d}.*")
        rows.append((f"{slot:04d}", path, artist, year))
    manifest = pd.DataFrame(rows, columns=["id", "path", "artist", "year"])
    splits = hash_split([_group(artist) for artist in manifest["artist"]], fractions)
    manifest.insert(2, "split", splits)
    manifest.attrs["published_counts"] = {"total": 740}
    return manifest


def _group(artist):
    """Return an artist's name in a simple form that several spellings share."""
    return plain_name(artist).removeprefix("the ") or artist.casefold()


def _numbered_files(folder):
    """Return a dict from number to path of the audio files whose name is a number."""
    paths = sorted(folder.rglob("*"), reverse=True)
    files = {
        int(path.stem): str(path)
        for path in paths
        if path.stem.isdecimal() and path.suffix.lower() in SUFFIXES
    }
    if not files:
        raise UserError(
            f"{folder}: contains no audio file named after a slot of the index, such as 0003.mp3. "
            "The set comes without audio: put your own there."
        )
    return files
