import random
import tracemalloc

import keras
import numpy as np
import pytest
from seeded import seed_weights

from keras_tune.errors import UserError
from keras_tune.evaluation import (
    ClipEmbeddings,
    MelStatistics,
    cut_windows,
    embed_clips,
    pool_clips,
    untrained_copy,
)
from keras_tune.evaluation.baselines import estimate_on
from keras_tune.evaluation.encoders import default_pooling, named_encoder
from keras_tune.models import TUNe


def encoder(seed=0):
    return seed_weights(
        TUNe(
            contraction_depth=1, decoder_depth=1, base_filters=2, tail_filters=[4], input_samples=81
        ),
        seed,
    )


@pytest.mark.parametrize(
    "name, answer",
    [
        ("tune_plus", "tune_plus: is a preset without trained weights; take untrained:tune_plus"),
        ("untrained:tune_pluss", "untrained:tune_pluss: no such preset; use one of tune_vanilla"),
        ("nowhere.keras", "nowhere.keras: no such file"),
    ],
)
def test_names_that_are_no_encoder_are_answered(name, answer):
    with pytest.raises(UserError, match=f"^{answer}"):
        named_encoder(name)


def records(*lengths):
    generator = np.random.default_rng(0)
    for number, length in enumerate(lengths):
        audio = generator.normal(0, 0.3, length).astype("float32")
        yield {"id": f"clip-{number}", "audio": audio, "labels": {"genre": "ab"[number % 2]}}


