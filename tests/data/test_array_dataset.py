import math
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_tune.data import DatasetInfo, array_clips, open_dataset, read_records
from keras_tune.data.schema import Shard
from keras_tune.errors import UserError

# Sample k of clip n is 2000 n + k.
CLIPS = (2000 * np.arange(10)[:, None] + np.arange(1000)).astype("int16")


def batches(stream):
    """The audio of batches, or whole batches if they have more than that."""
    read = [stream[index] for index in range(stream.num_batches)]
    return [batch["audio"] for batch in read] if read[0].keys() == {"audio"} else read


def sources(crops):
    crops = np.asarray(crops).reshape(-1, np.shape(crops)[-1]).astype(int)
    np.testing.assert_array_equal(np.diff(crops, axis=1), 1)
    return crops[:, 0] // 2000, crops[:, 0] % 2000


@pytest.fixture
def npz(tmp_path):
    np.savez(
        tmp_path / "clips.npz",
        audio=CLIPS[:4],
        split=["train", "train", "test", "test"],
        genre=["rock", "", "jazz", "rock"],
        bpm=[90.0, 100.5, math.nan, 120.0],
    )
    return tmp_path / "clips.npz"


def test_records_of_an_npz(npz):
    info = open_dataset(npz).info
    assert info.counts == {"test": 2, "train": 2}
    assert (info.sample_rate, info.name) == (22050, "clips")
    first, second = read_records(npz, "train")
    assert (first["id"], second["id"]) == ("0", "1")
    assert first["labels"] == {"genre": "rock", "bpm": 90.0}
    assert second["labels"] == {"genre": None, "bpm": 100.5}
    assert first["audio"].dtype == np.float32
    np.testing.assert_array_equal(first["audio"] * 32768, CLIPS[0])
    third, _ = read_records(npz, "test")
    assert third["labels"]["genre"] == "jazz"
    assert math.isnan(third["labels"]["bpm"])


def test_clips_and_label_vectors_of_a_split(npz):
    dataset = open_dataset(npz)
    (batch,) = dataset.batches("test", batch_size=2, shuffle=False, labels=True, ids=True)
    np.testing.assert_array_equal(batch["audio"], CLIPS[2:4])
    assert batch["id"].tolist() == ["2", "3"]
    for labels in (batch["labels"], dataset.label_vectors("test")):
        np.testing.assert_array_equal(labels, [[0, np.nan], [1, 120]])
    assert [dataset.count("test", samples) for samples in (None, 1000, 1001)] == [2, 2, 0]
    for read in (
        dataset.batches,
        dataset.label_vectors,
        lambda split: next(dataset.records(split)),
    ):
        with pytest.raises(UserError, match="no split 'valid'"):
            read("valid")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"sound": CLIPS}, "must contain numbers `audio`"),
        ({"audio": CLIPS[0]}, "must contain numbers `audio`"),
        ({"audio": CLIPS[:0]}, "must contain numbers `audio`"),
        ({"audio": CLIPS.astype("int32")}, "audio is int32"),
        ({"audio": np.full((1, 9), np.nan)}, "not finite"),
        ({"audio": CLIPS, "genre": ["rock"]}, r"genre has shape \(1,\) for 10 clips"),
        ({"audio": CLIPS[:2], "ids": ["a", "a"]}, "ids must be unique"),
    ],
)
def test_malformed_npz(tmp_path, content, message):
    np.savez(tmp_path / "x.npz", **content)
    with pytest.raises(UserError, match=f"x.npz: .*{message}"):
        open_dataset(tmp_path / "x.npz")


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        open_dataset(tmp_path / "x.npz")
    for content in (b"", b"text, not zip"):
        (tmp_path / "x.npz").write_bytes(content)
        with pytest.raises(UserError, match="cannot be read as npz"):
            open_dataset(tmp_path / "x.npz")


