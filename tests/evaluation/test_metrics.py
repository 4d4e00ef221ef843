import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, average_precision_score, roc_auc_score

from keras_tune.evaluation import bootstrap_interval
from keras_tune.evaluation.metrics import average_precision, roc_auc

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize("values", [3, 10, None])
def test_all_at_once_as_scikit_learn_one_by_one(values):
    generator = np.random.default_rng(0)
    truth = generator.random((57, 4)) < [0.1, 0.5, 0.9, 0.3]
    scores = generator.random((3, 57, 4)) + 0.3 * truth
    if values:
        # Few different values: most clips share theirs with others.
        scores = np.round(scores * values)
    auc, precision = roc_auc(truth, scores), average_precision(truth, scores)
    assert auc.shape == precision.shape == (3, 4)
    for probe in range(3):
        for tag in range(4):
            columns = truth[:, tag], scores[probe, :, tag]
            assert auc[probe, tag] == pytest.approx(roc_auc_score(*columns), abs=1e-12)
            assert precision[probe, tag] == pytest.approx(
                average_precision_score(*columns), abs=1e-12
            )


def test_a_tag_that_nobody_has_has_no_score():
    truth = np.array([[0, 1], [0, 1], [0, 1]], bool)
    scores = np.array([[0.1, 0.2], [0.3, 0.1], [0.2, 0.2]])
    assert np.isnan(roc_auc(truth, scores)).all()
    assert np.isnan(average_precision(truth, scores)[0])


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
