"""debian_music: 39 h of freely licensed music from 83 Debian packages, most of them games.

Citation: none; the table `debian_music.tsv` credits each track to its authors, as the package's
copyright file names them.

Licence: that of each track, which the table quotes from the package's copyright file: GPL, CC BY,
CC BY-SA, BSD, CC0, public domain and a few others. docs/open_music.md lists them all, with the few
that are unclear or need care.

Where to get it: from Debian, with its own tools. The table was made with Debian 12 ("bookworm").
Fetch a package and unpack it into a folder of its name; docs/open_music.md has a loop over all:

    apt-get download supertux-data
    dpkg-deb -x supertux-data_*.deb SOURCE/supertux-data

Layout expected:

    SOURCE/supertux-data/usr/share/games/supertux2/music/antarctic/chipdisko.ogg
    SOURCE/nexuiz-music/usr/share/games/nexuiz/data/music.pk3.d/sound/cdtracks/ninesix.ogg

`music.pk3.d` is a folder with the content of the archive `music.pk3` in the same place (`unzip`). A
file may also lie in SOURCE without the package's name in front, so that `/` is a SOURCE on a system
where the packages are installed. A table `debian_music.tsv` in SOURCE replaces the one that ships
with this package, to add packages or to leave some out.

Each track is cut into consecutive stretches of 30 s; the rest at the end is one more if it has at
least 10 s. Of a track that is longer than `max_seconds`, as many stretches are used as fit into
that, spread evenly over the track. A file whose SHA-256 is not that of the table is from another
version of the package: it is named in the report, and left out unless `changed` is "take".

Labels: the categories `package`, `artist` (packages by the same authors share one, the others have
their package's name) and `song` (package and name of the piece; separate recordings of its
instruments, and faster versions, share one); and the numbers `start` and `duration` (in seconds),
the part of the file that is the clip.

Split: the column `split` of the table, about 90, 5 and 5 % of the hours. No `artist` is in two
splits, and valid and test each contain several styles. Packages whose music has no licence of its
own, or one that allows less than the usual free ones, are in valid or test, so that no weights are
trained on them.
"""

import hashlib
import math
import os
import pathlib
from collections.abc import Sequence

import pandas as pd

from keras_tune.data.datasets.layout import Table, audio_seconds
from keras_tune.data.schema import SPLITS
from keras_tune.errors import UserError

CLIP_SECONDS = 30.0
# The least that is kept of a track's end.
MIN_SECONDS = 10.0
TABLE = "debian_music.tsv"
COLUMNS = ("package", "artist", "split", "song", "path", "sha256_16")


def debian_music_manifest(
    source: str | os.PathLike, max_seconds: float = 300.0, changed: str = "leave"
) -> pd.DataFrame:
    """List the 30 s stretches of the music in unpacked Debian packages.

    Args:
        source: Folder with one folder per package, or the root of a system with the packages.
        max_seconds: The maximum to use of a track, in seconds. Defaults to 300.
        changed: What happens to a file that is not the one in the table, but from another version
            of its package: "leave" leaves it out, "take" uses it. Either way `split_report` names
            it. Defaults to "leave".

    Returns:
        DataFrame with the columns id (package, hash of the file in the table, number of the
        stretch), path, split, package, artist, song, start and duration (seconds; both missing for
        a track whose file is missing or cannot be read).

    Raises:
        UserError: If the folder contains none of the files, or an option or the table is wrong.

    Example:

    ```python
    from keras_tune.data.datasets import debian_music_manifest

    manifest = debian_music_manifest("packages", max_seconds=120)
    ```
    """
    if not max_seconds >= CLIP_SECONDS:
        raise UserError(
            f"`max_seconds` must be at least {CLIP_SECONDS:g}, the length of a clip. "
            f"Received: max_seconds={max_seconds:g}"
        )
    if changed not in ("leave", "take"):
        raise UserError(f"`changed` must be 'leave' or 'take'. Received: changed={changed}")
    source = pathlib.Path(source)
    rows, differing, missing, found = [], [], {}, 0
    counts = dict.fromkeys(SPLITS, 0)
    for track in _table(source).itertuples():
        parts: Sequence[tuple] = stretches(track.seconds, max_seconds)
        counts[track.split] += len(parts)
        file = _file(source, track)
        if not file.is_file():
            missing[track.package] = missing.get(track.package, 0) + 1
            parts = [(0, None, None)]
        else:
            found += 1
            if not _sha256(file).startswith(track.sha256_16):
                differing.append(file)
                parts = _stretches_of(file, max_seconds) if changed == "take" else []
        common = (track.split, track.package, track.artist, f"{track.package}/{track.song}")
        rows += [
            (f"{track.package}-{track.sha256_16}-{number}", str(file), *common, start, duration)
            for number, start, duration in parts
        ]
    _check_found(source, found, len(differing), changed)
    columns = ["id", "path", "split", "package", "artist", "song", "start", "duration"]
    manifest = pd.DataFrame(rows, columns=columns).astype({"start": float, "duration": float})
    left = "left out" if changed == "leave" else "taken"
    warnings = [f"{file} is not the version in {TABLE}: {left}" for file in differing]
    warnings += [f"{count} files of {package} are missing" for package, count in missing.items()]
    # `split_report` prints them.
    manifest.attrs["warnings"] = warnings
    manifest.attrs["published_counts"] = counts
    return manifest


def stretches(seconds: float, max_seconds: float) -> list[tuple[int, float, float]]:
    """Cut a track into stretches of 30 s; of one longer than `max_seconds`, take some of them.

    Returns:
        List with a tuple for each stretch: its number, its start and its duration in seconds.
    """
    full, rest = divmod(seconds, CLIP_SECONDS)
    lengths = [CLIP_SECONDS] * int(full)
    if rest >= MIN_SECONDS or not lengths:
        # Not rounded up, which could be beyond the end of the file.
        lengths.append(math.floor(rest * 1000) / 1000)
    count, most = len(lengths), int(max_seconds // CLIP_SECONDS)
    numbers: Sequence[int] = range(count)
    if count > most:
        # The middle one of each of `most` equal parts of the track.
        numbers = [(2 * part + 1) * count // (2 * most) for part in range(most)]
    return [(number, number * CLIP_SECONDS, lengths[number]) for number in numbers]


def _stretches_of(file, max_seconds):
    seconds = audio_seconds(file)
    return [(0, None, None)] if seconds is None else stretches(seconds, max_seconds)


def _check_found(source, found, differing, changed):
    if not found:
        raise UserError(
            f"{source}: contains no file of {TABLE}. `source` must be the folder into which the "
            "packages were unpacked, each into a folder of its name."
        )
    if found == differing and changed == "leave":
        raise UserError(
            f"{source}: no file is the version in {TABLE}. Pass `changed='take'` to use them."
        )


def _table(source):
    """Return the tracks that the set consists of."""
    if not source.is_dir():
        raise UserError(f"{source}: no such folder. `source` must be the folder of packages.")
    own = source / TABLE
    table = Table.read(own if own.is_file() else pathlib.Path(__file__).with_name(TABLE))
    columns = {name: table.column(name, complete=True) for name in COLUMNS}
    columns["seconds"] = table.numbers("seconds")
    unknown = ~columns["split"].isin(SPLITS)
    table.refuse("split", unknown, f"must be one of {', '.join(SPLITS)}.")
    return pd.DataFrame(columns)


def _file(source, track):
    """Return the path of a track's file, which may not exist."""
    file = source / track.package / track.path
    installed = source / track.path
    return installed if installed.is_file() and not file.is_file() else file


def _sha256(file):
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
