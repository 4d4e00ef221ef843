import csv
import hashlib

import numpy as np
import pytest
import soundfile

from keras_tune.data import load_audio, manifest_for, prepare, read_records
from keras_tune.data.audio import AudioError
from keras_tune.errors import UserError

pytestmark = pytest.mark.one_backend

RATE = 8000
SECONDS = {"101": 61, "102": 30, "103": 95, "201": 60, "202": 31}


def write_table(file, header, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="") as lines:
        csv.writer(lines, delimiter="\t").writerows([header, *rows])


def build(folder, more=(), audio=True):
    """Both repositories, small: songs 1.. in the MTG set, 2.. in the GiantSteps set."""
    songs = [
        # ID, key, confidence, artists
        ("101", "C# minor", "2", "Anna"),
        ("102", "A major", "2", "Bob, Carl"),
        ("103", "F minor", "2", "Dora"),
        ("104", "F minor", "1", "Emil"),
        ("105", "A major / F# minor", "2", "Fritz"),
        ("106", "-", "0", "Gina"),
        *more,
    ]
    mtg = folder / "giantsteps-mtg-key-dataset-master"
    annotations = [song[:3] for song in songs]
    write_table(mtg / "annotations/annotations.txt", ["ID", "MANUAL KEY", "C"], annotations)
    metadata = [(song, "Title", artists) for song, _, _, artists in songs]
    write_table(mtg / "annotations/beatport_metadata.txt", ["ID", "TITLE", "ARTIST"], metadata)
    test = folder / "giantsteps-key-dataset"
    for song, key in {"201": "D# minor\n", "202": "Bb major", "203": "C major"}.items():
        file = test / "annotations" / "key" / f"{song}.LOFI.key"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(key)
    random = np.random.default_rng(10)
    for song, seconds in SECONDS.items() if audio else ():
        file = (mtg if song[0] == "1" else test) / "audio" / f"{song}.LOFI.wav"
        file.parent.mkdir(exist_ok=True)
        soundfile.write(file, random.uniform(-0.5, 0.5, seconds * RATE), RATE)
    return folder


