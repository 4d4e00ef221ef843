"""How far a run has come: what a checkpoint holds beside the model, so that the run can go on."""

import dataclasses
import json
import zipfile

import keras
import numpy as np
from keras import ops

from keras_tune.errors import UserError
from keras_tune.models.saved import load_saved_model
from keras_tune.training import replicas
from keras_tune.training.contrastive_model import draw_states

FILE_NAME = "keras_tune.json"


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands.

    In the middle of an epoch the state of the metrics and of the random draws belongs to it; at
    its beginning both follow from the number of the epoch.

    Attributes:
        finished_epochs: Integer.
        finished_steps: Integer, those of the epoch that has begun.
        metrics: List of arrays as nested lists, the state of the model's metrics.
        draws: List of arrays as nested lists, the state of its random generators.
        notes: Dict of what else a run must know to go on, in the types of JSON.

    Example:

    ```python
    Progress.of(model, finished_epochs=3).write("runs/mine/model.keras")
    Progress.read("runs/mine/model.keras").finished_epochs  # 3
    ```
    """

    finished_epochs: int
    finished_steps: int = 0
    metrics: list = dataclasses.field(default_factory=list)
    draws: list = dataclasses.field(default_factory=list)
    notes: dict = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, model, finished_epochs, finished_steps=0, notes=None):
        """Note where `model` stands."""
        notes = notes or {}
        if not finished_steps:
            return cls(finished_epochs, notes=notes)
        values = [
            [ops.convert_to_numpy(variable).tolist() for variable in variables]
            for variables in (_metric_variables(model), draw_states(model))
        ]
        return cls(finished_epochs, finished_steps, *values, notes)

    def restore(self, model):
        """Give `model` the state of metrics and draws that was noted."""
        for variables, values in (
            (_metric_variables(model), self.metrics),
            (draw_states(model), self.draws),
        ):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(np.asarray(value, variable.dtype))
        replicas.spread_seeds(model, draw_states(model))

    def write(self, path):
        """Add it to a `.keras` file, which is a zip archive."""
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(FILE_NAME, json.dumps(dataclasses.asdict(self)))

    @classmethod
    def read(cls, path):
        """Read it from a `.keras` file.

        Raises:
            UserError: The file is damaged, or holds no progress.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                return cls(**json.loads(archive.read(FILE_NAME)))
        except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
            raise UserError(
                f"{path}: not a checkpoint that can be gone on from ({error}); delete it to begin "
                "anew"
            ) from error


def load_to_continue(path, jit_compile="auto"):
    """Load a model with its optimizer, compiled for the backend of today.

    A saved model holds whether XLA compiled it on the backend that it was trained with, which may
    be slow, or impossible, on another.

    Args:
        path: The `.keras` file.
        jit_compile: As in `keras.Model.compile`. Defaults to "auto".

    Returns:
        The model.

    Raises:
        UserError: The file is damaged, its weights are not finite, or it holds no optimizer.

    Example:

    ```python
    model = load_to_continue("runs/mine/model.keras")
    ```
    """
    model = load_saved_model(path, compile=True)
    if getattr(model, "optimizer", None) is None:
        raise UserError(f"{path}: holds no optimizer, so training cannot be resumed from it")
    compiled = keras.saving.deserialize_keras_object(model.get_compile_config())
    # The optimizer is the one that has the state.
    model.compile(**{**compiled, "optimizer": model.optimizer, "jit_compile": jit_compile})
    return model


def _metric_variables(model):
    return [variable for metric in model.metrics for variable in metric.variables]
