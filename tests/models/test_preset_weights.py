"""Presets with trained weights: files in half precision, and what they may be loaded into."""

import dataclasses
import hashlib
import json
import pathlib

import keras
import numpy as np
import pytest
from seeded import seed_weights

from keras_tune.data import demo_clips
from keras_tune.errors import UserError
from keras_tune.evaluation import untrained_copy
from keras_tune.models import (
    PRESETS,
    TUNe,
    estimate_batch_norm,
    estimate_pca,
    with_pooled_stages,
)
from keras_tune.models.saved import load_saved_model, read_about, read_weights, write_weights
from keras_tune.shipped import WEIGHTS
from keras_tune.training import ModelConfig, PretrainConfig, build_model
from keras_tune.types import DEFAULT_ENCODER


def small(**arguments):
    return TUNe(2, 2, base_filters=2, tail_filters=[4, 8], input_samples=6561, **arguments)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A preset whose weights were drawn by a seed."""
    preset = dataclasses.replace(
        PRESETS["tune_plus_32"], base_filters=2, level=0.1, weights="mine.safetensors"
    )
    monkeypatch.setitem(PRESETS, "mine", preset)
    monkeypatch.setattr("keras_tune.models.tune.WEIGHTS", tmp_path)
    monkeypatch.chdir(tmp_path)
    encoder = seed_weights(TUNe.from_preset("mine", load_weights=False))
    write_weights(encoder, tmp_path / "mine.safetensors", license="CC-BY-4.0")
    return encoder


def test_half_precision_changes_the_output_by_its_rounding_only(tmp_path):
    encoder = seed_weights(small(level=0.1))
    write_weights(encoder, tmp_path / "x.safetensors", license="CC0")
    loaded = small(level=0.1, name="another_name")
    read_weights(loaded, tmp_path / "x.safetensors")
    for before, after in zip(encoder.weights, loaded.weights, strict=True):
        # Half precision keeps eleven bits.
        tolerance = 2.0**-11 if len(before.shape) > 1 else 0
        np.testing.assert_allclose(after.numpy(), before.numpy(), rtol=tolerance, atol=1e-7)
    x = np.random.default_rng(0).normal(0, 0.1, (2, 6561, 1)).astype("float32")
    before, after = (model.predict(x, verbose=0) for model in (encoder, loaded))
    assert np.abs(after - before).max() < 0.01 * np.abs(before).max()
    about = read_about(tmp_path / "x.safetensors")
    assert about["license"] == "CC0"
    assert json.loads(about["config"]) == encoder.get_config()


def test_a_preset_with_weights_loads_them(trained):
    loaded = TUNe.from_preset("mine", input_samples=59049 * 2, dtype="mixed_bfloat16")
    assert loaded.level == 0.1
    for before, after in zip(trained.weights, loaded.weights, strict=True):
        np.testing.assert_allclose(after.numpy(), before.numpy(), rtol=2.0**-11, atol=1e-7)
    untrained = TUNe.from_preset("mine", load_weights=False)
    kernels = [model.get_layer("tail_9").weights[0].numpy() for model in (loaded, untrained)]
    assert not np.allclose(*kernels)


def test_without_pooled_stages_the_mean_of_the_last_one(trained, tmp_path, monkeypatch):
    pooled = dataclasses.replace(PRESETS["mine"], pooled_stages=2, weights="pooled.safetensors")
    monkeypatch.setitem(PRESETS, "pooled", pooled)
    encoder = with_pooled_stages(trained, 2, 512)
    estimate_pca(encoder, [np.random.default_rng(0).normal(0, 0.1, (4, 59049, 1))])
    write_weights(encoder, tmp_path / "pooled.safetensors")
    assert TUNe.from_preset("pooled").output_shape == (None, 512)
    loaded = TUNe.from_preset("pooled", pooled_stages=0)
    assert loaded.output_shape == (None, 32)
    for before, after in zip(trained.weights, loaded.weights, strict=True):
        np.testing.assert_allclose(after.numpy(), before.numpy(), rtol=2.0**-11, atol=1e-7)
    with pytest.raises(ValueError, match="`pooled_stages` must be 2, .*pooled_stages=1$"):
        TUNe.from_preset("pooled", pooled_stages=1)


@pytest.mark.parametrize(
    "change",
    [
        {"level": 0.2},
        {"level": None},
        {"sample_rate": 44100},
        {"base_filters": 3},
        {"decoder_depth": 2},
    ],
)
def test_weights_of_another_encoder_are_refused(trained, change):
    name, value = next(iter(change.items()))
    with pytest.raises(
        ValueError, match=rf"^`{name}` must be .*load_weights=False`. Received: {name}={value}$"
    ):
        TUNe.from_preset("mine", **change)


def test_random_weights_are_never_given_unasked(trained):
    with pytest.raises(
        UserError,
        match="load_weights=False`.* or tune_plus_64_open or mine. Received: preset=tune_plus$",
    ):
        TUNe.from_preset("tune_plus")


def test_what_half_precision_cannot_represent_is_not_written(tmp_path):
    encoder = small()
    kernel = encoder.get_layer("tail_1").weights[0]
    kernel.assign(keras.ops.full(kernel.shape, 1e5))
    with pytest.raises(ValueError, match="finite as float16. Received: tail_1.*100000"):
        write_weights(encoder, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_the_weights_that_ship_are_those_of_their_presets():
    shipped = {preset.weights for preset in PRESETS.values() if preset.weights}
    assert shipped == {file.name for file in WEIGHTS.glob("*.safetensors")}
    for name, preset in PRESETS.items():
        if preset.weights:
            assert TUNe.from_preset(name).level == preset.level


def test_a_trained_preset_is_loaded_by_its_name(trained, tmp_path):
    loaded = load_saved_model("mine")
    np.testing.assert_allclose(loaded.weights[0].numpy(), trained.weights[0].numpy(), rtol=2.0**-11)
    with pytest.raises(
        UserError,
        match="^tune_plus: no such file; .* or tune_plus_open or tune_plus_64_open or mine$",
    ):
        load_saved_model("tune_plus")
    # A folder of that name, of a run for example, does not take its place.
    (tmp_path / "mine").mkdir()
    load_saved_model("mine")


def test_the_level_stays_when_the_decoder_goes(trained):
    assert TUNe.from_preset("mine", load_weights=False, decoder_depth=0).level == 0.1


def test_a_preset_can_be_built_without_its_level(trained):
    assert TUNe.from_preset("mine", load_weights=False, level=None).level is None


def test_pretraining_may_begin_with_trained_weights(trained):
    for load in (True, False):
        config = PretrainConfig(model=ModelConfig("mine", load_weights=load))
        encoder = build_model(config).encoder
        assert encoder.level == 0.1
        begun = np.allclose(encoder.weights[0].numpy(), trained.weights[0].numpy(), rtol=2.0**-11)
        assert begun == load


def crops(clips):
    """Two windows of every clip that have nothing in common."""
    return clips[:, :59049, None], clips[:, -59049:, None]


def same_clip(encoder, views):
    """How often the nearest second window, by cosine of standardized vectors, is the clip's own."""
    vectors = np.stack([encoder.predict(view, verbose=0, batch_size=20) for view in views])
    vectors = (vectors - vectors.mean((0, 1))) / (vectors.std((0, 1)) + 1e-6)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.mean((vectors[0] @ vectors[1].T).argmax(1) == np.arange(len(views[0])))


