"""From representations to a score with an interval: split, fit, predict, score, resample."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tune.errors import UserError
from keras_tune.evaluation.protocols import (
    DETERMINISTIC,
    UNDEFINED,
    combine_songs,
    fit_probe,
    groups_of,
    mean_of_known,
    songs_of,
)

if TYPE_CHECKING:
    from keras_tune.evaluation.embeddings import ClipEmbeddings
    from keras_tune.evaluation.protocols import FittedProbe
    from keras_tune.evaluation.tasks import Task


@dataclasses.dataclass(frozen=True)
class Fold:
    """One split of the clips, and the seed of the probe that is trained on it.

    Args:
        train: Integer array, rows of the clips to train on.
        valid: Integer array, rows of the clips to choose on.
        test: Integer array, rows of the clips that are scored, once.
        seed: Integer. Defaults to 0.

    Example:

    ```python
    from keras_tune.evaluation import Fold

    Fold(*np.split(np.arange(60), [30, 45]))
    ```
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    seed: int = 0


def group_folds(
    strata: Sequence[Any] | np.ndarray,
    groups: Sequence[Any] | np.ndarray,
    folds: int,
    seed: int = 0,
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Split clips into folds with similar classes that share no group.

    Each fold is the test set once. A fifth of the remaining clips, drawn in the same way, is the
    validation set. All choices are made on it, so no choice sees the test fold.

    Args:
        strata: Array (clips,), the class of each clip. The folds have similar shares of each.
        groups: Array (clips,), the group of each clip, such as its artist. No group is in two of
            train, valid and test.
        folds: Integer, the number of outer folds.
        seed: Integer, the seed of the folds. Defaults to 0.

    Returns:
        List of tuples of rows (train, valid, test), one for each fold.

    Raises:
        ValueError: There are not more groups than folds, fewer than 2 folds, or only one group
            beside a fold.

    Example:

    ```python
    from keras_tune.evaluation import group_folds

    genres, artists = np.arange(60) % 3, np.arange(60) // 4
    for train, valid, test in group_folds(genres, artists, folds=5):
        assert not set(artists[train]) & set(artists[test])
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
        inner = min(5, len(set(groups[rest].tolist())))
        if inner < 2:
            raise ValueError(
                "`folds` must leave two groups beside each fold, one to train and one to choose "
                f"on; use more folds. Received: folds={folds}"
            )
        train, valid = next(iter(_cut(strata[rest], groups[rest], inner, seed)))
        cuts.append((rest[train], rest[valid], test))
    return cuts


def _cut(strata, groups, folds, seed):
    import warnings

    from sklearn.model_selection import StratifiedGroupKFold

    if folds > np.unique(strata, return_counts=True)[1].max():
        # No class can be in all folds, so there is nothing to balance.
        strata = np.zeros(len(strata), int)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A class with fewer clips than folds cannot be in all of them. That is not an error here.
        warnings.filterwarnings("ignore", "The least populated class")
        return list(splitter.split(np.zeros(len(strata)), strata, groups))


def folds_fingerprint(ids: Sequence[str], folds: Sequence[Fold]) -> str:
    """Hash the ids of the train, valid and test clips of all folds to 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for fold in folds:
        for rows in (fold.train, fold.valid, fold.test):
            digest.update(json.dumps(sorted(ids[row] for row in rows)).encode())
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Run:
    """The result of one fold.

    Args:
        probe: `FittedProbe`.
        targets: Array (test clips, ...), the targets of the test clips (or songs) with labels.
        predictions: Array (test clips, outputs).
        groups: Array (test clips,), the groups that the bootstrap draws as a whole.
        seed: Integer, the seed of the probe.
    """

    probe: FittedProbe
    targets: np.ndarray
    predictions: np.ndarray
    groups: np.ndarray
    seed: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The results of one representation under one protocol.

    Args:
        task: `Task`.
        runs: List of `Run`, one for each fold.

    Example:

    ```python
    from keras_tune.data import LabelColumn
    from keras_tune.evaluation import ClipEmbeddings, Fold, evaluate, make_task

    generator = np.random.default_rng(0)
    labels = [{"genre": ("jazz", "rock")[k % 2]} for k in range(60)]
    vectors = generator.normal(size=(60, 8)) + np.arange(60)[:, None] % 2
    clips = ClipEmbeddings([str(k) for k in range(60)], vectors, labels)
    task = make_task([LabelColumn("genre", "category", ("jazz", "rock"))], labels)
    outcome = evaluate("knn", clips, [Fold(*np.split(np.arange(60), [30, 45]))], task)
    outcome.report(outcome.samples(resamples=100))["interval_95"]
    ```
    """

    task: Task
    runs: list[Run]

    def scores(self) -> dict[str, float]:
        """All metrics, averaged over the runs: a dict of floats, the primary metric first."""
        found = [self.task.scores(run.targets, run.predictions) for run in self.runs]
        return {metric: mean_of_known([run[metric] for run in found]) for metric in found[0]}

    def chance(self) -> float:
        """The primary metric of a constant prediction, the mean of the targets.

        For classification it is the share of the most frequent class.
        """
        found = []
        for run in self.runs:
            mean = self.task.matrix(run.targets).mean(axis=0, keepdims=True)
            constant = np.repeat(mean, len(run.targets), axis=0)
            found.append(self.task.scores(run.targets, constant)[self.task.primary])
        return mean_of_known(found)

    def confusion(self) -> dict[str, Any]:
        """Confusion matrix in clips (or songs).

        Runs with the same seed are added, since their folds test different clips. The matrix is the
        mean over seeds, so each row adds up to the number of clips of its class.

        Returns:
            A dict with `classes`, `counts` (one row for each true class), and `runs` and `seeds`,
            the numbers of runs and seeds.
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

    def samples(self, resamples: int = 1000, seed: int = 0) -> dict[str, np.ndarray]:
        """The metrics of resampled test clips: a dict from metric to an array (resamples,).

        Groups are drawn with replacement, the same ones for all runs, and the scores are averaged
        over the runs. Two outcomes on the same clips use the same resamples, so their samples can
        be compared pair by pair.
        """
        names = np.unique(np.concatenate([run.groups for run in self.runs]))
        members = [np.searchsorted(names, run.groups) for run in self.runs]
        samples = {metric: [] for metric in self.task.metrics}
        generator = np.random.default_rng(seed)
        for _ in range(resamples):
            # How often each group is drawn.
            draws = np.bincount(generator.integers(0, len(names), len(names)), minlength=len(names))
            found = []
            for run, groups in zip(self.runs, members, strict=True):
                rows = np.repeat(np.arange(len(groups)), draws[groups])
                if len(rows):
                    found.append(self.task.quick_scores(run.targets[rows], run.predictions[rows]))
            for metric, values in samples.items():
                values.append(mean_of_known([scores[metric] for scores in found]))
        return {metric: np.array(values) for metric, values in samples.items()}

    def report(self, samples: dict[str, np.ndarray]) -> dict[str, Any]:
        """A dict for the report: scores, intervals, seeds, and what was chosen on valid.

        Args:
            samples: The result of `samples`.

        Raises:
            UserError: The score is undefined, since all test clips have the same labels.
        """
        scores = self.scores()
        if not np.isfinite(scores[self.task.primary]):
            raise UserError(
                f"the {self.task.primary} is undefined, since all test clips have the same labels; "
                "cross-validate over folds, or split the set differently"
            )
        intervals = {metric: interval_95(values) for metric, values in samples.items()}
        runs = [self.task.scores(run.targets, run.predictions) for run in self.runs]
        unseen = [run.probe.cross_fitted_score for run in self.runs]
        unseen = [score for score in unseen if np.isfinite(score)]
        on_valid = [defined(run.probe.valid_score) for run in self.runs]
        known = [score for score in on_valid if score is not None]
        return {
            "metric": self.task.primary,
            "score": scores[self.task.primary],
            "interval_95": intervals[self.task.primary],
            **scores,
            "intervals_95": intervals,
            "scores_of_runs": [defined(run[self.task.primary]) for run in runs],
            "chance": self.chance(),
            "seeds": sorted({run.seed for run in self.runs}),
            "valid_score": float(np.mean(known)) if known else None,
            "candidates": max(1, *(len(run.probe.alternatives) for run in self.runs)),
            "cross_fitted_score": float(np.mean(unseen)) if unseen else None,
            **({"confusion": self.confusion()} if self.task.loss == "softmax" else {}),
            "chosen_on_valid": [
                {**run.probe.configuration, "valid_score": score}
                for run, score in zip(self.runs, on_valid, strict=True)
            ],
        }


def defined(score: float) -> float | None:
    """A score, or None where it is undefined, since all labels are the same."""
    return score if np.isfinite(score) and score > UNDEFINED else None


def interval_95(values: np.ndarray) -> list[float]:
    """The central interval with 95 % of the values, a list of two floats; NaN is ignored."""
    return np.nanquantile(values, [0.025, 0.975]).tolist()


def evaluate(
    protocol: str,
    clips: ClipEmbeddings,
    folds: Sequence[Fold],
    task: Task,
    group: str | None = None,
    progress: Callable[[int], object] | None = None,
) -> Outcome:
    """Train a probe, choose its settings on valid and score it on test, for each fold.

    Args:
        protocol: String, one of `keras_tune.evaluation.protocols.PROTOCOLS`.
        clips: `ClipEmbeddings` of all splits.
        folds: List of `Fold`, rows of `clips`. For a protocol without randomness, seeds with the
            same folds are evaluated once.
        task: `Task`.
        group: Label whose values the bootstrap draws as a whole. Defaults to `song` if the set has
            it, else to single clips.
        progress: Function called with the number of folds just finished, for a progress bar.
            Defaults to None.

    Returns:
        `Outcome`.

    Raises:
        ValueError: There is no such protocol.
        UserError: No clip of a split has the labels.

    Example:

    ```python
    from keras_tune.data import LabelColumn
    from keras_tune.evaluation import ClipEmbeddings, Fold, evaluate, make_task

    generator = np.random.default_rng(0)
    labels = [{"genre": ("jazz", "rock")[k % 2]} for k in range(60)]
    vectors = generator.normal(size=(60, 8)) + np.arange(60)[:, None] % 2
    clips = ClipEmbeddings([str(k) for k in range(60)], vectors, labels)
    task = make_task([LabelColumn("genre", "category", ("jazz", "rock"))], labels)
    fold = Fold(train=np.arange(30), valid=np.arange(30, 45), test=np.arange(45, 60))
    evaluate("logistic", clips, [fold], task).scores()["accuracy"]
    ```
    """
    runs, finished, repetitions = [], {}, set()
    for seed in dict.fromkeys(fold.seed for fold in folds):
        repetition = {_rows(fold): fold for fold in folds if fold.seed == seed}
        if protocol in DETERMINISTIC:
            if frozenset(repetition) in repetitions:
                continue
            repetitions.add(frozenset(repetition))
        for key, fold in repetition.items():
            # Two seeds may have a fold in common; each of them has all of its folds in the outcome.
            if protocol in DETERMINISTIC and key in finished:
                runs.append(dataclasses.replace(finished[key], seed=seed))
            else:
                parts = clips.take(fold.train), clips.take(fold.valid)
                probe = fit_probe(protocol, *parts, task, seed)
                runs.append(predict_test(probe, clips.take(fold.test), task, group, seed))
                finished[key] = runs[-1]
            if progress is not None:
                progress(1)
    return Outcome(task, runs)


def _rows(fold):
    """What tells a fold from others, whatever its seed."""
    return fold.train.tobytes(), fold.valid.tobytes(), fold.test.tobytes()


def predict_test(
    probe: FittedProbe, test: ClipEmbeddings, task: Task, group: str | None = None, seed: int = 0
) -> Run:
    """Predict the test clips that have labels; `group` is as in `evaluate`."""
    rows, targets = task.encode(test.labels)
    if not len(rows):
        raise UserError(f"no clip of the test split has {task.labels_in_words()}")
    test = test.take(rows)
    predictions = probe.predict(test)
    groups = groups_of(test.labels, group or "song", test.ids)
    songs = songs_of(test.labels, test.ids)
    if task.combines_songs and songs is not None:
        _, first = np.unique(songs, return_index=True)
        groups = groups[first]
        targets, predictions = combine_songs(test.labels, targets, predictions, test.ids)
    return Run(probe, targets, predictions, groups, seed)
