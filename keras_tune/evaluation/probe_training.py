"""Training of stacked probes, each with its own early stopping."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import os
from collections.abc import Callable, Sequence

import numpy as np

from keras_tune.evaluation.probe_stack import ProbeConfiguration, ProbeStack, activate, mean_losses

# The most weights in a stack (a few probes with jukemir's hidden layer), which fit a core's cache.
STACK_WEIGHTS = 2**18
# Steps of a stack before the next one is trained.
STEPS_AT_ONCE = 8


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When probes are evaluated on valid, and when they stop.

    Args:
        min_steps: Integer, the smallest number of steps between two evaluations. There is at least
            one epoch between them in any case. Defaults to 1.
        patience: Integer, evaluations without improvement after which a probe stops. Defaults to
            10.
        max_evaluations: Integer, evaluations after which all probes stop. Defaults to 200.
        plateau_patience: Integer, evaluations without improvement that are tolerated; at the next
            one the learning rate is divided by 10, see `Plateau`. Defaults to None: a constant
            learning rate.

    Example:

    ```python
    from keras_tune.evaluation import Schedule

    Schedule(min_steps=8, patience=10, max_evaluations=100)
    ```
    """

    min_steps: int = 1
    patience: int = 10
    max_evaluations: int = 200
    plateau_patience: int | None = None


class Plateau:
    """Decides when the learning rate of a probe is divided by 10, as PyTorch's scheduler does.

    A score counts as better only if it exceeds the best one by more than a ten-thousandth of it.
    With `patience=5`, the learning rate is divided at the sixth evaluation in a row without a
    better score.

    Source: `torch.optim.lr_scheduler.ReduceLROnPlateau` with its defaults.
    """

    threshold = 1e-4

    def __init__(self, patience: int):
        self.patience = patience
        self.best: float | None = None
        self.waited = 0

    def update(self, score: float) -> bool:
        """Take the score of an evaluation (higher is better); True if the rate is to be divided."""
        if self.best is None or score > self.best + self.threshold * abs(self.best):
            self.best, self.waited = score, 0
        else:
            self.waited += 1
        if self.waited <= self.patience:
            return False
        self.waited = 0
        return True


