"""From representations to a score with an interval: fit, predict, score, resample."""

import dataclasses
import hashlib
import json

import numpy as np

from keras_tune.errors import UserError
from keras_tune.evaluation.metrics import draw_groups, percentiles
from keras_tune.evaluation.protocols import (
    DETERMINISTIC,
    combine_songs,
    fit_probe,
    groups_of,
    songs_of,
)


@dataclasses.dataclass(frozen=True)
class Fold:
    """One division of clips, and the seed of the probe that is trained on it.

    Args:
        train: Rows of the clips to train on.
        valid: Rows of the clips to choose on.
        test: Rows of the clips that are scored once.
        seed: Integer.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    seed: int = 0


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
        ValueError: There are not more groups than folds, or fewer than 2 folds.

    Example:

    ```python
    for train, valid, test in group_folds(genres, artists, folds=5):
        ...
    ```
    """
    strata, groups = np.asarray(strata), np.asarray(groups)
    number = len(set(groups.tolist()))
    if number < folds + 1 or folds < 2:
        raise ValueError(
            f"`folds` must be at least 2 and less than the number of groups, which is {number}. "
            f"Received: folds={folds}"
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


def folds_fingerprint(ids, folds):
    """Hash which clips are trained on, chosen on and tested on, in all folds.

    Args:
        ids: List of strings, the clips' ids.
        folds: List of `Fold`.

    Returns:
        String of 64 hexadecimal digits.

    Example:

    ```python
    folds_fingerprint(clips.ids, folds)
    ```
    """
    digest = hashlib.sha256()
    for fold in folds:
        for rows in (fold.train, fold.valid, fold.test):
            digest.update(json.dumps(sorted(ids[row] for row in rows)).encode())
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Run:
    """What came of one fold.

    Args:
        probe: `FittedProbe`.
        targets: Targets of the test clips (or songs) with labels.
        predictions: Array (test clips, outputs).
        groups: Array (test clips,), what the bootstrap draws as a whole.
        seed: Integer.
    """

    probe: object
    targets: np.ndarray
    predictions: np.ndarray
    groups: np.ndarray
    seed: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The judgement of one representation by one protocol.

    Args:
        task: `Task`.
        runs: List of `Run`.
    """

    task: object
    runs: list

    def scores(self):
        """Every metric, averaged over the runs: a dict of floats, the primary one first."""
        found = [self.task.scores(run.targets, run.predictions) for run in self.runs]
        return {metric: float(np.nanmean([run[metric] for run in found])) for metric in found[0]}

    def confusion(self):
        """How often each class was given for each class, in clips (or songs).

        Runs of one seed add up, since folds test different clips; what stands in the matrix is the
        mean over the seeds, so that a row adds up to the clips of its class.

        Returns:
            A dict with `classes`, `counts` (rows: true classes), and `runs` and `seeds`, the
            numbers of those that it is the mean over.
        """
        from sklearn.metrics import confusion_matrix

        classes = self.task.outputs
        seeds = len({run.seed for run in self.runs})
        total = sum(
            confusion_matrix(
                run.targets, run.predictions.argmax(axis=-1), labels=range(len(classes))
            )
            for run in self.runs
        )
        return {
            "classes": list(classes),
            "counts": (total / seeds).tolist(),
            "runs": len(self.runs),
            "seeds": seeds,
        }

    def samples(self, resamples=1000, seed=0):
        """The metrics over resampled test clips: a dict from metric to an array (resamples,).

        Groups are drawn with replacement, the same ones for all runs, and the mean over the runs is
        scored anew. Two outcomes on the same clips are resampled alike, so that their samples can
        be compared one by one.
        """
        names = np.unique(np.concatenate([run.groups for run in self.runs]))
        places = [np.searchsorted(names, run.groups) for run in self.runs]
        samples = {metric: [] for metric in self.task.metrics}
        for draws in draw_groups(len(names), resamples, seed):
            found = []
            for run, place in zip(self.runs, places, strict=True):
                rows = np.repeat(np.arange(len(place)), draws[place])
                if len(rows):
                    found.append(self.task.quick_scores(run.targets[rows], run.predictions[rows]))
            for metric, values in samples.items():
                values.append(np.nanmean([scores[metric] for scores in found]))
        return {metric: np.array(values) for metric, values in samples.items()}

    def report(self, samples):
        """A dict for the report: scores, intervals, seeds, and what was chosen on valid.

        Args:
            samples: What `samples` gave.
        """
        scores = self.scores()
        intervals = {metric: list(percentiles(values)) for metric, values in samples.items()}
        runs = [self.task.scores(run.targets, run.predictions) for run in self.runs]
        unseen = [run.probe.cross_fitted_score for run in self.runs]
        unseen = [score for score in unseen if np.isfinite(score)]
        return {
            "metric": self.task.primary,
            "score": scores[self.task.primary],
            "interval_95": intervals[self.task.primary],
            **scores,
            "intervals_95": intervals,
            "scores_of_runs": [run[self.task.primary] for run in runs],
            "seeds": sorted({run.seed for run in self.runs}),
            "valid_score": float(np.mean([run.probe.valid_score for run in self.runs])),
            "candidates": max(1, *(len(run.probe.alternatives) for run in self.runs)),
            "cross_fitted_score": float(np.mean(unseen)) if unseen else None,
            **({"confusion": self.confusion()} if self.task.loss == "softmax" else {}),
            "chosen_on_valid": [
                {**run.probe.configuration, "valid_score": run.probe.valid_score}
                for run in self.runs
            ],
        }


def evaluate(protocol, clips, folds, task, group=None, progress=None):
    """Train, choose and score once, for each fold.

    Args:
        protocol: One of `keras_tune.evaluation.PROTOCOLS`.
        clips: `ClipEmbeddings` of all splits.
        folds: List of `Fold`, rows of `clips`. Of a protocol without randomness, folds that differ
            in nothing but the seed count once.
        task: `Task`.
        group: Column whose values the bootstrap draws as a whole. Defaults to `song` where the set
            has it, else to single clips.
        progress: Function of the number of folds just finished, for a progress bar. Defaults to
            None.

    Returns:
        `Outcome`.

    Raises:
        UserError: A split lacks labels.

    Example:

    ```python
    outcome = evaluate("linear", clips, [Fold(train, valid, test)], task)
    outcome.scores()["accuracy"]
    ```
    """
    runs, seen = [], set()
    for fold in folds:
        if protocol in DETERMINISTIC:
            key = (fold.train.tobytes(), fold.valid.tobytes(), fold.test.tobytes())
            if key in seen:
                continue
            seen.add(key)
        probe = fit_probe(protocol, clips.take(fold.train), clips.take(fold.valid), task, fold.seed)
        runs.append(predict_test(probe, clips.take(fold.test), task, group, fold.seed))
        if progress is not None:
            progress(1)
    return Outcome(task, runs)


def predict_test(probe, test, task, group=None, seed=0):
    """Predict the test clips that have labels.

    Args:
        probe: `FittedProbe`.
        test: `ClipEmbeddings`.
        task: `Task`.
        group: As in `judge`.
        seed: Integer, the probe's. Defaults to 0.

    Returns:
        `Run`.

    Raises:
        UserError: No clip has labels.
    """
    rows, targets = task.encode(test.labels)
    if not len(rows):
        raise UserError(f"no clip of the test split has {task.labels_in_words()}")
    test = test.take(rows)
    songs = songs_of(test.labels)
    predictions = probe.predict(test)
    if group:
        groups = groups_of(test.labels, group)
    else:
        groups = np.array(test.ids) if songs is None else songs
    if task.combines_songs and songs is not None:
        _, first = np.unique(songs, return_index=True)
        groups = groups[first]
        targets, predictions = combine_songs(test.labels, targets, predictions)
    return Run(probe, targets, predictions, groups, seed)
