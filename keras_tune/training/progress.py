"""How far a run has come, which is saved in the file of the model, and loading checkpoints."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tune.errors import UserError
from keras_tune.models.saved import load_saved_model
from keras_tune.training import distribution
from keras_tune.training.contrastive_model import draw_states

FILE_NAME = "keras_tune.json"


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run has come.

    In the middle of an epoch this includes the state of the metrics and of the random draws; at
    the beginning of an epoch both follow from its number.

    Args:
        finished_epochs: Integer.
        finished_steps: Integer, the steps of the epoch that has begun. Defaults to 0.
        metrics: List of arrays as nested lists, the state of the model's metrics. Defaults to none.
        draws: List of arrays as nested lists, the state of its random generators. Defaults to none.
        notes: Dict of other JSON values that the run needs when it is resumed. Defaults to an empty
            dict.

    Example:

    ```python
    from keras_tune.training import Progress

    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save("model.keras")
    Progress(finished_epochs=3).write("model.keras")
    Progress.read("model.keras").finished_epochs  # 3
    ```
    """

    finished_epochs: int
    finished_steps: int = 0
    metrics: list = dataclasses.field(default_factory=list)
    draws: list = dataclasses.field(default_factory=list)
    notes: dict = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: keras.Model,
        finished_epochs: int,
        finished_steps: int = 0,
        notes: dict | None = None,
    ) -> Progress:
        """Return the progress of a run, with the state of its model.

        Args:
            model: Keras model.
            finished_epochs: Integer.
            finished_steps: Integer. Defaults to 0.
            notes: Dict. Defaults to None: empty.

        Returns:
            `Progress`.
        """
        notes = notes or {}
        if not finished_steps:
            return cls(finished_epochs, notes=notes)
        metrics, draws = (
            [ops.convert_to_numpy(variable).tolist() for variable in variables]
            for variables in (_metric_variables(model), draw_states(model))
        )
        return cls(finished_epochs, finished_steps, metrics, draws, notes)

    def restore(self, model: keras.Model) -> None:
        """Set the metrics and the random generators of a model to this state.

        Args:
            model: Keras model.
        """
        for variables, values in (
            (_metric_variables(model), self.metrics),
            (draw_states(model), self.draws),
        ):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(np.asarray(value, variable.dtype))
        distribution.spread_seeds(model, draw_states(model))

    def write(self, path: str | os.PathLike) -> None:
        """Add this to a `.keras` file, which is a zip archive.

        Args:
            path: The file.
        """
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(FILE_NAME, json.dumps(dataclasses.asdict(self)))

    @classmethod
    def read(cls, path: str | os.PathLike) -> Progress:
        """Read the progress from a `.keras` file.

        Args:
            path: The file.

        Returns:
            `Progress`.

        Raises:
            UserError: The file is damaged, or has no progress in it.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                return cls(**json.loads(archive.read(FILE_NAME)))
        except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
            raise UserError(
                f"{path}: not a checkpoint from which a run can be resumed ({error}); delete it to "
                "start again"
            ) from error


def load_checkpoint(
    path: str | os.PathLike, jit_compile: bool | str | None = None, compile: bool = True
) -> Any:
    """Load the model of a checkpoint with its optimizer, compiled for the current backend.

    A saved model records whether XLA compiled it on the backend that it was trained with, which
    may be slow or impossible on another one.

    Args:
        path: The `.keras` file.
        jit_compile: As in `keras.Model.compile`. Defaults to None: whatever is fast on the
            backend.
        compile: Whether the model is compiled and has its optimizer. Defaults to True.

    Returns:
        Keras model.

    Raises:
        UserError: The file is damaged, its weights are not finite, or it has no optimizer.

    Example:

    ```python
    from keras_tune.training import load_checkpoint

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("adam", loss="mse")
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    model.save("model.keras")
    int(load_checkpoint("model.keras").optimizer.iterations)  # 1
    ```
    """
    try:
        model = load_saved_model(path, compile=compile)
    except UserError as error:
        raise UserError(f"{error}; delete it to start again") from error
    if not compile:
        return model
    if getattr(model, "optimizer", None) is None:
        raise UserError(
            f"{path}: has no optimizer, so the run cannot be resumed; delete it to start again"
        )
    compiled = keras.saving.deserialize_keras_object(model.get_compile_config())
    settings = {"jit_compile": "auto" if jit_compile is None else jit_compile}
    # The optimizer is the one that has the state.
    model.compile(**{**compiled, "optimizer": model.optimizer, **settings})
    return model


def _metric_variables(model):
    return [variable for metric in model.metrics for variable in metric.variables]