def test_windows_are_consecutive_and_the_rest_is_dropped():
    assert cut_windows(np.arange(10), 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert cut_windows(np.arange(10), 4, 3).tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert cut_windows(np.arange(3), 4).shape == (0, 4)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_a_clip_is_the_mean_of_its_windows(batch_size):
    model = encoder()
    lengths = (81, 300, 80, 243)
    found = embed_clips(model, records(*lengths), batch_size=batch_size)
    assert found.ids == ["clip-0", "clip-1", "clip-3"]
    assert found.skipped == ["clip-2"]
    assert found.target("genre").tolist() == ["a", "b", "b"]
    expected = []
    for record in records(*lengths):
        windows = [record["audio"][k : k + 81] for k in range(0, len(record["audio"]) - 80, 81)]
        if windows:
            outputs = [keras.ops.convert_to_numpy(model(w[None, :, None]))[0] for w in windows]
            expected.append(np.mean(outputs, axis=0))
    np.testing.assert_allclose(found.vectors, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.one_backend
def test_integers_are_scaled():
    """Levels are not normalized in this encoder, so that a wrong scale would show."""
    model, pcm = encoder(), []
    for record in records(300, 243):
        pcm.append({**record, "audio": np.round(record["audio"] * 32768).astype("int16")})
    floats = [{**record, "audio": record["audio"] / 32768.0} for record in pcm]
    found, expected = (
        embed_clips(model, one, crop_seed=0, deform=lambda clip: np.clip(clip, -0.5, 0.5))
        for one in (pcm, floats)
    )
    np.testing.assert_allclose(found.vectors, expected.vectors, rtol=1e-5)
    np.testing.assert_allclose(found.crops, expected.crops, rtol=1e-5)
    copies = [untrained_copy(model), untrained_copy(model)]
    for copy, one in zip(copies, (pcm, floats), strict=True):
        estimate_on(copy, one, 2)
    for one, two in zip(*(copy.get_weights() for copy in copies), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5)
    with pytest.raises(ValueError, match="int16 or floats. Received: int32"):
        embed_clips(model, [{**pcm[0], "audio": pcm[0]["audio"].astype("int32")}])


def test_nothing_long_enough():
    with pytest.raises(UserError, match="window of 81 samples"):
        embed_clips(encoder(), records(10, 20))


@pytest.mark.one_backend
def test_untrained_weights_are_those_of_the_seed_and_the_numbers_of_the_caller_stay():
    trained, preset = encoder(), {"preset": "tune_plus_32", "load_weights": False}
    for build, same in (
        (lambda: untrained_copy(trained, 3), lambda: TUNe.from_config(trained.get_config())),
        (
            lambda: named_encoder("untrained:tune_plus_32", seed=3),
            lambda: TUNe.from_preset(**preset),
        ),
    ):
        keras.utils.set_random_seed(8)
        expected = random.random(), np.random.random()
        keras.utils.set_random_seed(8)
        copy = build()
        assert (random.random(), np.random.random()) == expected
        keras.utils.set_random_seed(3)
        for one, two in zip(copy.get_weights(), same().get_weights(), strict=True):
            np.testing.assert_array_equal(one, two)


def test_the_untrained_copy_has_the_shape_but_not_the_weights():
    trained = encoder()
    copies = [untrained_copy(trained, seed=seed) for seed in (1, 1, 2)]
    assert copies[0].get_config() == trained.get_config()
    kernels = [copy.get_weights()[0] for copy in [trained, *copies]]
    np.testing.assert_array_equal(kernels[1], kernels[2])
    assert not np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[1], kernels[3])


def test_stages_and_crops_in_the_same_pass():
    model = encoder()
    names = ("bottleneck", "tail_1")
    found = embed_clips(model, records(81, 300, 243), crop_seed=3, stages=names, batch_size=4)
    plain = embed_clips(model, records(81, 300, 243))
    np.testing.assert_allclose(found.vectors, plain.vectors, rtol=1e-4, atol=1e-6)
    assert found.owners.tolist() == [0, 1, 1, 1, 2, 2, 2]
    tap = keras.Model(model.input, [model.get_layer(name).output for name in names])
    time = -1 if model.data_format == "channels_first" else 1
    for row, record in enumerate(records(81, 300, 243)):
        windows = cut_windows(record["audio"], 81)
        outputs = [keras.ops.convert_to_numpy(o) for o in tap(windows[..., None])]
        for name, output in zip(names, outputs, strict=True):
            expected = output.mean(axis=time).mean(axis=0)
            np.testing.assert_allclose(found.stages[name][row], expected, rtol=1e-4, atol=1e-6)
    # A clip of one window has one crop, that window.
    np.testing.assert_allclose(found.crops[0], found.windows[0], rtol=1e-4, atol=1e-6)
    assert not np.allclose(found.crops[1], found.windows[1])
    again = embed_clips(model, records(81, 300, 243), crop_seed=3)
    np.testing.assert_allclose(again.crops, found.crops, rtol=1e-4, atol=1e-6)


def test_taking_merging_and_saving(tmp_path):
    whole = embed_clips(encoder(), records(81, 300, 80, 243), crop_seed=0, stages=("bottleneck",))
    parts = [whole.take([2]), whole.take([0, 1])]
    assert parts[0].ids == ["clip-3"]
    assert parts[0].owners.tolist() == [0, 0, 0]
    back = ClipEmbeddings.merge(parts).take([1, 2, 0])
    back.save(tmp_path / "clips.npz")
    loaded = ClipEmbeddings.load(tmp_path / "clips.npz")
    assert loaded.ids == whole.ids
    assert loaded.labels == whole.labels
    for name in ("vectors", "crops"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(whole, name))
    np.testing.assert_array_equal(loaded.stages["bottleneck"], whole.stages["bottleneck"])
    for row in range(3):
        np.testing.assert_array_equal(
            loaded.windows[loaded.owners == row], whole.windows[whole.owners == row]
        )


def test_a_stage_that_is_not_there():
    with pytest.raises(UserError, match="no stage 'tail_9'; its stages: contract_1"):
        embed_clips(encoder(), records(100), stages=("tail_9",))


def test_a_damaged_file_of_the_cache_is_written_anew(tmp_path, capsys):
    from keras_tune.data import open_dataset
    from keras_tune.evaluation.embedding_cache import EmbeddingCache

    audio = np.random.default_rng(0).normal(0, 0.1, (3, 200)).astype("float32")
    np.savez(tmp_path / "clips.npz", audio=audio)
    cache = EmbeddingCache(
        tmp_path, tmp_path / "clips.npz", open_dataset(tmp_path / "clips.npz").info
    )
    expected = cache.embed(encoder(), "train").vectors
    (file,) = tmp_path.glob("*-train.npz")
    whole = file.read_bytes()
    for content in (whole[:-100], whole[:200] + b"\xff" + whole[201:], b"", b"text"):
        file.write_bytes(content)
        with pytest.raises(UserError, match=str(file)):
            ClipEmbeddings.load(file)
        np.testing.assert_array_equal(cache.embed(encoder(), "train").vectors, expected)
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith(f"{file}: damaged, so it is written again")
        ClipEmbeddings.load(file)


def test_a_damaged_file_of_estimates_is_written_anew(tmp_path, capsys):
    from keras_tune.data import open_dataset
    from keras_tune.evaluation.embedding_cache import EmbeddingCache
    from keras_tune.evaluation.encoders import encoder_fingerprint

    audio = np.random.default_rng(0).normal(0, 0.1, (20, 200)).astype("float32")
    np.savez(tmp_path / "clips.npz", audio=audio)
    cache = EmbeddingCache(
        tmp_path, tmp_path / "clips.npz", open_dataset(tmp_path / "clips.npz").info
    )

    def estimated():
        untrained = encoder()
        cache.estimate(untrained, ["train"])
        return encoder_fingerprint(untrained)

    expected = estimated()
    (file,) = tmp_path.glob("*-estimated.npz")
    whole = file.read_bytes()
    np.savez(tmp_path / "nan.npz", **{str(n): np.full(3, np.nan) for n in range(9)})
    for content in (whole[:-100], b"text", (tmp_path / "nan.npz").read_bytes()):
        file.write_bytes(content)
        assert estimated() == expected
        assert f"{file}: damaged, so it is written again" in capsys.readouterr().err
    assert estimated() == expected and not capsys.readouterr().err


def test_saving_without_windows(tmp_path):
    clips = embed_clips(encoder(), records(81, 243), keep_windows=False)
    clips.save(tmp_path / "clips.npz")
    loaded = ClipEmbeddings.load(tmp_path / "clips.npz")
    assert loaded.windows is None
    np.testing.assert_array_equal(loaded.vectors, clips.vectors)


def test_deviations_over_the_windows_of_a_clip():
    generator = np.random.default_rng(0)
    counts = [1, 4, 2]
    parts = [generator.normal(size=(count, 3)).astype("float32") for count in counts]
    order = [2, 0, 5, 3, 1, 6, 4]
    clips = ClipEmbeddings(
        ids=["a", "b", "c"],
        vectors=np.stack([part.mean(axis=0) for part in parts]),
        labels=[{}, {}, {}],
        windows=np.concatenate(parts)[order],
        owners=np.repeat(np.arange(3), counts)[order],
        crops=generator.normal(size=(3, 3)),
        stages={"tail_1": generator.normal(size=(3, 2))},
    )
    assert pool_clips(clips, "mean", "mean") is clips
    found = pool_clips(clips, "mean", "mean_std")
    expected = [np.concatenate([part.mean(axis=0), part.std(axis=0)]) for part in parts]
    np.testing.assert_allclose(found.vectors, expected, atol=1e-6)
    assert found.windows is found.crops is None
    assert found.stages is clips.stages
    assert found.take([2, 0]).ids == ["c", "a"]


def test_the_means_of_mel_statistics_are_those_of_the_frames():
    model = MelStatistics(num_mels=8, input_samples=2048)
    audio = np.random.default_rng(0).normal(0, 0.1, (2, 4096)).astype("float32")
    records = [{"id": str(k), "audio": clip, "labels": {}} for k, clip in enumerate(audio)]
    clips = embed_clips(model, records, crop_seed=0)
    assert default_pooling(model) == "mean_std"
    found = pool_clips(clips, default_pooling(model), "mean")
    assert found.vectors.shape == found.crops.shape == (2, 8)
    # The model's own first outputs are means over frames; those of clips are means over windows.
    outputs = np.asarray(model.predict_on_batch(audio.reshape(4, 2048, 1)))[:, :8]
    np.testing.assert_allclose(found.windows, outputs, atol=1e-4)
    np.testing.assert_allclose(found.vectors, outputs.reshape(2, 2, 8).mean(axis=1), atol=1e-4)
    without = pool_clips(embed_clips(model, records, keep_windows=False), "mean_std", "mean")
    np.testing.assert_array_equal(without.vectors, found.vectors)


def test_means_alone_are_those_with_windows():
    whole = embed_clips(encoder(), records(81, 300, 243))
    means = embed_clips(encoder(), records(81, 300, 243), keep_windows=False)
    assert means.windows is None and means.owners is None
    np.testing.assert_array_equal(means.vectors, whole.vectors)


def test_memory_for_a_library_is_that_of_its_means():
    """Parts of long clips are read one after the other, and windows are not kept."""

    def parts(count):
        for number in range(count):
            windows = np.ones((4000, 64), "float32")
            yield ClipEmbeddings(
                [str(number)], windows[:1].copy(), [{}], windows=windows, owners=np.zeros(4000, int)
            )

    peaks = []
    for count in (5, 20):
        tracemalloc.start()
        merged = ClipEmbeddings.merge(parts(count), windows=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert merged.vectors.shape == (count, 64) and merged.windows is None
    # A part is a megabyte.
    assert peaks[1] - peaks[0] < 500_000
