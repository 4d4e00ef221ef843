import csv
import hashlib

import numpy as np
import pytest
import soundfile

from keras_tune.data.datasets import manifest_for
from keras_tune.errors import UserError

pytestmark = pytest.mark.one_backend

RATE = 22050
ARTISTS = [f"The {word} Ensemble {number}" for number, word in enumerate("abcdefghijklmnop")]
ARTISTS += ["Björk's  Friends", " Dürer Trio", "AC/DC", "Tom\tWaits & Co.", "1910 Fruitgum"]


def build(folder, songs=40, audio=True):
    """A small EmoMusic, its songs' numbers from 2 on."""
    random = np.random.default_rng(7)
    numbers = range(2, 2 + songs)
    folder.mkdir(parents=True, exist_ok=True)
    info = [
        {
            "song_id": number,
            "file_name": f"{number}.mp3",
            "Artist": ARTISTS[number % len(ARTISTS)],
            "Song title": f"Title, {number}",
            "start of the segment (min.sec)": "0.30",
            "end of the segment (min.sec)": "1.15",
            "Genre": "Blues",
            "Mediaeval 2013 set": "evaluation" if number % 6 == 0 else "development",
        }
        for number in numbers
    ]
    means = [
        {
            "song_id": number,
            "mean_arousal": round(float(random.uniform(1, 9)), 2),
            "std_arousal": 1.5,
            "mean_valence": round(float(random.uniform(1, 9)), 2),
            "std_valence": 1.4,
        }
        for number in reversed(numbers)
    ]
    for name, rows in (("songs_info.csv", info), ("static_annotations.csv", means)):
        with open(folder / name, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    (folder / "clips_45seconds").mkdir()
    for number in numbers if audio else ():
        samples = random.normal(0, 0.1, RATE // 2)
        soundfile.write(folder / "clips_45seconds" / f"{number}.mp3", samples, RATE)
    return folder


@pytest.fixture
def source(tmp_path):
    return build(tmp_path / "emomusic", songs=200, audio=False)


def read(file):
    with open(file, newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def slow_split(song):
    """The published rule, step by step."""
    if song["Mediaeval 2013 set"] == "evaluation":
        return "test"
    letters = ""
    for sign in song["Artist"].lower():
        if ord(sign) < 128 and (sign in "abcdefghijklmnopqrstuvwxyz" or sign in " \t\n"):
            letters += sign
    words = [word for word in letters.replace("\t", " ").replace("\n", " ").split(" ") if word]
    digest = hashlib.sha1(" ".join(words).encode("utf-8")).hexdigest()
    return (["train"] * 8 + ["valid"] * 2)[int(digest, 16) % 10]


def test_split_is_by_the_evaluation_set_and_the_artist(source):
    manifest = manifest_for("emomusic", source)
    expected = {song["song_id"]: slow_split(song) for song in read(source / "songs_info.csv")}
    assert dict(zip(manifest["id"], manifest["split"], strict=True)) == expected
    assert set(manifest["split"]) == {"train", "valid", "test"}
    assert manifest.attrs["published_counts"] == {"train": 504, "valid": 115, "test": 125}
    others = manifest[manifest["split"] != "test"]
    assert (others.groupby("artist")["split"].nunique() == 1).all()


def test_targets_are_the_means_of_the_same_song(source):
    manifest = manifest_for("emomusic", source).set_index("id")
    means = read(source / "static_annotations.csv")
    assert len(means) == len(manifest)
    for song in means:
        assert manifest.at[song["song_id"], "arousal"] == float(song["mean_arousal"])
        assert manifest.at[song["song_id"], "valence"] == float(song["mean_valence"])
    assert manifest.at["17", "path"] == str(source / "clips_45seconds/17.mp3")


def test_tables_in_a_folder_of_their_own(source):
    expected = manifest_for("emomusic", source)
    (source / "annotations").mkdir()
    for name in ("songs_info.csv", "static_annotations.csv"):
        (source / name).rename(source / "annotations" / name)
    assert manifest_for("emomusic", source).equals(expected)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("songs_info.csv", "Mediaeval", "Medieval", "has no column 'Mediaeval 2013 set'"),
        ("songs_info.csv", "2,2.mp3", "3,2.mp3", "the id '3' occurs more than once"),
        ("songs_info.csv", "2,2.mp3", "x,2.mp3", "'x' in the column 'song_id' on line 2"),
        ("songs_info.csv", "AC/DC", "", "the column 'Artist' is empty on line"),
        ("static_annotations.csv", "\n201,", "\n999,", "song 201 is not in both"),
        ("static_annotations.csv", "1.5,", "1.5,high", "in the column 'mean_valence' on line 2"),
    ],
)
def test_damaged_tables(source, name, old, new, message):
    file = source / name
    file.write_text(file.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        manifest_for("emomusic", source)


def test_missing_files(source, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        manifest_for("emomusic", tmp_path / "nowhere")
    (source / "clips_45seconds").rename(source / "clips")
    with pytest.raises(UserError, match="contains no clips_45seconds"):
        manifest_for("emomusic", source)
    (source / "clips").rename(source / "clips_45seconds")
    (source / "static_annotations.csv").unlink()
    with pytest.raises(UserError, match="static_annotations.csv: no such file"):
        manifest_for("emomusic", source)
    (source / "songs_info.csv").unlink()
    with pytest.raises(UserError, match="contains no songs_info.csv or static_annotations.csv"):
        manifest_for("emomusic", source)
