import json
import os
import pathlib
import shutil
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import soundfile

from keras_tune.data import DatasetInfo, manifest_for, open_dataset, prepare, read_records
from keras_tune.data.datasets.gtzan import GENRES, gtzan_manifest
from keras_tune.data.preparation import LeftOutError, _default_shards, label_columns
from keras_tune.data.schema import fingerprint
from keras_tune.data.shards import ShardSettings, write_shard
from keras_tune.errors import UserError
from keras_tune.storage import files_below, to_path

pytestmark = pytest.mark.one_backend

pytest.importorskip("tensorflow")


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def run(manifest, output, **options):
    return prepare(manifest, output, **({"workers": 1, "progress": False, "name": "x"} | options))


def test_records_hold_what_the_files_hold(clips, tmp_path):
    info = run(clips, tmp_path, shards=3)
    assert info.counts == {"train": 10, "test": 4}
    assert info == DatasetInfo.load(tmp_path)
    names = [shard.file for shard in info.shards]
    assert names[:2] == ["x-test-00000-of-00003.tfrecord", "x-test-00001-of-00003.tfrecord"]
    for split, rows in clips.groupby("split"):
        assert info.fingerprints[split] == fingerprint(rows["id"])
        records = {record["id"]: record for record in read_records(tmp_path, split)}
        assert set(records) == set(rows["id"])
        for row in rows.itertuples():
            number = int(row.half * 2)
            expected = (2000 * number + np.arange(1000 + 10 * number)) / 32768
            np.testing.assert_array_equal(records[row.id]["audio"], expected.astype("float32"))
            assert records[row.id]["labels"] == {"letter": row.letter, "half": row.half}


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_number_of_processes(clips, tmp_path):
    run(clips, tmp_path / "one", shards=3)
    run(clips, tmp_path / "two", shards=3, workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_a_manifest_put_together_of_several(clips, tmp_path):
    """Such a table may have an index with repetitions."""
    several = pd.concat([clips[:5], clips[5:].reset_index(drop=True)])
    assert run(several, tmp_path / "several").counts == {"train": 10, "test": 4}
    run(clips.set_index("id", drop=False), tmp_path / "named")
    run(clips, tmp_path / "one")
    for folder in ("several", "named"):
        assert content(tmp_path / folder) == content(tmp_path / "one")


def test_labels_of_dates_and_columns_called_by_numbers(clips, tmp_path):
    days = pd.to_datetime(["2020-01-01", None] * 7)
    run(
        clips[["id", "path", "split"]].assign(day=days, **{"7": 1.5}).rename(columns={"7": 7}),
        tmp_path,
    )
    labels = {record["id"]: record["labels"] for record in read_records(tmp_path, "train")}
    assert labels[clips["id"][0]] == {"day": "2020-01-01 00:00:00", "7": 1.5}
    assert labels[clips["id"][1]] == {"day": None, "7": 1.5}


def test_the_longest_names(clips, tmp_path):
    name, split = "n" * 100, "s" * 100
    run(clips.assign(split=split), tmp_path, name=name, shards=1)
    assert open_dataset(tmp_path).info.counts == {split: 14}


@pytest.mark.parametrize("encoding", ["pcm16", "flac", "source"])
def test_bytes_do_not_depend_on_the_order_of_the_manifest(clips, tmp_path, encoding):
    run(clips, tmp_path / "one", shards=3, encoding=encoding)
    run(clips[::-1], tmp_path / "two", shards=3, encoding=encoding)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_killed_run_goes_on(clips, tmp_path):
    run(clips, tmp_path / "whole", shards=3)
    expected = content(tmp_path / "whole")
    folder = tmp_path / "killed"
    run(clips, folder, shards=3)
    # What a kill leaves: no description, a shard unwritten, one without its report, one half
    # written under its temporary name.
    (folder / "dataset.json").unlink()
    shards = sorted(folder.glob("*.tfrecord"))
    shards[1].unlink()
    (folder / ".prepare" / f"{shards[2].stem}.json").unlink()
    leftover = folder / f".{shards[1].stem}-abc123.tfrecord"
    leftover.write_bytes(b"half of a record")
    kept = shards[0].stat().st_mtime_ns
    run(clips, folder, shards=3)
    assert content(folder) == expected
    assert not leftover.exists()
    assert shards[0].stat().st_mtime_ns == kept


def test_truncated_shard_is_written_anew(clips, tmp_path):
    run(clips, tmp_path, shards=2)
    expected = content(tmp_path)
    shard = tmp_path / "x-train-00001-of-00002.tfrecord"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(UserError, match="x-train-00001-of-00002.tfrecord.*prepare again"):
        DatasetInfo.load(tmp_path)
    run(clips, tmp_path, shards=2)
    assert content(tmp_path) == expected


def test_bad_files_are_named_and_left_out(bad_files, tmp_path):
    folder, reasons = bad_files
    manifest = manifest_for("folder", folder)
    output = tmp_path / "out"
    options = {"min_samples": 1000, "shards": 2}
    info = run(manifest, output, **options)
    assert {entry["id"]: entry["reason"] for entry in info.failed} == reasons
    assert sum(info.counts.values()) == 4
    read = [record["id"] for split in info.counts for record in _records(output, info, split)]
    assert sorted(read) == [f"good{number}.wav" for number in range(4)]
    # A run that finds all shards written still knows what was left out.
    assert run(manifest, output, **options) == info


def _records(path, info, split):
    return read_records(path, split) if info.counts[split] else []


def test_missing_file_is_named(clips, tmp_path):
    manifest = clips.assign(path=clips["path"].str.replace("03.wav", "gone.wav"))
    failed = run(manifest, tmp_path).failed
    assert [(entry["id"], entry["reason"]) for entry in failed] == [("clip 03", "missing")]


def test_strict_ends_with_an_error_until_the_files_are_mended(bad_files, tmp_path):
    folder, reasons = bad_files
    manifest = manifest_for("folder", folder)
    output = tmp_path / "out"
    options = {"min_samples": 1000, "strict": True}
    with pytest.raises(LeftOutError) as caught:
        run(manifest, output, **options)
    assert {entry["id"] for entry in caught.value.failed} == set(reasons)
    assert not (output / "dataset.json").exists()
    for name in reasons:
        (folder / name).write_bytes((folder / "good0.wav").read_bytes())
    info = run(manifest, output, **options)
    assert not info.failed
    assert sum(info.counts.values()) == len(manifest)


@pytest.fixture
def copies(clips, tmp_path):
    """The clips' manifest on copies of the files that may be changed."""
    folder = tmp_path / "audio"
    shutil.copytree(pathlib.Path(clips["path"][0]).parent, folder)
    return clips.assign(path=[str(folder / pathlib.Path(path).name) for path in clips["path"]])


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.glob("*.tfrecord"))}


