import json
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pandas as pd
import pytest
import yaml
from small_run import SMALL

from keras_tune.data import save_demo
from keras_tune.recipes import _cli, pretrain
from keras_tune.training import Progress

# The command line is the same on all backends; test_without_tensorflow.py runs it on the others.
pytestmark = pytest.mark.one_backend


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "demo.npz"
    save_demo(path, num_clips={"train": 8, "valid": 8, "test": 8}, seconds=2.0)
    return path


def command(*options):
    _cli.run(pretrain.main, pretrain.PretrainConfig, [str(option) for option in options])


def error_of(capsys, *options):
    """The one line on standard error of a command that must fail, and its exit status."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        command(*options)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0], stop.value.code


def weights_of(folder):
    return keras.models.load_model(folder / "model.keras").get_weights()


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    """A run of three epochs without interruption."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    command("--data", clips, "--output", folder, "--epochs=3", "--probe=instrument", *SMALL)
    return folder


def test_why_there_is_no_validation_is_said(tmp_path, capsys):
    save_demo(tmp_path / "demo.npz", num_clips={"train": 8, "valid": 1}, seconds=2.0)
    command("--data", tmp_path / "demo.npz", "--output", tmp_path / "run", "--epochs=1", *SMALL)
    printed = capsys.readouterr().out
    assert "8 clips, 0 for validation (valid has 1, too few for a contrast), 2 steps" in printed
    assert "val_loss" not in pd.read_csv(tmp_path / "run" / "history.csv").columns


def test_a_run_leaves_everything_behind(whole, clips):
    report = json.loads((whole / "report.json").read_text())
    assert report["steps"] == 6
    assert report["parameters"] == keras.models.load_model(whole / "encoder.keras").count_params()
    assert report["versions"]["keras"] == keras.__version__
    assert report["chance_contrastive_accuracy"] == pytest.approx(1 / 7)
    for name in ("pretrained", "untrained"):
        low, high = report["probe"][name]["interval_95"]
        assert 0 <= low <= report["probe"][name]["accuracy"] <= high <= 1
    history = pd.read_csv(whole / "history.csv")
    assert history["epoch"].tolist() == [0, 1, 2]
    assert {"loss", "val_loss", "val_contrastive_accuracy", "embedding_std"} <= set(history.columns)
    assert np.isfinite(history.to_numpy()).all()
    config = yaml.safe_load((whole / "config.yaml").read_text())
    assert config["model"]["preset"] == "tune_plus_32" and config["data"] == str(clips)
    assert list((whole / "tensorboard").rglob("events*"))
    assert not list(whole.glob(".*")), "temporary files are left"
    page = (whole / "report.md").read_text()
    assert f"| loss, valid | {history['val_loss'].iloc[-1]:.3f} |" in page
    assert f"| pretrained | {report['probe']['pretrained']['score']:.3f} |" in page
    assert (whole / "training.png").read_bytes()[1:4] == b"PNG"


