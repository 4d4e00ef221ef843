"""Numbered versions of an exported model, each complete from the moment it is seen."""

import os
import pathlib
import re
import shutil
import tempfile

from keras_tune.errors import UserError
from keras_tune.files import file_lock, name_fault, sync

UNFINISHED = ".unfinished-"


def check_name(name):
    """Return the name of an exported model, or raise the `UserError` that says what is wrong."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise UserError(f"name {name!r}: take letters, digits, _, - and . only")
    wrong = name_fault(name)
    if wrong:
        raise UserError(f"name {name!r}: {wrong}; take another")
    return name


def write_version(home, write):
    """Let `write` fill a folder and publish it as `home/1`, or what is the next number.

    The folder has another name until it is complete and on the disk, so whoever watches `home`
    never sees a part of a version. Earlier versions are never touched. What a killed export has
    left unfinished is removed.

    Args:
        home: Folder of the versions; made if it is missing.
        write: Function of a `pathlib.Path`, an empty folder.

    Returns:
        Pair of the `pathlib.Path` of the version and what `write` returned.

    Example:

    ```python
    version, _ = write_version("/tmp/model", lambda folder: (folder / "a.txt").write_text("a"))
    ```
    """
    home = pathlib.Path(home)
    home.mkdir(parents=True, exist_ok=True)
    # Exports into one folder wait for each other, so what is unfinished here is of a killed one.
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


def version_numbers(home):
    """The numbers of the versions in `home`, a list of integers."""
    return [int(path.name) for path in pathlib.Path(home).iterdir() if path.name.isdecimal()]


def publish(temporary, home):
    """Rename a finished version to the next number, on the disk for good."""
    for path in [*temporary.rglob("*"), temporary]:
        sync(path)
    # mkdtemp makes folders for their owner alone; a server often runs as someone else.
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
