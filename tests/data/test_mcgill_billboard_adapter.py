import csv

import numpy as np
import pytest
import soundfile

from keras_tune.data.datasets import manifest_for
from keras_tune.errors import UserError

pytestmark = pytest.mark.one_backend

RATE = 22050
HEADER = ["id", "chart_date", "target_rank", "actual_rank", "title", "artist", "peak_rank", "weeks"]


def build(folder, more=()):
    """A small index of fourteen slots, two without a song, and audio for most songs."""
    random = np.random.default_rng(9)
    rows = [
        ["1", "1961-07-03", "98", "", "", "", "", ""],
        ["2", "1987-01-10", "9", "", "", "", "", ""],
        ["3", "1961-07-03", "18", "18", "I Don't Mind", "James Brown", "47", "9"],
        ["4", "1967-11-25", "22", "22", "You Keep Me", "The Rolling Stones", "6", "14"],
        ["5", "1968-01-25", "70", "70", "You keep me ", "Rolling Stones", "6", "14"],
        *(
            [str(n), "1984-03-01", "5", "5", f"Song {n}", f"Artist {n:b}", "1", "2"]
            for n in range(6, 15)
        ),
        *more,
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "billboard-2.0-index.csv", "w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    names = ["0003.wav", "1960s/5.flac", *(f"{n:04d}.mp3" for n in range(6, 14)), "cover.wav"]
    for name in names:
        path = folder / "audio" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, random.normal(0, 0.1, RATE // 2), RATE)
    return folder


def test_each_song_is_listed_once_with_the_file_of_any_of_its_slots(tmp_path):
    manifest = manifest_for("mcgill_billboard", build(tmp_path)).set_index("id")
    assert list(manifest.index) == ["0003", "0004", *(f"{n:04d}" for n in range(6, 15))]
    assert manifest.at["0003", "path"] == str(tmp_path / "audio/0003.wav")
    assert manifest.at["0004", "path"] == str(tmp_path / "audio/1960s/5.flac")
    assert manifest.at["0014", "path"] == str(tmp_path / "audio/0014.*")
    assert manifest.at["0004", "artist"] == "The Rolling Stones"
    assert manifest.at["0004", "year"] == 1967
    assert manifest.attrs["published_counts"] == {"total": 740}


def test_no_artist_is_in_two_splits(tmp_path):
    artists = ["Beatles", "The Beatles", "the  beatles", "B.J. Thomas", "BJ Thomas", "911", "10cc"]
    more = [
        [str(100 + n), "1984-03-01", "5", "5", f"Other {n}", artists[n % 7], "1", "2"]
        for n in range(70)
    ]
    manifest = manifest_for("mcgill_billboard", build(tmp_path, more), fractions=[0.4, 0.3, 0.3])
    splits = dict(zip(manifest["artist"], manifest["split"], strict=True))
    assert (manifest.groupby("artist")["split"].nunique() == 1).all()
    assert splits["Beatles"] == splits["The Beatles"] == splits["the  beatles"]
    assert splits["B.J. Thomas"] == splits["BJ Thomas"]
    assert set(splits.values()) == {"train", "valid", "test"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title", "name", "has no column 'title'"),
        ("1987-01-10", "10 January", "line 3 must begin with a slot's number and a date"),
        ("\n2,", "\n1,", "the id '1' occurs more than once"),
        ("\n2,", "\ntwo,", "line 3 must begin"),
    ],
)
def test_damaged_tables(tmp_path, old, new, message):
    source = build(tmp_path)
    file = source / "billboard-2.0-index.csv"
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        manifest_for("mcgill_billboard", source)


def test_missing_files(tmp_path):
    with pytest.raises(UserError, match="billboard-2.0-index.csv: no such file"):
        manifest_for("mcgill_billboard", tmp_path)
    source = build(tmp_path)
    (source / "audio").rename(source / "music")
    with pytest.raises(UserError, match="audio: contains no audio file named after a slot"):
        manifest_for("mcgill_billboard", source)
