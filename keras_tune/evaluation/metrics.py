"""Scores of many probes at once, and the bootstrap intervals of scores."""

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


def bootstrap_interval(score, *arrays, groups=None, resamples=1000, level=0.95, seed=0):
    """Percentile interval of a score over resampled test clips, or groups of them.

    Clips of one song or artist resemble each other: where such groups are known, whole groups are
    drawn, since drawing clips would make the interval too narrow.

    Args:
        score: Function of the arrays that gives a float.
        *arrays: Arrays with the same number of rows, one row a clip.
        groups: Array of the clips' groups. Defaults to None: each clip is one of its own.
        resamples: Integer, how many times groups are drawn with replacement. Defaults to 1,000.
        level: Float, the share of resampled scores inside the interval. Defaults to 0.95.
        seed: Integer. Defaults to 0.

    Returns:
        A pair of floats, the lower and the upper end.

    Source: Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13; Field &
    Welsh, "Bootstrapping clustered data" (2007) for the groups.

    Example:

    ```python
    bootstrap_interval(sklearn.metrics.accuracy_score, truth, predicted)  # (0.41, 0.63)
    ```
    """
    count = len(arrays[0])
    groups = np.arange(count) if groups is None else np.asarray(groups)
    _, members = np.unique(groups, return_inverse=True)
    scores = []
    for draws in draw_groups(members.max() + 1, resamples, seed):
        rows = np.repeat(np.arange(count), draws[members])
        scores.append(score(*(array[rows] for array in arrays)))
    return percentiles(scores, level)


def draw_groups(count, resamples, seed=0):
    """How often each of `count` groups is drawn, an array (count,) for each resample."""
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(generator.integers(0, count, count), minlength=count)


def percentiles(scores, level=0.95):
    """The interval that holds the share `level` of the scores; those that are NaN do not count."""
    lower, upper = np.nanquantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(lower), float(upper)
