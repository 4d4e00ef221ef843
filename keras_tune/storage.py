"""Paths of local files and of objects in a store (`gs://`, `s3://`), with one set of methods.

Local paths are those of `pathlib` and need no TensorFlow. Everything with a scheme goes through
`tf.io.gfile`, as the reading of TFRecords does, so that one set of credentials serves both.
`fsspec` with `universal_pathlib` needs a package for each kind of store, with settings of its own
for endpoint and credentials. The paths of `etils` know four schemes instead of those that
TensorFlow and its plug-ins have, and pass on TensorFlow's errors.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import pathlib
import sys
import threading
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING

from keras_tune.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf

# Object stores without folders: making one there would leave an empty object of its name.
WITHOUT_FOLDERS = ("az", "gs", "s3")


def import_tensorflow() -> types.ModuleType:
    """Import TensorFlow, or raise a `UserError` if it is not installed."""
    from keras_tune.start_up import LEVEL, quiet_tensorflow

    if os.environ.setdefault(LEVEL, "2") == "3":
        # In a worker of a command, whose level it has.
        quiet_tensorflow()
    try:
        import tensorflow as tf
    except ImportError as error:
        raise UserError(
            "TFRecords and object stores need TensorFlow: pip install tensorflow, or give a local "
            ".npz file of clips."
        ) from error
    return tf


def to_path(path: AnyPath) -> FilePath:
    """Turn what a user has given into a path that can be worked with.

    A text with a scheme is a URL. `pathlib` makes `s3:/a` of `s3://a`, so a URL must come as text.
    """
    if isinstance(path, ObjectPath):
        return path
    return ObjectPath(str(path)) if is_url(path) else pathlib.Path(path)


def is_url(path: AnyPath) -> bool:
    """Whether a path, of any kind, is that of an object in a store."""
    return isinstance(path, ObjectPath) or (isinstance(path, str) and "://" in path)


def local_output(output: AnyPath) -> pathlib.Path:
    """Return the place of what is written as a local path; raise a `ValueError` for a URL."""
    if is_url(output):
        raise ValueError(
            "`output` must be a local path; only `prepare` writes to gs:// and s3://. "
            f"Received: output={output}"
        )
    return pathlib.Path(str(output))


def beside(folder: FilePath, path: str) -> str:
    """Return the path that a table in `folder` means by `path`: relative, absolute or a URL."""
    absolute = is_url(path) or (is_url(folder) and path.startswith("/"))
    return path if absolute else str(folder / path)


def files_below(folder: FilePath) -> list[pathlib.PurePath]:
    """List the files in a folder and its sub-folders, sorted, as paths relative to the folder."""
    if isinstance(folder, ObjectPath):
        return sorted(folder.walk())
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def file_stamp(path: FilePath) -> list[int] | None:
    """The size and the modification time of a file, which change when it is replaced.

    Returns:
        List of the size in bytes and the time in nanoseconds (0 from a store that does not tell
        it), or None if there is no such file.
    """
    try:
        found = path.stat()
    except (OSError, UserError):
        return None
    return [int(found.st_size), int(found.st_mtime_ns)]


class ObjectPath:
    """A path that `tf.io.gfile` reaches, with those methods of `pathlib.Path` that are used here.

    In most stores a folder exists as long as there is an object below it. An object is written by
    `keras_tune.files.atomic_path`, whole or not at all.

    Args:
        url: Text such as "s3://bucket/folder".

    Attributes:
        name: The last part, the bucket's name for the bucket itself.
        stem: The last part without its suffix.
        suffix: The suffix of the last part, with its dot.

    Raises:
        UserError: If the URL names no bucket. Methods raise it for what the store answers: no such
            bucket, no permission, no plug-in for the scheme.
    """

    def __init__(self, url: str):
        self.scheme, _, rest = str(url).partition("://")
        self._path = pathlib.PurePosixPath(rest)
        if not rest.strip("/"):
            raise UserError(f"{url}: has no bucket. Give a URL like gs://bucket/folder.")
        self.name = self._path.name
        self.stem = self._path.stem
        self.suffix = self._path.suffix

    def __str__(self) -> str:
        # The bucket itself is only known with a slash at its end.
        root = "/" if len(self._path.parts) == 1 else ""
        return f"{self.scheme}://{self._path}{root}"

    def __repr__(self) -> str:
        return f"ObjectPath({str(self)!r})"

    def __truediv__(self, name: str | pathlib.PurePath) -> ObjectPath:
        return ObjectPath(f"{self.scheme}://{self._path / name}")

    @property
    def parent(self) -> ObjectPath:
        """The folder that contains this."""
        return ObjectPath(f"{self.scheme}://{self._path.parent}")

    def resolve(self) -> ObjectPath:
        """Return the path itself: URLs are absolute."""
        return self

    def exists(self) -> bool:
        """Whether there is an object of this name, or one below it."""
        return self._found() is not None

    def is_dir(self) -> bool:
        """Whether there are objects below."""
        found = self._found()
        return found is not None and found.is_directory

    def is_file(self) -> bool:
        """Whether there is an object of this name."""
        found = self._found()
        return found is not None and not found.is_directory

    def stat(self) -> types.SimpleNamespace:
        """Return what is known of the object: `st_size` (bytes) and `st_mtime_ns`."""
        found = self._found()
        if found is None:
            raise UserError(f"{self}: no such object.")
        return types.SimpleNamespace(st_size=found.length, st_mtime_ns=found.mtime_nsec)

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Make the folder where the scheme has such; elsewhere it comes with its first object."""
        if self.scheme not in WITHOUT_FOLDERS:
            with self._translated() as gfile:
                gfile.makedirs(str(self))

    def iterdir(self) -> Iterator[ObjectPath]:
        """Iterate over what lies directly below."""
        with self._translated() as gfile:
            names = gfile.listdir(str(self))
        return (self / name.rstrip("/") for name in names)

    def walk(self) -> Iterator[pathlib.PurePosixPath]:
        """Iterate over all objects below, relative to this, `pathlib.PurePosixPath` each."""
        with self._translated() as gfile:
            for folder, _, names in gfile.walk(str(self)):
                within = pathlib.PurePosixPath(folder.partition("://")[2]).relative_to(self._path)
                yield from (within / name for name in names)

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """Open the object for reading bytes."""
        if mode != "rb":
            raise ValueError(f"`mode` must be 'rb'. Received: mode={mode}")
        # A standard file object: gfile's own has neither readinto nor seekable.
        return io.BufferedReader(_Reader(self))

    def read_bytes(self) -> bytes:
        """Return the object's content."""
        with self._translated() as gfile, gfile.GFile(str(self), "rb") as file:
            return file.read()

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the object's content as text."""
        return self.read_bytes().decode(encoding)

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object."""
        if missing_ok and not self.is_file():
            return
        with self._translated() as gfile:
            gfile.remove(str(self))

    def take(self, file: str | os.PathLike) -> None:
        """Copy a local file to this path; the object is there once it is whole."""
        with self._translated() as gfile:
            gfile.copy(str(file), str(self), overwrite=True)

    def _found(self):
        """What the store knows of the object; None if there is none."""
        tf = import_tensorflow()
        with self._translated() as gfile:
            try:
                return gfile.stat(str(self))
            except tf.errors.NotFoundError:
                if self.scheme == "s3":
                    # The plug-in also says so without permission or connection. Of the bucket
                    # itself it gives the right answer.
                    gfile.stat(f"s3://{self._path.parts[0]}/")
                return None

    @contextlib.contextmanager
    def _translated(self):
        """Give `tf.io.gfile`; turn its errors into one line that names the path and the fix."""
        tf = import_tensorflow()
        _load_plugin(tf, self)
        try:
            yield tf.io.gfile
        except tf.errors.OpError as error:
            raise store_error(self, error) from error


# What a user may give as a path; see `to_path`.
AnyPath = str | os.PathLike | ObjectPath
# What `to_path` makes of it: a local path, or one in a store.
FilePath = pathlib.Path | ObjectPath


def store_error(path: AnyPath, error: tf.errors.OpError) -> UserError:
    """Return the `UserError` that says what a store's answer to `path` means, and the fix."""
    tf = import_tensorflow()
    if isinstance(error, tf.errors.NotFoundError):
        return UserError(
            f"{path}: no such object or bucket ({error.message or 'not found'}). Check the name; "
            "buckets are not created."
        )
    if isinstance(error, (tf.errors.PermissionDeniedError, tf.errors.UnauthenticatedError)):
        return UserError(
            f"{path}: no permission ({error.message}). Check the credentials in the environment."
        )
    return UserError(
        f"{path}: cannot be reached ({error.message}). Check the network, the endpoint and the "
        "credentials, and run again."
    )


