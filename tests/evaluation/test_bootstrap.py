import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score

from keras_tune.evaluation import bootstrap_interval


def answers(count, seed=0):
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 2, count)
    return truth, np.where(generator.random(count) < 0.7, truth, 1 - truth)


def test_the_interval_of_an_accuracy_is_near_the_binomial_one():
    truth, predicted = answers(200)
    low, high = bootstrap_interval(accuracy_score, truth, predicted, resamples=4000)
    right = int((truth == predicted).sum())
    expected = stats.binomtest(right, 200).proportion_ci(0.95, method="wilson")
    assert low == pytest.approx(expected.low, abs=0.015)
    assert high == pytest.approx(expected.high, abs=0.015)


def test_copies_of_a_song_do_not_narrow_the_interval():
    truth, predicted = answers(50)
    songs = np.arange(50)
    single = bootstrap_interval(accuracy_score, truth, predicted, resamples=2000)
    copies = [np.repeat(values, 10) for values in (truth, predicted, songs)]
    grouped = bootstrap_interval(
        accuracy_score, copies[0], copies[1], groups=copies[2], resamples=2000
    )
    ungrouped = bootstrap_interval(accuracy_score, copies[0], copies[1], resamples=2000)
    assert grouped == pytest.approx(single, abs=0.02)
    assert ungrouped[1] - ungrouped[0] < 0.5 * (grouped[1] - grouped[0])
