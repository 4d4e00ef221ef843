import keras
import numpy as np
import pytest
from seeded import seed_weights

import keras_tune
from keras_tune.checks import sample_rate_of
from keras_tune.models import Tagger, TUNe
from keras_tune.serving import fold_batch_norm

SMALL = {"base_filters": 2, "input_samples": 729}
ENCODERS = {
    "tune": {"contraction_depth": 2, "decoder_depth": 2, "tail_filters": [4, 6]},
    "tune_plus": {
        "contraction_depth": 3,
        "decoder_depth": 2,
        "tail_filters": [4, 6, 5],
        "extra_links": True,
    },
    "clmr": {"decoder_depth": 0, "tail_filters": [2, 3, 4, 5]},
    "level": {"decoder_depth": 0, "tail_filters": [2, 3, 4, 5], "level": 0.1},
    "crops": {
        "contraction_depth": 2,
        "decoder_depth": 2,
        "tail_filters": [4],
        "input_samples": 700,
    },
    "pooled": {
        "contraction_depth": 1,
        "decoder_depth": 1,
        "tail_filters": [4, 5],
        "pooled_stages": 2,
        "pooled_dim": 3,
    },
    "acoustic": {
        "contraction_depth": 1,
        "decoder_depth": 1,
        "tail_filters": [4, 5],
        "input_samples": 3100,
        "level": 0.2,
        "pooled_stages": 1,
        "pooled_dim": 3,
        "acoustic_features": True,
    },
    "sample_cnn_tail": {
        "contraction_depth": 1,
        "decoder_depth": 1,
        "tail_type": "sample_cnn",
        "tail_filters": [2, 3, 4],
    },
}


def predict(model, waveforms):
    return keras.ops.convert_to_numpy(model(waveforms, training=False))


@pytest.mark.parametrize("name", ENCODERS)
def test_outputs_are_those_of_the_model(name):
    encoder = seed_weights(TUNe(**{**SMALL, **ENCODERS[name]}))
    folded = fold_batch_norm(encoder)
    samples = encoder.input_samples
    waveforms = np.random.default_rng(1).normal(size=(3, samples, 1)).astype("float32")
    expected = predict(encoder, waveforms)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(predict(folded, waveforms), expected, rtol=1e-5, atol=1e-6)
    kinds = {type(layer).__name__ for layer in folded.layers}
    kinds -= {"LevelNormalization"}
    assert not any("Normalization" in kind or "Block" in kind for kind in kinds)
    scaled = sum(weight.shape[0] for weight in encoder.weights if "moving_mean" in weight.path)
    assert folded.count_params() == encoder.count_params() - 4 * scaled


def test_stages_keep_their_names_and_values():
    encoder = seed_weights(TUNe(**{**SMALL, **ENCODERS["tune_plus"]}))
    folded = fold_batch_norm(encoder)
    waveforms = np.random.default_rng(1).normal(size=(2, 729, 1)).astype("float32")
    for stage in encoder.stage_names:
        here, there = (
            predict(keras.Model(model.input, model.get_layer(stage).output), waveforms)
            for model in (folded, encoder)
        )
        np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-6 * np.abs(there).max())


def test_any_length_and_the_file(tmp_path):
    encoder = seed_weights(TUNe(**{**SMALL, **ENCODERS["tune"], "input_samples": None}))
    folded = fold_batch_norm(encoder)
    folded.save(tmp_path / "folded.keras")
    again = keras.models.load_model(tmp_path / "folded.keras")
    for samples in (100, 243):
        waveforms = np.random.default_rng(1).normal(size=(2, samples, 1)).astype("float32")
        expected = predict(encoder, waveforms)
        np.testing.assert_allclose(predict(again, waveforms), expected, rtol=1e-5, atol=1e-6)


def test_a_tagger_stays_one():
    encoder = TUNe(**{**SMALL, **ENCODERS["tune"]})
    tagger = seed_weights(Tagger(encoder, hidden_units=3, labels=["a", "b"]))
    folded = fold_batch_norm(tagger)
    assert isinstance(folded, Tagger) and folded.labels == ["a", "b"]
    waveforms = np.random.default_rng(1).normal(size=(2, 729, 1)).astype("float32")
    expected = predict(tagger, waveforms)
    np.testing.assert_allclose(predict(folded, waveforms), expected, rtol=1e-5, atol=1e-6)


def test_the_sample_rate_stays():
    encoder = seed_weights(TUNe(**{**SMALL, **ENCODERS["tune"]}, sample_rate=16000))
    folded = fold_batch_norm(encoder)
    assert sample_rate_of(folded) == 16000
    assert folded.min_samples == encoder.min_samples
    audio = np.random.default_rng(1).normal(0, 0.1, 3000)
    vectors = [keras_tune.embed(audio, model, sample_rate=16000) for model in (encoder, folded)]
    np.testing.assert_allclose(*vectors, rtol=1e-5, atol=1e-6)
    assert fold_batch_norm(Tagger(encoder, num_labels=2)).sample_rate == 16000


def test_the_model_is_left_alone():
    encoder = seed_weights(TUNe(**{**SMALL, **ENCODERS["tune"]}))
    before = encoder.get_weights()
    folded = fold_batch_norm(encoder)
    folded.set_weights([np.zeros_like(weight) for weight in folded.get_weights()])
    for old, new in zip(before, encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_mixed_precision_is_folded_to_float32():
    options = {**SMALL, **ENCODERS["tune"]}
    mixed = seed_weights(TUNe(**options, dtype="mixed_bfloat16"))
    full = seed_weights(TUNe(**options))
    waveforms = np.random.default_rng(1).normal(size=(2, 729, 1)).astype("float32")
    expected = predict(full, waveforms)
    np.testing.assert_allclose(
        predict(fold_batch_norm(mixed), waveforms), expected, rtol=1e-5, atol=1e-6
    )


def test_half_precision_is_close():
    encoder = seed_weights(TUNe(**{**SMALL, **ENCODERS["tune_plus"]}))
    folded = fold_batch_norm(encoder, "mixed_bfloat16")
    assert {layer.compute_dtype for layer in folded.layers} == {"bfloat16", "float32"}
    waveforms = np.random.default_rng(1).normal(size=(2, 729, 1)).astype("float32")
    expected = predict(encoder, waveforms)
    found = predict(folded, waveforms)
    assert found.dtype == "float32"
    # Eight bits of mantissa in each of nine layers.
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())


def test_only_functional_models():
    with pytest.raises(ValueError, match="Received: model=Dense"):
        fold_batch_norm(keras.layers.Dense(3))
