"""The same draw gives the same views on every backend.

As a script it computes the views on the backend that KERAS_BACKEND names and saves them, which is
how the test reaches the other backends.
"""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from keras_tune.augment import TimeStretch, clmr_chain

DRAWS = {
    "step_0": {},
    "step_1": {"ratio": [0.1, 0.3, 0.01], "key": [[1, 2], [3, 4], [5, 6]]},
    "step_2": {"gain_db": [-20.0, -6.0, -1.0]},
    "step_3": {"high_pass": [True, False, True], "cutoff": [200.0, 3000.0, 1200.0]},
    "step_4": {"delay": [4410, 9922, 100]},
    "step_5": {"cents": [-700.0, 130.0, 650.0]},
    "step_6": {
        "reverberance": [90.0, 50.0, 10.0],
        "damping": [0.0, 50.0, 100.0],
        "room_size": [99.0, 51.0, 1.0],
    },
}


def views():
    """One after the other on all examples: the published chain and a time stretch."""
    time = np.arange(20000) / 22050
    tones = [np.sin(2 * np.pi * f * time) * np.exp(-time) for f in (110, 440, 1760)]
    noise = np.random.default_rng(0).normal(0.0, 0.05, (3, 20000))
    waveforms = ops.convert_to_tensor(0.3 * np.stack(tones) + noise, dtype="float32")
    active = ops.convert_to_tensor([True, True, True])
    draws = {
        name: {key: ops.convert_to_tensor(value) for key, value in draw.items()}
        for name, draw in DRAWS.items()
    }
    draws = {name: {"active": active, **draw} for name, draw in draws.items()}
    augmented = clmr_chain(22050).apply(waveforms, {"active": active, **draws})
    rate = ops.convert_to_tensor([0.8, 1.0, 1.25])
    return ops.convert_to_numpy(TimeStretch().apply(augmented, {"active": active, "rate": rate}))


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_views_are_those_of_the_other_backend(backend, tmp_path):
    if backend == keras.backend.backend() or not importlib.util.find_spec(backend):
        pytest.skip("nothing to compare with")
    path = tmp_path / "views.npy"
    environment = {**os.environ, "KERAS_BACKEND": backend}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, __file__, str(path)], env=environment, check=True)
    expected = views()
    # The vocoder divides by magnitudes that nearly vanish between partials, so rounding shows.
    error = np.load(path) - expected
    assert 10 * np.log10((error**2).sum() / (expected**2).sum()) < -60


if __name__ == "__main__":
    np.save(sys.argv[1], views())
