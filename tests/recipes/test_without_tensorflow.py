"""Pretraining on the command line with another backend, where TensorFlow is not installed."""

import importlib.util
import os
import subprocess
import sys

import pytest
from small_run import SMALL

from keras_tune.data import save_demo

SCRIPT = """
import runpy, sys
sys.modules["tensorflow"] = None
sys.argv = ["pretrain", *sys.argv[1:]]
runpy.run_module("keras_tune.recipes.pretrain", run_name="__main__")
assert sys.modules["tensorflow"] is None
"""
OPTIONS = [*SMALL, "--epochs=1", "--probe=instrument"]


def test_it_trains_where_tensorflow_is_not_installed(tmp_path):
    other = [backend for backend in ("jax", "torch") if importlib.util.find_spec(backend)]
    if not other:
        pytest.skip("needs JAX or PyTorch")
    clips, output = tmp_path / "clips.npz", tmp_path / "run"
    save_demo(clips, num_clips={"train": 16, "valid": 8, "test": 8}, seconds=1.0)
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, f"--data={clips}", f"--output={output}", *OPTIONS],
        env={**os.environ, "KERAS_BACKEND": other[0]},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    for name in ("encoder.keras", "history.csv", "report.json"):
        assert (output / name).exists()
    assert not (output / "tensorboard").exists()
