"""The command line that converts checkpoints."""

import importlib.util
import signal
import subprocess
import sys

import keras
import numpy as np
import numpy_reference as reference
import pytest

from keras_tune.interop import load_pytorch_checkpoint
from keras_tune.models import Tagger, TUNe
from keras_tune.recipes import _cli
from keras_tune.recipes import convert as recipe
from keras_tune.training import ContrastiveModel

pytestmark = pytest.mark.usefixtures("undrawn_kernels")

SMALL = reference.FOLDER
BACKENDS = ("tensorflow", "jax", "torch")
OTHER_BACKEND = BACKENDS[(BACKENDS.index(keras.backend.backend()) + 1) % len(BACKENDS)]


@pytest.fixture
def convert(monkeypatch, capsys):
    """Run the command line in this process; give its status, output and error output."""
    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(*arguments):
        status = 0
        try:
            _cli.run(recipe.main, recipe.ConvertConfig, [str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


def compute(model):
    return model.predict_on_batch(reference.tiny_waveforms()[..., None])


def assert_close(value, expected):
    assert np.linalg.norm(value - expected) < 1e-4 * np.linalg.norm(expected)


def test_help_loads_no_framework():
    code = (
        "import sys\n"
        "from keras_tune.recipes import _cli, convert\n"
        "try:\n"
        "    _cli.run(convert.main, convert.ConvertConfig, ['--help'])\n"
        "except SystemExit as stop:\n"
        "    loaded = {'keras', 'tensorflow', 'torch', 'jax', 'safetensors'} & set(sys.modules)\n"
        "    sys.exit(stop.code or ','.join(sorted(loaded)) or 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "--checkpoint" in result.stdout


@pytest.mark.slow
def test_encoder_converted_under_another_backend(tmp_path):
    if not importlib.util.find_spec(OTHER_BACKEND):
        pytest.skip(f"{OTHER_BACKEND} is not installed")
    path = tmp_path / "encoder.keras"
    command = [sys.executable, "-m", "keras_tune.recipes.convert", "--backend", OTHER_BACKEND]
    command += ["--checkpoint", str(SMALL / "deep.safetensors"), "--output", str(path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "TUNe, encoder tune" in result.stdout
    encoder = keras.models.load_model(path)
    assert isinstance(encoder, TUNe)
    assert_close(compute(encoder), np.load(SMALL / "outputs.npz")["deep/representation"])


def test_the_tags_of_magnatagatune_are_known_by_name(convert, tmp_path):
    """In the published order, from guitar to choral."""
    torch = pytest.importorskip("torch", reason=".ckpt files need PyTorch")
    plus, head = SMALL / "plus.ckpt", torch.load(SMALL / "head_linear.ckpt", weights_only=True)
    for name, tensor in head["state_dict"].items():
        head["state_dict"][name] = tensor.repeat_interleave(10, dim=0)
    torch.save(head, tmp_path / "head.ckpt")
    arguments = ("--head", tmp_path / "head.ckpt", "--labels", "magnatagatune")
    status, _, error = convert("--checkpoint", plus, *arguments, "--output", tmp_path / "t.keras")
    assert status == 0, error
    labels = keras.models.load_model(tmp_path / "t.keras").labels
    assert len(set(labels)) == 50 and labels[0] == "guitar" and labels[-1] == "choral"


def test_projector_head_and_the_way_back(convert, tmp_path):
    pytest.importorskip("torch", reason=".ckpt files need PyTorch")
    contrastive, tagger = tmp_path / "contrastive.keras", tmp_path / "tagger.keras"
    labels = tmp_path / "labels.txt"
    # As a text editor on Windows may write it.
    labels.write_text("a\nb\nc\nd\ne\n\n", encoding="utf-8-sig")
    plus, head = SMALL / "plus.ckpt", SMALL / "head_hidden.ckpt"
    for arguments in (
        ("--checkpoint", plus, "--projector", "true", "--output", contrastive),
        ("--checkpoint", plus, "--head", head, "--labels", labels, "--output", tagger),
        ("--checkpoint", contrastive, "--output", tmp_path / "again.safetensors"),
    ):
        status, _, error = convert(*arguments)
        assert status == 0, error
    outputs = np.load(SMALL / "outputs.npz")
    model = keras.models.load_model(contrastive)
    assert isinstance(model, ContrastiveModel)
    projection = model.project(reference.tiny_waveforms())
    assert_close(keras.ops.convert_to_numpy(projection), outputs["plus/projection"])
    model = keras.models.load_model(tagger)
    assert isinstance(model, Tagger)
    assert model.labels == list("abcde")
    assert_close(compute(model), outputs["plus/logits_hidden"])
    again = load_pytorch_checkpoint(tmp_path / "again.safetensors", projector=True)
    assert_close(compute(again.encoder), outputs["plus/representation"])


DEEP = SMALL / "deep.safetensors"


@pytest.mark.parametrize(
    ("checkpoint", "output", "options", "status", "message"),
    [
        (DEEP, "b.keras", ["--presets", "clmr"], 2, "presets"),
        (DEEP, "b.keras", ["--input_samples", "many"], 2, "input_samples"),
        (DEEP, "b.ckpt", [], 1, "must be a .keras file"),
        ("no.safetensors", "b.keras", [], 1, "no.safetensors: no such file"),
        ("no.keras", "b.ckpt", [], 1, "no.keras: no such file"),
        (__file__, "b.keras", [], 1, "test_convert_command.py: not a PyTorch checkpoint"),
        (DEEP, "b.keras", ["--preset", "tune_plus"], 1, "has the shape (1, 1, 3) in the file and"),
        (DEEP, "b.keras", ["--preset", "tune_plos"], 1, "did you mean tune_plus"),
        (DEEP, "b.keras", ["--projector", "true"], 1, "no projector"),
        (DEEP, "b.keras", ["--input_samples", "9"], 1, "must be at least"),
        (DEEP, "b.keras", ["--labels", "no.txt"], 1, "requires --head"),
        (DEEP, "b.keras", ["--head", "no.ckpt", "--labels", "no.txt"], 1, "no.txt: not a readable"),
        (DEEP, "b.keras", ["--head", "h.ckpt", "--projector", "true"], 1, "use only one of them"),
    ],
)
def test_errors_are_one_line(
    convert, tmp_path, monkeypatch, checkpoint, output, options, status, message
):
    monkeypatch.chdir(tmp_path)
    if "not a PyTorch checkpoint" in message and not importlib.util.find_spec("torch"):
        message = "PyTorch is needed for such files"
    result = convert("--checkpoint", checkpoint, "--output", output, *options)
    assert result[:2] == (status, "")
    assert result[2].startswith("convert: error: ") and result[2].count("\n") == 1
    assert message in result[2]
    assert not any(tmp_path.iterdir())


def test_other_keras_models_cannot_be_exported(convert, tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.save(tmp_path / "dense.keras")
    status, _, error = convert(
        "--checkpoint", tmp_path / "dense.keras", "--output", tmp_path / "b.safetensors"
    )
    assert status == 1 and error.count("\n") == 1
    assert "dense.keras: `model` must be a TUNe" in error
    assert not (tmp_path / "b.safetensors").exists()
