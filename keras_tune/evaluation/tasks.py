"""Tasks: what is predicted from a representation, and how predictions are scored.

A task turns labels into target arrays and predictions into scores. Its primary metric is used for
early stopping and to choose probes. A prediction is an array (clips, outputs): probabilities of
classes, probabilities of tags, or values. The scores are those of scikit-learn and mir_eval.

Early stopping and the bootstrap need them many thousand times; a call of scikit-learn for each tag
and probe would take longer than the training. So `quick_scores` computes them for many predictions
at once.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tune.errors import UserError

if TYPE_CHECKING:
    from keras_tune.data import LabelColumn


class Task:
    """The base class of the tasks.

    Attributes:
        kind: String, the name of the task.
        loss: The loss of a probe: "softmax", "sigmoid" or "mse".
        outputs: Names of the outputs.
        metrics: Names of the metrics that `quick_scores` returns, the primary one first.
        combines_songs: Whether the predictions of a song's clips are averaged and the song is
            scored. Otherwise each clip is scored against its own labels.
        threshold: Float, the smallest number for which a tag is present, or None if no column of
            numbers is turned into a tag.
    """

    kind: str
    loss: str
    metrics: tuple[str, ...] = ()
    combines_songs = False
    threshold: float | None = None

    def __init__(self, columns: Sequence[LabelColumn]):
        self.columns = list(columns)
        self.outputs = [column.name for column in columns]

    @property
    def primary(self) -> str:
        """The metric for early stopping and the choice of probes."""
        return self.metrics[0]

    def encode(self, labels: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        """Turn label dicts into the rows with known labels, and the targets of these rows."""
        values = np.array(
            [[_number(column, row.get(column.name)) for column in self.columns] for row in labels]
        ).reshape(len(labels), len(self.columns))
        rows = np.flatnonzero(np.isfinite(values).all(axis=1))
        return rows, self.targets(values[rows])

    def targets(self, values: np.ndarray) -> np.ndarray:
        """Turn an array (clips, columns) of numbers into targets; categories are their indices."""
        raise NotImplementedError

    def labels_in_words(self) -> str:
        """The labels that the task needs, for a message."""
        names = ", ".join(column.name for column in self.columns)
        return f"the label {names}" if len(self.columns) == 1 else f"all of the labels {names}"

    def matrix(self, targets: np.ndarray) -> np.ndarray:
        """The targets in the form of a prediction, as a float array (clips, outputs)."""
        return np.asarray(targets, "float32")

    def strata(self, targets: np.ndarray) -> np.ndarray:
        """A class for each clip; folds should have similar shares of each."""
        raise NotImplementedError

    def scores(self, targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        """All metrics of a prediction: a dict of floats, the primary metric first."""
        scores = self.quick_scores(targets, predictions)
        return {metric: float(score) for metric, score in scores.items()}

    def quick_scores(self, targets: np.ndarray, predictions: np.ndarray) -> dict[str, np.ndarray]:
        """The metrics of predictions (..., clips, outputs): a dict of arrays of shape (...)."""
        raise NotImplementedError


class Classification(Task):
    """One of several classes: accuracy and macro-averaged F1."""

    kind = "classification"
    loss = "softmax"
    metrics: tuple[str, ...] = ("accuracy",)

    def __init__(self, columns: Sequence[LabelColumn]):
        super().__init__(columns)
        if len(columns) != 1 or columns[0].kind != "category":
            raise ValueError(
                f"`columns` must be one column of categories for the task {self.kind}. "
                f"Received: columns={[column.name for column in columns]}"
            )
        self.outputs = list(columns[0].values)

    def targets(self, values: np.ndarray) -> np.ndarray:
        return values[:, 0].astype(int)

    def matrix(self, targets: np.ndarray) -> np.ndarray:
        return np.eye(len(self.outputs), dtype="float32")[targets]

    def strata(self, targets: np.ndarray) -> np.ndarray:
        return targets

    def scores(self, targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        from sklearn.metrics import f1_score

        named = predictions.argmax(axis=-1)
        f1 = f1_score(targets, named, average="macro", zero_division=0)
        return {**super().scores(targets, predictions), "macro_f1": float(f1)}

    def quick_scores(self, targets: np.ndarray, predictions: np.ndarray) -> dict[str, np.ndarray]:
        return {"accuracy": np.mean(predictions.argmax(axis=-1) == targets, axis=-1)}


class Key(Classification):
    """The key of a song: the MIREX weighted score, which gives partial credit for related keys.

    The key is a property of the whole song: if the set has a label `song`, the predictions of its
    clips are averaged (Castellon et al., jukemir, ISMIR 2021). Categories are keys in the notation
    of mir_eval, such as "Eb minor". Needs mir_eval.

    Source: MIREX audio key detection; Raffel et al., "mir_eval" (ISMIR 2014).
    """

    kind = "key"
    metrics = ("weighted_score", "accuracy")
    combines_songs = True

    def __init__(self, columns: Sequence[LabelColumn]):
        super().__init__(columns)
        try:
            import mir_eval
        except ImportError as error:
            raise UserError("the task key needs mir_eval: pip install 'keras_tune[key]'") from error
        try:
            # weights[reference, estimate]
            self.weights = np.array(
                [
                    [mir_eval.key.weighted_score(true, named) for named in self.outputs]
                    for true in self.outputs
                ]
            )
        except ValueError as error:
            raise UserError(f"label {columns[0].name}: {error}") from error

    def quick_scores(self, targets: np.ndarray, predictions: np.ndarray) -> dict[str, np.ndarray]:
        named = predictions.argmax(axis=-1)
        return {
            "weighted_score": self.weights[targets, named].mean(axis=-1),
            **super().quick_scores(targets, predictions),
        }


class Tagging(Task):
    """Any number of tags for each clip: macro-averaged ROC-AUC and average precision.

    A column of numbers is a tag, which is present if the number is at least `threshold`. A column
    of categories gives a tag for each category. Tags that all scored clips have, or none of them
    has, are not part of the averages.
    """

    kind = "tagging"
    loss = "sigmoid"
    metrics = ("mean_of_roc_auc_and_ap", "roc_auc", "average_precision")

    def __init__(self, columns: Sequence[LabelColumn], threshold: float = 0.5):
        super().__init__(columns)
        if any(column.kind == "number" for column in self.columns):
            self.threshold = threshold
        named = [
            (column.name, name)
            for column in columns
            for name in (column.values if column.kind == "category" else [column.name])
        ]
        counts = collections.Counter(name for _, name in named)
        self.outputs = [
            name if counts[name] == 1 or name == column else f"{column}: {name}"
            for column, name in named
        ]

    def targets(self, values: np.ndarray) -> np.ndarray:
        parts = []
        for index, column in enumerate(self.columns):
            if column.kind == "category":
                parts.append(values[:, index, None] == np.arange(len(column.values)))
            else:
                # Labels are stored in single precision, in which 0.7 is less than 0.7.
                numbers = values[:, index, None].astype("float32")
                parts.append(numbers >= np.float32(self.threshold))
        return np.concatenate(parts, axis=1)

    def strata(self, targets: np.ndarray) -> np.ndarray:
        # The rarest tag of a clip is the one that a fold is most likely to lack.
        counts = np.where(targets, targets.sum(axis=0), len(targets) + 1)
        return np.where(targets.any(axis=1), counts.argmin(axis=1), -1)

    def per_tag(self, targets: np.ndarray, predictions: np.ndarray) -> dict[str, dict[str, float]]:
        """ROC-AUC and average precision of each tag: a dict from tag to a dict of both."""
        auc, ap = roc_auc(targets, predictions), average_precision(targets, predictions)
        return {
            self.outputs[tag]: {"roc_auc": float(auc[tag]), "average_precision": float(ap[tag])}
            for tag in np.flatnonzero(_varied(targets))
        }

    def quick_scores(self, targets: np.ndarray, predictions: np.ndarray) -> dict[str, np.ndarray]:
        tags = _varied(targets)
        if not tags.any():
            undefined = np.full(predictions.shape[:-2], np.nan)
            return {metric: undefined for metric in self.metrics}
        auc = roc_auc(targets[:, tags], predictions[..., tags]).mean(axis=-1)
        ap = average_precision(targets[:, tags], predictions[..., tags]).mean(axis=-1)
        return {"mean_of_roc_auc_and_ap": (auc + ap) / 2, "roc_auc": auc, "average_precision": ap}


def roc_auc(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, from the ranks of the positives.

    Truth (clips, tags) and scores (..., clips, tags) give an array (..., tags), NaN for tags
    without positives or without negatives.

    Source: Hanley & McNeil, "The meaning and use of the area under a receiver operating
    characteristic (ROC) curve" (Radiology 1982).
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

    Truth (clips, tags) and scores (..., clips, tags) give an array (..., tags), NaN for tags
    without positives.
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


class Regression(Task):
    """One or several numbers for each clip: R² (coefficient of determination), averaged.

    It is NaN where all scored clips have the same number, as there is nothing to explain.
    """

    kind = "regression"
    loss = "mse"
    metrics = ("r2",)

    def __init__(self, columns: Sequence[LabelColumn]):
        super().__init__(columns)
        for column in columns:
            if column.kind != "number":
                raise ValueError(
                    "`columns` must be numbers for a regression. "
                    f"Received: columns={[column.name for column in columns]}"
                )

    def targets(self, values: np.ndarray) -> np.ndarray:
        return values

    def strata(self, targets: np.ndarray) -> np.ndarray:
        edges = np.quantile(targets[:, 0], [0.2, 0.4, 0.6, 0.8])
        return np.searchsorted(edges, targets[:, 0])

    def scores(self, targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        each = {
            f"r2_{name}": float(score)
            for name, score in zip(self.outputs, self._r2(targets, predictions), strict=True)
        }
        return {**super().scores(targets, predictions), **(each if len(each) > 1 else {})}

    def quick_scores(self, targets: np.ndarray, predictions: np.ndarray) -> dict[str, np.ndarray]:
        return {"r2": self._r2(targets, predictions).mean(axis=-1)}

    def _r2(self, targets, predictions):
        """R² of each value."""
        residual = np.square(predictions - targets).sum(axis=-2)
        total = np.square(targets - targets.mean(axis=0)).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(np.ptp(targets, axis=0) > 0, 1 - residual / total, np.nan)


TASKS = {task.kind: task for task in (Classification, Tagging, Key, Regression)}


def make_task(
    columns: Sequence[LabelColumn],
    labels: Sequence[dict[str, Any]],
    kind: str | None = None,
    threshold: float | None = None,
) -> Task:
    """Make the task that fits the labels, or the one that is asked for.

    One column of categories is a classification. Columns of numbers are tags if a threshold is
    given or all values are 0 or 1, and a regression otherwise. Several columns that include
    categories are tags; if they also include numbers other than 0 and 1, a threshold is needed.

    Args:
        columns: List of `LabelColumn`, the targets.
        labels: List of dicts from label name to value, of the clips to train on, or of all.
        kind: "classification", "tagging", "key" or "regression". Defaults to None: the task that
            fits.
        threshold: Float, the smallest number for which a tag is present. Defaults to None: 0.5 if
            all numbers are 0 or 1.

    Returns:
        `Task`.

    Raises:
        ValueError: There is no such task, the columns do not fit it or include one twice, or the
            threshold is missing or not allowed.
        UserError: The task is key, and mir_eval is not installed or cannot read the categories.

    Example:

    ```python
    from keras_tune.data import LabelColumn
    from keras_tune.evaluation import make_task

    labels = [{"genre": "jazz"}, {"genre": "rock"}]
    task = make_task([LabelColumn("genre", "category", ("jazz", "rock"))], labels)
    task.primary  # "accuracy"
    ```
    """
    check_different(columns)
    categories = [column.kind == "category" for column in columns]
    values = {
        row.get(column.name)
        for column in columns
        if column.kind == "number"
        for row in labels
        if np.isfinite(_number(column, row.get(column.name)))
    }
    binary = values <= {0.0, 1.0}
    # Without any value, nothing says that numbers are tags.
    tags = binary and (bool(values) or all(categories))
    if kind is None:
        if threshold is not None or (any(categories) and len(columns) > 1):
            kind = "tagging"
        elif all(categories):
            kind = "classification"
        else:
            kind = "tagging" if tags else "regression"
    if kind not in TASKS:
        raise ValueError(f"`kind` must be one of {', '.join(TASKS)}. Received: kind={kind}")
    if kind == "tagging":
        if threshold is None and not binary:
            names = ", ".join(column.name for column in columns if column.kind == "number")
            raise ValueError(
                f"`threshold` must be given, as {names} has numbers other than 0 and 1: a tag is "
                "present where its number is at least the threshold. Received: threshold=None"
            )
        return Tagging(columns, 0.5 if threshold is None else threshold)
    if threshold is not None:
        raise ValueError(
            f"`threshold` must not be given for the task {kind}; only tagging has one. "
            f"Received: threshold={threshold}"
        )
    return TASKS[kind](columns)


def check_different(columns: Sequence[LabelColumn]) -> None:
    """Raise a `ValueError` if a column is given twice, since its scores would count twice."""
    names = [column.name for column in columns]
    if len(set(names)) < len(names):
        raise ValueError(f"`columns` must not name a label twice. Received: columns={names}")


def _number(column, value):
    if value is None:
        return np.nan
    return column.values.index(value) if column.kind == "category" else value


def _varied(targets):
    return targets.any(axis=0) & ~targets.all(axis=0)
