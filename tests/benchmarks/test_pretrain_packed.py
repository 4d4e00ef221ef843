"""Pretraining from packed music on a machine that is available for minutes, at toy size."""

import importlib
import json
import pathlib
import re

import keras
import numpy as np
import pytest

from keras_tune.data import demo_clips
from keras_tune.training import Progress

# No augmentation that takes long to start.
TOY = """--model.preset tune_plus_32 --model.base_filters 2 --model.input_samples 19683
--batch_size 4 --batch_norm_clips 0 --pca_clips 24 --pooled_dim 16
--steps_per_epoch 2 --warmup_epochs 0 --epochs 2
--precision float32 --augment.pitch_shift_probability 0 --augment.reverb_probability 0""".split()


@pytest.fixture
def music(tmp_path):
    """Clips of 12 songs, a third of them of one song."""
    audio, _ = demo_clips("train", 18, seconds=2.0)
    songs = ["long"] * 6 + [f"song {n}" for n in range(12)]
    np.savez(tmp_path / "music.npz", audio=audio, song=songs, split=["train"] * 14 + ["valid"] * 4)
    return tmp_path / "music.npz"


def test_pack_train_resume(without_tensorflow, music, tmp_path, monkeypatch):
    packed, output = tmp_path / "packed", tmp_path / "run"
    pack = ["pack", str(music), str(packed), "--megabytes=0.06", "--seconds=1"]
    monkeypatch.syspath_prepend(pathlib.Path(__file__).resolve().parents[2] / "benchmarks")
    importlib.import_module("pretrain_packed").main(pack)
    assert sum(file.stat().st_size for file in packed.iterdir()) <= 60_000
    clips = json.loads((packed / "packed.json").read_text())["clips"]
    chosen = [clip["labels"]["song"] for clip in clips if clip["split"] == "train"]
    # Every song has its turn before one has a second; not all clips fit.
    assert len(chosen) < 14 and len(set(chosen)) >= min(9, len(chosen))
    train = ["train", packed, output, "--minutes", "5", "--backend=torch", *TOY]
    # No second is left after the first step.
    assert "stopped" in without_tensorflow("pretrain_packed.py", *train, "--reserve=300")
    assert Progress.read(output / "model.keras").finished_steps == 1
    # The clips are those that were packed, but for what compression takes.
    content = np.load(output / "packed.npz")
    assert content["audio"].shape == (len(clips), 22050) and content["sample_rate"] == 22050
    source = np.load(music)["audio"][int(clips[-1]["id"])]
    clip = content["audio"][-1] / 32768
    matches = np.correlate(source, clip, "valid") / np.linalg.norm(clip)
    windows = np.lib.stride_tricks.sliding_window_view(source, len(clip))
    assert (matches / np.linalg.norm(windows, axis=1)).max() > 0.8
    text = without_tensorflow("pretrain_packed.py", *train)
    assert "the run has ended" in text and re.search(r"^3 steps in", text, re.M)
    assert Progress.read(output / "model.keras").finished_epochs == 2
    encoder = keras.models.load_model(output / "encoder.keras")
    assert encoder.sample_rate == 22050 and encoder.output_shape == (None, 16)
