"""The encoder that comes with the package, in ONNX Runtime without any framework."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from keras_tune import machine, shipped
from keras_tune.models import PRESETS, TUNe
from keras_tune.recipes.embed import EmbedConfig
from keras_tune.serving.shipped_onnx import write_shipped_onnx
from keras_tune.shipped import WEIGHTS, OnnxEncoder, onnx_file
from keras_tune.types import DEFAULT_ENCODER

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

TRAINED = {name: preset.weights for name, preset in PRESETS.items() if preset.weights}


@pytest.mark.parametrize("name", TRAINED)
def test_it_computes_what_keras_does(name):
    encoder, found = TUNe.from_preset(name), OnnxEncoder(WEIGHTS / f"{name}.onnx")
    assert found.input_shape == encoder.input_shape
    assert found.output_shape == encoder.output_shape
    assert found.sample_rate == encoder.sample_rate
    levels = np.array([1e-3, 0.01, 0.1, 0.3, 1.0])[:, None, None]
    windows = levels * np.random.default_rng(0).normal(0, 1, (5, encoder.input_samples, 1))
    windows = windows.astype("float32")
    expected = encoder.predict(windows, verbose=0)
    error = np.linalg.norm(found.predict_on_batch(windows) - expected, axis=1)
    assert (error < 1e-4 * np.linalg.norm(expected, axis=1)).all()


@pytest.mark.parametrize("name", TRAINED)
def test_the_file_was_written_from_the_weights_that_ship(name):
    session = onnxruntime.InferenceSession(WEIGHTS / f"{name}.onnx")
    weights = (WEIGHTS / TRAINED[name]).read_bytes()
    written_from = session.get_modelmeta().custom_metadata_map["weights_sha256"]
    assert written_from == hashlib.sha256(weights).hexdigest(), (
        "run python -m keras_tune.serving.shipped_onnx"
    )


@pytest.mark.one_backend
def test_the_command_writes_the_file_that_ships(tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed")
    again = write_shipped_onnx(DEFAULT_ENCODER, tmp_path / "again.onnx")
    ships = WEIGHTS / f"{DEFAULT_ENCODER}.onnx"
    assert abs(again.stat().st_size - ships.stat().st_size) < 1000
    # Kernels are as short as there; the matrices of the acoustic features are 0.4 MB.
    assert ships.stat().st_size < (WEIGHTS / TRAINED[DEFAULT_ENCODER]).stat().st_size + 5e5
    windows = np.random.default_rng(0).normal(0, 0.1, (2, 59049, 1))
    both = [OnnxEncoder(file).predict_on_batch(windows) for file in (again, ships)]
    np.testing.assert_allclose(*both, rtol=1e-5, atol=1e-6)


# What may not be imported: the frameworks, and what takes long.
BLOCKED = ("tensorflow", "keras", "jax", "torch", "pandas", "scipy", "sklearn", "matplotlib")
WITHOUT = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import numpy as np
import keras_tune
from keras_tune.__main__ import main

vector = keras_tune.embed("song.wav")
windows, times = keras_tune.embed("song.wav", pool="none", hop=1.0)
main(["embed", "song.wav"])
main(["embed", ".", "--output", "all.npz"])
assert not set(BLOCKED) & {name.partition(".")[0] for name in sys.modules}
files = np.load("song_embedding.npz")["vectors"], np.load("all.npz")["vectors"]
print(json.dumps([vector.tolist(), windows.mean(0).tolist(), *(v[0].tolist() for v in files)]))
"""


@pytest.mark.one_backend
def test_a_song_is_embedded_where_no_framework_is_installed(tmp_path):
    song = np.random.default_rng(0).normal(0, 0.1, (4 * 44100, 2))
    soundfile.write(tmp_path / "song.wav", song, 44100)
    script = WITHOUT.replace("BLOCKED", repr(BLOCKED))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    vector, hopping, *files = np.array(json.loads(done.stdout.splitlines()[-1]))

    from keras_tune.data import load_audio

    encoder = TUNe.from_preset(DEFAULT_ENCODER)
    audio = load_audio(tmp_path / "song.wav")
    starts = range(0, len(audio) - 59049 + 1, 22050)
    windows = np.stack([audio[start : start + 59049] for start in starts])[..., None]
    expected = encoder.predict(windows, verbose=0)
    for found in (vector, *files):
        assert np.linalg.norm(found - expected[0]) < 1e-4 * np.linalg.norm(found)
    assert len(starts) == 2
    mean = expected.mean(0)
    assert np.linalg.norm(hopping - mean) < 1e-4 * np.linalg.norm(mean)


@pytest.mark.parametrize(
    "options", [{"backend": "jax"}, {"layers": "tail_9"}, {"encoder": "mel"}, {"encoder": "runs/a"}]
)
def test_other_encoders_stages_and_a_named_backend_need_keras(options):
    assert EmbedConfig("song.mp3", **options).needs_keras
    assert not EmbedConfig("song.mp3").needs_keras


def test_keras_computes_where_onnx_runtime_is_missing(monkeypatch):
    find = shipped.importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "onnxruntime" else find(name)
    )
    assert onnx_file(DEFAULT_ENCODER) is None
    assert EmbedConfig("song.mp3").needs_keras


def test_a_gpu_that_only_keras_can_use_is_used(monkeypatch):
    monkeypatch.setattr(shipped, "has_gpu", lambda: True)
    providers = ["CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    assert onnx_file(DEFAULT_ENCODER) is None
    monkeypatch.setattr(shipped, "installed_backends", list)
    assert onnx_file(DEFAULT_ENCODER) is not None
    monkeypatch.setattr(shipped, "installed_backends", machine.installed_backends)
    providers.append("CUDAExecutionProvider")
    assert onnx_file(DEFAULT_ENCODER) is not None
