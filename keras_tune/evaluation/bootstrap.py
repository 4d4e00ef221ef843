"""How far a score could have come out otherwise on other test clips."""

import numpy as np


def bootstrap_interval(score, *arrays, resamples=1000, level=0.95, seed=0):
    """Percentile interval of a score over resampled test clips.

    Args:
        score: Function of the arrays that gives a float.
        *arrays: Arrays with the same number of rows, one row a clip.
        resamples: Integer, how many times clips are drawn with replacement. Defaults to 1,000.
        level: Float, the share of resampled scores inside the interval. Defaults to 0.95.
        seed: Integer. Defaults to 0.

    Returns:
        A pair of floats, the lower and the upper end.

    Source: Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.

    Example:

    ```python
    bootstrap_interval(sklearn.metrics.accuracy_score, truth, predicted)  # (0.41, 0.63)
    ```
    """
    generator = np.random.default_rng(seed)
    count = len(arrays[0])
    scores = []
    for _ in range(resamples):
        rows = generator.integers(0, count, count)
        scores.append(score(*(array[rows] for array in arrays)))
    lower, upper = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(lower), float(upper)
