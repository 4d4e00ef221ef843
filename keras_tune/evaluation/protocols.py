"""The protocols by which a frozen representation is judged.

Each takes the clips of train and of valid and gives a probe that predicts. None of them is handed
the clips of test: what is chosen is chosen on valid.

| protocol | probe | chosen on valid |
|---|---|---|
| `linear` | CLMR's linear evaluation: trained on one random crop a clip, averaged over the windows of a clip on test | linear or one hidden layer |
| `grid` | jukemir's probes on the mean over windows | one of 216 configurations |
| `logistic` | logistic regression on standardized features (ridge regression for values) | its regularization |
| `knn` | the mean of the targets of the nearest clips, by cosine | their number, standardization |
"""  # noqa: E501

import dataclasses
import itertools

import numpy as np

from keras_tune.errors import UserError

# Inverse regularization strengths to choose from.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# The logit of what train leaves no doubt of: a class or tag that no clip has, or all have.
CERTAIN = 1e4
NEIGHBOURS = (1, 3, 5, 10, 20, 40)
# Steps of an epoch of MagnaTagATune: its 18,706 clips of train in batches of 256.
EPOCH_STEPS = -(-18706 // 256)


@dataclasses.dataclass(frozen=True)
class Head:
    """A probe as numbers, from which a model can be built.

    Args:
        weights: List of arrays, kernel and bias of each layer, with ReLU between two layers.
        mean: Array (d,), what is subtracted from a representation, or None.
        deviation: Array (d,), what it is then divided by, or None.
        pooling: "embeddings" where the mean over windows is scored, "scores" where the windows'
            scores are averaged.
    """

    weights: list
    mean: np.ndarray | None
    deviation: np.ndarray | None
    pooling: str


@dataclasses.dataclass(frozen=True)
class FittedProbe:
    """A probe that was trained on train and chosen on valid.

    Args:
        predict: Function of `ClipEmbeddings` that gives predictions (clips, outputs).
        configuration: Dict, what was chosen.
        valid_score: Float, its primary metric on valid.
        alternatives: List of dicts with the configuration and the valid score of each candidate.
        head: `Head`, or None where the probe is no such map or predicts values.
        cross_fitted_score: Float, the primary metric on halves of valid that did not choose; see
            `cross_fitted_score`. `valid_score` is the maximum over the candidates, and protocols
            have different numbers of them.
    """

    predict: object
    configuration: dict
    valid_score: float
    alternatives: list
    head: Head | None = None
    cross_fitted_score: float = float("nan")


def fit_probe(protocol, train, valid, task, seed=0):
    """Train what the protocol asks for on train and choose on valid.

    Args:
        protocol: One of `PROTOCOLS`.
        train: `ClipEmbeddings`.
        valid: `ClipEmbeddings`.
        task: `Task`.
        seed: Integer, for what is random in the training. Defaults to 0.

    Returns:
        `FittedProbe`.

    Raises:
        ValueError: There is no such protocol.
        UserError: No clip of train or of valid has the labels, or train has only one class.

    Example:

    ```python
    probe = fit_probe("grid", train, valid, task)
    predictions = probe.predict(test)  # (clips, classes)
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
        return PROTOCOLS[protocol](*sides, task, seed)
    # Probes learn values of mean 0 and deviation 1, whatever the unit of the labels.
    mean, deviation = sides[0].targets.mean(axis=0), sides[0].targets.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1)
    scaled = [_Side(side.clips, (side.targets - mean) / deviation) for side in sides]
    probe = PROTOCOLS[protocol](*scaled, task, seed)

    def predict(clips):
        return probe.predict(clips) * deviation + mean

    return dataclasses.replace(probe, predict=predict, head=None)


@dataclasses.dataclass(frozen=True)
class _Side:
    """The clips of train or valid whose labels are known, and their targets."""

    clips: object
    targets: np.ndarray

    def score(self, task, predictions):
        """The primary metric of predictions (..., clips, outputs), as test will be scored."""
        scores = _primary(task, self.clips.labels, self.targets, predictions)
        # On a valid split without both kinds of clips no probe is better than another.
        return np.nan_to_num(scores, nan=-1e9)

    def cross_fitted(self, task, predictions):
        """See `cross_fitted_score`."""
        return cross_fitted_score(task, self.clips.labels, self.targets, predictions)


def cross_fitted_score(task, labels, targets, predictions, repeats=5):
    """The score that the choice of the best candidate has on clips that had no say in it.

    The best of many scores on the same clips is too high, the more so the more candidates there
    are: of 216 probes that guess, the best one looks better than that of six. Here the clips are
    cut into halves; the candidate that is best on one half is scored on the other, and the scores
    are averaged over both halves of several cuts. Clips of a song stay together. Such numbers can
    be compared whatever the numbers of candidates.

    Args:
        task: `Task`.
        labels: List of dicts from label name to value.
        targets: Array (clips, ...).
        predictions: Array (candidates, clips, outputs).
        repeats: Integer, how many times the clips are cut in two. Defaults to 5.

    Returns:
        Float, the primary metric; NaN where no half could be scored.

    Source: Stone, "Cross-validatory choice and assessment of statistical predictions" (1974);
    Tsamardinos et al., "Bootstrapping the out-of-sample predictions for efficient and accurate
    cross-validation" (Machine Learning 2018), on what the maximum costs.

    Example:

    ```python
    cross_fitted_score(task, valid.labels, targets, np.stack([one, other]))
    ```
    """
    songs = songs_of(labels)
    songs = np.arange(len(labels)) if songs is None else songs
    names = np.unique(songs)
    generator = np.random.default_rng(0)
    found = []
    for _ in range(repeats if len(names) > 1 else 0):
        first = np.isin(songs, generator.permutation(names)[: len(names) // 2])
        scores = []
        for rows in (np.flatnonzero(first), np.flatnonzero(~first)):
            some = [labels[row] for row in rows]
            scores.append(_primary(task, some, targets[rows], predictions[:, rows]))
        for chosen_on, scored_on in (scores, scores[::-1]):
            best = int(np.argmax(np.nan_to_num(chosen_on, nan=-np.inf)))
            found.append(scored_on[best])
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def _primary(task, labels, targets, predictions):
    """The primary metric of predictions (..., clips, outputs), NaN where there is none."""
    if task.combines_songs:
        targets, predictions = combine_songs(labels, targets, predictions)
    return np.asarray(task.quick_scores(targets, predictions)[task.primary])


def combine_songs(labels, targets, predictions):
    """Average the predictions of the clips of one song, where the set has a label `song`.

    Only for tasks whose labels are those of the song (`Task.combines_songs`): the targets are those
    of each song's first clip.

    Args:
        labels: List of dicts from label name to value.
        targets: Array (clips, ...).
        predictions: Array (..., clips, outputs).

    Returns:
        Targets (songs, ...) and predictions (..., songs, outputs); unchanged where there are no
        songs. A clip without a song is one of its own.

    Source: Castellon et al., jukemir (ISMIR 2021), for key.
    """
    songs = songs_of(labels)
    if songs is None:
        return targets, predictions
    _, first, song = np.unique(songs, return_index=True, return_inverse=True)
    mixing = np.zeros((len(first), len(songs)))
    mixing[song, np.arange(len(songs))] = 1 / np.bincount(song)[song]
    return targets[first], mixing @ predictions


def songs_of(labels):
    """The song of each clip as an array of strings, or None where the set does not tell."""
    return groups_of(labels, "song") if any("song" in row for row in labels) else None


def groups_of(labels, column):
    """The value of a column for each clip; a clip that lacks it is a group of its own."""
    return np.array(
        [
            f"clip {place}" if row.get(column) is None else f"{column} {row[column]}"
            for place, row in enumerate(labels)
        ]
    )


def linear(train, valid, task, seed):
    """CLMR's and TUNe's linear evaluation, without and with a hidden layer.

    The published numbers of epochs are of MagnaTagATune. A set of at most 256 clips has one step an
    epoch, and patience of ten epochs would end the training after ten steps: as long as an epoch is
    shorter than one of MagnaTagATune, valid is looked at after as many steps as that has, and
    patience, plateau and limit count such looks.

    Source: Spijkervet & Burgoyne, CLMR (ISMIR 2021), section 4; Vélez Vásquez & Burgoyne (ISMIR
    2022), section 4.
    """
    from keras_tune.evaluation.probe_stack import ProbeConfiguration
    from keras_tune.evaluation.probe_training import Schedule, train_probes

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
    predictions = np.stack([probe.predict(valid.clips.crops) for probe in probes])
    scores = valid.score(task, predictions)
    best = int(np.argmax(scores))
    chosen = probes[best]

    def predict(clips):
        sums = np.zeros((len(clips.ids), len(task.outputs)))
        np.add.at(sums, clips.owners, chosen.predict(clips.windows))
        return sums / np.bincount(clips.owners)[:, None]

    unseen = valid.cross_fitted(task, predictions)
    return _fitted(predict, configurations, scores, best, _head_of(chosen, "scores"), unseen)


def grid(train, valid, task, seed):
    """Jukemir's grid of 216 probes, chosen by the primary metric on valid.

    Source: Castellon et al., "Codified audio language modeling learns useful representations for
    music information retrieval" (ISMIR 2021), section 4.3.
    """
    from keras_tune.evaluation.probe_stack import activate
    from keras_tune.evaluation.probe_training import Schedule, train_probes

    configurations = grid_configurations()

    def valid_score(outputs):
        return valid.score(task, activate(outputs, task.loss))

    probes = train_probes(
        (train.clips.vectors, train.targets),
        (valid.clips.vectors, valid.targets),
        configurations,
        task.loss,
        len(task.outputs),
        valid_score,
        Schedule(min_steps=8, patience=10, max_evaluations=100),
        seed,
    )
    scores = [probe.valid_score for probe in probes]
    predictions = np.stack([probe.predict(valid.clips.vectors) for probe in probes])
    best = int(np.argmax(scores))
    chosen = probes[best]

    def predict(clips):
        return chosen.predict(clips.vectors)

    unseen = valid.cross_fitted(task, predictions)
    return _fitted(predict, configurations, scores, best, _head_of(chosen, "embeddings"), unseen)


def grid_configurations():
    """The 216 configurations of the grid."""
    from keras_tune.evaluation.probe_stack import ProbeConfiguration

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


def logistic(train, valid, task, seed):
    """Logistic regression for classes and tags, ridge regression for values."""
    from sklearn.preprocessing import StandardScaler

    from keras_tune.evaluation.probe_stack import activate

    scaler = StandardScaler().fit(train.clips.vectors)
    features = scaler.transform(train.clips.vectors)
    held_out = scaler.transform(valid.clips.vectors)
    regress = {"mse": _ridge, "softmax": _softmax_regression, "sigmoid": _tag_regressions}
    fits, predictions = [], []
    for strength in STRENGTHS:
        kernel, bias = regress[task.loss](features, train.targets, task, strength)
        fits.append((kernel, bias))
        predictions.append(activate(held_out @ kernel + bias, task.loss))
    predictions = np.stack(predictions)
    scores = [float(score) for score in valid.score(task, predictions)]
    best = int(np.argmax(scores))
    kernel, bias = fits[best]

    def predict(clips):
        return activate(scaler.transform(clips.vectors) @ kernel + bias, task.loss)

    return FittedProbe(
        predict,
        {"C": STRENGTHS[best]},
        scores[best],
        [{"C": c, "valid_score": s} for c, s in zip(STRENGTHS, scores, strict=True)],
        Head([kernel, bias], scaler.mean_, scaler.scale_, "embeddings"),
        valid.cross_fitted(task, predictions),
    )


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
    # Of two classes scikit-learn keeps the logit of the second against the first.
    seen = model.classes_[-1:] if len(model.classes_) == 2 else model.classes_
    bias[model.classes_] = 0
    kernel[:, seen], bias[seen] = model.coef_.T, model.intercept_
    return kernel, bias


def _tag_regressions(features, targets, task, strength):
    """Kernel (d, tags) and bias (tags,) of a logistic regression a tag."""
    from sklearn.linear_model import LogisticRegression

    kernel = np.zeros((features.shape[1], targets.shape[1]))
    bias = np.where(targets[0], CERTAIN, -CERTAIN).astype("float64")
    for tag in np.flatnonzero(targets.any(axis=0) & ~targets.all(axis=0)):
        model = LogisticRegression(C=strength, max_iter=2000).fit(features, targets[:, tag])
        kernel[:, tag], bias[tag] = model.coef_[0], model.intercept_[0]
    return kernel, bias


def knn(train, valid, task, seed):
    """The mean of the targets of the nearest clips of train, by cosine."""
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train.clips.vectors)
    fits, configurations, predictions = [], [], []
    for standardize, neighbours in itertools.product((False, True), NEIGHBOURS):
        if neighbours > len(train.targets):
            continue
        change = scaler.transform if standardize else np.asarray
        model = KNeighborsRegressor(neighbours, metric="cosine")
        model.fit(change(train.clips.vectors), task.matrix(train.targets))

        def predict(clips, model=model, change=change):
            return model.predict(change(clips.vectors)).reshape(len(clips.ids), -1)

        fits.append(predict)
        configurations.append({"neighbours": neighbours, "standardize": standardize})
        predictions.append(predict(valid.clips))
    predictions = np.stack(predictions)
    scores = [float(score) for score in valid.score(task, predictions)]
    best = int(np.argmax(scores))
    return FittedProbe(
        fits[best],
        configurations[best],
        scores[best],
        [{**c, "valid_score": s} for c, s in zip(configurations, scores, strict=True)],
        cross_fitted_score=valid.cross_fitted(task, predictions),
    )


def _head_of(probe, pooling):
    standard = (probe.mean, probe.deviation) if probe.configuration.standardize else (None, None)
    return Head(probe.weights, *standard, pooling)


def _fitted(predict, configurations, scores, best, head, cross_fitted):
    named = [dataclasses.asdict(configuration) for configuration in configurations]
    return FittedProbe(
        predict,
        named[best],
        float(scores[best]),
        [{**c, "valid_score": float(s)} for c, s in zip(named, scores, strict=True)],
        head,
        cross_fitted,
    )


PROTOCOLS = {"linear": linear, "grid": grid, "knn": knn, "logistic": logistic}
# Protocols that give the same probe whatever the seed.
DETERMINISTIC = ("knn", "logistic")