@dataclasses.dataclass(frozen=True)
class TrainedProbe:
    """A probe with the weights that were best on valid.

    Args:
        configuration: `ProbeConfiguration`.
        weights: List of arrays, kernel and bias of each layer.
        mean: Array (d,), the mean of the features in train.
        deviation: Array (d,), their standard deviation.
        loss: "softmax", "sigmoid" or "mse".
        valid_score: Float, the best score on valid.
        steps: Integer, the number of training steps after which it was reached.
    """

    configuration: ProbeConfiguration
    weights: list[np.ndarray]
    mean: np.ndarray
    deviation: np.ndarray
    loss: str
    valid_score: float
    steps: int

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Probabilities or values: (clips, d) to (clips, outputs)."""
        x = np.asarray(features, "float32")
        if self.configuration.standardize:
            x = (x - self.mean) / self.deviation
        for layer in range(0, len(self.weights), 2):
            x = x @ self.weights[layer] + self.weights[layer + 1]
            if layer + 2 < len(self.weights):
                x = np.maximum(x, 0)
        return activate(x, self.loss)


def train_probes(
    train: tuple[np.ndarray, np.ndarray],
    valid: tuple[np.ndarray, np.ndarray],
    configurations: Sequence[ProbeConfiguration],
    loss: str,
    num_outputs: int,
    valid_score: str | Callable[[np.ndarray], np.ndarray],
    schedule: Schedule | None = None,
    seed: int = 0,
) -> list[TrainedProbe]:
    """Train probes with any configurations, all of them together.

    Args:
        train: Pair of features (clips, d) and targets (clips,) or (clips, outputs).
        valid: Pair of features and targets, as for `train`.
        configurations: List of `ProbeConfiguration`.
        loss: "softmax", "sigmoid" or "mse".
        num_outputs: Integer, the number of outputs of each probe.
        valid_score: Function of outputs (probes, valid clips, outputs), logits or values, that
            returns the scores (probes,) to maximize; or "loss" for the negative loss on valid.
        schedule: `Schedule`. Defaults to None: `Schedule()`.
        seed: Integer, the seed of initial weights, batches and dropout. Defaults to 0.

    Returns:
        List of `TrainedProbe`, in the order of `configurations`.

    Example:

    ```python
    from keras_tune.evaluation import ProbeConfiguration, Schedule, train_probes

    features, classes = np.eye(8, dtype="float32"), np.arange(8) % 4
    data, schedule = (features, classes), Schedule(max_evaluations=3)
    [probe] = train_probes(data, data, [ProbeConfiguration()], "softmax", 4, "loss", schedule)
    probe.predict(features).shape  # (8, 4)
    ```
    """
    from threadpoolctl import threadpool_limits

    schedule = schedule or Schedule()
    if valid_score == "loss":

        def valid_score(outputs):
            return -mean_losses(valid[1], outputs, loss)

    features = np.asarray(train[0], "float32")
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1).astype("float32")
    sides = {}
    for standardize in {c.standardize for c in configurations}:
        change = (mean, deviation) if standardize else (0, 1)
        sides[standardize] = [
            np.ascontiguousarray((np.asarray(x, "float32") - change[0]) / change[1], "float32")
            for x in (train[0], valid[0])
        ]
    found = {}
    # A thread for each processor, each with algebra on one thread.
    threads = getattr(os, "process_cpu_count", os.cpu_count)() or 1
    with (
        threadpool_limits(1, user_api="blas"),
        concurrent.futures.ThreadPoolExecutor(threads) as workers,
    ):
        for batch_size in dict.fromkeys(c.batch_size for c in configurations):
            members = [c for c in configurations if c.batch_size == batch_size]
            runs = _runs(members, sides, num_outputs, loss, seed, schedule)
            rows = min(batch_size, len(features))
            _train_runs(runs, train[1], rows, valid_score, schedule, seed, workers)
            for run in runs:
                for configuration, (weights, *reached) in zip(run.members, run.best, strict=True):
                    found[configuration] = TrainedProbe(
                        configuration, weights, mean, deviation, loss, *reached
                    )
    return [found[configuration] for configuration in configurations]


class _Run:
    """A stack of probes, and the progress of each."""

    def __init__(self, stack, members, features, valid_features, schedule):
        # The configurations of the probes.
        self.stack, self.members = stack, members
        self.features, self.valid_features = features, valid_features
        # The weights, score and steps of the best evaluation of each.
        self.best: list[tuple] = [(None, -np.inf, 0) for _ in members]
        self.waited = np.zeros(len(members), int)
        patience = schedule.plateau_patience
        self.plateaus = [None if patience is None else Plateau(patience) for _ in members]
        # For each probe still in the stack, its index in the lists above.
        self.running = np.arange(len(members))

    def advance(self, batches):
        for batch in batches:
            self.stack.train(
                self.features[batch.rows],
                batch.targets,
                batch.feature_draws,
                batch.hidden_draws.get(self.stack.hidden_units),
            )

    def outputs(self):
        return self.stack.predict(self.valid_features)

    def update(self, scores, schedule):
        """Keep the weights that are better than before, and remove finished probes."""
        weights = self.stack.weights()
        for row, (number, score) in enumerate(zip(self.running, scores, strict=True)):
            self.waited[number] += 1
            if score > self.best[number][1]:
                kept = [part[row].copy() for part in weights]
                self.best[number] = kept, float(score), self.stack.steps
                self.waited[number] = 0
            plateau = self.plateaus[number]
            # PyTorch does not change a rate if the difference would be below 1e-8.
            if plateau and plateau.update(score) and 0.9 * self.stack.rates[row, 0] > 1e-8:
                self.stack.rates[row] /= 10
        unfinished = self.waited[self.running] < schedule.patience
        if not unfinished.all():
            self.stack.keep(unfinished)
            self.running = self.running[unfinished]


def _runs(configurations, sides, num_outputs, loss, seed, schedule):
    """Stacks of the probes with the same inputs, small enough to be trained in parallel."""
    kinds = {}
    for c in configurations:
        kinds.setdefault((c.hidden_units, c.standardize, c.dropout), []).append(c)
    runs = []
    for (hidden_units, standardize, _), members in kinds.items():
        features, valid_features = sides[standardize]
        size = max(1, STACK_WEIGHTS // (features.shape[1] * (hidden_units or num_outputs)))
        for start in range(0, len(members), size):
            some = members[start : start + size]
            stack = ProbeStack(some, features.shape[1], num_outputs, loss, seed)
            runs.append(_Run(stack, some, features, valid_features, schedule))
    return runs


@dataclasses.dataclass(frozen=True)
class _Batch:
    """The clips that all probes see in one step, and the random numbers for dropout.

    Those for hidden layers are in a dict by width.
    """

    rows: np.ndarray
    targets: np.ndarray
    feature_draws: np.ndarray | None
    hidden_draws: dict


def _train_runs(runs, targets, batch_size, score, schedule, seed, workers):
    """Train stacks on the same batches until all their probes have stopped."""
    count, width = runs[0].features.shape
    rows_of_batches = _batches(count, batch_size, seed)
    with_dropout = any(run.stack.dropout for run in runs)
    of_features = np.random.default_rng([seed, 1])
    units = {run.stack.hidden_units for run in runs if run.stack.hidden_units and with_dropout}
    of_hidden = {n: np.random.default_rng([seed, 2, n]) for n in units}

    def next_batch():
        rows = next(rows_of_batches)
        return _Batch(
            rows,
            targets[rows],
            of_features.random((batch_size, width), "float32") if with_dropout else None,
            {n: draws.random((batch_size, n), "float32") for n, draws in of_hidden.items()},
        )

    period = max(schedule.min_steps, math.ceil(count / batch_size))
    for _ in range(schedule.max_evaluations):
        for start in range(0, period, STEPS_AT_ONCE):
            batches = [next_batch() for _ in range(min(STEPS_AT_ONCE, period - start))]
            # As a list, which waits for all of them.
            list(workers.map(lambda run, batches=batches: run.advance(batches), runs))
        # Ranking metrics are faster for many probes together than for one at a time.
        scores = np.asarray(score(np.concatenate(list(workers.map(_Run.outputs, runs)))))
        ends = np.cumsum([len(run.stack) for run in runs])[:-1]
        for run, part in zip(runs, np.split(scores, ends), strict=True):
            run.update(part, schedule)
        runs = [run for run in runs if len(run.stack)]
        if not runs:
            break


def _batches(count, batch_size, seed):
    """The rows of batch after batch, without end, from concatenated permutations."""
    generator = np.random.default_rng([seed, 0])
    rows = np.empty(0, int)
    while True:
        while len(rows) < batch_size:
            rows = np.concatenate([rows, generator.permutation(count)])
        yield rows[:batch_size]
        rows = rows[batch_size:]
