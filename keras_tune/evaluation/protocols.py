"""The protocols for evaluating a frozen representation.

Each takes the clips of train and valid and returns a probe that predicts. None of them gets the
clips of test: all choices are made on valid.

| protocol | probe | chosen on valid |
|---|---|---|
| `linear` | CLMR's linear evaluation: trained on one random crop of each clip; on test, predictions are averaged over the windows of a clip | linear or one hidden layer |
| `grid` | jukemir's probes on the mean over windows | one of 216 configurations |
| `logistic` | logistic regression on standardized features (ridge regression for values) | its regularization |
| `knn` | the mean of the targets of the nearest clips, by cosine distance | number of neighbours, standardization |
"""  # noqa: E501

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tune.errors import UserError
from keras_tune.evaluation.probe_stack import ProbeConfiguration, activate
from keras_tune.evaluation.probe_training import Schedule, train_probes

# The score on valid if all labels are the same, so that no probe is better than another.
UNDEFINED = -1e9

if TYPE_CHECKING:
    from keras_tune.evaluation.embeddings import ClipEmbeddings
    from keras_tune.evaluation.tasks import Task

# Inverse regularization strengths to choose from.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# The logit of a class or tag that no clip of train has, or that all have.
CERTAIN = 1e4
NEIGHBOURS = (1, 3, 5, 10, 20, 40)
# The steps in an epoch of MagnaTagATune: 18,706 train clips in batches of 256.
EPOCH_STEPS = -(-18706 // 256)


@dataclasses.dataclass(frozen=True)
class Head:
    """The weights of a probe, from which a model can be built.

    Args:
        weights: List of arrays, kernel and bias of each layer, with ReLU between two layers.
        mean: Array (d,), which is subtracted from a representation, or None.
        deviation: Array (d,), by which it is then divided, or None.
        pooling: "embeddings" if the probe is applied to the mean over windows, "scores" if the
            scores of the windows are averaged.
    """

    weights: list[np.ndarray]
    mean: np.ndarray | None
    deviation: np.ndarray | None
    pooling: str


@dataclasses.dataclass(frozen=True)
class FittedProbe:
    """A probe that was trained on train and chosen on valid.

    Args:
        predict: Function of `ClipEmbeddings` that returns predictions (clips, outputs).
        configuration: Dict, the configuration that was chosen.
        valid_score: Float, its primary metric on valid.
        alternatives: List of dicts with the configuration and the valid score of each candidate.
        head: `Head`, or None if the probe has no dense layers or predicts values. Defaults to None.
        cross_fitted_score: Float, the primary metric on the halves of valid that were not used to
            choose; see `cross_fitted_score`. `valid_score` is the maximum over the candidates, and
            protocols have different numbers of candidates. Defaults to NaN.

    Example:

    ```python
    from keras_tune.evaluation import FittedProbe

    uniform = FittedProbe(lambda clips: np.full((len(clips.ids), 2), 0.5), {}, 0.5, [])
    ```
    """

    predict: Callable[[ClipEmbeddings], np.ndarray]
    configuration: dict[str, Any]
    valid_score: float
    alternatives: list[dict[str, Any]]
    head: Head | None = None
    cross_fitted_score: float = float("nan")


def fit_probe(
    protocol: str, train: ClipEmbeddings, valid: ClipEmbeddings, task: Task, seed: int = 0
) -> FittedProbe:
    """Train the candidates of a protocol on train and choose the best one on valid.

    Args:
        protocol: String, one of `PROTOCOLS`.
        train: `ClipEmbeddings`.
        valid: `ClipEmbeddings`.
        task: `Task`.
        seed: Integer, the seed of the training. Defaults to 0.

    Returns:
        `FittedProbe`.

    Raises:
        ValueError: There is no such protocol.
        UserError: No clip of train or of valid has the labels, or train has only one class.

    Example:

    ```python
    from keras_tune.data import LabelColumn
    from keras_tune.evaluation import ClipEmbeddings, fit_probe, make_task

    generator = np.random.default_rng(0)
    labels = [{"genre": ("jazz", "rock")[k % 2]} for k in range(60)]
    vectors = generator.normal(size=(60, 8)) + np.arange(60)[:, None] % 2
    clips = ClipEmbeddings([str(k) for k in range(60)], vectors, labels)
    task = make_task([LabelColumn("genre", "category", ("jazz", "rock"))], labels)
    train, valid, test = (clips.take(range(start, start + 20)) for start in (0, 20, 40))
    fit_probe("knn", train, valid, task).predict(test).shape  # (20, 2)
    ```
    """
    if protocol not in PROTOCOLS:
        raise ValueError(
            f"`protocol` must be one of {', '.join(PROTOCOLS)}. Received: protocol={protocol}"
        )
    sides = []
    for name, clips in (("train", train), ("valid", valid)):
        rows, targets = task.encode(clips.labels)
        if not len(rows):
            raise UserError(f"no clip of the {name} split has {task.labels_in_words()}")
        sides.append(_Side(clips.take(rows), targets))
    if task.loss == "softmax" and len(set(sides[0].targets)) < 2:
        raise UserError(
            f"the train split has fewer than two classes of the label {task.columns[0].name}"
        )
    if task.loss != "mse":
        return PROTOCOLS[protocol](sides[0], sides[1], task, seed)
    # Probes learn values with mean 0 and deviation 1, whatever the unit of the labels.
    mean, deviation = sides[0].targets.mean(axis=0), sides[0].targets.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1)
    scaled = [_Side(side.clips, (side.targets - mean) / deviation) for side in sides]
    probe = PROTOCOLS[protocol](scaled[0], scaled[1], task, seed)

    def predict(clips):
        return probe.predict(clips) * deviation + mean

    return dataclasses.replace(probe, predict=predict, head=None)


