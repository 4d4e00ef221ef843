"""How far a score could have come out otherwise on other test clips."""

import numpy as np


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
