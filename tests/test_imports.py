"""What importing costs, and that it does not matter what is imported first."""

import subprocess
import sys

import pytest

FRAMEWORKS = ("tensorflow", "jax", "torch", "keras", "keras_tuner")
COMMANDS = (
    "augment",
    "convert",
    "embed",
    "export",
    "finetune",
    "prepare",
    "pretrain",
    "probe",
    "search",
)


def run(script, *arguments):
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_loads_no_framework():
    loaded = run(
        "import sys; before = set(sys.modules); import keras_tune;"
        "print('\\n'.join(set(sys.modules) - before))"
    ).split()
    heavy = {name.split(".")[0] for name in loaded} & {
        *FRAMEWORKS,
        "numpy",
        "pandas",
        "sklearn",
        "matplotlib",
        "soundfile",
    }
    assert "keras_tune" in loaded
    assert not heavy


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_no_framework(command):
    script = f"""
import runpy, sys
sys.argv = ["{command}", "--help"]
try:
    runpy.run_module("keras_tune.recipes.{command}", run_name="__main__")
except SystemExit as stop:
    assert stop.code == 0
print("loaded", *sorted({{name.split(".")[0] for name in sys.modules}} & set({FRAMEWORKS!r})))
"""
    output = run(script)
    assert "--config" in output
    assert output.strip().splitlines()[-1] == "loaded"


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "imports", ["import keras_tune, keras", "import keras, keras_tune", "import keras_tune.models"]
)
def test_saved_models_load_whatever_is_imported_first(tmp_path, imports):
    from keras_tune.augment import Compose, Gain
    from keras_tune.models import TUNe
    from keras_tune.training import ContrastiveModel

    encoder = TUNe(
        contraction_depth=1, decoder_depth=1, base_filters=2, tail_filters=[4], input_samples=27
    )
    encoder.save(tmp_path / "encoder.keras")
    model = ContrastiveModel(encoder, augmenter=Compose([Gain()], seed=0))
    model.compile("adam")
    model.save(tmp_path / "model.keras")
    script = f"""
{imports}
import sys, keras
for path in sys.argv[1:]:
    print(type(keras.models.load_model(path)).__name__)
"""
    output = run(script, str(tmp_path / "encoder.keras"), str(tmp_path / "model.keras"))
    assert output.split()[-2:] == ["TUNe", "ContrastiveModel"]


def test_every_public_name_exists():
    import importlib

    import keras_tune

    for name in keras_tune.__all__:
        assert getattr(keras_tune, name) is not None
    for package in ("augment", "data", "evaluation", "interop", "layers", "losses", "training"):
        module = importlib.import_module(f"keras_tune.{package}")
        for name in module.__all__:
            assert getattr(module, name) is not None
