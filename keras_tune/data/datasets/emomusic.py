"""emomusic: 744 excerpts of 45 s with the arousal and valence that listeners perceive.

Citation: M. Soleymani, M. N. Caro, E. M. Schmidt, C.-Y. Sha and Y.-H. Yang, "1000 songs for
emotional analysis of music", ACM workshop on Crowdsourcing for Multimedia, 2013.

Licence: for research (see the set's manual); the music is under the Creative Commons licences that
its artists chose on the Free Music Archive.

Where to get it: https://cvml.unige.ch/databases/emoMusic: `annotations.tar.gz` and
`clips_45sec.tar.gz`.

Layout expected:

    SOURCE/songs_info.csv             song_id, Artist, Mediaeval 2013 set, ...   or in annotations/
    SOURCE/static_annotations.csv     song_id, mean_arousal, mean_valence, ...   or in annotations/
    SOURCE/clips_45seconds/SONG_ID.mp3

Labels: the numbers `arousal` and `valence`, each the mean over the listeners on the original scale
of 1 to 9 (a probe standardises them by the train songs' mean and deviation, as the papers do), and
the category `artist`, for folds that keep an artist together. There is one clip per song.

Split: 504 / 115 / 125 clips, as jukemir (Castellon et al., ISMIR 2021) made it. Test: the songs
whose `Mediaeval 2013 set` is `evaluation`. Of the others, those are valid whose artist's SHA-1
(of the lower-cased name, only ASCII letters and single spaces kept), modulo 10, is 8 or 9.
"""

import os

import pandas as pd

from keras_tune.data.datasets.layout import Table, audio_path, locate
from keras_tune.data.datasets.splits import plain_name, sha1_modulo
from keras_tune.errors import UserError

SONGS, ANNOTATIONS, CLIPS = "songs_info.csv", "static_annotations.csv", "clips_45seconds"
FIX = "`source` must be the folder in which EmoMusic's two archives are unpacked."


def emomusic_manifest(source: str | os.PathLike) -> pd.DataFrame:
    """List the clips of EmoMusic with their mean arousal and valence.

    Args:
        source: Folder in which `annotations.tar.gz` and `clips_45sec.tar.gz` are unpacked.

    Returns:
        DataFrame with the columns id, path, split, arousal, valence and artist.

    Raises:
        UserError: If a table or the folder of clips is missing, a table is damaged, or the two
            tables do not list the same songs.

    Example:

    ```python
    from keras_tune.data.datasets import emomusic_manifest

    manifest = emomusic_manifest("emomusic")
    ```
    """
    folder = locate(source, [".", "annotations"], [SONGS, ANNOTATIONS], FIX)
    clips = locate(source, ["."], [CLIPS], FIX) / CLIPS
    songs = _table(folder / SONGS)
    means = _table(folder / ANNOTATIONS)
    ids = songs.rows.index
    only_in_one = set(ids) ^ set(means.rows.index)
    if only_in_one:
        song = min(only_in_one, key=int)
        raise UserError(f"{folder}: song {song} is not in both {SONGS} and {ANNOTATIONS}.")
    artists = songs.column("Artist", complete=True).str.strip()
    sets = songs.column("Mediaeval 2013 set", complete=True).str.strip()
    manifest = pd.DataFrame(
        {
            "id": ids,
            "path": [audio_path(clips, song, (".mp3", ".wav")) for song in ids],
            "split": [_split(*row) for row in zip(sets, artists, strict=True)],
            "arousal": means.numbers("mean_arousal")[ids].to_numpy(),
            "valence": means.numbers("mean_valence")[ids].to_numpy(),
            "artist": artists.to_numpy(),
        }
    )
    manifest.attrs["published_counts"] = {"train": 504, "valid": 115, "test": 125}
    return manifest


def _table(file):
    """Read a table, indexed by the song's number as text without leading zeros."""
    table = Table.read(file, FIX)
    table.rows["song_id"] = [str(int(number)) for number in table.numbers("song_id")]
    table.rows.index = table.ids("song_id")
    return table


def _split(part, artist):
    if part == "evaluation":
        return "test"
    return "valid" if sha1_modulo(plain_name(artist), 10) >= 8 else "train"
