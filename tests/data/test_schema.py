import dataclasses
import json
import math

import pytest

from keras_tune.data import DatasetInfo, LabelColumn
from keras_tune.data.schema import Shard, fingerprint
from keras_tune.errors import UserError

pytestmark = pytest.mark.one_backend


@pytest.fixture
def info(tmp_path):
    (tmp_path / "x-train-00000-of-00001.tfrecord").write_bytes(b"12345")
    return DatasetInfo(
        name="x",
        sample_rate=16000,
        encoding="flac",
        labels=(LabelColumn("genre", "category", ("jazz", "rock")), LabelColumn("bpm", "number")),
        shards=(Shard("x-train-00000-of-00001.tfrecord", "train", 3, 5, 700),),
        fingerprints={"train": fingerprint(["b", "a"])},
        failed=({"id": "c", "path": "c.wav", "reason": "silent"},),
    )


def test_description_round_trip(info, tmp_path):
    info.save(tmp_path)
    assert DatasetInfo.load(tmp_path) == info
    assert json.loads((tmp_path / "dataset.json").read_text())["counts"] == {"train": 3}


def test_labels_round_trip():
    genre = LabelColumn("genre", "category", ("jazz", "rock"))
    assert [genre.encode(value) for value in ("jazz", "rock", None, math.nan)] == [0, 1, -1, -1]
    assert [genre.decode(value) for value in (0.0, 1.0, -1.0)] == ["jazz", "rock", None]
    bpm = LabelColumn("bpm", "number")
    assert bpm.decode(bpm.encode("93.5")) == 93.5
    assert math.isnan(bpm.encode(None))


def test_fingerprint_ignores_order_and_tells_sets_apart():
    assert fingerprint(["a", "b"]) == fingerprint(["b", "a"])
    assert fingerprint(["a", "b"]) != fingerprint(["a", "c"])
    assert fingerprint(["a", "b"]) != fingerprint(["ab"])


def test_unknown_split_and_label_list_the_known(info):
    with pytest.raises(UserError, match="no split 'test'. Its splits: train"):
        info.split_shards("test")
    with pytest.raises(UserError, match="no label 'mood'. Its labels: genre, bpm"):
        info.label_column("mood")
    assert info.label_column("bpm")[1] == 1


def failure(path):
    with pytest.raises(UserError) as caught:
        DatasetInfo.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_prepared_set_says_so(info, tmp_path):
    assert failure(tmp_path / "nowhere").startswith(f"{tmp_path / 'nowhere'}: no such folder")
    (tmp_path / "empty").mkdir()
    assert "the folder is empty" in failure(tmp_path / "empty")
    assert "contains no dataset.json, so it is not a prepared set" in failure(tmp_path)
    (tmp_path / "begun" / ".prepare").mkdir(parents=True)
    assert "its preparation is not finished. Run prepare again" in failure(tmp_path / "begun")
    assert "not a folder" in failure(tmp_path / info.shards[0].file)
    for content in ("{", "[]", '{"schema_version": 1}'):
        (tmp_path / "dataset.json").write_text(content)
        assert str(tmp_path / "dataset.json") in failure(tmp_path)


def test_newer_version_is_refused(info, tmp_path):
    dataclasses.replace(info, schema_version=99).save(tmp_path)
    assert "schema version 99 is newer" in failure(tmp_path)


def test_missing_and_truncated_shards_are_named(info, tmp_path):
    info.save(tmp_path)
    shard = tmp_path / info.shards[0].file
    shard.write_bytes(b"123")
    message = failure(tmp_path)
    assert shard.name in message
    assert "3 bytes instead of 5" in message
    assert "prepare again" in message
    shard.unlink()
    assert f"{shard}: the shard is missing" in failure(tmp_path)
