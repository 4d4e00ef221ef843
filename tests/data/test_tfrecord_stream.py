import keras
import numpy as np
import pytest

from keras_tune.data import open_dataset, prepare, read_clips
from keras_tune.errors import UserError

pytest.importorskip("tensorflow")

CROP = 400


@pytest.fixture(scope="module")
def prepared(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    prepare(clips, folder, workers=1, progress=False, shards=4)
    return folder


@pytest.fixture(scope="module")
def compressed(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compressed")
    prepare(clips, folder, workers=1, progress=False, shards=4, encoding="flac")
    return folder


def batches(path, **options):
    """The audio of batches, or whole batches if they have more than that."""
    options = {"clip_samples": CROP, "batch_size": None} | options
    read = list(read_clips(path, **options).as_numpy_iterator())
    return [batch["audio"] for batch in read] if read[0].keys() == {"audio"} else read


def sources(crops):
    """Clip numbers and first samples of crops of the fixture's clips, which are ramps."""
    crops = np.asarray(crops).reshape(-1, np.shape(crops)[-1]).astype(int)
    np.testing.assert_array_equal(np.diff(crops, axis=1), 1)
    return crops[:, 0] // 2000, crops[:, 0] % 2000


def equal(one, two):
    return len(one) == len(two) and all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("encoding", ["prepared", "compressed"])
def test_crops_are_slices_of_their_record(request, encoding):
    path = request.getfixturevalue(encoding)
    read = np.stack(batches(path, crops=2, seed=0, epochs=30))
    assert read.shape == (300, 2, CROP)
    assert read.dtype == np.int16
    numbers, first = (values.reshape(300, 2) for values in sources(read))
    np.testing.assert_array_equal(numbers[:, 0], numbers[:, 1])
    assert (np.sort(numbers[:, 0].reshape(30, 10)) == np.arange(10)).all()
    room = 1000 + 10 * numbers - CROP
    assert (first <= room).all()
    starts = first / room
    # Uniform over the whole clip, and the two crops independent of one another.
    assert abs(starts.mean() - 0.5) < 4 * np.sqrt(1 / 12 / starts.size)
    assert np.histogram(starts, 4, (0, 1))[0].min() > 0.18 * starts.size
    assert abs(np.corrcoef(starts.T)[0, 1]) < 4 / np.sqrt(len(starts))


def test_each_clip_once_a_pass_and_the_last_batch(prepared):
    numbers, _ = sources(np.concatenate(batches(prepared, batch_size=4, drop_remainder=False)))
    assert sorted(numbers) == list(range(10))
    assert [len(batch) for batch in batches(prepared, batch_size=4)] == [4, 4]


def test_a_batch_may_be_larger_than_the_split_where_its_remainder_is_not_dropped(prepared):
    (whole,) = batches(prepared, batch_size=256, drop_remainder=False)
    assert sorted(sources(whole)[0]) == list(range(10))
    with pytest.raises(UserError, match="batch_size 256 is more than the 10 clips"):
        batches(prepared, batch_size=256)


def test_a_last_batch_is_filled_up_from_the_beginning(prepared):
    options = {"batch_size": 4, "shuffle": False, "fill_remainder": True, "ids": True}
    read = batches(prepared, **options)
    assert [batch["audio"].shape for batch in read] == [(4, CROP)] * 3
    ids = np.concatenate([batch["id"] for batch in read]).tolist()
    weights = np.concatenate([batch["weight"] for batch in read])
    assert len(set(ids[:10])) == 10 and ids[10:] == ids[:2]
    np.testing.assert_allclose(weights, [1.2] * 10 + [0, 0], rtol=1e-6)
    assert len(read_clips(prepared, clip_samples=CROP, **options)) == 3
    # The processes read as many batches each, and together every clip once.
    options["batch_size"] = 8
    parts = [batches(prepared, part=(k, 2), **options) for k in (0, 1)]
    assert {len(batch["id"]) for part in parts for batch in part} == {4}
    assert len(parts[0]) == len(parts[1])
    names, weights = [], []
    for batch in parts[0] + parts[1]:
        names += [n for n, weight in zip(batch["id"], batch["weight"], strict=True) if weight]
        weights.append(batch["weight"])
    assert len(names) == len(set(names)) == 10
    assert np.mean(weights) == pytest.approx(1, rel=1e-6)


def test_groups_tell_which_clips_belong_together(prepared):
    options = {"batch_size": 10, "steps_per_epoch": 2, "seed": 1, "ids": True}
    read = batches(prepared, group_by="id", **options)
    groups = np.concatenate([batch["group"] for batch in read])
    ids = np.concatenate([batch["id"] for batch in read])
    np.testing.assert_array_equal(groups[:, None] == groups, ids[:, None] == ids)
    # Of the label it is the value that counts: every other clip has the letter a.
    read = batches(prepared, group_by="letter", **options)
    groups = np.concatenate([batch["group"] for batch in read])
    letter = np.array([int(name.split()[1]) % 2 for name in ids])
    np.testing.assert_array_equal(groups[:, None] == groups, letter[:, None] == letter)
    # Clips on the device have the same.
    held = open_dataset(prepared).resident("train", CROP, group_by="letter")
    known = dict(zip(ids, groups, strict=True))
    assert dict(zip((i.encode() for i in held.ids), held.groups, strict=True)) == known
    with pytest.raises(UserError, match="no label 'artist'"):
        batches(prepared, group_by="artist")


def test_longer_epochs_are_several_passes(prepared):
    read = batches(prepared, batch_size=4, steps_per_epoch=5, seed=1)
    numbers, _ = sources(np.concatenate(read))
    assert sorted(numbers[:10]) == sorted(numbers[10:]) == list(range(10))
    assert list(numbers[:10]) != list(numbers[10:])


def test_passes_over_a_single_shard_have_orders_of_their_own(clips, tmp_path):
    prepare(clips, tmp_path, workers=1, progress=False, shards=1)
    read = batches(tmp_path, batch_size=10, steps_per_epoch=4, seed=1)
    orders = [tuple(sources(batch)[0]) for batch in read]
    assert len(set(orders)) == 4 and all(sorted(order) == list(range(10)) for order in orders)


def test_epochs_differ_and_repeat_from_the_seed(prepared):
    options = {"batch_size": 5, "seed": 3}
    first, second = (batches(prepared, initial_epoch=epoch, **options) for epoch in (0, 1))
    assert not equal(first, second)
    assert list(sources(first)[0]) != list(sources(second)[0])
    assert equal(first, batches(prepared, **options))
    assert equal(first + second, batches(prepared, epochs=2, **options))
    assert not equal(first, batches(prepared, batch_size=5, seed=4))


def test_without_seed_every_stream_is_another(prepared):
    assert not equal(batches(prepared, batch_size=10), batches(prepared, batch_size=10))


@pytest.mark.parametrize("steps", [None, 1, 7])
def test_resumed_stream_goes_on_like_the_whole(prepared, steps):
    options = {"batch_size": 3, "seed": 5, "crops": 2, "steps_per_epoch": steps, "labels": True}
    whole = batches(prepared, epochs=4, **options)
    rest = batches(prepared, epochs=4, initial_epoch=2, **options)
    assert len(rest) == 2 * (steps or 3)
    for batch, resumed in zip(whole[len(rest) :], rest, strict=True):
        np.testing.assert_array_equal(batch["audio"], resumed["audio"])
        np.testing.assert_array_equal(batch["labels"], resumed["labels"])


def test_global_seed_does_not_matter(prepared):
    import tensorflow as tf

    streams = []
    for seed in (1, 2):
        tf.random.set_seed(seed)
        streams.append(batches(prepared, batch_size=5, seed=0))
    assert equal(*streams)


def test_repeat_never_ends_and_begins_like_the_finite_stream(prepared):
    endless = read_clips(prepared, clip_samples=CROP, batch_size=5, seed=0, repeat=True)
    begin = [batch["audio"] for batch in endless.take(8).as_numpy_iterator()]
    assert equal(begin, batches(prepared, batch_size=5, seed=0, epochs=4))


def test_length_is_known(prepared):
    options = {"clip_samples": CROP, "batch_size": 4}
    assert len(read_clips(prepared, **options)) == 2
    assert len(read_clips(prepared, drop_remainder=False, **options)) == 3
    assert len(read_clips(prepared, epochs=5, initial_epoch=2, steps_per_epoch=7, **options)) == 21
    assert len(read_clips(prepared, clip_samples=CROP, batch_size=None)) == 10


def test_nothing_waits_for_the_autotuner(prepared):
    stream = read_clips(prepared, clip_samples=CROP, batch_size=2, repeat=True)
    assert stream.options().autotune.enabled is False


def test_evaluation_order_and_crops_are_fixed(prepared):
    first = batches(prepared, split="test", crops=3, shuffle=False)
    assert equal(first, batches(prepared, split="test", crops=3, shuffle=False))
    numbers, starts = sources(first)
    room = 1000 + 10 * numbers - CROP
    np.testing.assert_array_equal(
        starts.reshape(-1, 3), (room.reshape(-1, 3) * [1 / 6, 0.5, 5 / 6]).astype(int)
    )


def test_whole_records(prepared, compressed):
    for path in (prepared, compressed):
        read = batches(path, split="test", clip_samples=None)
        assert sorted(len(clip) for clip in read) == [1100, 1110, 1120, 1130]
        assert set(sources([clip[:1000] for clip in read])[1]) == {0}


def test_labels_go_with_their_clips(prepared):
    for batch in batches(prepared, batch_size=5, labels=True):
        numbers, _ = sources(batch["audio"])
        np.testing.assert_array_equal(batch["labels"], np.stack([numbers % 2, numbers / 2], 1))


@pytest.mark.parametrize("encoding", ["prepared", "compressed"])
def test_short_records_are_left_out_and_named(request, encoding):
    path = request.getfixturevalue(encoding)
    with pytest.warns(UserWarning, match="2 clips of train are shorter than 1020.*clip 0[01], "):
        dataset = read_clips(path, clip_samples=1020, batch_size=4)
    read = np.concatenate([batch["audio"] for batch in dataset.as_numpy_iterator()])
    assert sorted(sources(read)[0]) == list(range(2, 10))
    with pytest.raises(UserError, match="which is all of them"):
        read_clips(path, clip_samples=5000)


def test_clips_that_are_long_enough_are_counted(prepared):
    dataset = open_dataset(prepared)
    assert dataset.count("train") == dataset.count("train", 1000) == 10
    assert dataset.count("train", 1075) == 2


def test_wrong_arguments(prepared):
    for name, value in (("clip_samples", 0), ("crops", 0), ("batch_size", -1), ("epochs", -1)):
        with pytest.raises(ValueError, match=f"Received: .*{name}={value}"):
            read_clips(prepared, **{name: value})
    with pytest.raises(UserError, match="batch_size 11 is more than the 10 clips"):
        read_clips(prepared, batch_size=11)
    with pytest.raises(UserError, match="no split 'valid'. Its splits: test, train"):
        read_clips(prepared, split="valid")


def test_feeds_fit(prepared):
    """On whichever backend the tests run."""
    model = keras.Sequential(
        [
            keras.Input((CROP,), dtype="int16"),
            keras.layers.Rescaling(1 / 32768, dtype="float32"),
            keras.layers.Dense(2),
        ]
    )
    model.compile(loss="mse", jit_compile=False)
    stream = read_clips(prepared, clip_samples=CROP, batch_size=5, labels=True, repeat=True, seed=0)
    stream = stream.map(lambda batch: (batch["audio"], batch["labels"]))
    history = model.fit(stream, epochs=2, steps_per_epoch=3, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert len(history.history["loss"]) == 2