def test_crops_are_slices_and_each_clip_comes_once():
    stream = array_clips(CLIPS, 400, crops=2, batch_size=5, seed=0, epochs=40)
    read = np.stack(batches(stream))
    assert read.shape == (80, 5, 2, 400)
    assert read.dtype == np.int16
    numbers, starts = sources(read)
    numbers = numbers.reshape(-1, 2)
    np.testing.assert_array_equal(numbers[:, 0], numbers[:, 1])
    assert (np.sort(numbers[:, 0].reshape(40, 10)) == np.arange(10)).all()
    assert starts.min() < 30
    assert 570 < starts.max() <= 600
    assert abs(starts.mean() - 300) < 4 * 600 * np.sqrt(1 / 12 / starts.size)


@pytest.mark.parametrize("steps", [None, 1, 7])
def test_resumed_stream_goes_on_like_the_whole(steps):
    options = {"clip_samples": 400, "batch_size": 3, "seed": 5, "steps_per_epoch": steps}
    whole = batches(array_clips(CLIPS, epochs=4, **options))
    rest = batches(array_clips(CLIPS, epochs=4, initial_epoch=2, **options))
    np.testing.assert_array_equal(whole[len(rest) :], rest)
    assert not np.array_equal(whole[0], whole[len(rest) // 2])


def test_without_seed_every_stream_is_another():
    one, two = (array_clips(CLIPS, 400, batch_size=10)[0]["audio"] for _ in range(2))
    assert not np.array_equal(one, two)


def test_evaluation_order_and_crops_are_fixed():
    stream = array_clips(CLIPS, 400, crops=3, batch_size=10, shuffle=False, labels=np.arange(10))
    clips, labels = stream[0]["audio"], stream[0]["labels"]
    numbers, starts = sources(clips)
    np.testing.assert_array_equal(numbers, np.repeat(np.arange(10), 3))
    np.testing.assert_array_equal(starts, [100, 300, 500] * 10)
    np.testing.assert_array_equal(labels, np.arange(10))


def test_what_becomes_of_the_last_batch():
    options = {"clip_samples": 400, "batch_size": 4, "shuffle": False}
    smaller = batches(array_clips(CLIPS, drop_remainder=False, **options))
    assert [len(batch) for batch in smaller] == [4, 4, 2]
    filled = batches(array_clips(CLIPS, fill_remainder=True, groups=np.arange(10), **options))
    groups = np.concatenate([batch["group"] for batch in filled])
    np.testing.assert_array_equal(groups, [*range(10), 0, 1])
    np.testing.assert_array_equal(
        sources(np.concatenate([batch["audio"] for batch in filled]))[0], groups
    )
    weights = np.concatenate([batch["weight"] for batch in filled])
    np.testing.assert_allclose(weights, [1.2] * 10 + [0, 0], rtol=1e-6)
    # A set that is smaller than a batch, too; and each of two processes has its rows.
    assert len(array_clips(CLIPS, 400, batch_size=16, drop_remainder=False)[0]["audio"]) == 10
    part = batches(array_clips(CLIPS, fill_remainder=True, part=(1, 2), **options))
    np.testing.assert_array_equal(np.concatenate([b["weight"] for b in part]), weights[1::2])
    # Nothing to fill up: every clip weighs exactly 1.
    whole = array_clips(CLIPS, 400, batch_size=5, shuffle=False, fill_remainder=True)
    assert {float(w) for batch in batches(whole) for w in batch["weight"]} == {1.0}


def test_numbers_that_single_precision_merges_are_categories(tmp_path):
    songs = np.array([123456789, 123456790, 123456791, 123456789])
    catalogue = np.array([16777216.0, 16777217.0, math.nan, 16777216.0])
    tempo = np.array([120.5, 120.5 + 1e-6, 90.0, 90.0])
    file = tmp_path / "songs.npz"
    labels = {"song": songs, "catalogue": catalogue, "tempo": tempo, "long": 2**60 + np.arange(4)}
    np.savez(file, audio=CLIPS[:4], **labels)
    with pytest.warns(UserWarning, match="read as categories, since single precision"):
        dataset = open_dataset(file)
    rows = [record["labels"] for record in dataset.records("train")]
    assert [row["song"] for row in rows] == [str(song) for song in songs]
    assert [row["catalogue"] for row in rows] == ["16777216.0", "16777217.0", None, "16777216.0"]
    assert [row["tempo"] for row in rows] == tempo.astype("float32").tolist()
    assert [row["long"] for row in rows] == [str(2**60 + k) for k in range(4)]
    one, two, three, again = dataset.groups("train", "song").tolist()
    assert one == again and len({one, two, three}) == 3


def test_groups_of_clips(npz):
    arrays = open_dataset(npz)
    assert len(set(arrays.groups("train").tolist())) == 2
    values = [arrays.groups(split, "genre") for split in ("train", "test")]
    (rock, none), (jazz, rock_again) = values
    assert rock == rock_again and len({int(rock), int(none), int(jazz)}) == 3
    (slow, fast), (unknown, faster) = (arrays.groups(s, "bpm") for s in ("train", "test"))
    assert len({int(slow), int(fast), int(unknown), int(faster)}) == 4
    with pytest.raises(UserError, match="no label 'artist'"):
        arrays.groups("train", "artist")


def test_wrong_arguments():
    with pytest.raises(ValueError, match="Received: clip_samples=1001"):
        array_clips(CLIPS, 1001, batch_size=2)
    with pytest.raises(ValueError, match="Received: batch_size=11"):
        array_clips(CLIPS, 400, batch_size=11)


class Squares(keras.Model):
    """Takes batches as they are; the loss is that of the sum of the samples as the label."""

    def __init__(self):
        super().__init__()
        self.total = keras.layers.Dense(1, "relu", False, "ones")

    def call(self, batch):
        return self.total(batch["audio"])[:, 0]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean(keras.ops.square(y_pred - x["labels"]))


def test_fit_sees_the_stream_in_order_and_resumed_fit_the_rest():
    """On whichever backend the tests run."""

    def losses(initial_epoch, epochs):
        stream = array_clips(
            CLIPS / 32768,
            clip_samples=400,
            batch_size=5,
            labels=np.arange(10, dtype="float32") / 10,
            repeat=True,
            seed=0,
            steps_per_epoch=3,
            initial_epoch=initial_epoch,
        )
        model = Squares()
        # Nothing is learnt, so that the loss of an epoch shows its clips alone.
        model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
        history = model.fit(
            stream, epochs=epochs, initial_epoch=initial_epoch, steps_per_epoch=3, verbose=0
        )
        return history.history["loss"]

    whole = losses(0, 4)
    assert len(set(whole)) == 4
    np.testing.assert_allclose(losses(2, 4), whole[2:], rtol=1e-5)


def test_arrays_need_no_tensorflow(npz, tmp_path):
    shard = Shard("x-train-00000-of-00001.tfrecord", "train", 1, 0, 10)
    DatasetInfo("x", 22050, "pcm16", shards=(shard,)).save(tmp_path)
    (tmp_path / shard.file).touch()
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from keras_tune.data import demo_clips, open_dataset, read_clips, read_records\n"
        "from keras_tune.errors import UserError\n"
        f"assert len(list(read_records({str(npz)!r}, 'train'))) == 2\n"
        "demo_clips(num_clips=1, seconds=0.5)\n"
        f"try: read_clips({str(tmp_path)!r})\n"
        "except UserError as error: print(error)\n"
        "assert not {'jax', 'torch', 'keras'} & set(sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(
        "TFRecords and object stores need TensorFlow: pip install tensorflow"
    )


def test_integers_as_floats_are_refused(tmp_path):
    audio = np.random.default_rng(0).normal(0, 0.1, (2, 500))
    np.savez(tmp_path / "a.npz", audio=audio.astype("float32"))
    assert open_dataset(tmp_path / "a.npz").audio.dtype == np.float32
    np.savez(tmp_path / "b.npz", audio=np.round(32768 * audio))
    with pytest.raises(UserError, match=r"b.npz: audio is out of scale \(peak \d+; full scale is"):
        open_dataset(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", audio=np.round(32768 * audio).astype("int16"))
    assert open_dataset(tmp_path / "c.npz").audio.dtype == np.int16
