"""What runs train on and are validated with: all clips, and no copy of a clip as its negative."""

import dataclasses

import keras
import numpy as np
import pandas as pd
import pytest
import soundfile

from keras_tune.data import open_dataset
from keras_tune.errors import UserError
from keras_tune.models import TUNe
from keras_tune.training import (
    ContrastiveModel,
    ModelConfig,
    PretrainConfig,
    PretrainingData,
    load_checkpoint,
)
from keras_tune.training.distribution import Devices

SAMPLES = 81
TRAIN, VALID = 5, 7
ARTISTS = ["a", "a", "b", "a", "c", "b", ""]


@pytest.fixture(scope="module")
def audio():
    shape = (TRAIN + VALID, 300)
    return np.random.default_rng(0).normal(0, 5000, shape).clip(-32768, 32767).astype("int16")


@pytest.fixture(scope="module")
def npz(audio, tmp_path_factory):
    path = tmp_path_factory.mktemp("arrays") / "clips.npz"
    np.savez(
        path,
        audio=audio,
        split=["train"] * TRAIN + ["valid"] * VALID,
        artist=["a"] * TRAIN + ARTISTS,
    )
    return path


@pytest.fixture(scope="module")
def shards(audio, tmp_path_factory):
    pytest.importorskip("tensorflow")
    from keras_tune.data import prepare

    folder = tmp_path_factory.mktemp("shards")
    rows = []
    for number, clip in enumerate(audio):
        soundfile.write(folder / f"{number}.wav", clip, 22050)
        artist = (["a"] * TRAIN + ARTISTS)[number] or None
        split = "train" if number < TRAIN else "valid"
        rows.append((f"clip {number}", str(folder / f"{number}.wav"), split, artist))
    # Too short for a view.
    soundfile.write(folder / "short.wav", audio[0, :50], 22050)
    rows.append(("short", str(folder / "short.wav"), "valid", "a"))
    manifest = pd.DataFrame(rows, columns=["id", "path", "split", "artist"])
    prepare(manifest, folder / "set", workers=1, shards=1, progress=False)
    return folder / "set"


@pytest.fixture(params=["npz", "shards", "resident"])
def opened(request):
    path = request.getfixturevalue("shards" if request.param == "shards" else "npz")
    return open_dataset(path), request.param == "resident"


def config_of(**options):
    return PretrainConfig(
        **{"model": ModelConfig(input_samples=SAMPLES), "batch_size": 4, **options}
    )


def small_model(**options):
    keras.utils.set_random_seed(0)
    encoder = TUNe(
        contraction_depth=1,
        decoder_depth=1,
        base_filters=3,
        tail_filters=[8],
        input_samples=SAMPLES,
    )
    model = ContrastiveModel(encoder, projection_dim=4, temperature=0.2, **options)
    model.compile(keras.optimizers.Adam(), jit_compile=False)
    return model


def numpy_batches(stream):
    return list(stream.as_numpy_iterator())


@pytest.mark.filterwarnings("ignore:.*shorter than")
@pytest.mark.parametrize("mask_group", [None, "artist"])
@pytest.mark.parametrize("kind", ["npz", "shards"])
def test_validation_is_the_mean_over_all_clips(request, kind, mask_group):
    """Each clip is an anchor once, among as many others as fill a batch."""
    dataset = open_dataset(request.getfixturevalue(kind))
    streams = PretrainingData(dataset, config_of(mask_group=mask_group)).streams()
    model = small_model()
    found = model.evaluate(streams.valid, verbose=0, return_dict=True)
    batches = numpy_batches(streams.valid)
    assert [batch["audio"].shape for batch in batches] == [(4, 2, SAMPLES)] * 2
    losses, first, chances = [], [], []
    # The last batch is filled up with the first clip.
    for batch, own in zip(batches, (4, 3), strict=True):
        z = keras.ops.convert_to_numpy(model(batch["audio"])).astype("float64")
        z = z / np.linalg.norm(z, axis=-1, keepdims=True)
        groups = batch["group"]
        for clip in range(own):
            others = [z[k, v] for k in range(4) if groups[k] != groups[clip] for v in (0, 1)]
            for view in (0, 1):
                candidates = [z[clip, 1 - view], *others]
                similarities = np.array([z[clip, view] @ other for other in candidates])
                losses.append(-np.log(np.exp(5 * similarities)[0] / np.exp(5 * similarities).sum()))
                first.append(similarities[0] > max(similarities[1:], default=-1))
                chances.append(1 / len(candidates))
    assert len(losses) == 2 * VALID == 2 * streams.valid_clips
    np.testing.assert_array_equal(batches[1]["audio"][3], batches[0]["audio"][0])
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert found["contrastive_accuracy"] == pytest.approx(np.mean(first), rel=1e-5)
    assert streams.chance == pytest.approx(np.mean(chances), rel=1e-6)
    if mask_group is None:
        assert streams.chance == pytest.approx(1 / 7)
    else:
        assert streams.chance > 1 / 7


