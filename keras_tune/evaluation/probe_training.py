"""Training probes with early stopping, each for itself although they share a stack."""

import dataclasses
import math
import os

import numpy as np

from keras_tune.evaluation.probe_stack import ProbeStack, activate, mean_losses

# Weights of a stack, a few probes with a hidden layer of jukemir's size: what a core's cache holds.
STACK_WEIGHTS = 2**18
# Steps that a stack takes before it makes room for the next one.
STEPS_AT_ONCE = 8


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When probes are looked at, and when they stop.

    Args:
        min_steps: Integer, the fewest steps between two looks at valid; there is never less than an
            epoch between them. Defaults to 1.
        patience: Integer, looks without improvement after which a probe stops. Defaults to 10.
        max_evaluations: Integer, looks after which all stop. Defaults to 200.
        plateau_patience: Integer, looks without improvement that leave the learning rate as it
            is; at the next one it is divided by 10, see `Plateau`. Defaults to None: a constant
            learning rate.
    """

    min_steps: int = 1
    patience: int = 10
    max_evaluations: int = 200
    plateau_patience: int | None = None


class Plateau:
    """When the learning rate of one probe is divided by 10: the rule of PyTorch's scheduler.

    A score counts as better only if it exceeds the best one by a ten-thousandth of it. With
    `patience=5`, the learning rate is divided at the sixth look in a row without a better score.

    Args:
        patience: Integer, looks without a better score that change nothing.

    Source: `torch.optim.lr_scheduler.ReduceLROnPlateau` with its defaults.

    Example:

    ```python
    plateau = Plateau(patience=1)
    [plateau.update(score) for score in (0.5, 0.5, 0.4)]  # [False, False, True]
    ```
    """

    threshold = 1e-4

    def __init__(self, patience):
        self.patience = patience
        self.best = None
        self.waited = 0

    def update(self, score):
        """Take the score of one look, to be maximized; True if the rate is divided after it."""
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
    """A probe as it was at its best on valid.

    Args:
        configuration: `ProbeConfiguration`.
        weights: List of arrays, kernel and bias of each layer.
        mean: Array (d,), the mean of the features in train.
        deviation: Array (d,), their deviation.
        loss: "softmax", "sigmoid" or "mse".
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


def train_probes(
    train, valid, configurations, loss, num_outputs, valid_score, schedule=None, seed=0
):
    """Train probes of any configurations, all of them at once.

    Args:
        train: Pair of features (clips, d) and targets (clips,) or (clips, outputs).
        valid: Likewise.
        configurations: List of `ProbeConfiguration`.
        loss: "softmax", "sigmoid" or "mse".
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
    found = [None] * len(configurations)
    with _Workers() as workers:
        for batch_size in dict.fromkeys(c.batch_size for c in configurations):
            places = [p for p, c in enumerate(configurations) if c.batch_size == batch_size]
            runs = _runs(
                places,
                configurations,
                sides,
                num_outputs,
                loss,
                seed,
                schedule.plateau_patience,
            )
            _train_runs(
                runs,
                train[1],
                min(batch_size, len(features)),
                valid_score,
                schedule,
                seed,
                workers,
            )
            for run in runs:
                for place, best in zip(run.all_places, run.best, strict=True):
                    found[place] = TrainedProbe(
                        configurations[place],
                        best.weights,
                        mean,
                        deviation,
                        loss,
                        best.score,
                        best.steps,
                    )
    return found


class _Workers:
    """Threads, a processor each, that share out the stacks; linear algebra in one thread each."""

    def __enter__(self):
        import concurrent.futures

        from threadpoolctl import threadpool_limits

        count = getattr(os, "process_cpu_count", os.cpu_count)() or 1
        self.pool = concurrent.futures.ThreadPoolExecutor(count)
        self.limits = threadpool_limits(1, user_api="blas")
        return self

    def __exit__(self, *_):
        self.pool.shutdown()
        self.limits.restore_original_limits()

    def map(self, function, values):
        """The results of a function, called for all values at once."""
        return list(self.pool.map(function, values))


class _Best:
    """The weights of one probe at its best look so far."""

    weights = None
    score = -np.inf
    steps = 0


class _Run:
    """A stack of probes, with how far each has come."""

    def __init__(self, stack, places, features, valid_features, plateau_patience):
        self.stack = stack
        self.all_places = places
        self.features, self.valid_features = features, valid_features
        self.best = [_Best() for _ in places]
        self.waited = np.zeros(len(places), int)
        self.plateaus = [
            None if plateau_patience is None else Plateau(plateau_patience) for _ in places
        ]
        # For each probe still in the stack, its number in the lists above.
        self.running = np.arange(len(places))

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
        """Keep what is better than before, and go on without the probes that are done."""
        weights = self.stack.weights()
        for row, (number, score) in enumerate(zip(self.running, scores, strict=True)):
            best = self.best[number]
            self.waited[number] += 1
            if score > best.score:
                best.weights = [part[row].copy() for part in weights]
                best.score, best.steps = float(score), self.stack.steps
                self.waited[number] = 0
            plateau = self.plateaus[number]
            # PyTorch leaves a rate alone that would change by less than 1e-8.
            if plateau and plateau.update(score) and 0.9 * self.stack.rates[row, 0] > 1e-8:
                self.stack.rates[row] /= 10
        going_on = self.waited[self.running] < schedule.patience
        if not going_on.all():
            self.stack.keep(going_on)
            self.running = self.running[going_on]


def _runs(places, configurations, sides, num_outputs, loss, seed, plateau_patience):
    """Stacks of the probes that see the same inputs, small enough to be shared out."""
    kinds = {}
    for place in places:
        c = configurations[place]
        kinds.setdefault((c.hidden_units, c.standardize, c.dropout), []).append(place)
    runs = []
    for (hidden_units, standardize, _), members in kinds.items():
        features, valid_features = sides[standardize]
        size = max(1, STACK_WEIGHTS // (features.shape[1] * (hidden_units or num_outputs)))
        for start in range(0, len(members), size):
            some = members[start : start + size]
            stack = ProbeStack(
                [configurations[place] for place in some],
                features.shape[1],
                num_outputs,
                loss,
                seed,
            )
            runs.append(_Run(stack, some, features, valid_features, plateau_patience))
    return runs


@dataclasses.dataclass(frozen=True)
class _Batch:
    """What all probes see in one step: clips, and random numbers for dropout.

    Those of hidden layers by their width.
    """

    rows: np.ndarray
    targets: np.ndarray
    feature_draws: np.ndarray | None
    hidden_draws: dict


def _train_runs(runs, targets, batch_size, score, schedule, seed, workers):
    """Train stacks on the same batches until all their probes are done."""
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
            workers.map(lambda run, batches=batches: run.advance(batches), runs)
        # Ranking metrics cost less for many probes at once than probe by probe.
        scores = np.asarray(score(np.concatenate(workers.map(_Run.outputs, runs))))
        ends = np.cumsum([len(run.stack) for run in runs])[:-1]
        for run, part in zip(runs, np.split(scores, ends), strict=True):
            run.update(part, schedule)
        runs = [run for run in runs if len(run.stack)]
        if not runs:
            break


def _batches(count, batch_size, seed):
    """Rows of one batch after another, without end: permutations strung together."""
    generator = np.random.default_rng([seed, 0])
    rows = np.empty(0, int)
    while True:
        while len(rows) < batch_size:
            rows = np.concatenate([rows, generator.permutation(count)])
        yield rows[:batch_size]
        rows = rows[batch_size:]
