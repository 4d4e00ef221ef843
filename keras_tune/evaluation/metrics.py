"""ROC-AUC and average precision of many probes at once, and bootstrap intervals of scores.

The reported scores are scikit-learn's. Early stopping and the bootstrap need the same numbers many
thousand times, where a call for each tag and probe would take longer than the training. The
functions here compute them for all probes and tags together, ties included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def roc_auc(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
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
    from keras_tune.evaluation.metrics import roc_auc

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


def average_precision(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Average precision: the mean over the positives of the precision at the score of each.

    Args:
        truth: Boolean array (clips, tags).
        scores: Array (..., clips, tags).

    Returns:
        Array (..., tags), NaN for tags without positives.

    Example:

    ```python
    from keras_tune.evaluation.metrics import average_precision

    average_precision(np.array([[0], [1]], bool), np.array([[0.7], [0.2]]))  # [0.5]
    ```
    """
    truth = np.asarray(truth, bool)
    scores = np.asarray(scores)
    count = len(truth)
    order = np.argsort(-scores, axis=-2, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=-2)
    hits = np.take_along_axis(np.broadcast_to(truth, scores.shape), order, axis=-2)
    ranks = np.arange(count)[:, None]
    precision = np.cumsum(hits, axis=-2) / (ranks + 1)
    # Clips with equal scores are retrieved together: the precision is that after the last of them.
    ends = np.ones(scores.shape, bool)
    ends[..., :-1, :] = ranked[..., 1:, :] != ranked[..., :-1, :]
    end = np.where(ends, ranks, count)
    end = np.flip(np.minimum.accumulate(np.flip(end, -2), axis=-2), -2)
    precision = np.take_along_axis(precision, end, axis=-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sum(precision * hits, axis=-2) / truth.sum(axis=0)


def draw_groups(count: int, resamples: int, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each of `count` groups is drawn: an array (count,) for each resample."""
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(generator.integers(0, count, count), minlength=count)


def percentiles(scores: Sequence[float] | np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The central interval with the fraction `level` of the scores; NaN is ignored."""
    lower, upper = np.nanquantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(lower), float(upper)
