"""The arithmetic of every preset, pinned by what it makes of the demo corpus's first window.

The stored numbers come from the NumPy reference with weights drawn by tensor name, so neither a
framework nor `keras_tune` had a part in them. Weights reach the model as a file would bring them,
which makes this the test of the conversion of every preset, too.
"""

import json

import numpy as np
import numpy_reference as reference
import pytest
from safetensors.numpy import load_file, save_file

from keras_tune.interop import export_pytorch_checkpoint, load_pytorch_checkpoint
from keras_tune.models.presets import PRESETS, PUBLISHED

STORED = json.loads((reference.FOLDER / "fingerprints.json").read_text())


@pytest.fixture(scope="module")
def window():
    return reference.demo_window()


def test_the_window_is_the_one_that_was_stored(window):
    assert window.shape == (1, reference.SAMPLES)
    np.testing.assert_allclose(reference.rms(window), STORED["clip"], rtol=1e-5)


def test_every_preset_is_stored():
    assert set(STORED) == {"clip", *PUBLISHED}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_conversion_and_fingerprint(preset, window, tmp_path):
    state = reference.seeded_state(reference.encoder_shapes(PRESETS[preset]))
    path = tmp_path / "encoder.safetensors"
    save_file({f"model.encoder.{name}": array for name, array in state.items()}, path)
    encoder = load_pytorch_checkpoint(path)
    assert encoder.name == preset

    representation = encoder.predict(window[..., None], verbose=0)[0]
    fingerprint = reference.fingerprint(representation)
    error = np.linalg.norm(fingerprint - STORED[preset]) / np.linalg.norm(STORED[preset])
    assert error < 1e-4

    export_pytorch_checkpoint(encoder, path)
    exported = load_file(path)
    for name, array in state.items():
        np.testing.assert_array_equal(exported[f"model.encoder.{name}"], array)
    # Large, and kept by pytest for three runs otherwise.
    path.unlink()