def test_a_replaced_file_gets_a_new_record(copies, tmp_path):
    output = tmp_path / "out"
    run(copies, output, shards=3)
    before = times(output)
    other = 77 * np.ones(1500, "int16")
    soundfile.write(copies["path"][4], other, 22050)
    run(copies, output, shards=3)
    found = {record["id"]: record["audio"] for record in read_records(output, "train")}
    np.testing.assert_array_equal(found["clip 04"], other / np.float32(32768))
    assert len(found) == 10
    after = times(output)
    assert sum(before[name] != after[name] for name in before) == 1


def test_a_repaired_file_is_tried_again_and_a_missing_one_kept(copies, tmp_path):
    output = tmp_path / "out"
    good = pathlib.Path(copies["path"][4])
    content, stat = good.read_bytes(), good.stat()
    good.write_bytes(b"no audio".ljust(len(content)))
    assert [entry["id"] for entry in run(copies, output, shards=3).failed] == ["clip 04"]
    before = times(output)
    assert len(run(copies, output, shards=3).failed) == 1
    assert times(output) == before
    # The audio is away: what was written of it stays, and so does the error.
    good.parent.rename(tmp_path / "away")
    assert [entry["id"] for entry in run(copies, output, shards=3).failed] == ["clip 04"]
    assert times(output) == before
    (tmp_path / "away").rename(good.parent)
    good.write_bytes(content)
    os.utime(good, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert not run(copies, output, shards=3).failed
    assert sum(before[name] != time for name, time in times(output).items()) == 1


def test_reports_of_earlier_versions_go_by_the_time(copies, tmp_path):
    output = tmp_path / "out"
    run(copies, output, shards=3)
    for file in (output / ".prepare").glob("x-*.json"):
        report = json.loads(file.read_text())
        del report["stamps"]
        file.write_text(json.dumps(report))
    before = times(output)
    run(copies, output, shards=3)
    assert times(output) == before
    later = max(before.values()) + 10**9
    os.utime(copies["path"][4], ns=(later, later))
    run(copies, output, shards=3)
    assert sum(before[name] != time for name, time in times(output).items()) == 1


def test_copies_in_several_splits_are_named(tmp_path):
    """Also in another format, and when the shards are already there."""
    names = ["a.wav", "b.flac", "c.wav", "d.wav"]
    noise = np.random.default_rng(0).integers(-9000, 9000, (2, 3000), dtype="int16")
    for name, number in zip(names, [0, 0, 1, 1], strict=True):
        soundfile.write(tmp_path / name, noise[number], 22050)
    manifest = pd.DataFrame({"id": names, "path": [str(tmp_path / name) for name in names]})
    # Copies in one split are no leak.
    manifest["split"] = ["train", "test", "train", "train"]
    for _ in range(2):
        with pytest.warns(UserWarning, match="1 recording is in several splits") as caught:
            run(manifest, tmp_path / "set")
        assert "b.flac (test) has the same audio as a.wav (train)" in str(caught[0].message)
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(manifest[manifest["id"] != "b.flac"], tmp_path / "other")


def test_a_manifest_of_another_folder_is_refused_before_the_work(tmp_path):
    for genre in GENRES:
        (tmp_path / "wrong" / genre).mkdir(parents=True)
    manifest = gtzan_manifest(tmp_path / "wrong")
    with pytest.raises(UserError, match="none of the 930 files exists; the first is .*wrong"):
        prepare(manifest, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_killed_run_has_left_of_the_description_goes(clips, tmp_path):
    run(clips, tmp_path, shards=2)
    (tmp_path / ".dataset-a1b2c3.json").write_text("{")
    run(clips, tmp_path, shards=2)
    assert not list(tmp_path.glob(".dataset-*"))


def test_only_bad_files_is_an_error(clips, tmp_path):
    with pytest.raises(UserError, match="no clip could be used. Left out: .*too short"):
        run(clips, tmp_path, min_samples=5000)


@pytest.mark.parametrize(
    "change",
    [
        {"encoding": "flac"},
        {"sample_rate": 16000},
        {"name": "y"},
        {"shards": 5},
        {"min_samples": 9},
    ],
)
def test_other_settings_are_refused(clips, tmp_path, change):
    run(clips, tmp_path, shards=2)
    before = content(tmp_path)
    with pytest.raises(UserError, match="was prepared from another"):
        run(clips, tmp_path, **({"shards": 2} | change))
    assert content(tmp_path) == before


def test_another_source_is_refused_and_a_moved_one_is_not(clips, tmp_path):
    run(clips, tmp_path, shards=2)
    with pytest.raises(UserError, match="another source"):
        run(clips.assign(letter="a"), tmp_path)
    with pytest.raises(UserError, match="another source"):
        run(clips[1:], tmp_path)
    moved = clips.assign(path=["elsewhere/" + path.rsplit("/", 1)[1] for path in clips["path"]])
    assert run(moved, tmp_path).counts == {"train": 10, "test": 4}


def test_folder_of_unknown_records_is_refused(clips, tmp_path):
    (tmp_path / "other.tfrecord").touch()
    with pytest.raises(UserError, match="unknown settings"):
        run(clips, tmp_path)


def test_unusable_manifests_are_refused(clips, tmp_path):
    with pytest.raises(UserError, match="no column split"):
        run(clips.drop(columns="split"), tmp_path)
    with pytest.raises(UserError, match="more than once, among them 'same'"):
        run(clips.assign(id="same"), tmp_path)
    with pytest.raises(UserError, match="lists no clip"):
        run(clips[:0], tmp_path)
    with pytest.raises(UserError, match="`encoding` must be 'pcm16', .* Received: encoding=mp4"):
        run(clips, tmp_path, encoding="mp4")
    # Such a set could be written, but not opened.
    for rate in (500, 2_000_000):
        with pytest.raises(UserError, match=f"between 1,000 .* Received: sample_rate={rate}"):
            run(clips, tmp_path, sample_rate=rate)
    with pytest.raises(UserError, match="`shards` must be positive. Received: shards=0"):
        run(clips, tmp_path, shards=0)
    assert not list(tmp_path.iterdir())


def test_kinds_of_labels(clips):
    letter, half = label_columns(clips)
    assert (letter.kind, letter.values) == ("category", ("a", "b"))
    assert half.kind == "number"


def test_large_numbers_are_categories(clips):
    songs = clips.assign(song=2**60 + np.arange(len(clips)), year=1990 + np.arange(len(clips)))
    *_, song, year = label_columns(songs)
    assert (song.kind, len(song.values), year.kind) == ("category", len(clips), "number")


def test_a_file_that_states_no_length(clips, tmp_path, monkeypatch):
    """As FLAC written to a pipe: 36 bits of its header, the number of samples, are zero."""
    monkeypatch.setattr("keras_tune.data.preparation.SHARD_BYTES", 1000)
    size = _default_shards(clips, "train", ShardSettings("x", "x"))
    path = tmp_path / "pipe.flac"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 1045), 22050)
    octets = bytearray(path.read_bytes())
    octets[21] &= 0xF0
    octets[22:26] = bytes(4)
    path.write_bytes(octets)
    more = clips.copy()
    more.loc[clips.index[clips["split"] == "train"][0], "path"] = str(path)
    assert abs(_default_shards(more, "train", ShardSettings("x", "x")) - size) <= 1
    (failed,) = run(more, tmp_path / "set", shards=2).failed
    assert failed["reason"].startswith("cannot be decoded (it states no length")