def test_two_processes_have_every_clip_of_valid_once(npz):
    dataset = open_dataset(npz)
    seen, weights = [], []
    for process in (0, 1):
        devices = Devices("data_parallel", 2, 2, process)
        streams = PretrainingData(dataset, config_of(), devices).streams()
        for batch in numpy_batches(streams.valid):
            seen += [int(g) for g, w in zip(batch["group"], batch["weight"], strict=True) if w]
            weights.append(batch["weight"])
    assert sorted(seen) == list(range(TRAIN, TRAIN + VALID))
    assert np.mean(weights) == pytest.approx(1, rel=1e-6)
    assert streams.chance == pytest.approx(1 / 7)


@pytest.mark.filterwarnings("ignore:.*shorter than")
def test_copies_of_a_clip_in_a_batch_are_of_one_group(opened, audio):
    """Where an epoch is longer than a pass, they come together: batches of four of five clips."""
    dataset, resident = opened
    data = PretrainingData(dataset, config_of(steps_per_epoch=20, epochs=1, resident=resident))
    batches = numpy_batches(data.streams().train)
    groups = np.stack([batch["group"] for batch in batches])
    assert groups.shape == (20, 4)
    assert any(len(set(row)) < 4 for row in groups.tolist())
    windows = np.lib.stride_tricks.sliding_window_view(audio[:TRAIN], SAMPLES, axis=1)
    if resident:
        crops = [keras.ops.convert_to_numpy(data.resident.crops(batch)) for batch in batches]
        windows = windows / 32768
    else:
        crops = [batch["audio"] for batch in batches]
    clips = np.array(
        [[(windows == view).all(-1).any(-1).argmax() for view in batch[:, 0]] for batch in crops]
    )
    np.testing.assert_array_equal(
        groups.ravel()[:, None] == groups.ravel(), clips.ravel()[:, None] == clips.ravel()
    )


@pytest.mark.filterwarnings("ignore:.*shorter than")
def test_a_label_makes_groups(opened):
    dataset, resident = opened
    config = config_of(mask_group="artist", resident=resident, epochs=1)
    (batch,) = numpy_batches(PretrainingData(dataset, config).streams().train)
    assert len(set(batch["group"].tolist())) == 1
    other = PretrainingData(dataset, dataclasses.replace(config, mask_group="singer"))
    with pytest.raises(ValueError, match="which has artist. Received: mask_group=singer"):
        other.streams()


def test_views_longer_than_all_of_valid_are_refused(shards):
    config = config_of(model=ModelConfig(input_samples=301))
    with pytest.raises(ValueError, match="shorter"):
        PretrainingData(open_dataset(shards), config).streams()


def test_a_set_without_clips_to_train_on(audio, tmp_path):
    np.savez(tmp_path / "valid.npz", audio=audio, split=["valid"] * len(audio))
    with pytest.raises(UserError, match="valid.npz: has no clips in the split train"):
        PretrainingData(open_dataset(tmp_path / "valid.npz"), config_of())


def test_a_continued_run_is_compiled_for_the_backend_of_today(tmp_path):
    model = small_model()
    model.train_on_batch(np.random.default_rng(0).normal(0, 0.1, (4, 2, SAMPLES)))
    model.compile(model.optimizer)
    here = model.jit_compile
    # As if another backend had saved it.
    model.compile(model.optimizer, jit_compile=not here)
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").jit_compile == (not here)
    for chosen, expected in (("auto", here), (True, True), (False, False)):
        loaded = load_checkpoint(tmp_path / "model.keras", chosen)
        assert loaded.jit_compile == expected
        assert int(loaded.optimizer.iterations) == 1
        for one, two in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
            np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, two)))
