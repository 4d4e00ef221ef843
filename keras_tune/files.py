"""Writing files so that a killed process never leaves half of one behind."""

import contextlib
import json
import os
import pathlib
import tempfile

from keras_tune.data.paths import ObjectPath, to_path


@contextlib.contextmanager
def atomic_path(path):
    """Give a temporary path to write to, which becomes `path` once the block ends well.

    The temporary file lies in the same folder, keeps the suffix of `path` (Keras looks at it), and
    is removed if the block raises, so `path` holds the old content or the new one, never a part.
    For an object in a store it is a local file of the system's folder for such, and uploaded in the
    end.

    Args:
        path: Where the finished file shall lie, or a URL in a store. A folder is made if it is
            missing.

    Yields:
        A `pathlib.Path` to write to.

    Example:

    ```python
    with atomic_path("runs/demo/encoder.keras") as temporary:
        encoder.save(temporary)
    ```
    """
    path = to_path(path)
    in_store = isinstance(path, ObjectPath)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = None if in_store else path.parent
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=folder)
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        if in_store:
            path.take(temporary)
            return
        sync(temporary)
        # mkstemp makes files readable by their owner alone; finished files follow the umask.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path):
    """Remove what killed processes have left of their attempts to write `path`.

    Nothing else may be writing it. There is nothing of the kind in a store.

    Args:
        path: As for `atomic_path`.

    Example:

    ```python
    remove_leftovers("tfrecords/mine/mine-train-00000-of-00008.tfrecord")
    ```
    """
    path = to_path(path)
    if not isinstance(path, ObjectPath):
        for leftover in path.parent.glob(f".{path.stem}-*{path.suffix}"):
            leftover.unlink()


def write_text(path, text):
    """Write `text` to `path` in one step; see `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync(path):
    """Wait until a file or a folder is on the disk.

    Args:
        path: `pathlib.Path`. Nothing is done for a folder where the system cannot sync folders, as
            on Windows.

    Raises:
        OSError: If a file cannot be written to the disk.

    Example:

    ```python
    sync(pathlib.Path("model/saved_model.pb"))
    ```
    """
    if path.is_dir():
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        return
    # Windows syncs only files that are open for writing.
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def write_json(path, content):
    """Write `content` as indented JSON to `path` in one step; see `atomic_path`."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
