"""The same three steps on the three backends, each in a process of its own."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = """
import json, sys
import keras, numpy as np
sys.path.insert(0, sys.argv[1])
from seeded import seed_weights
from keras_tune.data import demo_clips
from keras_tune.models import TUNe
from keras_tune.training import ContrastiveModel

encoder = TUNe.from_preset("tune_plus_32", base_filters=3)
model = seed_weights(ContrastiveModel(encoder))
model.compile(keras.optimizers.Adam(3e-4))
clips = demo_clips("train", num_clips=8, seconds=6.0)[0]
views = [
    np.stack([clips[:, start : start + 59049] for start in starts], axis=1)
    for starts in ((0, 59049), (10000, 70000), (30000, 50000))
]
steps = [model.train_on_batch(batch, return_dict=True) for batch in views]
print("losses", json.dumps([float(logs["loss"]) for logs in steps]))
"""


def three_losses(backend):
    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, tests], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("losses")]
    return json.loads(line.removeprefix("losses"))


def test_three_steps_give_the_same_losses():
    backends = [b for b in ("tensorflow", "jax", "torch") if importlib.util.find_spec(b)]
    if len(backends) < 2:
        pytest.skip("needs two backends beside each other")
    losses = {backend: three_losses(backend) for backend in backends}
    reference = losses[backends[0]]
    assert len(reference) == 3 and np.ptp(reference) > 1e-3
    for backend in backends[1:]:
        np.testing.assert_allclose(losses[backend], reference, atol=1e-4, err_msg=backend)
