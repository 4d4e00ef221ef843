"""Callbacks that make runs resumable, and what stops them: signals and numbers not finite."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import keras

from keras_tune.checks import first_not_finite
from keras_tune.files import atomic_path
from keras_tune.training.run_folder import Progress, read_rows, write_rows


class NotFiniteError(ArithmeticError):
    """The loss, or a weight, has become NaN or infinite.

    Args:
        what: What is not finite.
        epoch: Integer, the epoch, from 0.
        step: Integer, the step within it, from 0.
        steps: Integer, how many steps up to this one had not been checked before. Defaults to 1.

    Attributes:
        what, epoch, step, steps: The same.

    Example:

    ```python
    from keras_tune.training import NotFiniteError

    error = NotFiniteError("the loss is nan", epoch=1, step=4)
    str(error)  # "the loss is nan at step 5 of epoch 2"
    ```
    """

    def __init__(self, what: str, epoch: int, step: int, steps: int = 1):
        where = f"at step {step + 1}" if steps == 1 else f"at a step from {step + 2 - steps} on"
        super().__init__(f"{what} {where} of epoch {epoch + 1}")
        self.what, self.epoch, self.step, self.steps = what, epoch, step, steps


class StoppedError(Exception):
    """A run was asked to stop, and has saved its state.

    Args:
        progress: `Progress`.

    Attributes:
        progress: The same.

    Example:

    ```python
    from keras_tune.training import Progress, StoppedError

    str(StoppedError(Progress(2, 5)))  # "2 epochs and 5 steps are finished"
    ```
    """

    def __init__(self, progress: Progress):
        super().__init__(
            f"{progress.finished_epochs} epochs and {progress.finished_steps} steps are finished"
        )
        self.progress = progress


@dataclasses.dataclass
class StopSignal:
    """Whether a signal has asked the process to stop; call it to find out.

    Args:
        status: Integer, the exit status of a process that the signal stops, or None before a
            signal. Defaults to None.
    """

    status: int | None = None

    def __call__(self) -> bool:
        return self.status is not None


@contextlib.contextmanager
def stop_signals() -> Iterator[StopSignal]:
    """Catch SIGTERM and SIGINT (Ctrl-C), so that a run can save its state before it stops.

    Within the block the first signal does not end the process; a second one does. Signals can be
    caught in the main thread only.

    Yields:
        `StopSignal`, a function that tells whether a signal has arrived. `PretrainingRun.fit` and
        `Checkpoint` take it as `should_stop`.

    Example:

    ```python
    from keras_tune.training import stop_signals

    with stop_signals() as should_stop:
        should_stop()  # False
    ```
    """
    stop = StopSignal()

    def note(number: int, _: FrameType | None) -> None:
        if stop():
            sys.exit(128 + number)
        stop.status = 128 + number

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class Checkpoint(keras.callbacks.Callback):
    """Save the whole model, with the state of its optimizer, at the end of every epoch.

    The file is replaced in one step, so a process that is killed leaves a whole file. The file also
    holds how far the run has come (see `Progress`), so that the two always agree. A model whose
    loss or weights are not finite is not saved.

    Args:
        path: The `.keras` file.
        should_stop: Function without arguments that tells whether to stop. Then the model is saved
            after the current step, in the middle of the epoch. Defaults to never.
        first_step: Integer, the steps of the first epoch that are already finished. Defaults to 0.
        notes: Function without arguments that returns `Progress.notes`. Defaults to no notes.

    Raises:
        NotFiniteError: Within `fit`, the loss or a weight is not finite.
        StoppedError: Within `fit`, `should_stop` returned True; the model is saved.

    Example:

    ```python
    from keras_tune.training import Checkpoint, Progress

    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("adam", loss="mse")
    checkpoint = Checkpoint("model.keras")
    model.fit(np.ones((4, 2)), np.ones((4, 1)), epochs=2, callbacks=[checkpoint], verbose=0)
    Progress.read("model.keras").finished_epochs  # 2
    ```
    """

    def __init__(
        self,
        path: str | os.PathLike,
        should_stop: Callable[[], bool] | None = None,
        first_step: int = 0,
        notes: Callable[[], dict] | None = None,
    ):
        super().__init__()
        self.path = pathlib.Path(path)
        self.should_stop = should_stop or (lambda: False)
        self.first_step = first_step
        self.notes = notes or dict
        self.epoch = self.step = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.epoch, self.step = epoch, self.first_step

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.step = self.first_step + batch + 1
        loss = (logs or {}).get("loss", 0.0)
        # It is the mean over the epoch so far, so it stays not finite.
        if not math.isfinite(loss):
            raise self._not_finite(f"the loss is {loss}")
        # After the last step of an epoch, its end saves the model anyway.
        if self.should_stop() and batch + 1 < self.params["steps"]:
            self._save(Progress.of(self.model, self.epoch, self.step, self.notes()))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        loss = (logs or {}).get("val_loss", 0.0)
        if not math.isfinite(loss):
            raise self._not_finite(f"the validation loss is {loss}")
        self.first_step = 0
        self._save(Progress.of(self.model, epoch + 1, notes=self.notes()))

    def _not_finite(self, what):
        # Several steps at a time are checked after the last of them.
        return NotFiniteError(what, self.epoch, self.step - 1, self.model.steps_per_execution)

    def _save(self, progress):
        weight = first_not_finite((weight.path, weight) for weight in self.model.weights)
        if weight is not None:
            raise self._not_finite(f"the weight {weight} is not finite")
        with atomic_path(self.path) as temporary:
            self.model.save(temporary)
            progress.write(temporary)
        if self.should_stop():
            raise StoppedError(progress)


class KeepBest(keras.callbacks.Callback):
    """Save the model of the epoch with the lowest validation loss, and stop early.

    Like Keras' `EarlyStopping`, but the best model is kept in a file, and a resumed run continues
    with the remaining patience. Put it before `Checkpoint`, which saves its `notes`.

    Args:
        path: The `.keras` file, written whenever the loss is lower than before.
        patience: Integer, epochs without a lower loss after which training stops.
        best: Float, the lowest loss so far, or None. Defaults to None.
        wait: Integer, epochs since then. Defaults to 0.
        stopped: Whether training has stopped because of `patience`. Defaults to False.
        kept: Float, the loss of the model in the file, which only a better one replaces; lower than
            `best` if that training began with a model from before. Defaults to `best`.

    Example:

    ```python
    from keras_tune.training import KeepBest

    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("adam", loss="mse")
    clips = np.ones((4, 2)), np.ones((4, 1))
    best = KeepBest("best.keras", patience=10)
    model.fit(*clips, validation_data=clips, epochs=3, callbacks=[best], verbose=0)
    best.restore(model)
    ```
    """

    def __init__(
        self,
        path: str | os.PathLike,
        patience: int,
        best: float | None = None,
        wait: int = 0,
        stopped: bool = False,
        kept: float | None = None,
    ):
        super().__init__()
        self.path = pathlib.Path(path)
        self.patience = patience
        self.best, self.wait, self.stopped = best, wait, stopped
        self.kept = best if kept is None else kept
        self._weights = None

    def notes(self) -> dict[str, Any]:
        """Return the arguments of the callback of a resumed run, except path and patience."""
        return {
            "best": self.best,
            "wait": self.wait,
            "stopped": self.stopped,
            "kept": self.kept,
        }

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        loss = float((logs or {})["val_loss"])
        if not math.isfinite(loss):
            return
        if self.kept is None or loss < self.kept:
            self.kept = loss
            self._weights = self.model.get_weights()
            with atomic_path(self.path) as temporary:
                self.model.save(temporary)
        if self.best is None or loss < self.best:
            self.best, self.wait = loss, 0
            return
        self.wait += 1
        if self.wait >= self.patience and epoch > 0:
            self.stopped = self.model.stop_training = True

    def restore(self, model: keras.Model) -> None:
        """Set the weights of a Keras model to the best ones so far, if there are any."""
        if self.kept is None:
            return
        if self._weights is None:
            self._weights = keras.models.load_model(self.path).get_weights()
        model.set_weights(self._weights)


def lower_is_better(metric: str) -> bool:
    """Whether lower values of a pretraining metric are better: losses, alignment, uniformity."""
    return any(word in metric for word in ("loss", "alignment", "uniformity"))


class BestEpoch(keras.callbacks.Callback):
    """Call a function after every epoch in which a metric is better than ever before.

    Lower is better for losses, alignment and uniformity, and higher for all other metrics.

    Args:
        monitor: The name of the metric in the logs; epochs whose logs have NaN are ignored.
        save: Function without arguments.
        best: Float, the best value so far, or None. Defaults to None.

    Raises:
        ValueError: Within `fit`, the logs have no such metric.

    Example:

    ```python
    from keras_tune.training import BestEpoch

    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("adam", loss="mse")
    best = BestEpoch("loss", lambda: model.save("best.keras"))
    model.fit(np.ones((4, 2)), np.ones((4, 1)), epochs=3, callbacks=[best], verbose=0)
    best.best  # the lowest loss of an epoch
    ```
    """

    def __init__(self, monitor: str, save: Callable[[], Any], best: float | None = None):
        super().__init__()
        self.monitor, self.save, self.best = monitor, save, best

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        if self.monitor not in logs:
            raise ValueError(
                f"`keep_best` must be one of {', '.join(sorted(logs))}. "
                f"Received: keep_best={self.monitor}"
            )
        value = float(logs[self.monitor])
        if not math.isfinite(value):
            return
        sign = -1 if lower_is_better(self.monitor) else 1
        if self.best is None or sign * value > sign * self.best:
            self.best = value
            self.save()


class HistoryFile(keras.callbacks.Callback):
    """Add a row with the logs of each epoch to a table.

    Unlike with `keras.callbacks.CSVLogger`, a run that is resumed may have other logs than before:
    every value is in the column of its name, and the table is replaced in one step.

    Args:
        path: The csv file; its rows are kept.

    Example:

    ```python
    from keras_tune.training import HistoryFile

    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("adam", loss="mse")
    history = HistoryFile("history.csv")
    model.fit(np.ones((4, 2)), np.ones((4, 1)), epochs=3, callbacks=[history], verbose=0)
    open("history.csv").read()  # "epoch,loss", and a line for each epoch
    ```
    """

    def __init__(self, path: str | os.PathLike):
        super().__init__()
        self.path = pathlib.Path(path)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        values = {name: float(value) for name, value in sorted((logs or {}).items())}
        write_rows(self.path, [*read_rows(self.path), {"epoch": epoch, **values}])


class TimeLeft(keras.callbacks.Callback):
    """Print after every epoch how long the remaining ones will take, for log files.

    The estimate is the mean of the epochs so far, without the first one if there are others, since
    that one includes compilation.

    Args:
        clock: Function without arguments that returns seconds. Defaults to `time.monotonic`.

    Example:

    ```python
    from keras_tune.training import TimeLeft

    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("adam", loss="mse")
    model.fit(np.ones((4, 2)), np.ones((4, 1)), epochs=3, callbacks=[TimeLeft()], verbose=2)
    ```
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        super().__init__()
        self.clock = clock
        self._ends: list[float] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._ends = [self.clock()]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        from tqdm import tqdm

        self._ends.append(self.clock())
        left = self.params["epochs"] - epoch - 1
        if left > 0:
            ends = self._ends[1:] if len(self._ends) > 2 else self._ends
            seconds = left * (ends[-1] - ends[0]) / (len(ends) - 1)
            print(f"about {tqdm.format_interval(seconds)} left", flush=True)


class EpochSeed(keras.callbacks.Callback):
    """Seed the random draws of every epoch with a seed and the number of the epoch.

    A resumed run then draws the same crops and augmentations as an uninterrupted one.

    Args:
        seed: Integer, or None for a model without random draws.
        progress: `Progress` in the middle of an epoch; the first epoch continues with its state of
            random draws and metrics. Defaults to None.

    Example:

    ```python
    from keras_tune.training import ContrastiveModel, EpochSeed

    encoder = keras_tune.TUNe(1, 1, base_filters=2, tail_filters=[4], input_samples=2187)
    model = ContrastiveModel(encoder)
    model.compile("adam")
    clips = np.random.normal(0, 0.1, (4, 3000)).astype("float32")
    model.fit(clips, epochs=1, callbacks=[EpochSeed(42)], verbose=0)
    ```
    """

    def __init__(self, seed: int | None, progress: Progress | None = None):
        super().__init__()
        self.seed = seed
        self.progress = progress

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.seed is not None:
            self.model.reseed(self.seed, epoch)
        if self.progress is not None and self.progress.finished_steps:
            self.progress.restore(self.model)
            self.progress = None
