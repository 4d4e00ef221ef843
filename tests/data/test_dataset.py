"""The same clips as shards, compressed shards and arrays: one way to open and to read them."""

import keras
import numpy as np
import pandas as pd
import pytest
import soundfile

from keras_tune.data import open_dataset, prepare
from keras_tune.data.dataset import is_dataset
from keras_tune.errors import UserError

SPLITS = ["train"] * 6 + ["valid"] * 3
ARTISTS = ["a", "b", "a", "", "b", "a", "a", "b", ""]
OPTIONS = {"clip_samples": 300, "crops": 2, "batch_size": 4, "shuffle": False}


@pytest.fixture(scope="module")
def audio():
    return np.random.default_rng(0).integers(-(2**15), 2**15, (9, 1000)).astype("int16")


@pytest.fixture(scope="module")
def paths(audio, tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    table = pd.DataFrame(
        {"id": [f"clip {n}" for n in range(9)], "split": SPLITS, "artist": ARTISTS}
    )
    columns = {"ids" if key == "id" else key: list(table[key]) for key in table}
    np.savez(folder / "clips.npz", audio=audio, **columns)
    found = {"npz": folder / "clips.npz"}
    try:
        import tensorflow  # noqa: F401
    except ImportError:
        return found
    files = [str(folder / f"{number}.wav") for number in range(9)]
    for file, clip in zip(files, audio, strict=True):
        soundfile.write(file, clip, 22050)
    table = table.assign(path=files, artist=[artist or None for artist in ARTISTS])
    for encoding in ("pcm16", "flac"):
        found[encoding] = folder / encoding
        options = {"shards": 1, "workers": 1, "progress": False}
        prepare(table, found[encoding], encoding=encoding, **options)
    return found


def by_id(batches):
    """The rows of batches that count, as dicts."""
    rows = [
        {key: values[row] for key, values in batch.items()}
        for batch in batches
        for row in range(len(batch["id"]))
    ]
    named = {}
    for row in rows:
        name = row["id"].decode() if isinstance(row["id"], bytes) else str(row["id"])
        if row["weight"] > 0:
            assert name not in named
            named[name] = row
    return named


@pytest.mark.parametrize("kind", ["npz", "pcm16", "flac"])
def test_batches_are_dicts_with_the_same_clips(paths, audio, kind):
    if kind not in paths:
        pytest.skip("needs TensorFlow")
    assert is_dataset(paths[kind]) and not is_dataset(paths[kind].parent)
    dataset = open_dataset(paths[kind])
    assert dataset.info.counts == {"train": 6, "valid": 3}
    assert (dataset.count("valid"), dataset.count("valid", 1001)) == (3, 0)
    stream = dataset.batches(
        "train", fill_remainder=True, group_by="artist", labels=True, ids=True, **OPTIONS
    )
    batches = list(stream.as_numpy_iterator())
    assert len(batches) == len(stream) == len(list(stream)) == 2
    assert {tuple(sorted(batch)) for batch in batches} == {
        ("audio", "group", "id", "labels", "weight")
    }
    named = by_id(batches)
    # Two crops of 300 of 1000 samples, in the middle of either half of the 700 positions.
    for number in range(6):
        row = named[f"clip {number}"]
        expected = [audio[number, start : start + 300] for start in (175, 525)]
        np.testing.assert_array_equal(row["audio"], expected)
        assert row["labels"].tolist() == [{"a": 0, "b": 1, "": -1}[ARTISTS[number]]]
    groups = {named[f"clip {number}"]["group"] for number in (0, 2, 5)}
    assert len(groups) == 1 and named["clip 3"]["group"] not in groups
    vectors = dataset.label_vectors("train")
    assert sorted(vectors[:, 0]) == [-1, 0, 0, 0, 1, 1]
    records = {record["id"]: record for record in dataset.records("train")}
    np.testing.assert_array_equal(records["clip 4"]["audio"] * 32768, audio[4])
    assert records["clip 4"]["labels"] == {"artist": "b"}
    held = dataset.resident("train", 300, "artist")
    batch = held.stream(crops=2, batch_size=6, shuffle=False, ids=True)[0]
    crops = keras.ops.convert_to_numpy(held.crops(batch)) * 32768
    for name, crop in zip(batch["id"], crops, strict=True):
        np.testing.assert_array_equal(crop, named[str(name)]["audio"])


def test_what_is_not_there(paths, tmp_path):
    for path in paths.values():
        dataset = open_dataset(path)
        with pytest.raises(UserError, match="no split 'test'"):
            dataset.batches("test")
        with pytest.raises(UserError, match="no label 'mood'"):
            dataset.batches("train", group_by="mood")
        with pytest.raises(TypeError, match="crop_samples"):
            dataset.batches("train", crop_samples=3)
    with pytest.raises(ValueError, match="Received: on_corrupt=ignore"):
        open_dataset(paths["npz"], on_corrupt="ignore")
    with pytest.raises(UserError, match="no such folder"):
        open_dataset(tmp_path / "none")


def test_processes_share_a_batch_of_shards(paths):
    if "pcm16" not in paths:
        pytest.skip("needs TensorFlow")
    with pytest.raises(ValueError, match="multiple of the 2 processes. Received: batch_size=3"):
        open_dataset(paths["pcm16"]).batches("train", batch_size=3, part=(0, 2))
    with pytest.raises(UserError, match="1 shards cannot be shared by 2 processes"):
        open_dataset(paths["pcm16"]).batches("train", batch_size=4, part=(0, 2))


def test_excluded_shards(paths):
    if "pcm16" not in paths:
        pytest.skip("needs TensorFlow")
    files = [s.file for s in open_dataset(paths["pcm16"]).info.shards if s.split == "train"]
    dataset = open_dataset(paths["pcm16"], exclude=files)
    assert (dataset.info.counts, dataset.exclude) == ({"valid": 3}, tuple(files))
    with pytest.raises(UserError, match="all shards of train are excluded"):
        dataset.batches("train")
