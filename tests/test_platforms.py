"""What Windows and macOS do differently, as far as Linux can imitate it."""

import ast
import concurrent.futures
import multiprocessing
import os
import pathlib
import sys
import types

import pytest

import keras_tune
from keras_tune.files import atomic_path, write_text

pytestmark = pytest.mark.one_backend

PACKAGE = pathlib.Path(keras_tune.__file__).parent
POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}


def test_no_module_needs_a_posix_module_to_be_imported():
    found = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        for name in imported(node)
        if name in POSIX_MODULES
    ]
    assert not found


def imported(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) else []


@pytest.fixture
def windows_sync(monkeypatch):
    """Let only files that are open for writing be synced, and no folder be opened."""
    fcntl = pytest.importorskip("fcntl")
    sync, open_ = os.fsync, os.open
    synced = []

    def fsync(handle):
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        synced.append(handle)
        sync(handle)

    def open_no_folder(path, flags, *arguments, **options):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return open_(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "open", open_no_folder)
    return synced


def test_files_are_written_where_only_writers_can_sync(tmp_path, windows_sync):
    write_text(tmp_path / "a.txt", "a")
    assert (tmp_path / "a.txt").read_text() == "a"
    assert len(windows_sync) == 1


def test_a_version_is_published_where_folders_cannot_be_synced(tmp_path, windows_sync):
    from keras_tune.serving.versions import publish

    temporary = tmp_path / "unfinished"
    (temporary / "variables").mkdir(parents=True)
    for name in ("saved_model.pb", "variables/variables.index"):
        (temporary / name).write_bytes(b"content")
    version = publish(temporary, tmp_path)
    assert (version / "variables" / "variables.index").read_bytes() == b"content"
    assert len(windows_sync) == 2


def test_a_disk_that_fails_to_sync_is_an_error(tmp_path, monkeypatch):
    def fail(handle):
        raise OSError(5, "Input/output error")

    (tmp_path / "a.txt").write_text("old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a.txt").read_text() == "old"


def test_memory_is_measured_without_the_module_resource(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    usage = types.SimpleNamespace(peak_wset=123_000_000)
    process = types.SimpleNamespace(memory_info=lambda: usage)
    stand_in = types.SimpleNamespace(Process=lambda: process)
    monkeypatch.setitem(sys.modules, "psutil", stand_in)
    from keras_tune.search import job

    monkeypatch.setattr(job, "CLEAR_REFS", tmp_path / "missing")
    monkeypatch.setattr(job, "STATUS", tmp_path / "missing")
    monkeypatch.setattr(job, "_device_bytes", lambda: 0)
    assert job.peak_megabytes() == 123.0


def test_windows_is_asked_for_no_more_processes_than_it_can_wait_for(monkeypatch):
    from keras_tune.data.preparation import worker_count

    assert worker_count(80) == 80
    monkeypatch.setattr(sys, "platform", "win32")
    context = multiprocessing.get_context("spawn")
    with pytest.raises(ValueError):
        concurrent.futures.ProcessPoolExecutor(80, context)
    with concurrent.futures.ProcessPoolExecutor(worker_count(80), context):
        pass
    assert worker_count(3) == 3