def test_default_number_of_shards_follows_the_amount_of_data(clips, monkeypatch):
    settings = ShardSettings("x", "x")
    assert _default_shards(clips, "train", settings) == 8
    monkeypatch.setattr("keras_tune.data.preparation.SHARD_BYTES", 1000)
    size = sum(2 * (1000 + 10 * number) for number in range(10))
    assert _default_shards(clips, "train", settings) == np.ceil(size / 1000)


def test_default_number_of_shards_counts_parts_of_files_as_such(clips, monkeypatch):
    settings = ShardSettings("x", "x")
    monkeypatch.setattr("keras_tune.data.preparation.SHARD_BYTES", 100)
    parts = clips.assign(start=0.0, duration=400 / 22050)
    # 800 bytes each, but for one without a duration, which stands for its whole file.
    parts.loc[parts.index[9], ["start", "duration"]] = None
    assert _default_shards(parts, "train", settings) == np.ceil((9 * 800 + 2 * 1090) / 100)


def test_times_may_be_texts(clips, tmp_path):
    times = {"start": 100 / 22050, "duration": 400 / 22050}
    run(clips.assign(**times), tmp_path / "numbers")
    texts = {name: str(value) for name, value in times.items()}
    assert not run(clips.assign(**texts), tmp_path / "texts").failed
    pairs = zip(
        read_records(tmp_path / "numbers", "test"),
        read_records(tmp_path / "texts", "test"),
        strict=True,
    )
    for number, text in pairs:
        np.testing.assert_array_equal(number["audio"], text["audio"])
        assert len(text["audio"]) == 400


