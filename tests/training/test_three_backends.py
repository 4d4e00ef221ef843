"""The same computation on the three backends, each in a process of its own."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

BACKENDS = [b for b in ("tensorflow", "jax", "torch") if importlib.util.find_spec(b)]
pytestmark = pytest.mark.skipif(len(BACKENDS) < 2, reason="needs two backends beside each other")

SCRIPT = """
import json, os, sys
import keras, numpy as np
folder, tests, maker = sys.argv[1:]
sys.path.insert(0, tests)
from seeded import seed_weights
from keras_tune.data import demo_clips
from keras_tune.models import TUNe
from keras_tune.training import ContrastiveModel

clips = demo_clips("train", num_clips=8, seconds=6.0)[0]
views = [
    np.stack([clips[:, start : start + 59049] for start in starts], axis=1)
    for starts in ((0, 59049), (10000, 70000), (30000, 50000))
]
file = f"{folder}/encoder.keras"
if maker == "true":
    seed_weights(TUNe.from_preset("tune_plus_32", load_weights=False, base_filters=3)).save(file)
encoder = keras.models.load_model(file)
vectors = encoder.predict(views[0][:, 0, :, None], verbose=0)
model = seed_weights(ContrastiveModel(encoder))
# A value next to zero may round to either side of a ReLU's edge, which moves a gradient by a part
# in a thousand, and Adam's first steps have one size whatever the gradient's: so small ones here.
model.compile(keras.optimizers.Adam(1e-4))
losses = [float(model.train_on_batch(batch, return_dict=True)["loss"]) for batch in views]
print("found", json.dumps({"losses": losses, "vectors": vectors.tolist()}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each backend computes with the encoder that the first one saved."""
    folder = tmp_path_factory.mktemp("encoder")
    return {backend: run(backend, folder, backend == BACKENDS[0]) for backend in BACKENDS}


def run(backend, folder, maker):
    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", SCRIPT, str(folder), tests, str(maker).lower()]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("found")]
    return json.loads(line.removeprefix("found"))


def test_three_steps_give_the_same_losses(found):
    reference = found[BACKENDS[0]]["losses"]
    assert len(reference) == 3 and np.ptp(reference) > 1e-3
    for backend in BACKENDS[1:]:
        np.testing.assert_allclose(found[backend]["losses"], reference, atol=1e-4, err_msg=backend)


def test_a_saved_encoder_computes_the_same_elsewhere(found):
    reference = np.array(found[BACKENDS[0]]["vectors"])
    for backend in BACKENDS[1:]:
        error = np.linalg.norm(np.array(found[backend]["vectors"]) - reference)
        assert error < 1e-5 * np.linalg.norm(reference), backend
