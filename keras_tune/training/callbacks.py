"""Callbacks that make a run resumable."""

import json
import pathlib
import zipfile

import keras

from keras_tune.errors import UserError
from keras_tune.files import atomic_path

PROGRESS = "keras_tune.json"


class Checkpoint(keras.callbacks.Callback):
    """Save the whole model, optimizer state included, at the end of every epoch.

    The file is replaced in one step, so a kill at any moment leaves the last whole one. The number
    of finished epochs is kept inside it (a `.keras` file is a zip archive), so that the two cannot
    disagree; `finished_epochs` reads it.

    Args:
        path: The `.keras` file.

    Example:

    ```python
    model.fit(dataset, epochs=10, callbacks=[Checkpoint("runs/mine/model.keras")])
    ```
    """

    def __init__(self, path):
        super().__init__()
        self.path = pathlib.Path(path)

    def on_epoch_end(self, epoch, logs=None):
        with atomic_path(self.path) as temporary:
            self.model.save(temporary)
            with zipfile.ZipFile(temporary, "a") as archive:
                archive.writestr(PROGRESS, json.dumps({"finished_epochs": epoch + 1}))


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
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read(PROGRESS))["finished_epochs"]
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a checkpoint that can be gone on from ({error})") from error


class EpochSeed(keras.callbacks.Callback):
    """Seed the draws of every epoch from a seed and the epoch's number.

    A resumed run then draws the crops and augmentations that the uninterrupted one would have.

    Args:
        seed: Integer.

    Example:

    ```python
    model.fit(dataset, epochs=10, callbacks=[EpochSeed(42)])
    ```
    """

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch, logs=None):
        self.model.reseed(self.seed, epoch)