def test_never_more_shards_than_clips(clips, tmp_path):
    info = run(clips, tmp_path)
    assert [shard.split for shard in info.shards] == ["test"] * 4 + ["train"] * 8


def test_a_shard_is_a_fair_share(clips, tmp_path):
    settings = ShardSettings(str(tmp_path), "x", labels=label_columns(clips))
    reports = [write_shard(clips, "train", shard, 3, settings) for shard in range(3)]
    assert sorted(len(report.ids) for report in reports) == [3, 3, 4]
    ids = [name for report in reports for name in report.ids]
    assert sorted(ids) == sorted(clips.loc[clips["split"] == "train", "id"])
    assert ids != sorted(ids)
    report = json.loads((tmp_path / ".prepare" / "x-train-00000-of-00003.json").read_text())
    assert tuple(report["ids"]) == reports[0].ids


def test_resampled_records(clips, tmp_path):
    run(clips, tmp_path, sample_rate=11025)
    for record in read_records(tmp_path, "test"):
        number = int(record["labels"]["half"] * 2)
        assert len(record["audio"]) == (1000 + 10 * number) // 2


@pytest.mark.parametrize(
    "column, value, message",
    [
        ("id", "two\nlines", "control characters"),
        ("id", " ", "is empty"),
        ("id", "\udcff", "UTF-8"),
        ("split", "q/../../escaped", "contains '/'"),
        ("split", "nul", "Windows"),
        ("split", None, "empty cells"),
        ("half", float("inf"), "infinity"),
        ("start", "abc", "seconds"),
        ("duration", -1.0, "seconds"),
    ],
)
def test_cells_that_do_not_do(clips, tmp_path, column, value, message):
    manifest = clips.assign(start=0.0, duration=0.01)
    manifest[column] = manifest[column].astype(object)
    manifest.loc[3, column] = value
    if isinstance(value, float):
        manifest[column] = manifest[column].astype(float)
    with pytest.raises(UserError, match=message):
        run(manifest, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_report_of_a_shard_is_written_anew(clips, tmp_path):
    run(clips, tmp_path, shards=2)
    expected = content(tmp_path)
    damages = (b"", b"[]", b"{}", b"\xff")
    for file, damage in zip((tmp_path / ".prepare").glob("x-*.json"), damages, strict=True):
        file.write_bytes(damage)
    run(clips, tmp_path, shards=2)
    assert content(tmp_path) == expected
    (tmp_path / ".prepare" / "settings.json").write_text("[")
    with pytest.raises(UserError, match="settings.json: damaged"):
        run(clips, tmp_path, shards=2)


def test_shards_from_beam_are_those_of_the_process_pool(clips, tmp_path):
    pytest.importorskip("apache_beam")
    # One clip that cannot be read is reported on the way.
    manifest = clips.assign(path=clips["path"].str.replace("03.wav", "gone.wav"))
    options = {"name": "x", "shards": 3, "workers": 1, "progress": False}
    expected = prepare(manifest, tmp_path / "pool", **options)
    found = prepare(manifest, tmp_path / "beam", **options, runner="beam")
    assert found == expected and len(found.failed) == 1
    assert content(tmp_path / "beam") == content(tmp_path / "pool")
    # What is there is not written again.
    shard = next((tmp_path / "beam").glob("*.tfrecord"))
    before = shard.stat().st_mtime_ns
    prepare(manifest, tmp_path / "beam", **options, runner="beam")
    assert shard.stat().st_mtime_ns == before


def test_shards_from_beam_in_a_store_are_those_in_a_folder(clips, tmp_path):
    pytest.importorskip("apache_beam")
    options = {"name": "x", "shards": 3, "progress": False}
    prepare(clips, tmp_path / "pool", workers=1, **options)
    # The direct runner works in this process, in which TensorFlow keeps the store.
    prepare(clips, "ram://beam/x", **options, runner="beam")
    store = to_path("ram://beam/x")
    files = [path for path in files_below(store) if len(path.parts) == 1]
    assert {path.name: (store / path).read_bytes() for path in files} == content(tmp_path / "pool")


def test_options_are_handed_to_beam(clips, tmp_path):
    pytest.importorskip("apache_beam")
    with pytest.raises(UserError, match="(?s)pipeline failed.*NoSuchRunner"):
        prepare(clips, tmp_path, runner="beam", beam_options=["--runner=NoSuchRunner"])


def test_beam_is_an_extra(clips, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"pip install 'keras_tune\[beam\]'"):
        prepare(clips, tmp_path, runner="beam")
