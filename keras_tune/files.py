"""Writing files so that a killed process never leaves half of one behind."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import pathlib
import tempfile
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from keras_tune.errors import UserError
from keras_tune.storage import AnyPath, ObjectPath, to_path

if TYPE_CHECKING:
    import numpy as np


class LockedError(Exception):
    """Another process holds a lock."""


@contextlib.contextmanager
def file_lock(path: str | os.PathLike, wait: bool = False) -> Iterator[None]:
    """Hold a lock that one process at a time can have; the system releases it if its holder dies.

    Args:
        path: The lock file, in a folder that exists. It is removed on release.
        wait: Whether to wait for a process that holds it. Defaults to False.

    Raises:
        LockedError: Another process holds it.
    """
    import filelock

    lock = filelock.FileLock(path, blocking=wait)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise LockedError from None
    try:
        yield
    finally:
        # While it is still held: a process that has opened the file meanwhile finds it gone once it
        # gets the lock. Windows does not remove what is open.
        with contextlib.suppress(OSError):
            pathlib.Path(path).unlink()
        lock.release()


@contextlib.contextmanager
def atomic_path(path: AnyPath) -> Iterator[pathlib.Path]:
    """Give a temporary path to write to, which replaces `path` if the block succeeds.

    The temporary file lies in the same folder, keeps the suffix of `path` (Keras looks at it), and
    is removed if the block raises, so `path` holds the old content or the new one, never a part.
    For an object in a store it is a local file of the system's folder for such, and uploaded in the
    end.

    Args:
        path: Where the finished file shall lie, or a URL in a store. A folder is made if it is
            missing.

    Yields:
        A `pathlib.Path` to write to.
    """
    path = to_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = None if isinstance(path, ObjectPath) else path.parent
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=folder)
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        if isinstance(path, ObjectPath):
            path.take(temporary)
            return
        sync(temporary)
        # mkstemp makes files readable by their owner alone; finished files follow the umask.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        # The name of the temporary file helps nobody, and many errors name no file.
        if error.errno is None or error.filename not in (None, name, temporary):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


# Names that Windows reserves, whatever the suffix.
PORTS = tuple(f"{port}{number}" for port in ("com", "lpt") for number in range(10))
RESERVED = ("con", "prn", "aux", "nul", *PORTS)
LONGEST_NAME = 100
LONGEST_TEXT = 1000


def name_fault(name: str, longest: int = LONGEST_NAME) -> str | None:
    """Say why a text cannot be the name of a file, or a part of one, on every system.

    Returns:
        The end of a sentence that begins with the name, or None if it can.
    """
    wrong = text_fault(name)
    if wrong:
        return wrong
    for sign in '/\\:*?"<>|':
        if sign in name:
            return f"contains {sign!r}, which file names cannot contain"
    if name[0] in ". " or name[-1] in ". ":
        return "begins or ends with a dot or a space, which not every system keeps or shows"
    if name.partition(".")[0].rstrip().lower() in RESERVED:
        return "is a name that Windows reserves"
    if len(name.encode()) > longest:
        return f"is longer than {longest} bytes"
    return None


def text_fault(text: object) -> str | None:
    """Say why a text cannot be an id or a label: it is empty, long or not written in a line.

    Returns:
        The end of a sentence that begins with the text, or None if it can.
    """
    text = str(text)
    if not text.strip():
        return "is empty"
    if len(text) > LONGEST_TEXT:
        return f"is longer than {LONGEST_TEXT} characters"
    if not is_utf8(text):
        return "is not in UTF-8"
    # Nearly all are printable, and need no check of every character.
    if not text.isprintable():
        kinds = {unicodedata.category(sign) for sign in text}
        if kinds & {"Cc", "Zl", "Zp"}:
            return "contains control characters"
    return None


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8; a file name in another encoding cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def remove_leftovers(path: AnyPath) -> None:
    """Remove what killed processes have left of their attempts to write `path`.

    Nothing else may be writing it. There is nothing of the kind in a store.
    """
    path = to_path(path)
    if not isinstance(path, ObjectPath):
        for leftover in path.parent.glob(f".{glob.escape(path.stem)}-*{path.suffix}"):
            leftover.unlink()


def write_text(path: AnyPath, text: str) -> None:
    """Write `text` to `path` in one step; see `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync(path: pathlib.Path) -> None:
    """Wait until a file, or a folder where the system can sync folders, is on the disk."""
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


def write_json(path: AnyPath, content: Any) -> None:
    """Write `content` as indented JSON to `path` in one step; see `atomic_path`."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_npz(path: AnyPath) -> dict[str, np.ndarray]:
    """Read the arrays of an `.npz` file; raise a `UserError` if it is missing or damaged."""
    import numpy as np

    path = to_path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file. Give an .npz file.")
    try:
        with path.open("rb") as content, np.load(content) as file:
            return {key: file[key] for key in file.files}
    except UserError:
        raise
    except Exception as error:  # NumPy raises whatever its parts raise on a damaged file.
        raise UserError(f"{path}: cannot be read as npz ({error or repr(error)}).") from error
