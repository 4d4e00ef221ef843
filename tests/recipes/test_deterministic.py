"""`--deterministic`: two runs give the same bits."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_tune.data import save_demo

# All augmentations of the default chain, on a small encoder.
OPTIONS = [
    "--model.preset=tune_plus_32",
    "--model.base_filters=2",
    "--model.contraction_depth=2",
    "--model.decoder_depth=1",
    "--model.tail_filters=[4, 6, 8]",
    "--model.input_samples=6561",
    "--batch_size=4",
    "--epochs=2",
    "--steps_per_epoch=2",
    "--deterministic",
]


@pytest.mark.slow
def test_two_runs_give_the_same_bits(tmp_path):
    save_demo(tmp_path / "demo.npz", num_clips={"train": 8}, seconds=0.5)
    found = []
    for name in ("one", "two"):
        command = [sys.executable, "-m", "keras_tune.recipes.pretrain", *OPTIONS]
        command += ["--data", str(tmp_path / "demo.npz"), "--output", str(tmp_path / name)]
        environment = os.environ | {
            "KERAS_BACKEND": keras.backend.backend(),
            # Each has its own order of sets, and its own compilation.
            "PYTHONHASHSEED": "random",
            "JAX_ENABLE_COMPILATION_CACHE": "false",
        }
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        model = keras.models.load_model(tmp_path / name / "model.keras")
        optimizer = map(keras.ops.convert_to_numpy, model.optimizer.variables)
        found.append([*model.get_weights(), *optimizer])
        history = (tmp_path / name / "history.csv").read_text()
        found[-1].append(np.frombuffer(history.encode(), "uint8"))
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)
