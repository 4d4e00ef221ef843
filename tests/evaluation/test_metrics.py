import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

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
