"""Callbacks that make a run resumable, and end it in good order."""

import math
import pathlib

import keras

from keras_tune.checks import first_not_finite
from keras_tune.files import atomic_path
from keras_tune.training.progress import Progress


class NotFiniteError(ArithmeticError):
    """The loss, or a weight, has become NaN or infinite.

    Args:
        what: What is not finite.
        epoch: Integer, the epoch, from 0.
        step: Integer, the step within it, from 0.
        steps: Integer, how many steps up to this one had not been looked at before. Defaults to 1.

    Attributes:
        what, epoch, step, steps: The same.
    """

    def __init__(self, what, epoch, step, steps=1):
        where = f"at step {step + 1}" if steps == 1 else f"at a step from {step + 2 - steps} on"
        super().__init__(f"{what} {where} of epoch {epoch + 1}")
        self.what, self.epoch, self.step, self.steps = what, epoch, step, steps


class StoppedError(Exception):
    """A run has been asked to stop, and has saved what it has.

    Args:
        progress: `Progress`.

    Attributes:
        progress: The same.
    """

    def __init__(self, progress):
        super().__init__(
            f"{progress.finished_epochs} epochs and {progress.finished_steps} steps are finished"
        )
        self.progress = progress


class Checkpoint(keras.callbacks.Callback):
    """Save the whole model, optimizer state included, at the end of every epoch.

    The file is replaced in one step, so a kill at any moment leaves the last whole one. How far the
    run has come is kept inside it (see `Progress`), so that the two cannot disagree. A model whose
    loss or weights are not finite is not saved.

    Args:
        path: The `.keras` file.
        should_stop: Function without arguments that says whether to stop. Then the model is saved
            after the current step, in the middle of the epoch. Defaults to never.
        first_step: Integer, steps of the first epoch that were made before. Defaults to 0.
        notes: Function without arguments that gives `Progress.notes`. Defaults to no notes.

    Raises:
        NotFiniteError: From within `fit`: the loss or a weight is not finite.
        StoppedError: From within `fit`: `should_stop` said so, and the model is saved.

    Example:

    ```python
    model.fit(dataset, epochs=10, callbacks=[Checkpoint("runs/mine/model.keras")])
    ```
    """

    def __init__(self, path, should_stop=None, first_step=0, notes=None):
        super().__init__()
        self.path = pathlib.Path(path)
        self.should_stop = should_stop or (lambda: False)
        self.first_step = first_step
        self.notes = notes or dict
        self.epoch = self.step = None

    def on_epoch_begin(self, epoch, logs=None):
        if self.epoch is not None:
            self.first_step = 0
        self.epoch, self.step = epoch, self.first_step

    def on_train_batch_end(self, batch, logs=None):
        self.step = self.first_step + batch + 1
        loss = (logs or {}).get("loss", 0.0)
        # It is the mean over the epoch so far, which does not recover.
        if not math.isfinite(loss):
            raise self._not_finite(f"the loss is {loss}")
        # After the last step the end of the epoch is near, and leaves less to be kept.
        if self.should_stop() and batch + 1 < self.params["steps"]:
            self._save(Progress.of(self.model, self.epoch, self.step, self.notes()))

    def on_epoch_end(self, epoch, logs=None):
        loss = (logs or {}).get("val_loss", 0.0)
        if not math.isfinite(loss):
            raise self._not_finite(f"the validation loss is {loss}")
        self._save(Progress.of(self.model, epoch + 1, notes=self.notes()))

    def _not_finite(self, what):
        # Several steps at a time are looked at after the last of them.
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
    """Keep the model of the epoch with the lowest loss on valid in a file, and stop early.

    As Keras' `EarlyStopping`, but what is best so far outlives the process, and a run that goes on
    has the patience that is left. Put it before `Checkpoint`, which keeps its `notes`.

    Args:
        path: The `.keras` file, written whenever the loss is lower than ever.
        patience: Integer, epochs without a lower loss after which training stops.
        best: Float, the lowest loss so far, or None. Defaults to None.
        wait: Integer, epochs since then. Defaults to 0.
        stopped: Whether patience has come to its end. Defaults to False.

    Example:

    ```python
    best = KeepBest("runs/mine/tagger.keras", patience=10)
    model.fit(dataset, validation_data=valid, epochs=100, callbacks=[best])
    best.restore(model)
    ```
    """

    def __init__(self, path, patience, best=None, wait=0, stopped=False):
        super().__init__()
        self.path = pathlib.Path(path)
        self.patience = patience
        self.best, self.wait, self.stopped = best, wait, stopped
        self._weights = None

    def notes(self):
        """What a continuation gives to its own, a dict of `best`, `wait` and `stopped`."""
        return {"best": self.best, "wait": self.wait, "stopped": self.stopped}

    def on_epoch_end(self, epoch, logs=None):
        loss = float(logs["val_loss"])
        if not math.isfinite(loss):
            return
        if self.best is None or loss < self.best:
            self.best, self.wait = loss, 0
            self._weights = self.model.get_weights()
            with atomic_path(self.path) as temporary:
                self.model.save(temporary)
            return
        self.wait += 1
        if self.wait >= self.patience and epoch > 0:
            self.stopped = self.model.stop_training = True

    def restore(self, model):
        """Give `model` the best weights so far, if there are any."""
        if self.best is None:
            return
        if self._weights is None:
            self._weights = keras.models.load_model(self.path).get_weights()
        model.set_weights(self._weights)


def finished_epochs(path):
    """How many epochs a file written by `Checkpoint` has behind it.

    Args:
        path: The `.keras` file.

    Returns:
        Integer.

    Raises:
        UserError: The file is damaged, or not one of `Checkpoint`'s.

    Example:

    ```python
    model = keras.models.load_model(path)
    model.fit(dataset, epochs=10, initial_epoch=finished_epochs(path))
    ```
    """
    return Progress.read(path).finished_epochs


class EpochSeed(keras.callbacks.Callback):
    """Seed the draws of every epoch from a seed and the epoch's number.

    A resumed run then draws the crops and augmentations that the uninterrupted one would have.

    Args:
        seed: Integer, or None for a model that draws nothing.
        progress: `Progress` in the middle of an epoch, whose state of draws and metrics the first
            epoch goes on from. Defaults to None.

    Example:

    ```python
    model.fit(dataset, epochs=10, callbacks=[EpochSeed(42)])
    ```
    """

    def __init__(self, seed, progress=None):
        super().__init__()
        self.seed = seed
        self.progress = progress

    def on_epoch_begin(self, epoch, logs=None):
        if self.seed is not None:
            self.model.reseed(self.seed, epoch)
        if self.progress is not None and self.progress.finished_steps:
            self.progress.restore(self.model)
            self.progress = None