@dataclasses.dataclass(frozen=True)
class _Side:
    """The clips of train or valid with known labels, and their targets."""

    clips: ClipEmbeddings
    targets: np.ndarray

    def score(self, task, predictions):
        """The primary metric of predictions (..., clips, outputs), computed as on test."""
        scores = _primary(task, self.clips.labels, self.targets, predictions)
        # If valid has only positives or only negatives, no probe is better than another.
        return np.nan_to_num(scores, nan=UNDEFINED)


def cross_fitted_score(
    task: Task,
    labels: Sequence[dict[str, Any]],
    targets: np.ndarray,
    predictions: np.ndarray,
) -> float:
    """The score of the best candidate, on clips that were not used to choose it.

    The best of many scores on the same clips is too high, especially with many candidates: the best
    of 216 probes that guess scores higher than the best of six. Here the clips are split into
    halves. The candidate that is best on one half is scored on the other, and the scores are
    averaged over both halves and five splits. Clips of a song stay together. These scores can be
    compared whatever the number of candidates.

    Predictions are an array (candidates, clips, outputs). NaN if no half could be scored.

    Source: Stone, "Cross-validatory choice and assessment of statistical predictions" (1974);
    Tsamardinos et al., "Bootstrapping the out-of-sample predictions for efficient and accurate
    cross-validation" (Machine Learning 2018), on what the maximum costs.
    """
    songs = songs_of(labels)
    songs = np.arange(len(labels)) if songs is None else songs
    names = np.unique(songs)
    generator = np.random.default_rng(0)
    found = []
    for _ in range(5 if len(names) > 1 else 0):
        first = np.isin(songs, generator.permutation(names)[: len(names) // 2])
        scores = []
        for rows in (np.flatnonzero(first), np.flatnonzero(~first)):
            some = [labels[row] for row in rows]
            scores.append(_primary(task, some, targets[rows], predictions[:, rows]))
        for chosen_on, scored_on in (scores, scores[::-1]):
            best = int(np.argmax(np.nan_to_num(chosen_on, nan=-np.inf)))
            found.append(scored_on[best])
    return mean_of_known(found)


def mean_of_known(values: Sequence[Any]) -> float:
    """The mean of the values that are not NaN; NaN if all are."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _primary(task, labels, targets, predictions):
    """The primary metric of predictions (..., clips, outputs), NaN if it is undefined."""
    if task.combines_songs:
        targets, predictions = combine_songs(labels, targets, predictions)
    return np.asarray(task.quick_scores(targets, predictions)[task.primary])


def combine_songs(
    labels: Sequence[dict[str, Any]],
    targets: np.ndarray,
    predictions: np.ndarray,
    ids: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Average the predictions of the clips of each song, if the set has a label `song`.

    This is only for tasks whose labels belong to the song (`Task.combines_songs`): the target of a
    song is that of its first clip. A clip without a song counts as a song. Targets (clips, ...) and
    predictions (..., clips, outputs) become (songs, ...) and (..., songs, outputs), sorted by the
    names of `songs_of`.

    Source: Castellon et al., jukemir (ISMIR 2021), for key.
    """
    songs = songs_of(labels, ids)
    if songs is None:
        return targets, predictions
    _, first, song = np.unique(songs, return_index=True, return_inverse=True)
    mixing = np.zeros((len(first), len(songs)))
    mixing[song, np.arange(len(songs))] = 1 / np.bincount(song)[song]
    return targets[first], mixing @ predictions


def songs_of(
    labels: Sequence[dict[str, Any]], ids: Sequence[str] | None = None
) -> np.ndarray | None:
    """The song of each clip as an array of strings, or None if the set has no such label."""
    return groups_of(labels, "song", ids) if any("song" in row for row in labels) else None


def groups_of(
    labels: Sequence[dict[str, Any]], column: str | None, ids: Sequence[str] | None = None
) -> np.ndarray:
    """The group of each clip by the value of a label, as an array of strings.

    A clip without it is a group of its own, named for its id, or its position without `ids`.
    """
    ids = range(len(labels)) if ids is None else ids
    # A number that is missing is NaN, which is not equal to itself.
    values = [row.get(column) for row in labels]
    return np.array(
        [
            f"clip {clip}" if value is None or value != value else f"{column} {value}"
            for clip, value in zip(ids, values, strict=True)
        ]
    )


def linear(train: _Side, valid: _Side, task: Task, seed: int) -> FittedProbe:
    """The linear evaluation of CLMR and TUNe, without and with a hidden layer.

    The published numbers of epochs refer to MagnaTagATune. With at most 256 clips, an epoch is a
    single step, and a patience of ten epochs would end the training after ten steps. So if an epoch
    is shorter than one of MagnaTagATune, the probe is evaluated on valid after as many steps as
    that epoch has. Patience, plateau and limit count these evaluations.

    Source: Spijkervet & Burgoyne, CLMR (ISMIR 2021), section 4; Vélez Vásquez & Burgoyne (ISMIR
    2022), section 4.
    """
    width = train.clips.crops.shape[1]
    configurations = [ProbeConfiguration(hidden_units=units, l2=1e-6) for units in (None, width)]
    probes = train_probes(
        (train.clips.crops, train.targets),
        (valid.clips.crops, valid.targets),
        configurations,
        task.loss,
        len(task.outputs),
        "loss",
        Schedule(EPOCH_STEPS, patience=10, max_evaluations=200, plateau_patience=5),
        seed,
    )

    def predict(clips, probe):
        return clips.mean_over_windows(probe.predict(clips.windows))

    candidates = [
        _trained(probe, functools.partial(predict, probe=probe), "scores") for probe in probes
    ]
    predictions = [probe.predict(valid.clips.crops) for probe in probes]
    return _best(valid, task, candidates, predictions)


def grid(train: _Side, valid: _Side, task: Task, seed: int) -> FittedProbe:
    """The grid of 216 probes of jukemir, chosen by the primary metric on valid.

    Source: Castellon et al., "Codified audio language modeling learns useful representations for
    music information retrieval" (ISMIR 2021), section 4.3.
    """

    def valid_score(outputs):
        return valid.score(task, activate(outputs, task.loss))

    probes = train_probes(
        (train.clips.vectors, train.targets),
        (valid.clips.vectors, valid.targets),
        grid_configurations(),
        task.loss,
        len(task.outputs),
        valid_score,
        Schedule(min_steps=8, patience=10, max_evaluations=100),
        seed,
    )
    candidates = [
        _trained(probe, lambda clips, probe=probe: probe.predict(clips.vectors), "embeddings")
        for probe in probes
    ]
    return _best(valid, task, candidates, scores=[probe.valid_score for probe in probes])


def grid_configurations() -> list[ProbeConfiguration]:
    """The 216 configurations of the grid."""
    axes = {
        "standardize": (False, True),
        "hidden_units": (None, 512),
        "batch_size": (64, 256),
        "learning_rate": (1e-5, 1e-4, 1e-3),
        "dropout": (0.25, 0.5, 0.75),
        "l2": (0.0, 1e-4, 1e-3),
    }
    return [
        ProbeConfiguration(**dict(zip(axes, values, strict=True)))
        for values in itertools.product(*axes.values())
    ]


def logistic(train: _Side, valid: _Side, task: Task, seed: int) -> FittedProbe:
    """Logistic regression for classes and tags, ridge regression for values."""
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    scaler = StandardScaler().fit(train.clips.vectors)
    features = scaler.transform(train.clips.vectors)
    regress = {"mse": _ridge, "softmax": _softmax_regression, "sigmoid": _tag_regressions}

    def predict(clips, kernel, bias):
        return activate(scaler.transform(clips.vectors) @ kernel + bias, task.loss)

    # The products are so small that threads wait for one another most of the time: on two
    # processors one thread is 11 times as fast for 1,000 clips of 512 features, and 1.2 times for
    # 18,000.
    with threadpool_limits(1, "blas"):
        fits = [regress[task.loss](features, train.targets, task, c) for c in STRENGTHS]
    candidates = []
    for strength, (kernel, bias) in zip(STRENGTHS, fits, strict=True):
        head = Head([kernel, bias], scaler.mean_, scaler.scale_, "embeddings")
        bound = functools.partial(predict, kernel=kernel, bias=bias)
        candidates.append(({"C": strength}, bound, head))
    return _best(valid, task, candidates)


def _ridge(features, targets, task, strength):
    """Kernel (d, values) and bias (values,) of a ridge regression."""
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=1 / strength).fit(features, targets)
    return model.coef_.reshape(-1, features.shape[1]).T, np.reshape(model.intercept_, -1)


def _softmax_regression(features, targets, task, strength):
    """Kernel (d, classes) and bias (classes,) of a logistic regression."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=2000).fit(features, targets)
    kernel = np.zeros((features.shape[1], len(task.outputs)))
    bias = np.full(len(task.outputs), -CERTAIN)
    # With two classes, scikit-learn has only the logit of the second one.
    seen = model.classes_[-1:] if len(model.classes_) == 2 else model.classes_
    bias[model.classes_] = 0
    kernel[:, seen], bias[seen] = model.coef_.T, model.intercept_
    return kernel, bias


def _tag_regressions(features, targets, task, strength):
    """Kernel (d, tags) and bias (tags,) of one logistic regression for each tag."""
    from sklearn.linear_model import LogisticRegression

    kernel = np.zeros((features.shape[1], targets.shape[1]))
    bias = np.where(targets[0], CERTAIN, -CERTAIN).astype("float64")
    for tag in np.flatnonzero(targets.any(axis=0) & ~targets.all(axis=0)):
        model = LogisticRegression(C=strength, max_iter=2000).fit(features, targets[:, tag])
        kernel[:, tag], bias[tag] = model.coef_[0], model.intercept_[0]
    return kernel, bias


def knn(train: _Side, valid: _Side, task: Task, seed: int) -> FittedProbe:
    """The mean of the targets of the nearest train clips, by cosine distance."""
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train.clips.vectors)
    candidates = []
    for standardize, neighbours in itertools.product((False, True), NEIGHBOURS):
        if neighbours > len(train.targets):
            continue
        change = scaler.transform if standardize else np.asarray
        model = KNeighborsRegressor(neighbours, metric="cosine")
        model.fit(change(train.clips.vectors), task.matrix(train.targets))

        def predict(clips, model=model, change=change):
            return model.predict(change(clips.vectors)).reshape(len(clips.ids), -1)

        configuration = {"neighbours": neighbours, "standardize": standardize}
        candidates.append((configuration, predict, None))
    return _best(valid, task, candidates)


def _trained(probe, predict, pooling):
    """The candidate for `_best` that a `TrainedProbe` is."""
    standard = (probe.mean, probe.deviation) if probe.configuration.standardize else (None, None)
    head = Head(probe.weights, *standard, pooling)
    return dataclasses.asdict(probe.configuration), predict, head


def _best(valid, task, candidates, predictions=None, scores=None):
    """The candidate with the best score on valid, as a `FittedProbe`.

    Candidates are tuples of a configuration, a function from clips to predictions, and a `Head` or
    None. The predictions are those for the clips of valid, and the scores are those of the
    predictions, unless they are given.
    """
    configurations, functions, heads = zip(*candidates, strict=True)
    if predictions is None:
        predictions = [predict(valid.clips) for predict in functions]
    predictions = np.stack(predictions)
    scores = valid.score(task, predictions) if scores is None else scores
    scores = [float(score) for score in scores]
    best = int(np.argmax(scores))
    return FittedProbe(
        functions[best],
        configurations[best],
        scores[best],
        [{**c, "valid_score": s} for c, s in zip(configurations, scores, strict=True)],
        heads[best],
        cross_fitted_score(task, valid.clips.labels, valid.targets, predictions),
    )


PROTOCOLS = {"linear": linear, "grid": grid, "knn": knn, "logistic": logistic}
# Protocols whose probes do not depend on the seed.
DETERMINISTIC = ("knn", "logistic")
