"""What JAX has compiled is kept for the next start of a command line."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("jax")

COMMAND = """
from keras_tune.recipes._cli import choose_backend
choose_backend("jax")
import jax
print(float(jax.jit(lambda x: (x * x).sum())(jax.numpy.arange(5.0))))
"""


def run(command, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    result = subprocess.run(
        [sys.executable, "-c", command],
        env={**kept, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_it_is_kept_and_can_be_damaged(tmp_path):
    assert run(COMMAND, XDG_CACHE_HOME=str(tmp_path)) == "30.0\n"
    entries = list((tmp_path / "keras_tune" / "jax").glob("*-cache"))
    assert entries
    before = {entry: entry.stat().st_mtime_ns for entry in entries}
    assert run(COMMAND, XDG_CACHE_HOME=str(tmp_path)) == "30.0\n"
    # Nothing was compiled, so nothing was written.
    assert {entry: entry.stat().st_mtime_ns for entry in entries} == before
    for entry in entries:
        entry.write_bytes(os.urandom(200))
    assert run(COMMAND, XDG_CACHE_HOME=str(tmp_path)) == "30.0\n"


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "keras_tune").write_text("a file where the folder would be")
    assert run(COMMAND, XDG_CACHE_HOME=str(tmp_path)) == "30.0\n"
    assert run(COMMAND, XDG_CACHE_HOME="", HOME="~") == "30.0\n"


def test_jax_own_variables_go_first(tmp_path):
    own, other = tmp_path / "own", tmp_path / "other"
    run(COMMAND, XDG_CACHE_HOME=str(other), JAX_COMPILATION_CACHE_DIR=str(own))
    assert list(own.glob("*-cache")) and not other.exists()
    run(COMMAND, XDG_CACHE_HOME=str(other), JAX_ENABLE_COMPILATION_CACHE="false")
    assert not list(other.rglob("*-cache"))


def test_importing_sets_nothing():
    script = "import os, keras_tune.data, keras_tune.recipes._cli; print(sorted(os.environ))"
    assert "JAX_COMPILATION" not in run(script)
