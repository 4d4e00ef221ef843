"""The scripts for machines with a GPU, on the CPU, where TensorFlow is not found."""

import os
import pathlib
import subprocess
import sys

import keras
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def without_tensorflow(tmp_path):
    """A function that runs a script of benchmarks/ with PyTorch, where TensorFlow is not found."""
    if keras.backend.backend() != "torch":
        # The backend that starts fastest; once is enough.
        pytest.skip("runs with PyTorch")
    site = tmp_path / "site"
    site.mkdir()
    # Python imports this at its start, also in the processes that the script starts.
    (site / "sitecustomize.py").write_text("import sys\nsys.modules['tensorflow'] = None\n")
    path = os.pathsep.join([str(site), str(ROOT), os.environ.get("PYTHONPATH", "")])
    # Threads that wait for one another take long where other tests run.
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def run(script, *arguments):
        command = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
