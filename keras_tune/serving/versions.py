"""Numbered versions of an exported model, each complete when it becomes visible."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

from keras_tune.files import file_lock, name_fault, sync

UNFINISHED = ".unfinished-"


def check_name(name: str) -> str:
    """Return the name of an exported model, or raise a `ValueError` that says what is wrong."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError(
            f"`name` must consist of letters, digits, _, - and . only. Received: name={name}"
        )
    wrong = name_fault(name)
    if wrong:
        raise ValueError(f"`name` {wrong}; choose another. Received: name={name}")
    return name


def write_version(
    home: str | os.PathLike, write: Callable[[pathlib.Path], Any]
) -> tuple[pathlib.Path, Any]:
    """Let `write` fill a folder and publish it as `home/1`, or under the next free number.

    The folder has another name until it is complete and on the disk, so that a server that watches
    `home` never sees a part of a version. Earlier versions are never changed. What an export that
    was killed has left unfinished is removed.

    Returns:
        The folder of the version, and what `write` has returned.
    """
    home = pathlib.Path(home)
    home.mkdir(parents=True, exist_ok=True)
    # Exports into one folder wait for each other, so that an unfinished one here was killed.
    with file_lock(home / ".export.lock", wait=True):
        for left in home.glob(f"{UNFINISHED}*"):
            shutil.rmtree(left)
        # TensorFlow Serving looks at folders whose names are integers only.
        temporary = pathlib.Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=home))
        try:
            outcome = write(temporary)
            return publish(temporary, home), outcome
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def version_numbers(home: str | os.PathLike) -> list[int]:
    """The numbers of the versions in `home`."""
    return [int(path.name) for path in pathlib.Path(home).iterdir() if path.name.isdecimal()]


def publish(temporary: pathlib.Path, home: pathlib.Path) -> pathlib.Path:
    """Rename a finished version to the next number, after it has been written to the disk."""
    for path in [*temporary.rglob("*"), temporary]:
        sync(path)
    # mkdtemp creates folders for their owner only; a server often runs as another user.
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o777 & ~umask)
    while True:
        version = home / str(max([0, *version_numbers(home)]) + 1)
        try:
            # Fails on a folder with content: another export was faster with this number.
            os.rename(temporary, version)
        except OSError:
            if not version.exists():
                raise
        else:
            return version
