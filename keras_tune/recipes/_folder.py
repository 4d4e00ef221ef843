"""The output folders of commands: locks, and reports with the versions of the software."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import pathlib
import platform
import subprocess
import sys

from keras_tune.errors import UserError
from keras_tune.files import LockedError, file_lock, write_json
from keras_tune.storage import is_url

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


@contextlib.contextmanager
def locked(output, kind="folder"):
    """Keep other processes from writing an output; its folder is made if it is missing.

    The system releases the lock when the process ends in any way. The empty lock file is then
    removed, unless the process is killed, and so is the folder if it is still empty. A `UserError`
    is raised if another process has locked the output, or if it is not of this kind, which is
    "folder" or "file".
    """
    output = pathlib.Path(output)
    if kind == "file":
        if output.is_dir():
            raise UserError(f"--output {output}: is a folder; give a file")
        folder, file = output.parent, output.with_name(f".{output.name}.lock")
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--output {output}: {folder} is a file; give another --output")
    else:
        folder, file = output, output / LOCK
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--output {output}: is a file; give a folder")
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with file_lock(file):
            yield
    except LockedError:
        raise UserError(
            f"--output {output}: another process is writing it; wait for it to end or give another "
            f"{kind}"
        ) from None
    finally:
        if made:
            # A folder that is not empty is kept.
            with contextlib.suppress(OSError):
                folder.rmdir()


def writes(kind):
    """Let a command hold the lock on its `--output`, a "folder" or a "file", while it runs.

    Object stores have no locks, so two commands on one output there do the work twice.
    """

    def decorate(main):
        @functools.wraps(main)
        def locking(config):
            with contextlib.nullcontext() if is_url(config.output) else locked(config.output, kind):
                main(config)

        return locking

    return decorate


@contextlib.contextmanager
def demo_corpus_ahead(config):
    """Synthesize the corpus of a run without data in another process during the block.

    Importing Keras in the block takes seconds, on one core. Nothing is done if the output folder
    contains anything: the run may be refused. If the process fails, the run makes the corpus
    itself, and reports what is wrong.
    """
    output = pathlib.Path(config.output)
    found = {path.name for path in output.iterdir()} if output.is_dir() else set()
    if config.data or is_url(config.output) or found - {LOCK}:
        yield
        return
    code = f"demo_corpus({str(output)!r}, {config.seed})"
    command = [sys.executable, "-c", f"from keras_tune.data.demo import demo_corpus; {code}"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.wait()


def write_report(folder, config, **content):
    """Write `report.json`: `content`, with the configuration and the versions it came from."""
    report = {**content, "config": dataclasses.asdict(config), "versions": versions()}
    write_json(pathlib.Path(folder) / "report.json", report)


def versions():
    """The versions of Python, this package and its main dependencies, and the git commit."""
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
