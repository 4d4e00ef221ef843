"""Sets in a store: TensorFlow's own `ram://` and `file://`, and an S3 server on this machine."""

import io
import pathlib
import zipfile

import numpy as np
import pytest

from keras_tune.data import (
    DatasetInfo,
    find_damaged_shards,
    load_audio,
    manifest_for,
    naming_damaged_shards,
    open_dataset,
    prepare,
    read_clips,
    read_records,
    write_shard,
)
from keras_tune.data.preparation import LeftOutError
from keras_tune.data.shard_dataset import broken_frame
from keras_tune.data.shards import ShardSettings
from keras_tune.errors import UserError
from keras_tune.files import atomic_path, write_json
from keras_tune.storage import ObjectPath, beside, files_below, to_path

pytestmark = pytest.mark.one_backend

tf = pytest.importorskip("tensorflow")

OPTIONS = {"name": "x", "shards": 3, "progress": False}


@pytest.fixture(scope="module")
def local(clips, tmp_path_factory):
    """The set as it is written to a folder."""
    folder = tmp_path_factory.mktemp("local") / "x"
    prepare(clips, folder, workers=1, **OPTIONS)
    return folder


def content(folder):
    """All files below a folder or URL, by their relative names."""
    folder = to_path(folder)
    return {path.as_posix(): (folder / path).read_bytes() for path in files_below(folder)}


def upload(file, url):
    with atomic_path(url) as temporary:
        temporary.write_bytes(pathlib.Path(file).read_bytes())


def test_parts_of_a_url():
    path = to_path("s3://bucket/set") / "x-train-00000.tfrecord"
    assert str(path) == "s3://bucket/set/x-train-00000.tfrecord"
    assert (path.name, path.stem, path.suffix) == (
        "x-train-00000.tfrecord",
        "x-train-00000",
        ".tfrecord",
    )
    assert str(path.parent.parent) == str(to_path("s3://bucket")) == "s3://bucket/"
    assert str(to_path("s3://bucket") / "a") == "s3://bucket/a"
    assert str(to_path("file:///tmp/a") / "b") == "file:///tmp/a/b"
    assert to_path(path) is path
    assert to_path("plain/folder") == pathlib.Path("plain/folder")
    with pytest.raises(UserError, match="has no bucket"):
        to_path("s3://")


def test_what_a_table_means_by_a_path():
    assert beside(pathlib.Path("tables"), "a.wav") == "tables/a.wav"
    assert beside(pathlib.Path("tables"), "/b/a.wav") == "/b/a.wav"
    assert beside(pathlib.Path("tables"), "gs://b/a.wav") == "gs://b/a.wav"
    assert beside(ObjectPath("s3://b/tables"), "a.wav") == "s3://b/tables/a.wav"
    assert beside(ObjectPath("s3://b/tables"), "/b/a.wav") == "/b/a.wav"


def test_an_object_is_a_file_as_python_knows_them(tmp_path):
    (tmp_path / "f").write_bytes(bytes(range(256)) * 40)
    with ObjectPath(f"file://{tmp_path}/f").open() as file:
        assert file.read(3) == b"\0\1\2"
        assert file.seek(-2, io.SEEK_END) == 256 * 40 - 2 and file.read() == b"\xfe\xff"
        file.seek(9000)
        assert file.seek(1, io.SEEK_CUR) == 9001 and file.read(1) == bytes([9001 % 256])
    with zipfile.ZipFile(tmp_path / "z", "w") as archive:
        archive.writestr("a", "b" * 10000)
    with ObjectPath(f"file://{tmp_path}/z").open() as file, zipfile.ZipFile(file) as archive:
        assert archive.read("a") == b"b" * 10000


def test_an_upload_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), atomic_path(f"file://{tmp_path}/a.json") as temporary:
        temporary.write_text("half")
        raise KeyError
    assert not list(tmp_path.iterdir()) and not temporary.exists()


def test_a_set_in_a_store_is_the_set_in_a_folder(clips, local):
    url = "ram://same/x"
    found = prepare(clips, url, workers=1, **OPTIONS)
    assert found == DatasetInfo.load(local) == DatasetInfo.load(url) == open_dataset(url).info
    assert content(url) == content(local)
    streams = [
        read_clips(data, clip_samples=100, crops=2, batch_size=4, seed=1, labels=True)
        for data in (url, str(local))
    ]
    for batch, expected in zip(*streams, strict=True):
        for key in ("audio", "labels"):
            assert (batch[key].numpy() == expected[key].numpy()).all()
    for record, expected in zip(
        read_records(url, "test"), read_records(local, "test"), strict=True
    ):
        assert record["id"] == expected["id"] and record["labels"] == expected["labels"]
        assert (record["audio"] == expected["audio"]).all()
    assert find_damaged_shards(url) == []


@pytest.mark.nightly
def test_several_processes_write_to_a_store_and_go_on(clips, local, tmp_path):
    url = f"file://{tmp_path}/x"
    prepare(clips, url, workers=2, **OPTIONS)
    assert content(url) == content(local)
    gone, kept = sorted((tmp_path / "x").glob("*train*.tfrecord"))[:2]
    gone.unlink()
    before = kept.stat().st_mtime_ns
    prepare(clips, url, workers=1, **OPTIONS)
    assert content(url) == content(local) and kept.stat().st_mtime_ns == before
    with pytest.raises(UserError, match=f"was prepared from another encoding.*={url}"):
        prepare(clips, url, workers=1, encoding="flac", **OPTIONS)
    with pytest.raises(LeftOutError):
        prepare(clips, f"{url}2", workers=1, min_samples=1005, strict=True, **OPTIONS)
    assert not (tmp_path / "x2" / "dataset.json").exists()


