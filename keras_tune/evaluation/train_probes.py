"""Training probes with early stopping, each for itself although they share a stack."""

import dataclasses
import math

import numpy as np

from keras_tune.evaluation.probe_stack import ProbeStack


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When probes are looked at, and when they stop.

    Args:
        min_steps: Integer, the fewest steps between two looks at valid; it is never less than an
            epoch. Defaults to 1.
        patience: Integer, looks without improvement after which a probe stops. Defaults to 10.
        max_looks: Integer, looks after which all stop. Defaults to 200.
        plateau_patience: Integer, looks without improvement after which the learning rate is
            divided by 10, or None for a constant one. Defaults to None.
    """

    min_steps: int = 1
    patience: int = 10
    max_looks: int = 200
    plateau_patience: int | None = None


@dataclasses.dataclass(frozen=True)
class TrainedProbe:
    """A probe as it was at its best on valid.

    Args:
        configuration: `ProbeConfiguration`.
        weights: List of arrays, kernel and bias of each layer.
        mean: Array (d,), the mean of the features in train.
        deviation: Array (d,), their deviation.
        loss: "softmax", "sigmoid" or "squares".
        valid_score: Float, what it was stopped by.
        steps: Integer, the training steps it had at its best.
    """

    configuration: object
    weights: list
    mean: np.ndarray
    deviation: np.ndarray
    loss: str
    valid_score: float
    steps: int

    def predict(self, features):
        """Probabilities or values: (clips, d) to (clips, outputs)."""
        x = np.asarray(features, "float32")
        if self.configuration.standardize:
            x = (x - self.mean) / self.deviation
        for place in range(0, len(self.weights), 2):
            x = x @ self.weights[place] + self.weights[place + 1]
            if place + 2 < len(self.weights):
                x = np.maximum(x, 0)
        return activate(x, self.loss)


def activate(outputs, loss):
    """Turn logits into probabilities, along the last axis; values stay as they are."""
    from scipy.special import expit, softmax

    if loss == "softmax":
        return softmax(outputs, axis=-1)
    return expit(outputs) if loss == "sigmoid" else outputs


def train_probes(
    train, valid, configurations, loss, num_outputs, valid_score, schedule=None, seed=0
):
    """Train probes of any configurations, those of one architecture and batch size at once.

    Args:
        train: Pair of features (clips, d) and targets (clips,) or (clips, outputs).
        valid: Likewise.
        configurations: List of `ProbeConfiguration`.
        loss: "softmax", "sigmoid" or "squares".
        num_outputs: Integer.
        valid_score: Function of outputs (probes, valid clips, outputs), logits or values, that
            gives the scores (probes,) to maximize; or "loss", for the loss on valid, negated.
        schedule: `Schedule`. Defaults to its defaults.
        seed: Integer for initial weights, order of the batches and dropout. Defaults to 0.

    Returns:
        List of `TrainedProbe`, in the order of `configurations`.

    Example:

    ```python
    probes = train_probes((x, y), (x_valid, y_valid), grid(), "softmax", 4, "loss")
    ```
    """
    schedule = schedule or Schedule()
    groups = {}
    for place, configuration in enumerate(configurations):
        key = (configuration.hidden_units, configuration.batch_size)
        groups.setdefault(key, []).append(place)
    found = [None] * len(configurations)
    for (_, batch_size), places in groups.items():
        probes = _train_group(
            train,
            valid,
            [configurations[place] for place in places],
            min(batch_size, len(train[0])),
            loss,
            num_outputs,
            _scorer(valid_score, valid[1], loss),
            schedule,
            seed,
        )
        for place, probe in zip(places, probes, strict=True):
            found[place] = probe
    return found


def _scorer(valid_score, targets, loss):
    if valid_score != "loss":
        return valid_score
    return lambda outputs: -mean_losses(targets, outputs, loss)


def mean_losses(targets, outputs, loss):
    """The mean loss of each probe: outputs (probes, clips, outputs) to an array (probes,)."""
    from scipy.special import log_softmax

    if loss == "softmax":
        return -log_softmax(outputs, axis=-1)[:, np.arange(len(targets)), targets].mean(axis=1)
    if loss == "sigmoid":
        return np.mean(np.logaddexp(0, outputs) - targets * outputs, axis=(1, 2))
    return np.mean(np.square(outputs - targets), axis=(1, 2))


def _train_group(
    train, valid, configurations, batch_size, loss, num_outputs, score, schedule, seed
):
    features, targets = np.asarray(train[0], "float32"), train[1]
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1).astype("float32")
    stack = ProbeStack(configurations, mean, deviation, num_outputs, loss, seed)
    batches = _batches(len(features), batch_size, seed)
    with_dropout = any(c.dropout for c in configurations)
    draws = np.random.default_rng([seed, 1])
    period = max(schedule.min_steps, math.ceil(len(features) / batch_size))

    count = len(configurations)
    alive = np.arange(count)
    best = np.full(count, -np.inf)
    waited, waited_for_rate = np.zeros(count, int), np.zeros(count, int)
    kept, kept_steps = [None] * count, np.zeros(count, int)
    for look in range(1, schedule.max_looks + 1):
        for _ in range(period):
            rows = next(batches)
            inputs = {"features": features[rows]}
            if with_dropout:
                inputs["feature_draws"] = draws.random(inputs["features"].shape, "float32")
                if stack.hidden_units:
                    shape = (batch_size, stack.hidden_units)
                    inputs["hidden_draws"] = draws.random(shape, "float32")
            stack.train_on_batch(inputs, targets[rows])
        scores = np.asarray(score(stack.predict_rows(valid[0])))
        better = (scores > best[alive]) & (waited[alive] < schedule.patience)
        if better.any():
            weights = [np.asarray(w) for w in stack.weights_of_probes]
            for row in np.flatnonzero(better):
                kept[alive[row]] = [w[row].copy() for w in weights]
            kept_steps[alive[better]] = look * period
        best[alive] = np.where(better, scores, best[alive])
        for counter in (waited, waited_for_rate):
            counter[alive] = np.where(better, 0, counter[alive] + 1)
        if schedule.plateau_patience:
            _lower_rates(stack, waited_for_rate, alive, schedule.plateau_patience)
        running = waited[alive] < schedule.patience
        if not running.any():
            break
        # A smaller stack has to be compiled anew, which pays once half of the probes are done.
        if 2 * running.sum() <= len(alive):
            stack = stack.select(np.flatnonzero(running))
            alive = alive[running]
    return [
        TrainedProbe(
            configuration,
            kept[place],
            mean,
            deviation,
            loss,
            float(kept_scores),
            int(kept_steps[place]),
        )
        for place, (configuration, kept_scores) in enumerate(zip(configurations, best, strict=True))
    ]


def _lower_rates(stack, waited, alive, patience):
    due = waited[alive] >= patience
    if due.any():
        rates = np.asarray(stack.optimizer.rates)
        stack.optimizer.rates.assign(np.where(due, rates / 10, rates))
        waited[alive[due]] = 0


def _batches(count, batch_size, seed):
    """Rows of one batch after another, without end: permutations strung together."""
    generator = np.random.default_rng([seed, 0])
    rows = np.empty(0, int)
    while True:
        while len(rows) < batch_size:
            rows = np.concatenate([rows, generator.permutation(count)])
        yield rows[:batch_size]
        rows = rows[batch_size:]