def test_the_encoder_is_the_one_inside_the_model(whole):
    encoder = keras.models.load_model(whole / "encoder.keras")
    model = keras.models.load_model(whole / "model.keras")
    assert int(model.optimizer.iterations) == 6
    for one, two in zip(encoder.get_weights(), model.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.one_backend
@pytest.mark.nightly
def test_levers_of_the_shipped_encoders(clips, tmp_path):
    """Level, moving average, estimated batch norm, weight decay and further terms, resumed."""
    options = ["--data", clips, "--output", tmp_path / "run", *SMALL, "--model.level=0.1"]
    options += ["--optimizer=adamw", "--weight_decay=0.1", "--ema=0.5", "--batch_norm_clips=8"]
    options += ["--projection_layers=2", "--projection_batch_norm=true", "--acoustic_weight=1"]
    options += ["--variance_weight=1", "--covariance_weight=0.1"]
    command(*options, "--epochs=1")
    command(*options, "--epochs=2", "--resume=true")
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    encoder = keras.models.load_model(tmp_path / "run" / "encoder.keras")
    assert encoder.level == 0.1 and encoder.sample_rate == 22050
    model.optimizer.finalize_variable_values(model.trainable_variables)
    for found, expected in zip(encoder.weights, model.encoder.weights, strict=True):
        same = np.allclose(found.numpy(), expected.numpy(), atol=1e-6)
        # All but the statistics are the averages; those are of clean crops.
        assert same != ("moving" in found.path), found.path
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert (history["val_effective_rank"] > 0).all()
    assert history["val_mel_accuracy"].nunique() == 1


@pytest.mark.slow
def test_resuming_gives_what_an_uninterrupted_run_gives(whole, clips, tmp_path, capsys):
    output = tmp_path / "resumed"
    command("--data", clips, "--output", output, "--epochs=1", *SMALL)
    # As if the kill had come between the history and the checkpoint of the second epoch.
    history = (output / "history.csv").read_text().splitlines()
    (output / "history.csv").write_text("\n".join([*history, history[-1].replace("0", "1", 1), ""]))
    command("--data", clips, "--output", output, "--epochs=3", "--resume", *SMALL)
    resumed, expected = (pd.read_csv(path / "history.csv") for path in (output, whole))
    assert resumed["epoch"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(resumed.to_numpy(), expected.to_numpy(), rtol=1e-3, atol=1e-4)
    for one, two in zip(weights_of(output), weights_of(whole), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    # A finished run that is resumed has nothing left to do, and breaks nothing.
    capsys.readouterr()
    command("--data", clips, "--output", output, "--epochs=3", "--resume", *SMALL)
    assert "all 3 epochs are finished; for more, give a larger --epochs" in capsys.readouterr().out
    assert json.loads((output / "report.json").read_text())["steps"] == 6


@pytest.mark.nightly
def test_killed_in_the_middle_and_resumed(clips, tmp_path):
    output = tmp_path / "killed"
    options = ["--data", clips, "--output", output, "--epochs=40", *SMALL]
    arguments = [sys.executable, "-m", "keras_tune.recipes.pretrain", *map(str, options)]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while not (output / "model.keras").exists() and time.monotonic() < deadline:
            assert process.poll() is None, "the run ended by itself"
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = Progress.read(output / "model.keras").finished_epochs
    assert 1 <= done < 40
    command("--data", clips, "--output", output, f"--epochs={done + 2}", "--resume", *SMALL)
    assert pd.read_csv(output / "history.csv")["epoch"].tolist() == list(range(done + 2))
    model = keras.models.load_model(output / "model.keras")
    assert int(model.optimizer.iterations) == 2 * (done + 2)


def parsed(*options):
    found = []
    _cli.run(found.append, pretrain.PretrainConfig, [str(option) for option in options])
    return found[0]


def test_a_written_configuration_is_taken_back(whole):
    config = parsed("--config", whole / "config.yaml", "--epochs=7")
    assert config.epochs == 7 and config.model.base_filters == 2
    assert config.augment.reverb_probability == 0


def test_without_data_it_is_the_demo_recipe():
    found = []
    _cli.run(found.append, pretrain.PretrainConfig, ["--epochs=1"], demo=pretrain.DEMO)
    assert found[0].output == "runs/demo" and found[0].epochs == 1
    assert found[0].probe == "instrument"
    found.clear()
    _cli.run(found.append, pretrain.PretrainConfig, ["--data=x"], demo=pretrain.DEMO)
    assert found[0].probe is None


@pytest.mark.parametrize(
    "options, message, status",
    [
        (
            ["--model.preset=tune_pluss"],
            "--model.preset tune_pluss: must be a preset; did",
            1,
        ),
        (["--model.decoder_depth=9"], "--model.decoder_depth 9: must be between 0 and", 1),
        (
            ["--model.extra_links=true", "--model.decoder_depth=0"],
            "--model, --augment: --model.extra_links needs",
            1,
        ),
        (["--model.input_samples=100"], "--model.input_samples 100: must be at least", 1),
        (["--model.input_samples=100000"], "--model.input_samples 100000: must lie between", 1),
        (["--epochs=many"], "epochs", 2),
        (["--epochs=0"], "--epochs 0: takes integer from 1 to 1,000,000", 2),
        (["--learning_rat=1"], "learning_rat", 2),
        (["--precision=float8"], "float8", 2),
        (["--batch_size=1"], "--batch_size 1: takes integer from 2", 2),
        (
            ["--batch_size=100", "--micro_batch=50"],
            "--batch_size 100: must not exceed the 8 clips",
            1,
        ),
        (["--micro_batch=3"], "--micro_batch 3: must divide the --batch_size of 4", 1),
        (["--mask_group=singer"], "--mask_group singer: must be a label of", 1),
        (["--augment.gain_probability=1.5"], "gain_probability 1.5: takes number from 0 to 1", 2),
        (["--config=nowhere.yaml"], "nowhere.yaml", 2),
        (["--data=nowhere"], "nowhere: no such folder", 1),
        (["--data=nowhere.npz"], "nowhere.npz", 1),
        (["--backend=mxnet"], "--backend mxnet: unknown", 2),
        (["--probe=mood"], "mood", 1),
    ],
)
def test_one_line_names_the_culprit(capsys, clips, tmp_path, options, message, status):
    line, code = error_of(
        capsys, "--data", clips, "--output", tmp_path / "run", "--epochs=1", *SMALL, *options
    )
    assert message in line
    assert code == status


def test_a_backend_that_is_not_installed(capsys, monkeypatch, clips, tmp_path):
    find = _cli.importlib.util.find_spec
    monkeypatch.setattr(
        _cli.importlib.util, "find_spec", lambda name: None if name == "jax" else find(name)
    )
    line, code = error_of(capsys, "--backend=jax", "--data", clips, "--output", tmp_path / "run")
    assert "--backend jax: not installed here; pip install jax" in line and code == 2


def test_a_folder_that_holds_a_run_is_not_written_to(capsys, whole, clips):
    before = {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    line, _ = error_of(capsys, "--data", clips, "--output", whole, *SMALL)
    assert "already contains a run; pass --resume true to resume it" in line
    line, _ = error_of(
        capsys, "--data", clips, "--output", whole, "--resume", *SMALL, "--temperature=0.1"
    )
    assert (
        "--temperature 0.1: must not change when a run is resumed" in line and "config.yaml" in line
    )
    assert {path: path.stat().st_mtime_ns for path in whole.iterdir()} == before


def test_a_damaged_checkpoint_is_named(capsys, clips, tmp_path):
    output = tmp_path / "run"
    output.mkdir()
    (output / "model.keras").write_bytes(b"PK\x03\x04 no archive")
    (output / "history.csv").write_text("epoch,loss\n0,1.0\n")
    config = parsed("--data", clips, "--output", output, *SMALL)
    from keras_tune.training.run_folder import write_config

    write_config(output, config)
    line, _ = error_of(capsys, "--data", clips, "--output", output, "--resume", *SMALL)
    assert "model.keras" in line


def test_a_flipped_byte_in_a_shard_is_named(capsys, tmp_path):
    pytest.importorskip("tensorflow")
    from keras_tune.data import write_demo

    data = tmp_path / "set"
    write_demo(data, num_clips={"train": 8, "valid": 4, "test": 4}, seconds=2.0, shards=2)
    shard = sorted(data.glob("*train*.tfrecord"))[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    line, _ = error_of(capsys, "--data", data, "--output", tmp_path / "run", "--epochs=1", *SMALL)
    assert shard.name in line
    shard.write_bytes(content[: len(content) // 2])
    line, _ = error_of(capsys, "--data", data, "--output", tmp_path / "other", "--epochs=1", *SMALL)
    assert shard.name in line
