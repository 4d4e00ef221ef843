import keras
import numpy as np
import pytest
from seeded import seed_weights

from keras_tune.errors import UserError
from keras_tune.models import Tagger, TUNe
from keras_tune.serving import fold_batch_norm


@pytest.fixture(scope="module")
def encoder():
    return seed_weights(TUNe(2, 2, base_filters=2, tail_filters=[4, 6], input_samples=243))


@pytest.fixture(scope="module")
def waveforms():
    return np.random.default_rng(0).normal(size=(3, 243, 1)).astype("float32")


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def test_linear_head_is_affine_in_the_representation(encoder, waveforms):
    tagger = Tagger(encoder, num_labels=5)
    kernel, bias = (to_numpy(weight) for weight in tagger.head.weights)
    expected = to_numpy(encoder(waveforms)) @ kernel + bias
    np.testing.assert_allclose(to_numpy(tagger(waveforms)), expected, rtol=1e-5, atol=1e-6)


def test_hidden_layer(encoder, waveforms):
    tagger = Tagger(encoder, num_labels=5, hidden_units=7)
    w1, b1, w2, b2 = (to_numpy(weight) for weight in tagger.head.weights)
    expected = np.maximum(to_numpy(encoder(waveforms)) @ w1 + b1, 0) @ w2 + b2
    np.testing.assert_allclose(to_numpy(tagger(waveforms)), expected, rtol=1e-5, atol=1e-6)


def test_labels_give_the_number_of_logits(encoder):
    tagger = Tagger(encoder, labels=("guitar", "slow"))
    assert tagger.output_shape == (None, 2)
    assert tagger.labels == ["guitar", "slow"]


@pytest.mark.parametrize("arguments", [{}, {"num_labels": 3, "labels": ["a"]}, {"labels": []}])
def test_number_and_labels_must_agree(encoder, arguments):
    with pytest.raises(ValueError, match="Received: num_labels"):
        Tagger(encoder, **arguments)


@pytest.mark.parametrize("hidden_units", [None, 4])
def test_file_round_trip(encoder, waveforms, tmp_path, hidden_units):
    tagger = Tagger(encoder, hidden_units=hidden_units, labels=["a", "b", "c"])
    tagger.save(tmp_path / "tagger.keras")
    again = keras.models.load_model(tmp_path / "tagger.keras")
    assert isinstance(again, Tagger)
    assert isinstance(again.encoder, TUNe)
    assert again.get_config() == tagger.get_config()
    np.testing.assert_array_equal(to_numpy(again(waveforms)), to_numpy(tagger(waveforms)))


def test_logits_are_float32_and_any_length_is_taken(waveforms):
    encoder = TUNe(
        2, 2, base_filters=2, tail_filters=[4, 6], input_samples=None, dtype="mixed_bfloat16"
    )
    tagger = Tagger(encoder, num_labels=2)
    assert tagger.input_shape == (None, None, 1)
    logits = tagger(waveforms[:, :100])
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert logits.shape == (3, 2)


def test_frozen_encoder_leaves_the_head_to_train(encoder, waveforms):
    tagger = Tagger(encoder, num_labels=2)
    encoder.trainable = False
    try:
        assert tagger.trainable_variables == tagger.head.trainable_variables
        tagger.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
        before = [to_numpy(weight) for weight in encoder.weights]
        tagger.fit(waveforms, np.eye(2)[[0, 1, 1]], verbose=0)
        for old, weight in zip(before, encoder.weights, strict=True):
            np.testing.assert_array_equal(old, to_numpy(weight))
    finally:
        encoder.trainable = True


@pytest.mark.parametrize("hidden_units", [None, 4])
def test_scores_are_those_of_the_probe(encoder, waveforms, hidden_units):
    rng = np.random.default_rng(2)
    sizes = [6, hidden_units, 3] if hidden_units else [6, 3]
    weights = []
    for rows, columns in zip(sizes[:-1], sizes[1:], strict=True):
        weights += [rng.normal(size=(rows, columns)), rng.normal(size=(1, columns))]
    mean, deviation = rng.normal(size=6), rng.uniform(0.5, 2, 6)
    labels = ["a", "b", "c"]
    tagger = Tagger.from_probe(encoder, weights, labels, "softmax", mean, deviation, "scores")
    x = (to_numpy(encoder(waveforms)) - mean) / deviation
    for place in range(0, len(weights), 2):
        x = x @ weights[place] + weights[place + 1]
        x = np.maximum(x, 0) if place + 2 < len(weights) else x
    np.testing.assert_allclose(to_numpy(tagger(waveforms)), x, rtol=1e-4, atol=1e-5)
    assert (tagger.labels, tagger.activation, tagger.pooling) == (labels, "softmax", "scores")


def test_probes_of_another_encoder_are_refused(encoder):
    with pytest.raises(ValueError, match=r"Received: weights of the shapes \[\(5, 2\), \(2,\)\]"):
        Tagger.from_probe(encoder, [np.zeros((5, 2)), np.zeros(2)], ["a", "b"])
    with pytest.raises(ValueError, match="Received: pooling=median"):
        Tagger(encoder, labels=["a"], pooling="median")


