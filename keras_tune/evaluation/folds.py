"""Splits that keep the clips of a group together: cross-validation for sets that are small."""

import numpy as np

from keras_tune.errors import UserError


def group_folds(strata, groups, folds, seed=0, inner_folds=5):
    """Cut clips into folds that are alike in their classes and share no group.

    Each fold is the test once. Of the remaining clips a part is set aside in the same manner as
    valid; what is chosen is chosen on it, so that no choice sees the outer fold.

    Args:
        strata: Array (clips,), the class of each clip, in which the folds are to be alike.
        groups: Array (clips,), what must not be in two of train, valid and test; an artist for one.
        folds: Integer, the number of outer folds.
        seed: Integer from which the folds are drawn. Defaults to 0.
        inner_folds: Integer; one in so many of the remaining clips is valid. Defaults to 5.

    Returns:
        List of `folds` triples of rows: train, valid and test.

    Raises:
        UserError: There are fewer groups than folds.

    Example:

    ```python
    for train, valid, test in group_folds(genres, artists, folds=5):
        ...
    ```
    """
    strata, groups = np.asarray(strata), np.asarray(groups)
    number = len(set(groups.tolist()))
    if number < folds + 1 or folds < 2:
        raise UserError(
            f"--folds {folds}: between 2 and one less than the {number} groups are possible"
        )
    cuts = []
    for rest, test in _cut(strata, groups, folds, seed):
        inner = min(inner_folds, len(set(groups[rest].tolist())))
        train, valid = next(iter(_cut(strata[rest], groups[rest], inner, seed)))
        cuts.append((rest[train], rest[valid], test))
    return cuts


def _cut(strata, groups, folds, seed):
    import warnings

    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A class with fewer clips than folds cannot be in all of them, which is no error here.
        warnings.filterwarnings("ignore", "The least populated class")
        return list(splitter.split(np.zeros(len(strata)), strata, groups))