def test_songs_are_cut_into_full_clips(tmp_path):
    manifest = manifest_for("giantsteps_key", build(tmp_path))
    expected = []
    for song, seconds in SECONDS.items():
        for number in range(seconds // 30):
            expected.append((f"{song}-{number}", song, 30.0 * number, 30.0))
    # The file of 203 is missing: it is listed, for `prepare` to report it.
    there = manifest[manifest["start"].notna()]
    columns = [there[name] for name in ("id", "song", "start", "duration")]
    assert list(zip(*columns, strict=True)) == expected
    assert list(manifest.loc[manifest["start"].isna(), "id"]) == ["203-0"]
    keys = dict(zip(manifest["song"], manifest["key"], strict=True))
    assert keys == {
        **{"101": "Db minor", "102": "A major", "103": "F minor"},
        **{"201": "Eb minor", "202": "Bb major", "203": "C major"},
    }
    assert set(manifest.loc[manifest["song"].str.startswith("2"), "split"]) == {"test"}
    assert manifest.attrs["published_counts"] == {"train": 3687, "valid": 942, "test": 2406}


def slow_split(songs):
    """The published rule, step by step: the split of each song, given its artists."""
    ratios = ["train"] * 100 + ["valid"] * 16
    split_of = {}
    for artists in songs.values():
        for artist in artists:
            digest = hashlib.sha1(artist.lower().encode("utf-8")).hexdigest()
            split_of[artist] = ratios[int(digest, 16) % 116]
    for _hop in (1, 2):
        for artists in songs.values():
            if any(split_of[artist] == "valid" for artist in artists):
                for artist in artists:
                    split_of[artist] = "valid"
    return {
        song: "valid" if "valid" in [split_of[artist] for artist in artists] else "train"
        for song, artists in songs.items()
    }


def test_split_is_by_artist_and_two_hops_of_collaborators(tmp_path):
    random = np.random.default_rng(11)
    songs = {}
    for number in range(400):
        names = random.choice(400, random.choice([1, 1, 1, 2, 3]), replace=False)
        songs[str(1000 + number)] = [f"Artist {name}" for name in names]
    more = [(song, "C major", "2", " , ".join(artists)) for song, artists in songs.items()]
    manifest = manifest_for("giantsteps_key", build(tmp_path, more, audio=False))
    expected = slow_split(songs)
    assert len(set(expected.values())) == 2
    drawn = manifest[manifest["song"].isin(songs)]
    assert dict(zip(drawn["song"], drawn["split"], strict=True)) == expected
    # The hops matter: without them, other songs would be valid.
    no_hop = {song: slow_split({song: artists[:1]})[song] for song, artists in songs.items()}
    assert no_hop != expected


def test_records_hold_the_parts_of_the_files(tmp_path):
    pytest.importorskip("tensorflow")
    manifest = manifest_for("giantsteps_key", build(tmp_path / "source"))
    options = {"sample_rate": RATE, "workers": 1, "progress": False, "name": "x", "shards": 2}
    info = prepare(manifest, tmp_path / "one", **options)
    assert [(entry["id"], entry["reason"]) for entry in info.failed] == [("203-0", "missing")]
    assert info.label_column("song")[0].values == ("101", "102", "103", "201", "202", "203")
    seen = set()
    for split in info.counts:
        for record in read_records(tmp_path / "one", split):
            (row,) = manifest[manifest["id"] == record["id"]].itertuples()
            whole, _ = soundfile.read(row.path, dtype="float32")
            part = whole[int(row.start) * RATE :][: 30 * RATE]
            np.testing.assert_array_equal(record["audio"], part)
            assert record["labels"]["key"] == row.key
            seen.add(record["id"])
    assert seen == set(manifest["id"]) - {"203-0"}
    prepare(manifest[::-1], tmp_path / "two", **options)
    for file in (tmp_path / "one").glob("*.tfrecord"):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_what_parts_cannot_be(tmp_path):
    pytest.importorskip("tensorflow")
    manifest = manifest_for("giantsteps_key", build(tmp_path / "source"))
    options = {"workers": 1, "progress": False}
    with pytest.raises(UserError, match="encoding source cannot store a part of a file"):
        prepare(manifest[:3], tmp_path / "source_encoding", encoding="source", **options)
    late = manifest[:2].assign(start=[0.0, 45.0])
    info = prepare(late, tmp_path / "late", **options)
    assert [entry["reason"] for entry in info.failed] == [
        "ends at 61.00 s, before the requested 75.00 s"
    ]


SUFFIXES = ("aiff", "au", "caf", "flac", "mp3", "ogg", "opus", "w64", "wav")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_part_is_what_the_whole_holds_there(tmp_path, suffix):
    file, rate = tmp_path / f"noise.{suffix}", 48000
    options = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}
    noise = np.random.default_rng(12).uniform(-0.5, 0.5, (3 * rate, 2))
    soundfile.write(file, noise, rate, **options)
    whole = load_audio(file, rate)
    for start in (0.0, 0.01, 1.25, 2.4):
        first = round(start * rate)
        part = load_audio(file, rate, start=start, duration=0.5)
        np.testing.assert_array_equal(part, whole[first : first + rate // 2])
        np.testing.assert_array_equal(load_audio(file, rate, start=start), whole[first:])
    for start, end in ((2.75, "3.25"), (4.0, "4.50")):
        with pytest.raises(AudioError, match=f"ends at 3.00 s, before the requested {end} s"):
            load_audio(file, rate, start=start, duration=0.5)


@pytest.mark.parametrize("suffix", ["flac", "ogg", "wav"])
def test_no_more_is_decoded_than_the_part(tmp_path, suffix, monkeypatch):
    file = tmp_path / f"noise.{suffix}"
    soundfile.write(file, np.random.default_rng(13).uniform(-0.5, 0.5, 3 * RATE), RATE)
    read, counts = soundfile.SoundFile.read, []

    def counting(self, *arguments, **options):
        block = read(self, *arguments, **options)
        counts.append(len(block))
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    load_audio(file, RATE, start=2.0, duration=0.5)
    assert sum(counts) == RATE // 2


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("annotations.txt", "A major", "A mayor", "song 102: 'A mayor' is not a key like"),
        (
            "annotations.txt",
            "104\tF minor\t1",
            "104\tF minor\tx",
            "'x' in the column 'C' on line 5",
        ),
        ("annotations.txt", "102", "101", "the id '101' occurs more than once"),
        ("annotations.txt", "103", "107", "song 107 is not in beatport_metadata.txt"),
        ("beatport_metadata.txt", "ARTIST", "NAME", "has no column 'ARTIST'"),
        ("key/202.LOFI.key", "Bb major", "Bb", "202.LOFI.key: 'Bb' is not a key"),
    ],
)
def test_damaged_tables(tmp_path, name, old, new, message):
    (file,) = build(tmp_path, audio=False).glob(f"*/annotations/{name}")
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        manifest_for("giantsteps_key", tmp_path)


def test_missing_folders(tmp_path):
    with pytest.raises(UserError, match="contains 0 folders giantsteps-mtg-key-dataset"):
        manifest_for("giantsteps_key", tmp_path)
    build(tmp_path, audio=False)
    (tmp_path / "giantsteps-key-dataset-copy").mkdir()
    with pytest.raises(UserError, match="contains 2 folders giantsteps-key-dataset"):
        manifest_for("giantsteps_key", tmp_path)
    (tmp_path / "giantsteps-key-dataset-copy").rmdir()
    for file in tmp_path.glob("*/annotations/key/*"):
        file.unlink()
    with pytest.raises(UserError, match="giantsteps-key-dataset: contains no annotations/key"):
        manifest_for("giantsteps_key", tmp_path)


def test_damaged_audio_is_named(tmp_path):
    pytest.importorskip("tensorflow")
    source = build(tmp_path / "source")
    (damaged,) = source.glob("*/audio/102.LOFI.wav")
    damaged.write_bytes(b"This is not audio.")
    (short,) = source.glob("*/audio/201.LOFI.wav")
    soundfile.write(short, np.full(RATE, 0.5), RATE)
    manifest = manifest_for("giantsteps_key", source)
    info = prepare(manifest, tmp_path / "out", workers=1, progress=False, sample_rate=RATE)
    assert {entry["id"]: (entry["path"], entry["reason"]) for entry in info.failed} == {
        "102-0": (str(damaged), "cannot be decoded (Format not recognised)"),
        "201-0": (str(short), "ends at 1.00 s, before the requested 30.00 s"),
        "203-0": (str(short.parent / "203.LOFI.mp3"), "missing"),
    }
