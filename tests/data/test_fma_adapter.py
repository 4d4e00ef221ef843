import csv

import numpy as np
import pytest
import soundfile

from keras_tune.data.datasets import manifest_for
from keras_tune.errors import UserError

pytestmark = pytest.mark.one_backend

RATE = 22050
HEADER = [
    ["", "album", "artist", "set", "set", "track", "track"],
    ["", "title", "name", "split", "subset", "genre_top", "title"],
    ["track_id", "", "", "", "", "", ""],
]
SPLITS = ["training", "training", "validation", "test"]
SUBSETS = ["small", "medium", "large"]
NUMBERS = [2, 5, 140, 98565, 155320, 3, 7, 999, 1000, 20001, 30002, 40003]


def build(folder, subset="small", audio=True):
    """A small FMA of twelve tracks; those of large have no genre, a title runs over two lines."""
    random = np.random.default_rng(8)
    rows = []
    for place, number in enumerate(NUMBERS):
        part = SUBSETS[place % 3]
        genre = "" if part == "large" else ["Hip-Hop", "Rock"][place // 3 % 2]
        title = f"Title\nof {number}, {part}"
        rows.append([number, "Album", "Some one", SPLITS[place // 3], part, genre, title])
    (folder / "fma_metadata").mkdir(parents=True)
    with open(folder / "fma_metadata" / "tracks.csv", "w", newline="") as file:
        csv.writer(file).writerows([*HEADER, *rows])
    (folder / f"fma_{subset}").mkdir()
    held = SUBSETS[: SUBSETS.index(subset) + 1]
    for row in rows:
        if audio and row[4] in held:
            path = folder / f"fma_{subset}" / f"{row[0]:06d}"[:3] / f"{row[0]:06d}.mp3"
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, random.normal(0, 0.1, RATE // 2), RATE)
    return folder


@pytest.mark.parametrize("subset", SUBSETS)
def test_subsets_hold_the_smaller_ones(tmp_path, subset):
    source = build(tmp_path, subset)
    manifest = manifest_for("fma", source, subset=subset)
    expected = {}
    names = {"training": "train", "validation": "valid", "test": "test"}
    with open(source / "fma_metadata" / "tracks.csv", newline="") as file:
        for row in list(csv.reader(file))[3:]:
            if SUBSETS.index(row[4]) <= SUBSETS.index(subset):
                expected[row[0].zfill(6)] = (names[row[3]], row[5])
    genres = manifest["genre"].fillna("")
    got = zip(manifest["id"], zip(manifest["split"], genres, strict=True), strict=True)
    assert dict(got) == expected
    assert manifest["path"].map(lambda path: soundfile.info(path).frames > 0).all()


def test_published_counts_are_those_of_whole_subsets():
    # https://github.com/mdeff/fma: clips in the three subsets.
    from keras_tune.data.datasets.fma import PUBLISHED

    totals = {subset: sum(counts.values()) for subset, counts in PUBLISHED.items()}
    assert totals == {"small": 8000, "medium": 25000, "large": 106574}


def test_small_is_found_in_a_larger_archive(tmp_path):
    manifest = manifest_for("fma", build(tmp_path, "large"))
    assert manifest["path"].str.startswith(str(tmp_path / "fma_large")).all()
    assert len(manifest) == 4


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("genre_top", "genre", "has no column 'track genre_top'"),
        ("training", "trainng", "the split 'trainng' of track 2 must be one of training"),
        ("Some one,test,large", "Some one,test,", "the subset nan of track 40003 must be one"),
        ("\n5,", "\n2,", "the id '2' occurs more than once"),
    ],
)
def test_damaged_tables(tmp_path, old, new, message):
    source = build(tmp_path, audio=False)
    file = source / "fma_metadata" / "tracks.csv"
    # Bytes, since a text would lose the line ends within titles.
    content = file.read_bytes().replace(b"\r\n", b"\n").replace(old.encode(), new.encode(), 1)
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        manifest_for("fma", source)


def test_missing_files(tmp_path):
    with pytest.raises(UserError, match="contains no fma_metadata. Unpack fma_metadata.zip"):
        manifest_for("fma", tmp_path)
    source = build(tmp_path, audio=False)
    with pytest.raises(UserError, match="`subset` must be 'small', .* Received: subset=full"):
        manifest_for("fma", source, subset="full")
    with pytest.raises(UserError, match="contains no fma_medium or fma_large. Unpack fma_med"):
        manifest_for("fma", source, subset="medium")
    table = source / "fma_metadata" / "tracks.csv"
    table.write_text("")
    with pytest.raises(UserError, match="tracks.csv: has no column 'set split'"):
        manifest_for("fma", source)
    table.unlink()
    with pytest.raises(UserError, match="tracks.csv: no such file. Unpack fma_metadata.zip"):
        manifest_for("fma", source)
