"""giantsteps_key: the key of electronic dance music, in clips of 30 s.

Citation: P. Knees, A. Faraldo, P. Herrera, R. Vogl, S. Boeck, F. Hoerschlaeger and M. Le Goff, "Two
data sets for tempo estimation and key detection in electronic dance music annotated from user
corrections", ISMIR 2015; and for the MTG set A. Faraldo, S. Jorda and P. Herrera, "A multi-profile
method for key estimation in EDM", AES Conference on Semantic Audio, 2017.

Licence: the repositories state none; the audio files are previews of www.beatport.com.

Where to get it: https://github.com/GiantSteps/giantsteps-mtg-key-dataset (1,486 previews of two
minutes) and https://github.com/GiantSteps/giantsteps-key-dataset (604). The script `audio_dl.sh` in
each downloads the audio.

Layout expected (the folders may end in `-master` or a commit, as in archives of GitHub):

    SOURCE/giantsteps-mtg-key-dataset/annotations/annotations.txt           ID, MANUAL KEY, C
    SOURCE/giantsteps-mtg-key-dataset/annotations/beatport_metadata.txt     ID, ARTIST, ...
    SOURCE/giantsteps-mtg-key-dataset/audio/ID.LOFI.mp3
    SOURCE/giantsteps-key-dataset/annotations/key/ID.LOFI.key
    SOURCE/giantsteps-key-dataset/audio/ID.LOFI.mp3

Each preview is cut into consecutive full clips of 30 s; the rest is left out.

Labels: the category `key` (24 classes, spelled with flats: "Db minor"); the category `song`, by
which predictions for the clips of a song are combined and intervals resampled; and the numbers
`start` and `duration` (in seconds), the part of the file that is the clip.

Split: 3,687 / 942 / 2,406 clips, after Korzeniowski & Widmer (ISMIR 2018) and jukemir (Castellon et
al., ISMIR 2021). Test: all of the GiantSteps set. Train and valid: the songs of the MTG set with
the highest confidence (`C` is 2) and a single key (no "/"). An artist is valid where the SHA-1 of
the lower-cased name, modulo 116, is 100 or more; then, twice over all songs of the MTG set in the
order of the metadata, all artists of a song become valid if one is. A song is valid if one of its
artists is. The published numbers of clips are based on durations from ffprobe, ours on those from
libsndfile.
"""

import math
import os
import pathlib
import re

import pandas as pd

from keras_tune.data.datasets.layout import Table, audio_path, audio_seconds
from keras_tune.data.datasets.splits import sha1_modulo
from keras_tune.errors import UserError

CLIP_SECONDS = 30.0
SUFFIXES = (".mp3", ".wav")
# The 24 classes have one spelling of each tonic.
SPELLINGS = {
    **{"C#": "Db", "D#": "Eb", "F#": "Gb", "G#": "Ab", "A#": "Bb"},
    **{"Cb": "B", "Fb": "E", "E#": "F", "B#": "C"},
}


def giantsteps_key_manifest(source: str | os.PathLike) -> pd.DataFrame:
    """List the 30 s clips of the two GiantSteps key sets.

    Args:
        source: Folder with both repositories.

    Returns:
        DataFrame with the columns id (song and number of the clip), path, split, key, song, start
        and duration (seconds; both missing where the audio file cannot be read).

    Raises:
        UserError: If a repository or a table is missing, or a table or a key is damaged.

    Example:

    ```python
    from keras_tune.data.datasets import giantsteps_key_manifest

    manifest = giantsteps_key_manifest("giantsteps")
    ```
    """
    mtg = _repository(source, "giantsteps-mtg-key-dataset")
    test = _repository(source, "giantsteps-key-dataset")
    rows = [
        (f"{song}-{number}", path, split, key, song, start, duration)
        for song, path, split, key in [*_mtg_songs(mtg), *_test_songs(test)]
        for number, (start, duration) in enumerate(_clips(path))
    ]
    columns = ["id", "path", "split", "key", "song", "start", "duration"]
    manifest = pd.DataFrame(rows, columns=columns)
    manifest.attrs["published_counts"] = {"train": 3687, "valid": 942, "test": 2406}
    return manifest


def _repository(source, name):
    found = sorted(path for path in pathlib.Path(source).glob(f"{name}*") if path.is_dir())
    if len(found) != 1:
        raise UserError(
            f"{source}: contains {len(found)} folders {name}. `source` must be a folder with one "
            "copy of each of the two GiantSteps key repositories."
        )
    return found[0]


def _mtg_songs(folder):
    file = folder / "annotations" / "annotations.txt"
    table = Table.read(file)
    keys = table.column("MANUAL KEY").fillna("")
    confident = table.numbers("C") == 2
    artists = _artists(folder / "annotations" / "beatport_metadata.txt")
    valid = _valid_artists(artists.values())
    for song, key, sure in zip(table.ids("ID"), keys, confident, strict=True):
        if not sure or "/" in key:
            continue
        if song not in artists:
            raise UserError(
                f"{file}: song {song} is not in beatport_metadata.txt. Download both again."
            )
        split = "train" if valid.isdisjoint(artists[song]) else "valid"
        path = audio_path(folder / "audio", f"{song}.LOFI", SUFFIXES)
        yield song, path, split, _key(key, f"{file}: song {song}")


def _test_songs(folder):
    files = sorted((folder / "annotations" / "key").glob("*.key"))
    if not files:
        raise UserError(f"{folder}: contains no annotations/key/*.key. Download it again.")
    for file in files:
        path = audio_path(folder / "audio", file.stem, SUFFIXES)
        key = _key(file.read_text(encoding="utf-8", errors="replace"), file)
        yield file.stem.removesuffix(".LOFI"), path, "test", key


def _artists(file):
    """Return the list of artists of each song."""
    table = Table.read(file)
    ids, names = table.column("ID", complete=True), table.column("ARTIST").fillna("")
    return {
        song: [artist.strip() for artist in several.split(",")]
        for song, several in zip(ids, names, strict=True)
    }


def _valid_artists(songs):
    valid = {
        artist for artists in songs for artist in artists if sha1_modulo(artist.lower(), 116) >= 100
    }
    for _ in range(2):
        for artists in songs:
            if not valid.isdisjoint(artists):
                valid.update(artists)
    return valid


def _key(text, where):
    match = re.fullmatch(r"\s*([A-G][#b]?)\s+(major|minor)\s*", text, flags=re.IGNORECASE)
    if not match:
        raise UserError(
            f"{where}: {text.strip()!r} is not a key like 'Db minor'. Download it again."
        )
    tonic = match[1].capitalize()
    return f"{SPELLINGS.get(tonic, tonic)} {match[2].lower()}"


def _clips(path):
    """Return start and duration of a file's clips, (None, None) if it cannot be read."""
    seconds = audio_seconds(path)
    if seconds is None:
        return [(None, None)]
    # A file shorter than a clip is listed as one, so that it is reported too.
    count = max(1, math.floor(seconds / CLIP_SECONDS))
    return [(number * CLIP_SECONDS, CLIP_SECONDS) for number in range(count)]
