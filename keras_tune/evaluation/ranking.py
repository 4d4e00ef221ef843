"""Area under the ROC curve and average precision of many probes at once.

Reported scores are scikit-learn's. Early stopping and bootstrap need the same numbers hundreds of
thousands of times, for which a call a tag and a probe would take longer than the training; these
functions compute them for all probes and tags together, ties included.
"""

import numpy as np


def roc_auc(truth, scores):
    """Area under the ROC curve, from the ranks of the positives.

    Args:
        truth: Boolean array (clips, tags).
        scores: Array (..., clips, tags).

    Returns:
        Array (..., tags), NaN for tags without positives or without negatives.

    Source: Hanley & McNeil, "The meaning and use of the area under a receiver operating
    characteristic (ROC) curve" (Radiology 1982).

    Example:

    ```python
    roc_auc(np.array([[0], [1]], bool), np.array([[0.2], [0.7]]))  # [1.0]
    ```
    """
    from scipy.stats import rankdata

    truth = np.asarray(truth, bool)
    positives = truth.sum(axis=0)
    negatives = len(truth) - positives
    ranks = rankdata(scores, axis=-2)
    wins = np.sum(ranks * truth, axis=-2) - positives * (positives + 1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return wins / (positives * negatives)


def average_precision(truth, scores):
    """Average precision: the mean, over the positives, of the precision at each one's score.

    Args:
        truth: Boolean array (clips, tags).
        scores: Array (..., clips, tags).

    Returns:
        Array (..., tags), NaN for tags without positives.

    Example:

    ```python
    average_precision(np.array([[0], [1]], bool), np.array([[0.7], [0.2]]))  # [0.5]
    ```
    """
    truth = np.asarray(truth, bool)
    scores = np.asarray(scores)
    count = len(truth)
    order = np.argsort(-scores, axis=-2, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=-2)
    hits = np.take_along_axis(np.broadcast_to(truth, scores.shape), order, axis=-2)
    places = np.arange(count)[:, None]
    precision = np.cumsum(hits, axis=-2) / (places + 1)
    # Clips of one score come in together: the precision is that at the end of their run.
    ends = np.ones(scores.shape, bool)
    ends[..., :-1, :] = ranked[..., 1:, :] != ranked[..., :-1, :]
    end = np.where(ends, places, count)
    end = np.flip(np.minimum.accumulate(np.flip(end, -2), axis=-2), -2)
    precision = np.take_along_axis(precision, end, axis=-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sum(precision * hits, axis=-2) / truth.sum(axis=0)
