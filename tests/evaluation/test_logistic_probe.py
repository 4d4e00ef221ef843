import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score

from keras_tune.errors import UserError
from keras_tune.evaluation import ClipEmbeddings, bootstrap_interval, logistic_probe


def embeddings(count, seed, separation, labels=("rock", "jazz", "folk")):
    generator = np.random.default_rng(seed)
    names = [labels[k % len(labels)] for k in range(count)]
    centres = np.random.default_rng(99).normal(size=(len(labels), 8)) * separation
    vectors = np.stack([centres[labels.index(n)] for n in names]) + generator.normal(
        size=(count, 8)
    )
    return ClipEmbeddings(
        ids=[str(k) for k in range(count)],
        vectors=vectors.astype("float32"),
        labels=[{"genre": name} for name in names],
        skipped=[],
    )


def test_separable_classes_are_found_and_noise_is_not():
    clear = logistic_probe(*(embeddings(90, seed, 3.0) for seed in (1, 2, 3)), "genre")
    assert clear.score > 0.95
    assert clear.classes == ["folk", "jazz", "rock"]
    assert clear.chance == pytest.approx(1 / 3, abs=0.01)
    low, high = clear.interval
    assert low <= clear.score <= high
    noise = logistic_probe(*(embeddings(300, seed, 0.0) for seed in (1, 2, 3)), "genre")
    assert 0.2 < noise.score < 0.47


def test_the_choice_never_sees_the_test_split():
    train, valid = embeddings(60, 1, 0.7), embeddings(60, 2, 0.7)
    outcomes = [logistic_probe(train, valid, embeddings(60, s, 0.7), "genre") for s in (3, 4)]
    assert outcomes[0].configuration == outcomes[1].configuration
    assert outcomes[0].valid_score == outcomes[1].valid_score


def test_clips_without_the_label_are_left_out():
    train, valid, test = (embeddings(60, seed, 3.0) for seed in (1, 2, 3))
    whole = logistic_probe(train, valid, test, "genre")
    unlabelled = embeddings(30, 7, 50.0)
    unlabelled.labels[:] = [{"genre": None}] * 30
    mixed = ClipEmbeddings(
        train.ids + unlabelled.ids,
        np.concatenate([train.vectors, unlabelled.vectors]),
        train.labels + unlabelled.labels,
        [],
    )
    assert logistic_probe(mixed, valid, test, "genre") == whole


def test_targets_that_do_not_do():
    splits = [embeddings(12, seed, 1.0) for seed in (1, 2, 3)]
    with pytest.raises(UserError, match="--target mood: no clip of the train split"):
        logistic_probe(*splits, "mood")
    splits[0].labels[:] = [{"genre": 0.5}] * 12
    with pytest.raises(UserError, match="numbers"):
        logistic_probe(*splits, "genre")
    splits[0].labels[:] = [{"genre": "rock"}] * 12
    with pytest.raises(UserError, match="fewer than two classes"):
        logistic_probe(*splits, "genre")


def test_bootstrap_interval_of_an_accuracy_is_near_the_binomial_one():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, 200)
    predicted = np.where(generator.random(200) < 0.7, truth, 1 - truth)
    low, high = bootstrap_interval(accuracy_score, truth, predicted, resamples=4000)
    right = int((truth == predicted).sum())
    expected = stats.binomtest(right, 200).proportion_ci(0.95, method="wilson")
    assert low == pytest.approx(expected.low, abs=0.015)
    assert high == pytest.approx(expected.high, abs=0.015)
