import sys

import numpy as np
import pytest
import soundfile
from seeded import seed_weights

from keras_tune.errors import UserError
from keras_tune.models import Tagger, TUNe
from keras_tune.recipes import export
from keras_tune.training import ContrastiveModel

pytestmark = pytest.mark.one_backend


@pytest.fixture
def encoder():
    return seed_weights(
        TUNe(1, 1, base_filters=2, tail_filters=[4], input_samples=None, name="small")
    )


def run(*options):
    from keras_tune.recipes._cli import run

    run(export.main, export.ExportConfig, [str(option) for option in options])


def test_a_run_folder_to_onnx(encoder, tmp_path, capsys):
    pytest.importorskip("onnx", reason="onnx is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    encoder.save(tmp_path / "encoder.keras")
    options = ["--model", tmp_path, "--format", "onnx", "--output", tmp_path / "out"]
    run(*options, "--window_samples", 270)
    path = tmp_path / "out" / "small.onnx"
    assert capsys.readouterr().out.strip() == str(path)
    session = onnxruntime.InferenceSession(path)
    clip = np.random.default_rng(0).uniform(-1, 1, (1, 270)).astype("float32")
    (found,) = session.run(["embedding"], {"waveform": clip})
    expected = encoder.predict(clip[..., None], verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_contrastive_model_to_tensorflow_serving(encoder, tmp_path, capsys):
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    fixed = seed_weights(TUNe(1, 1, base_filters=2, tail_filters=[4], input_samples=270))
    model = ContrastiveModel(fixed)
    model.compile("adam")
    model.save(tmp_path / "model.keras")
    options = ["--model", tmp_path / "model.keras", "--format", "tf_saved_model"]
    run(*options, "--output", tmp_path / "out", "--name", "music")
    path = tmp_path / "out" / "music" / "1"
    assert capsys.readouterr().out.strip().splitlines()[-1] == str(path)
    loaded = tf.saved_model.load(str(path))
    clip = np.random.default_rng(0).uniform(-1, 1, (1, 300)).astype("float32")
    found = loaded.signatures["serving_default"](waveform=tf.constant(clip))
    assert set(found) == {"embedding"}
    expected = fixed.predict(clip[:, :270, None], verbose=0)
    np.testing.assert_allclose(found["embedding"], expected, atol=1e-5)


def test_a_folder_with_a_tagger_to_a_page(tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnx", reason="onnx is not installed")
    monkeypatch.setattr(
        "keras_tune.serving.web_page.vendor_onnxruntime_web", lambda folder: folder.mkdir()
    )
    monkeypatch.setattr("keras_tune.serving.web_page.find_npm", lambda: "npm")
    encoder = TUNe(1, 1, base_filters=2, tail_filters=[4], input_samples=270)
    encoder.save(tmp_path / "encoder.keras")
    Tagger(encoder, labels=["a", "b"]).save(tmp_path / "tagger.keras")
    music = tmp_path / "music"
    music.mkdir()
    noise = np.random.default_rng(0).uniform(-1, 1, 600)
    soundfile.write(music / "one.wav", noise, 22050)
    soundfile.write(music / "short.wav", noise[:9], 22050)
    options = ["--model", tmp_path, "--format", "web", "--output", tmp_path / "out"]
    run(*options, "--name", "moods", "--index", music)
    path = tmp_path / "out" / "moods" / "index.html"
    printed = capsys.readouterr()
    assert printed.out.strip().splitlines()[-1] == str(path) and path.is_file()
    assert "left out: short.wav: too short" in printed.err
    assert '"labels": ["a", "b"]' in (path.parent / "1" / "page.json").read_text()


@pytest.mark.parametrize(
    "changes, culprit",
    [
        ({"--model": "nowhere.keras"}, "nowhere.keras"),
        ({"--model": "notes.keras"}, "notes.keras"),
        ({"--output": "notes.keras"}, "notes.keras"),
        ({"--name": "a/b"}, "--name a/b: must consist of letters"),
        ({"--window_samples": "2"}, "--window_samples 2: must be at least"),
        ({"--sample_rate": "0"}, "sample_rate"),
        ({"--index": "music"}, "--index music: only --format web"),
        ({"--index": "music", "--format": "web"}, "--index music: must be a folder"),
    ],
)
def test_errors_are_one_line(encoder, tmp_path, capsys, monkeypatch, changes, culprit):
    monkeypatch.chdir(tmp_path)
    encoder.save("encoder.keras")
    (tmp_path / "notes.keras").write_text("not a model")
    options = {"--model": "encoder.keras", "--format": "tf_saved_model", "--output": "out"}
    with pytest.raises(SystemExit) as stop:
        run(*(part for option in {**options, **changes}.items() for part in option))
    assert stop.value.code == (2 if "--sample_rate" in changes else 1)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("export: error: ") and culprit in line


def test_missing_onnx_is_named(encoder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    encoder.save(tmp_path / "encoder.keras")
    config = export.ExportConfig(str(tmp_path / "encoder.keras"), "onnx", str(tmp_path))
    with pytest.raises(UserError, match=r"pip install 'keras_tune\[onnx\]'"):
        export.main(config)