def test_damage_in_a_store_is_found_and_named(clips):
    url = "ram://damaged/x"
    prepare(clips, url, workers=1, **OPTIONS)
    name = "x-train-00001-of-00003.tfrecord"
    whole = (to_path(url) / name).read_bytes()
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 0xFF
    (to_path(url) / name).unlink()
    with atomic_path(f"{url}/{name}") as temporary:
        temporary.write_bytes(flipped)
    ((file, reason),) = find_damaged_shards(url)
    assert file == f"{url}/{name}" and "is damaged" in reason
    with pytest.raises(UserError, match=file):
        list(read_records(url, "train"))
    with pytest.warns(UserWarning, match=f"{file}.*left out"):
        left = len(list(read_clips(url, clip_samples=10, batch_size=None, on_corrupt="skip")))
    shards = {shard.file: shard for shard in DatasetInfo.load(url).shards}
    assert left == 10 - shards[name].records

    # A record that claims to be longer than its file, which TensorFlow would take for granted.
    assert broken_frame(file) is None
    flipped[:8] = (2**40).to_bytes(8, "little")
    (to_path(url) / name).unlink()
    with atomic_path(file) as temporary:
        temporary.write_bytes(flipped)
    assert broken_frame(file) == 1

    stream = read_clips(url, clip_samples=10, batch_size=2)
    (to_path(url) / name).unlink()
    with pytest.raises(UserError, match=f"{url}: no such object"), naming_damaged_shards(url):
        list(stream)
    assert find_damaged_shards(url) == [(file, "the shard is missing")]
    with pytest.raises(UserError, match=f"{file}: the shard is missing"):
        DatasetInfo.load(url)
    (to_path(url) / "dataset.json").unlink()
    with pytest.raises(UserError, match="contains no dataset.json"):
        DatasetInfo.load(url)


def test_audio_and_tables_in_a_store(clips, local, tmp_path):
    # Folder of audio files.
    for number, path in enumerate(clips["path"]):
        upload(path, f"ram://audio/genres/{'ab'[number % 2]}/{number:02d}.wav")
    upload(clips["path"][0], "ram://audio/genres/a/._00.wav")
    found = manifest_for("folder", "ram://audio/genres")
    assert len(found) == 14 and set(found["label"]) == {"a", "b"}
    assert found["path"][0] == "ram://audio/genres/a/00.wav"
    with pytest.raises(UserError, match="ram://audio/none: no such folder"):
        manifest_for("folder", "ram://audio/none")

    # A table with paths beside it and URLs, the same clips as in the folder.
    table = clips.assign(path=[f"genres/{'ab'[n % 2]}/{n:02d}.wav" for n in range(14)])
    table.loc[3, "path"] = f"ram://audio/{table.loc[3, 'path']}"
    table.to_csv(tmp_path / "tracks.csv", index=False)
    upload(tmp_path / "tracks.csv", "ram://audio/tracks.csv")
    manifest = manifest_for("csv", "ram://audio/tracks.csv", label_columns=["letter", "half"])
    prepare(manifest, tmp_path / "x", workers=1, **OPTIONS)
    # The reports of shards beside them tell the sources' times, which differ.
    found, expected = content(tmp_path / "x"), content(local)
    assert set(found) == set(expected)
    shards = [name for name in found if not name.startswith(".prepare/x-")]
    assert [found[name] for name in shards] == [expected[name] for name in shards]

    # How many shards a set has by default must not depend on where its audio is.
    plan = [
        prepare(rows, tmp_path / f"plan{n}", name="x", workers=1, progress=False)
        for n, rows in enumerate((clips, manifest))
    ]
    assert plan[0] == plan[1]

    gone = manifest.assign(path=manifest["path"].str.replace("05.wav", "gone.wav"))
    info = prepare(gone, "ram://audio/gone", workers=1, **OPTIONS)
    assert [(entry["id"], entry["reason"]) for entry in info.failed] == [("clip 05", "missing")]


def test_arrays_in_a_store(tmp_path):
    audio = np.random.default_rng(0).normal(0, 0.1, (3, 500)).astype("float32")
    np.savez(tmp_path / "clips.npz", audio=audio, genre=["a", "b", "a"])
    upload(tmp_path / "clips.npz", "ram://arrays/clips.npz")
    assert (open_dataset("ram://arrays/clips.npz").audio == audio).all()
    with pytest.raises(UserError, match="ram://arrays/none.npz: no such file"):
        open_dataset("ram://arrays/none.npz")


def test_a_scheme_without_a_file_system_is_one_line(clips):
    with pytest.raises(UserError, match=r"nofs://bucket/x.*no file system for nofs://.*\[io\]"):
        DatasetInfo.load("nofs://bucket/x")
    with pytest.raises(UserError, match="nofs://bucket/x"):
        prepare(clips, "nofs://bucket/x", workers=1, **OPTIONS)


def test_errors_of_the_store_are_one_line(clips, monkeypatch):
    def refused(*_, **__):
        raise tf.errors.PermissionDeniedError(None, None, "AccessDenied:\nno")

    settings = ShardSettings("ram://refused/x", "x")
    monkeypatch.setattr(tf.io.gfile, "copy", refused)
    with pytest.raises(UserError, match="ram://refused/x.*: no permission .AccessDenied: no"):
        write_shard(clips, "train", 0, 1, settings)
    with pytest.raises(UserError, match="ram://refused/x.json: no permission"):
        write_json("ram://refused/x.json", {})
    monkeypatch.setattr(tf.io.gfile, "stat", refused)
    with pytest.raises(UserError, match="ram://refused/a.wav: no permission"):
        load_audio("ram://refused/a.wav")
