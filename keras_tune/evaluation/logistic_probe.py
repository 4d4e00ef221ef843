"""Logistic regression on frozen embeddings, chosen on valid and scored once on test."""

import dataclasses

import numpy as np

from keras_tune.errors import UserError
from keras_tune.evaluation.bootstrap import bootstrap_interval

# Inverse regularization strengths to choose from.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """The outcome of a probe.

    Args:
        score: Test accuracy.
        interval: Its bootstrap 95 % interval, two floats.
        valid_score: Valid accuracy of the configuration chosen.
        configuration: Dict, what was chosen on valid.
        classes: List of the class names.
        chance: Test accuracy of always naming the class most frequent in train.
    """

    score: float
    interval: tuple
    valid_score: float
    configuration: dict
    classes: list
    chance: float


def logistic_probe(train, valid, test, target, strengths=STRENGTHS, seed=0):
    """Train logistic regressions on train, choose one on valid, score it once on test.

    Args:
        train: `ClipEmbeddings`. Features are standardized with its mean and deviation.
        valid: `ClipEmbeddings`, for the choice of the regularization.
        test: `ClipEmbeddings`.
        target: String, the label to predict; its values are classes.
        strengths: Inverse regularization strengths C to choose from. Ties go to the smaller one.
        seed: Integer, for the bootstrap. Defaults to 0.

    Returns:
        `ProbeResult`.

    Raises:
        UserError: The target's values are numbers, or fewer than two classes are left.

    Source: Castellon et al., "Codified audio language modeling learns useful representations for
    music information retrieval" (ISMIR 2021), section 4, with this one model in place of the grid.

    Example:

    ```python
    result = logistic_probe(train, valid, test, "genre")
    result.score, result.interval
    ```
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (x_train, y_train), (x_valid, y_valid), (x_test, y_test) = (
        _labelled(split, name, target)
        for split, name in ((train, "train"), (valid, "valid"), (test, "test"))
    )
    if len(set(y_train)) < 2:
        raise UserError(f"--target {target}: the train split holds fewer than two classes of it")

    best, best_score, best_strength = None, -1.0, None
    for strength in sorted(strengths):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
        probe.fit(x_train, y_train)
        score = accuracy_score(y_valid, probe.predict(x_valid))
        if score > best_score:
            best, best_score, best_strength = probe, score, strength
    predicted = best.predict(x_test)
    values, counts = np.unique(y_train, return_counts=True)
    return ProbeResult(
        score=float(accuracy_score(y_test, predicted)),
        interval=bootstrap_interval(accuracy_score, y_test, predicted, seed=seed),
        valid_score=float(best_score),
        configuration={"probe": "logistic regression", "C": best_strength},
        classes=[str(value) for value in best.classes_],
        chance=float(np.mean(y_test == values[np.argmax(counts)])),
    )


def _labelled(embeddings, split, target):
    labels = [labels.get(target) for labels in embeddings.labels]
    rows = [row for row, label in enumerate(labels) if label is not None]
    if not rows:
        raise UserError(f"--target {target}: no clip of the {split} split has this label")
    if any(isinstance(labels[row], float) for row in rows):
        raise UserError(f"--target {target}: its values are numbers; give a label with classes")
    return embeddings.vectors[rows], np.array([labels[row] for row in rows])