@pytest.mark.one_backend
@pytest.mark.parametrize("name", [name for name in PRESETS if PRESETS[name].weights])
def test_the_weights_that_ship_are_trained(name):
    """They recognize synthesized music, which they have never heard, better than new weights."""
    views = crops(demo_clips("test", 40, seconds=6.0, seed=3)[0])
    encoder = TUNe.from_preset(name, pooled_stages=0)
    untrained = untrained_copy(encoder)
    estimate_batch_norm(untrained, np.split(np.concatenate(views), 4))
    assert same_clip(encoder, views) > same_clip(untrained, views) + 0.15


@pytest.mark.one_backend
def test_the_small_encoder_agrees_with_the_large_one():
    """Of synthesized music, which neither has heard: much of the variance, and the same nearest."""
    windows = demo_clips("test", 40, seconds=3.0, seed=3)[0][:, :59049, None]
    large, small = (
        TUNe.from_preset(name).predict(windows, verbose=0, batch_size=20)
        for name in (DEFAULT_ENCODER, "tune_plus_64_open")
    )
    residual = np.sum((large - small) ** 2)
    assert 1 - residual / np.sum((large - large.mean(axis=0)) ** 2) > 0.3
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (large, small)]
    assert np.mean((unit[1] @ unit[0].T).argmax(axis=1) == np.arange(40)) > 0.9


def test_the_model_card_has_the_hash_of_the_weights():
    card = (pathlib.Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    for file in WEIGHTS.glob("*.safetensors"):
        assert hashlib.sha256(file.read_bytes()).hexdigest() in card, file.name
