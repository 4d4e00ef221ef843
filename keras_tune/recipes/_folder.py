"""What every run folder holds: the configuration, the versions it ran with, the report."""

import contextlib
import dataclasses
import importlib.metadata
import pathlib
import platform
import subprocess

from keras_tune.data.paths import is_url
from keras_tune.errors import UserError
from keras_tune.files import write_json, write_text

REPORTED_PACKAGES = (
    "keras",
    "tensorflow",
    "jax",
    "torch",
    "numpy",
    "scikit-learn",
    "soundfile",
    "soxr",
)


LOCK = "run.lock"


def local_path(output):
    """Return `--output` as a path, if it is not in a store, where no run can keep its files.

    Args:
        output: Text.

    Returns:
        `pathlib.Path`.

    Raises:
        UserError: It is a URL.
    """
    if is_url(output):
        raise UserError(
            f"--output {output}: give a local path; only prepare writes to gs:// and s3://"
        )
    return pathlib.Path(output)


@contextlib.contextmanager
def locked(folder):
    """Keep other processes from running in a folder, which is made if it is missing.

    The system gives the lock back when the process ends, however that happens; the empty file that
    it hangs on stays.

    Args:
        folder: The folder.

    Raises:
        UserError: Another process has locked it.

    Example:

    ```python
    with locked("runs/mine"):
        ...
    ```
    """
    import fcntl

    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--output {folder}: another process is running in it; wait for its end, or give "
                "another folder"
            ) from None
        yield


def write_config(folder, config):
    """Write `config`, a dataclass, as `config.yaml`, which `--config` takes."""
    import yaml

    text = yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True)
    write_text(pathlib.Path(folder) / "config.yaml", text)


def read_config(folder):
    """Read `config.yaml` as a nested dict."""
    import yaml

    return yaml.safe_load((pathlib.Path(folder) / "config.yaml").read_text(encoding="utf-8"))


def write_report(folder, config, **content):
    """Write `report.json`: `content`, with the configuration and the versions it came from."""
    report = {**content, "config": dataclasses.asdict(config), "versions": versions()}
    write_json(pathlib.Path(folder) / "report.json", report)


def versions():
    """The versions of Python, this package and what it computes with, and the git commit."""
    import keras

    import keras_tune

    found = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "keras_tune": keras_tune.__version__,
        "git_commit": _git_commit(),
        "backend": keras.backend.backend(),
    }
    for package in REPORTED_PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git_commit():
    """The commit of the checkout that this package runs from, or None for an installed one."""
    folder = pathlib.Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