def scoring(encoder, **options):
    """A tagger whose scores differ from window to window, and its logits for vectors."""
    tagger = Tagger(encoder, hidden_units=3, labels=["guitar", "slow", "vocal"], **options)
    rng = np.random.default_rng(4)
    noise = to_numpy(encoder(rng.normal(0, 3, (9, 243, 1)).astype("float32")))
    w1, w2 = rng.normal(size=(6, 3)) / noise.std(axis=0).mean(), rng.normal(size=(3, 3))
    b1, b2 = -noise.mean(axis=0) @ w1, rng.normal(size=3)
    tagger.head.set_weights([w1, b1, w2, b2])
    return tagger, lambda vectors: np.maximum(vectors @ w1 + b1, 0) @ w2 + b2


@pytest.mark.parametrize("pooling", ["embeddings", "scores"])
def test_tags_of_a_clip_are_those_of_its_windows(encoder, pooling):
    tagger, logits = scoring(encoder, pooling=pooling)
    clip = np.random.default_rng(3).normal(0, 3, 3 * 243 + 100)
    vectors = to_numpy(encoder(clip[: 3 * 243].reshape(3, 243, 1).astype("float32")))
    of_windows = 1 / (1 + np.exp(-logits(vectors)))
    of_mean = 1 / (1 + np.exp(-logits(vectors.mean(axis=0))))
    assert np.abs(of_windows.mean(axis=0) - of_mean).max() > 1e-4
    expected = of_mean if pooling == "embeddings" else of_windows.mean(axis=0)
    # In batches of two windows the last one is padded.
    found = tagger.predict_tags(clip, batch_size=2)
    assert found == pytest.approx(dict(zip(tagger.labels, expected, strict=True)), abs=1e-5)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_classes_sum_to_one_and_unnamed_labels_have_numbers(encoder):
    classifier = Tagger(encoder, num_labels=4, activation="softmax")
    found = classifier.predict_tags(np.random.default_rng(3).normal(size=500))
    assert set(found) == {"0", "1", "2", "3"}
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "audio, message",
    [
        (np.zeros(242), "at least 243 samples"),
        (np.zeros((243, 2)), "mono"),
        (np.zeros(243, "int16"), "floats"),
        ("song.mp3", "load_audio"),
        (np.full(243, np.nan), "finite"),
    ],
)
def test_clips_that_cannot_be_scored(encoder, audio, message):
    with pytest.raises(ValueError, match=message):
        Tagger(encoder, num_labels=2).predict_tags(audio)


def test_damaged_weights_give_no_scores(encoder):
    tagger = Tagger(encoder, num_labels=2)
    tagger.head.set_weights([np.full(weight.shape, np.nan) for weight in tagger.head.weights])
    with pytest.raises(UserError, match="weights are damaged"):
        tagger.predict_tags(np.zeros(243))


def test_the_activation_is_kept(encoder, tmp_path):
    classifier = Tagger(encoder, num_labels=4, activation="softmax")
    classifier.save(tmp_path / "classifier.keras")
    assert keras.models.load_model(tmp_path / "classifier.keras").activation == "softmax"
    with pytest.raises(ValueError, match="Received: activation=tanh"):
        Tagger(encoder, num_labels=4, activation="tanh")


def test_labels_differ():
    encoder = TUNe(1, 1, base_filters=2, tail_filters=[4], input_samples=243)
    with pytest.raises(ValueError, match="Received: 'calm' more than once"):
        Tagger(encoder, labels=["calm", "tense", "calm"])


def test_a_tagger_of_values(encoder, tmp_path):
    """Its logits are standardized values, its scores the values themselves."""
    tagger = Tagger(
        encoder,
        labels=["tempo", "valence"],
        hidden_units=4,
        activation="linear",
        pooling="scores",
        scale=[30.0, 0.5],
        offset=[120.0, 2.0],
    )
    window = encoder.input_shape[1]
    audio = np.random.default_rng(0).normal(0, 0.1, 2 * window + 5).astype("float32")
    logits = to_numpy(tagger(audio[: 2 * window].reshape(2, window, 1))).mean(axis=0)
    expected = {"tempo": 30 * logits[0] + 120, "valence": 0.5 * logits[1] + 2}
    assert tagger.predict_tags(audio) == pytest.approx(expected, rel=1e-5)
    tagger.save(tmp_path / "tagger.keras")
    again = keras.models.load_model(tmp_path / "tagger.keras")
    assert again.predict_tags(audio) == pytest.approx(expected, rel=1e-5)
    # Exported models have no separate scales.
    folded = fold_batch_norm(again)
    assert folded.scale is folded.offset is None
    assert folded.predict_tags(audio) == pytest.approx(expected, rel=1e-4)
    for arguments in ({"scale": [1.0]}, {"activation": "sigmoid", "offset": [0.0, 1.0]}):
        with pytest.raises(ValueError, match="must be a number for each label"):
            Tagger(encoder, labels=["a", "b"], **{"activation": "linear", **arguments})
