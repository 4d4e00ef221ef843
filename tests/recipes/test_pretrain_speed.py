"""Clips that are resident on the device, and several steps at a time."""

import json
import os
import signal

import keras
import numpy as np
import pytest
from test_pretrain_failures import assert_same_run, command, error_of, parsed

from keras_tune.data import open_dataset
from keras_tune.training import Checkpoint, PretrainingData, Progress
from keras_tune.training.distribution import Devices

TORCH = keras.backend.backend() == "torch"
# What PyTorch makes one of at a time.
STEPS = 1 if TORCH else 2


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "noise.npz"
    audio = np.random.default_rng(0).normal(0, 3000, (14, 800)).astype("int16")
    split = ["train"] * 10 + ["valid"] * 4
    np.savez(path, audio=audio, ids=[f"clip {n}" for n in range(14)], split=split)
    return path


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    """A run of two epochs of four steps, fed by the host a step at a time."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    command("--data", clips, "--output", folder, "--epochs=2", "--steps_per_epoch=4")
    return folder


def test_resident_and_several_steps_stopped_and_resumed(clips, whole, tmp_path, monkeypatch):
    """All together is the run that the host feeds without interruption."""
    output = tmp_path / "run"
    options = ["--data", clips, "--output", output, "--epochs=2", "--steps_per_epoch=4"]
    options += ["--resident", f"--steps_per_execution={STEPS}"]
    original = Checkpoint.on_train_batch_end
    calls = []

    def signalled(self, batch, logs=None):
        calls.append((self.epoch, batch))
        if (self.epoch, batch) == (1, 1):
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, batch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "on_train_batch_end", signalled)
        with pytest.raises(SystemExit) as stop:
            command(*options)
    assert stop.value.code == 143
    assert calls == [(e, b) for e in (0, 1) for b in range(STEPS - 1, 4, STEPS) if (e, b) <= (1, 1)]
    progress = Progress.read(output / "model.keras")
    assert (progress.finished_epochs, progress.finished_steps) == (1, 2)
    command(*options, "--resume")
    assert_same_run(output, whole)
    assert keras.models.load_model(output / "model.keras").steps_per_execution == STEPS


def test_a_loss_that_is_not_finite_within_several_steps(clips, tmp_path, capsys):
    if TORCH:
        pytest.skip("PyTorch makes a step at a time")
    output = tmp_path / "run"
    options = ["--data", clips, "--output", output, "--epochs=1", "--base_learning_rate=1e30"]
    options += ["--steps_per_epoch=4", "--steps_per_execution=4", "--resident"]
    line = error_of(capsys, *options)
    assert "at a step from 1 on of epoch 1" in line and "failure.json" in line
    failure = json.loads((output / "failure.json").read_text())
    assert [batch["step"] for batch in failure["batches"]] == [4, 3, 2, 1]
    assert not (output / "model.keras").exists()


def test_the_ids_of_a_resident_batch(clips):
    config = parsed("--data", clips, "--epochs=2", "--resident")
    data = PretrainingData(open_dataset(clips), config)
    streams = data.streams()
    assert (streams.steps_per_epoch, streams.train_clips) == (2, 10)
    arrays = open_dataset(clips)
    for epoch, step in ((0, 0), (0, 1), (1, 0)):
        ids = data.batch_ids(epoch, step)
        crops = data.resident.crops(streams.train[2 * epoch + step])
        for name, pair in zip(ids, keras.ops.convert_to_numpy(crops) * 32768, strict=True):
            clip = arrays.audio[list(arrays.ids).index(name)]
            windows = np.lib.stride_tricks.sliding_window_view(clip, 243)
            assert all((windows == crop).all(axis=1).any() for crop in pair)


def test_what_does_not_go_together(clips, tmp_path, capsys, monkeypatch):
    options = ["--data", clips, "--output", tmp_path / "run", "--epochs=1", "--steps_per_epoch=4"]
    line = error_of(capsys, *options, "--steps_per_execution=3")
    assert "--steps_per_execution 3: " in line and ("torch" if TORCH else "the 4 steps") in line
    monkeypatch.setattr(
        "keras_tune.training.pretraining.choose_devices", lambda kind: Devices("mirrored", 2)
    )
    for option in ("--resident", "--steps_per_execution=2"):
        line = error_of(capsys, *options, option)
        assert option.split("=")[0] in line and "must not be set with several devices" in line
    assert not (tmp_path / "run" / "history.csv").exists()
