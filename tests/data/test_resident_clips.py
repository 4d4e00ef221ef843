import keras
import numpy as np
import pytest
from keras import ops

from keras_tune.augment import Compose, Gain
from keras_tune.data import ResidentClips, array_clips, open_dataset, prepare, resident_clips
from keras_tune.errors import UserError
from keras_tune.models import TUNe
from keras_tune.training import ContrastiveModel

pytestmark = pytest.mark.one_backend

LENGTHS = (3000, 5001, 1500, 10240, 1025)


@pytest.fixture
def clips():
    generator = np.random.default_rng(0)
    return [generator.integers(-(2**15), 2**15, samples).astype("int16") for samples in LENGTHS]


@pytest.mark.parametrize("samples", [1, 7, 1024, 1025])
def test_crops_are_the_slices_of_the_host(clips, samples):
    """Bit for bit, from the first sample of a clip to the last."""
    held = ResidentClips(clips, samples)
    rows = np.array([0, 1, 2, 3, 4, 4])
    last = np.array(LENGTHS)[rows] - samples
    for starts in (np.stack([0 * last, last], axis=1), last[:, None] // 2):
        crops = ops.convert_to_numpy(held.crops(held.batch(rows, starts)))
        expected = [
            [clips[row][start : start + samples] for start in positions]
            for row, positions in zip(rows, starts, strict=True)
        ]
        assert crops.dtype == np.float32
        assert crops.shape == ((6, 2, samples) if starts.shape[1] == 2 else (6, samples))
        np.testing.assert_array_equal(crops.reshape(6, -1, samples) * 32768, expected)


def test_what_lies_on_the_device(clips):
    held = ResidentClips(clips, 100)
    assert keras.backend.standardize_dtype(held.samples.dtype) == "int16"
    flat = ops.convert_to_numpy(held.samples).ravel()
    np.testing.assert_array_equal(flat[: sum(LENGTHS)], np.concatenate(clips))
    assert flat.size - sum(LENGTHS) <= 2 * resident_clips.BLOCK
    floats = [clip.astype("float32") / 32768 for clip in clips]
    held = ResidentClips(floats, 100)
    crops = held.crops(held.batch(np.array([1]), np.array([[4901]])))
    np.testing.assert_array_equal(ops.convert_to_numpy(crops)[0], floats[1][4901:])


def test_a_stream_is_a_function_of_seed_and_place(clips):
    held = ResidentClips(clips, 1000)
    options = {"crops": 2, "batch_size": 2, "seed": 3, "epochs": 3}

    def crops(stream):
        return [ops.convert_to_numpy(held.crops(stream[i])) for i in range(stream.num_batches)]

    whole = crops(held.stream(**options))
    later = crops(held.stream(initial_epoch=1, initial_step=1, **options))
    assert (len(whole), len(later)) == (6, 3)
    np.testing.assert_array_equal(later, whole[3:])
    assert not np.array_equal(whole[:2], whole[2:4])
    assert not np.array_equal(whole, crops(held.stream(**{**options, "seed": 4})))


def test_starts_are_spread_over_all_of_a_clip(clips):
    """Each clip by its own room, both ends included, as read_clips draws them."""
    stream = ResidentClips(clips, 1023).stream(crops=2, batch_size=5, seed=0, steps_per_epoch=1000)
    drawn = [[] for _ in LENGTHS]
    for rows, starts, _ in map(stream.positions, range(1000)):
        for row, positions in zip(rows, starts, strict=True):
            drawn[row].extend(positions)
    assert sorted(set(drawn[4])) == [0, 1, 2]
    for samples, starts in zip(LENGTHS, drawn, strict=True):
        room = samples - 1023
        assert len(starts) == 2000 and 0 <= min(starts) and max(starts) <= room
        # Five deviations of the mean of so many.
        assert abs(np.mean(starts) - room / 2) < 5 * np.sqrt(((room + 1) ** 2 - 1) / 12 / 2000)


def model_of(micro_batch=None):
    keras.utils.set_random_seed(1)
    encoder = TUNe(
        contraction_depth=2, decoder_depth=1, base_filters=2, tail_filters=[4, 6], input_samples=243
    )
    model = ContrastiveModel(
        encoder, augmenter=Compose([Gain(probability=0.5, seed=1)]), micro_batch=micro_batch, seed=2
    )
    model.compile(keras.optimizers.Adam(0.003))
    return model


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_training_is_that_of_the_host(micro_batch, tmp_path):
    audio = np.random.default_rng(0).normal(0, 3000, (8, 900)).astype("int16")
    options = {"crops": 2, "batch_size": 4, "seed": 5, "epochs": 3}
    host, device = model_of(micro_batch), model_of(micro_batch)
    held = ResidentClips(audio, 243)
    device.read_from(held)
    streams = (array_clips(audio, 243, **options), held.stream(**options))
    losses = [
        model.fit(
            stream, epochs=3, steps_per_epoch=2, shuffle=False, validation_data=audio, verbose=0
        ).history
        for model, stream in zip((host, device), streams, strict=True)
    ]
    assert losses[0].keys() == losses[1].keys()
    for name, values in losses[0].items():
        np.testing.assert_allclose(losses[1][name], values, atol=1e-5, err_msg=name)
    # The clips are no part of the model.
    for model, name in ((host, "host"), (device, "device")):
        model.save(tmp_path / f"{name}.keras")
    assert len(host.variables) == len(device.variables)
    sizes = [(tmp_path / f"{name}.keras").stat().st_size for name in ("host", "device")]
    assert abs(sizes[0] - sizes[1]) < 1000 < audio.nbytes
    assert keras.models.load_model(tmp_path / "device.keras").resident is None


def test_other_clips_after_those_before():
    """No trace of a compiled step of the clips before."""
    first, second = (np.full((4, 300), value, "int16") for value in (100, 0))
    model = model_of()
    for audio, finite in ((first, True), (second, True)):
        held = ResidentClips(audio, 243)
        model.read_from(held)
        stream = held.stream(crops=2, batch_size=4, seed=1)
        result = model.fit(stream, epochs=1, shuffle=False, verbose=0).history
        assert np.isfinite(result["loss"][0]) == finite


def test_clips_of_an_npz(tmp_path):
    audio = np.arange(4000).reshape(4, 1000).astype("int16")
    split = ["train", "test", "train", "train"]
    np.savez(tmp_path / "clips.npz", audio=audio, split=split, ids=["a", "b", "c", "d"])
    held = open_dataset(tmp_path / "clips.npz").resident()
    assert (held.ids, held.clip_samples) == (["a", "c", "d"], 1000)
    flat = ops.convert_to_numpy(held.samples).ravel()
    np.testing.assert_array_equal(flat[:3000], audio[[0, 2, 3]].ravel())
    with pytest.raises(UserError, match="no split 'valid'"):
        open_dataset(tmp_path / "clips.npz").resident("valid")
    with pytest.raises(ValueError, match="clip_samples"):
        open_dataset(tmp_path / "clips.npz").resident(clip_samples=1001).stream(batch_size=2)


@pytest.mark.one_backend
@pytest.mark.parametrize("option", [{"labels": True}, {"group_by": "id"}])
def test_options_that_clips_on_the_device_do_not_have(option):
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=f"Received: .*{name}={value}"):
        ResidentClips(np.zeros((4, 300), "int16"), 243).stream(batch_size=2, **option)


