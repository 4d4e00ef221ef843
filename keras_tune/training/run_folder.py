"""The folder of a training run: its configuration, its checkpoint, and where it resumes."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import pathlib
import zipfile
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tune.errors import UserError
from keras_tune.files import write_text
from keras_tune.models.saved import load_saved_model
from keras_tune.training.distribution import draw_states, spread_seeds

# The member of a `.keras` file, which is a zip archive, that holds the progress of the run.
PROGRESS_FILE = "keras_tune.json"


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
        """Return the progress of a run, in the middle of an epoch with the state of its model."""
        notes = notes or {}
        if not finished_steps:
            return cls(finished_epochs, notes=notes)
        metrics, draws = (
            [ops.convert_to_numpy(variable).tolist() for variable in variables]
            for variables in (model.metrics_variables, draw_states(model))
        )
        return cls(finished_epochs, finished_steps, metrics, draws, notes)

    def restore(self, model: keras.Model) -> None:
        """Set the metrics and the random generators of a Keras model to this state."""
        variables = [*model.metrics_variables, *draw_states(model)]
        for variable, value in zip(variables, [*self.metrics, *self.draws], strict=True):
            variable.assign(np.asarray(value, variable.dtype))
        spread_seeds(model)

    def write(self, path: str | os.PathLike) -> None:
        """Add this to a `.keras` file."""
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(PROGRESS_FILE, json.dumps(dataclasses.asdict(self)))

    @classmethod
    def read(cls, path: str | os.PathLike) -> Progress:
        """Read the progress from a `.keras` file.

        Raises:
            UserError: The file is damaged, or has no progress in it.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                return cls(**json.loads(archive.read(PROGRESS_FILE)))
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


def write_config(folder: str | pathlib.Path, config: Any) -> None:
    """Write a dataclass as `config.yaml`, which the commands read as a configuration."""
    import yaml

    text = yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)
    write_text(pathlib.Path(folder) / "config.yaml", text)


def read_config(folder: str | pathlib.Path) -> dict[str, Any]:
    """Return the content of `config.yaml` as a nested dict; a `UserError` if it is damaged."""
    import yaml

    path = pathlib.Path(folder) / "config.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); give another folder") from None
    return _checked_group(content, path)


def open_run_folder(
    folder: str | pathlib.Path, config: Any, free_on_resume: Collection[str]
) -> Progress:
    """Check what the folder of a run contains, and find out where the run starts.

    Rows of the history that are later than the checkpoint are removed.

    Args:
        folder: The folder, which need not exist.
        config: The configuration, a dataclass with the field `resume`.
        free_on_resume: Names of the fields that may differ when a run is resumed.

    Returns:
        `Progress`: the start, or where the run in the folder stopped if `resume` is set.

    Raises:
        ValueError: The folder contains a run but `resume` is not set, or a run with another
            configuration.
        UserError: A file in it is damaged.
    """
    folder = pathlib.Path(folder)
    checkpoint, history = folder / "model.keras", folder / "history.csv"
    if not config.resume:
        if checkpoint.exists() or history.exists():
            raise ValueError(
                "`output` already contains a run; pass `resume=True` to resume it, or give another "
                f"folder. Received: output={folder}"
            )
        return Progress(0)
    if not checkpoint.exists():
        # The run was killed within its first epoch, and starts again.
        history.unlink(missing_ok=True)
        return Progress(0)
    check_unchanged(folder, config, free_on_resume)
    progress = Progress.read(checkpoint)
    _drop_later_rows(history, progress.finished_epochs)
    return progress


def check_unchanged(
    folder: str | pathlib.Path, config: Any, free_on_resume: Collection[str]
) -> None:
    """Raise a `ValueError` unless a configuration is that of the `config.yaml` in a folder.

    Args:
        folder: The folder of a run.
        config: The configuration, a dataclass. Fields that the file lacks had their defaults; keys
            of the file that are no fields are ignored.
        free_on_resume: Names of the fields that may differ.
    """
    file = pathlib.Path(folder) / "config.yaml"
    # All of them first, since a damaged file is an error of its own.
    for key, old, new in list(_settings(read_config(folder), config, file)):
        if old != new and key.partition(".")[0] not in free_on_resume:
            raise ValueError(
                f"`{key}` must not change when a run is resumed; the run in {folder} used {old} "
                f"({file}). Received: {key}={new}"
            )


def _settings(content, config, file, prefix=""):
    """The dotted key of every field, its value in a file's content and its value now."""
    for field in dataclasses.fields(config):
        key, value = f"{prefix}{field.name}", getattr(config, field.name)
        if dataclasses.is_dataclass(field.type):
            group = _checked_group(content.get(field.name, {}), file)
            yield from _settings(group, value, file, f"{key}.")
            continue
        default = None if field.default is dataclasses.MISSING else field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield key, content.get(field.name, _plain(default)), _plain(value)


def _checked_group(content, file):
    if not isinstance(content, dict):
        raise UserError(f"{file}: not a configuration; give another folder")
    return content


def _plain(value):
    """A value with types of YAML and JSON: dicts instead of dataclasses, lists but no tuples."""
    return json.loads(json.dumps(value, default=dataclasses.asdict))


def _drop_later_rows(path, epochs):
    """Drop the rows of the history that are later than the checkpoint."""
    rows = read_rows(path)
    if rows:
        write_rows(path, [row for row in rows if int(row["epoch"]) < epochs])


def read_rows(path: pathlib.Path) -> list[dict[str, str]]:
    """The rows of a `history.csv`, with values as they are written; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: pathlib.Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows, which may have different columns, in one step."""
    text = io.StringIO()
    columns = dict.fromkeys(column for row in rows for column in row)
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
