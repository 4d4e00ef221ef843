import pytest

from keras_tune.data import (
    find_damaged_shards,
    naming_damaged_shards,
    open_dataset,
    prepare,
    read_clips,
    read_records,
)
from keras_tune.errors import UserError

pytestmark = pytest.mark.one_backend

pytest.importorskip("tensorflow")

NAME = "x-train-00001-of-00004.tfrecord"


@pytest.fixture
def damaged(clips, tmp_path):
    """A prepared set with one flipped byte."""
    prepare(clips, tmp_path, name="x", workers=1, progress=False, shards=4)
    content = bytearray((tmp_path / NAME).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / NAME).write_bytes(content)
    return tmp_path


def test_whole_set_has_no_damage(clips, tmp_path):
    prepare(clips, tmp_path, name="x", workers=1, progress=False, shards=4)
    assert find_damaged_shards(tmp_path) == []
    with naming_damaged_shards(tmp_path):
        assert len(list(read_clips(tmp_path, clip_samples=10, batch_size=None))) == 10


def test_flipped_byte_is_found(damaged):
    ((file, reason),) = find_damaged_shards(damaged)
    assert file == str(damaged / NAME)
    assert "is damaged" in reason
    assert find_damaged_shards(damaged, "test") == []


def test_flipped_byte_is_named_when_training_meets_it(damaged):
    stream = read_clips(damaged, clip_samples=10, batch_size=2)
    with pytest.raises(UserError, match=f"{NAME}: .*Delete it and run prepare again"):
        with naming_damaged_shards(damaged, "train"):
            list(stream)


def test_flipped_byte_is_named_when_evaluation_meets_it(damaged):
    with pytest.raises(UserError, match=NAME):
        list(read_records(damaged, "train"))
    assert len(list(read_records(damaged, "test"))) == 4


def test_flipped_byte_is_named_when_short_clips_are_counted(damaged):
    with pytest.raises(UserError, match=f"{NAME}: .*Delete it and run prepare again"):
        read_clips(damaged, clip_samples=1095)
    with pytest.raises(UserError, match=f"{NAME}: .*Delete it and run prepare again"):
        open_dataset(damaged).count("train", 1095)


def test_damaged_shards_can_be_left_out(damaged):
    with pytest.warns(UserWarning, match=f"{NAME}.*left out"):
        stream = read_clips(damaged, clip_samples=10, batch_size=None, on_corrupt="skip")
    assert 5 < len(list(stream)) == len(stream) < 10


def test_mending_as_told(damaged, clips):
    (damaged / NAME).unlink()
    prepare(clips, damaged, name="x", workers=1, progress=False)
    assert find_damaged_shards(damaged) == []


def test_other_errors_pass(damaged):
    with pytest.raises(KeyError), naming_damaged_shards(damaged):
        raise KeyError("x")