def test_clips_of_shards(clips, tmp_path):
    pytest.importorskip("tensorflow")
    import pandas as pd
    import soundfile

    names = [f"clip {number}" for number in range(len(clips))]
    for name, clip in zip(names, clips, strict=True):
        soundfile.write(tmp_path / f"{name}.wav", clip, 22050)
    paths = [str(tmp_path / f"{name}.wav") for name in names]
    manifest = pd.DataFrame({"id": names, "path": paths, "split": "train"})
    info = prepare(manifest, tmp_path / "set", name="x", shards=2, workers=1, progress=False)
    with pytest.warns(UserWarning, match="2 clips of train are shorter than 2000 samples"):
        held = open_dataset(tmp_path / "set").resident("train", 2000)
    assert sorted(held.ids) == ["clip 0", "clip 1", "clip 3"]
    for row, name in enumerate(held.ids):
        clip = clips[names.index(name)]
        crops = held.crops(held.batch(np.array([row]), np.array([[0, len(clip) - 2000]])))
        expected = np.stack([clip[:2000], clip[-2000:]]).astype("float32") / 32768
        np.testing.assert_array_equal(ops.convert_to_numpy(crops)[0], expected)
    left = max(info.shards, key=lambda shard: shard.records)
    held = open_dataset(tmp_path / "set", exclude=(left.file,)).resident()
    assert len(held.ids) == len(clips) - left.records


def test_clips_that_do_not_fit_are_refused(clips, monkeypatch):
    monkeypatch.setattr(resident_clips, "_free_bytes", lambda: 40_000)
    with pytest.raises(UserError, match=r"tones, train: needs 0\.0 GB.*use resident=False"):
        ResidentClips(clips, 100, name="tones, train")
