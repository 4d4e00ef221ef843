"""The folder of a training run: its configuration, and where the run resumes."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Collection
from typing import Any

from keras_tune.errors import UserError
from keras_tune.files import write_text
from keras_tune.training.progress import Progress


def write_config(folder: str | pathlib.Path, config: Any) -> None:
    """Write a dataclass as `config.yaml`, which the commands read as a configuration.

    Args:
        folder: The folder.
        config: The dataclass.
    """
    import yaml

    text = yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)
    write_text(pathlib.Path(folder) / "config.yaml", text)


def read_config(folder: str | pathlib.Path) -> dict[str, Any]:
    """Read `config.yaml`.

    Args:
        folder: The folder.

    Returns:
        The configuration as a nested dict.

    Raises:
        UserError: The file is damaged.
    """
    import yaml

    path = pathlib.Path(folder) / "config.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); give another folder") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a configuration; give another folder")
    return content


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
    """Raise unless a configuration is that of the `config.yaml` in a folder.

    Args:
        folder: The folder of a run.
        config: The configuration, a dataclass. Fields that the file lacks had their defaults.
        free_on_resume: Names of the fields that may differ.

    Raises:
        ValueError: A field differs.
        UserError: The file is damaged.
    """
    before = _with_defaults(read_config(folder), _defaults(config), folder)
    changed = _first_difference(before, _plain(config), free_on_resume)
    if changed is not None:
        key, old, new = changed
        file = pathlib.Path(folder) / "config.yaml"
        raise ValueError(
            f"`{key}` must not change when a run is resumed; the run in {folder} used {old} "
            f"({file}). Received: {key}={new}"
        )


def _first_difference(before, now, free=(), prefix=""):
    """The dotted key, the old and the new value of the first difference; None without one."""
    for key, value in now.items():
        if key in free or before[key] == value:
            continue
        if not isinstance(value, dict) or value.keys() != before[key].keys():
            return f"{prefix}{key}", before[key], value
        found = _first_difference(before[key], value, prefix=f"{prefix}{key}.")
        if found is not None:
            return found
    return None


def _plain(config):
    """A dataclass as a nested dict with types of YAML and JSON: lists, but no tuples."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _defaults(config):
    """The defaults of a configuration's keys, as a nested dict; None for those without."""
    defaults = {}
    for field in dataclasses.fields(config):
        value = None if field.default is dataclasses.MISSING else field.default
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        defaults[field.name] = (
            dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
        )
    return defaults


def _with_defaults(content, defaults, folder):
    """Add the defaults of keys missing in an older configuration; drop keys that were removed."""
    if not isinstance(content, dict):
        file = pathlib.Path(folder) / "config.yaml"
        raise UserError(f"{file}: not a configuration; give another folder")
    filled = {key: content.get(key, default) for key, default in defaults.items()}
    for key, value in defaults.items():
        # The keys of an empty default are the user's own.
        if isinstance(value, dict) and value:
            filled[key] = _with_defaults(filled[key], value, folder)
    return filled


def _drop_later_rows(path, epochs):
    """Drop the rows of the history that are later than the checkpoint."""
    import pandas as pd

    # The file is empty before the end of the first epoch.
    if path.exists() and path.stat().st_size:
        history = pd.read_csv(path)
        write_text(path, history[history["epoch"] < epochs].to_csv(index=False))