class _Reader(io.RawIOBase):
    """An object as an unbuffered file that can be read and sought."""

    def __init__(self, path):
        self._path = path
        self._size = path.stat().st_size
        with path._translated() as gfile:
            self._file = gfile.GFile(str(path), "rb")

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._file.tell(), io.SEEK_END: self._size}[whence]
        with self._path._translated():
            self._file.seek(start + offset)
        return start + offset

    def readinto(self, buffer):
        with self._path._translated():
            content = self._file.read(min(len(buffer), self._size - self._file.tell()))
        buffer[: len(content)] = content
        return len(content)

    def close(self):
        if not self.closed:
            self._file.close()
        super().close()


_plugin_in_use = False


def _load_plugin(tf, path):
    """Load tensorflow-io where TensorFlow does not know the scheme by itself."""
    global _plugin_in_use
    if path.scheme in tf.io.gfile.get_registered_schemes():
        return
    # It may be missing, or not load with this version of TensorFlow.
    with contextlib.suppress(
        ImportError, NotImplementedError, AttributeError, OSError, RuntimeError
    ):
        import tensorflow_io  # noqa: F401
    if path.scheme not in tf.io.gfile.get_registered_schemes():
        raise UserError(
            f"{path}: TensorFlow {tf.__version__} has no file system for {path.scheme}://. "
            "pip install 'keras_tune[io]' (in an environment of its own: it brings TensorFlow "
            "2.17), or give a local path."
        )
    _plugin_in_use = True


def begin_child_process() -> None:
    """Prepare a process that another one has started: it ends with that one, and by `leave`."""
    atexit.register(leave, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    import multiprocessing

    multiprocessing.parent_process().join()
    os._exit(1)


def leave(status: int) -> None:
    """End this process at once where a plug-in for a store was loaded, else return.

    A process that has used the one for S3 is aborted by it when it ends, regardless of its result
    (tensorflow-io 0.37.1, https://github.com/tensorflow/io/issues/2039). To be called when all is
    done, at exit.
    """
    if _plugin_in_use:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
