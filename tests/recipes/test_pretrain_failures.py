"""What happens to a run that is stopped, killed, fed damaged data, or diverges."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest

from keras_tune.data import DatasetInfo, open_dataset, prepare
from keras_tune.errors import UserError
from keras_tune.recipes import _cli, pretrain
from keras_tune.recipes._folder import locked
from keras_tune.training import LARS, Checkpoint, PretrainingData, Progress, build_optimizer

pytestmark = pytest.mark.one_backend

# An encoder of a few hundred weights, on a hundredth of a second.
TINY = [
    "--model.contraction_depth=2",
    "--model.decoder_depth=1",
    "--model.base_filters=2",
    "--model.tail_filters=[4, 6, 8]",
    "--model.input_samples=243",
    "--augment.pitch_shift_probability=0",
    "--augment.reverb_probability=0",
    "--augment.delay_probability=0",
    "--batch_size=4",
    "--learning_rate=0.003",
    # Also in the processes that tests start: runs are compared to a few units in the last place.
    "--precision=float32",
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Twelve clips to train on, four for validation, each of one of two pitches."""
    path = tmp_path_factory.mktemp("clips") / "tones.npz"
    generator = np.random.default_rng(0)
    high = np.arange(16) % 2
    time = np.arange(800) / 22050
    audio = np.sin(2 * np.pi * np.where(high, 5000, 300)[:, None] * time)
    audio = 9000 * audio + generator.normal(0, 500, audio.shape)
    np.savez(
        path,
        audio=audio.astype("int16"),
        ids=[f"tone {number}" for number in range(16)],
        split=["train"] * 12 + ["valid"] * 4,
        pitch=np.array(["low", "high"])[high],
    )
    return path


def arguments(*options):
    return [str(option) for option in (*options, *TINY)]


def command(*options):
    _cli.run(pretrain.main, pretrain.PretrainConfig, arguments(*options))


def parsed(*options):
    found = []
    _cli.run(found.append, pretrain.PretrainConfig, arguments(*options))
    return found[0]


def error_of(capsys, *options):
    """The last line on standard error of a command that must fail."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        command(*options)
    assert stop.value.code == 1
    return capsys.readouterr().err.strip().splitlines()[-1]


def weights_of(folder):
    model = keras.models.load_model(folder / "model.keras")
    return [*model.get_weights(), *map(keras.ops.convert_to_numpy, model.optimizer.variables)]


def assert_same_run(one, two):
    for found, expected in zip(weights_of(one), weights_of(two), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    found, expected = (pd.read_csv(folder / "history.csv") for folder in (one, two))
    assert list(found["epoch"]) == list(expected["epoch"])
    np.testing.assert_allclose(found.to_numpy(), expected.to_numpy(), rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    """A run of four epochs of three steps without interruption."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    command("--data", clips, "--output", folder, "--epochs=4", "--online_probe.label=pitch")
    return folder


@pytest.mark.parametrize("step", [5, 6])
def test_stopped_by_sigterm_and_resumed(clips, whole, tmp_path, monkeypatch, step):
    """In the middle of the second epoch, and in its last step."""
    output = tmp_path / "run"
    original = Checkpoint.on_train_batch_end
    made = []

    def signalled(self, batch, logs=None):
        made.append(batch)
        if len(made) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, batch, logs)

    options = ["--data", clips, "--output", output, "--epochs=4", "--online_probe.label=pitch"]
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "on_train_batch_end", signalled)
        with pytest.raises(SystemExit) as stop:
            command(*options)
    assert stop.value.code == 143
    # Not a step more than the one that was under way, and none of them is lost.
    assert len(made) == step
    progress = Progress.read(output / "model.keras")
    assert 3 * progress.finished_epochs + progress.finished_steps == step
    command(*options, "--resume")
    assert_same_run(output, whole)


@pytest.mark.slow
def test_killed_and_resumed(clips, whole, tmp_path):
    """SIGKILL between two steps of the third epoch loses that epoch's beginning alone."""
    script = """
import os, sys
from keras_tune.recipes import _cli, pretrain
from keras_tune.training import Checkpoint
original = Checkpoint.on_train_batch_end
def killed(self, batch, logs=None):
    original(self, batch, logs)
    if self.epoch == 2 and batch == 1:
        os.kill(os.getpid(), 9)
Checkpoint.on_train_batch_end = killed
_cli.run(pretrain.main, pretrain.PretrainConfig, sys.argv[1:])
"""
    output = tmp_path / "run"
    options = ["--data", clips, "--output", output, "--epochs=4", "--online_probe.label=pitch"]
    process = subprocess.run(
        [sys.executable, "-c", script, *arguments(*options)], capture_output=True
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert Progress.read(output / "model.keras").finished_epochs == 2
    # The lock of a process that is dead keeps nobody out.
    command(*options, "--resume")
    assert_same_run(output, whole)


@pytest.mark.nightly
def test_deterministic_runs_agree_in_every_bit(clips, tmp_path):
    """A run in one go, and one that is stopped in the middle of an epoch by SIGTERM."""
    script = """
import os, signal, sys
from keras_tune.recipes import _cli, pretrain
from keras_tune.training import Checkpoint
original = Checkpoint.on_train_batch_end
def stopped(self, batch, logs=None):
    if "stopped" in str(self.path) and self.epoch == 1 and batch == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    original(self, batch, logs)
Checkpoint.on_train_batch_end = stopped
_cli.run(pretrain.main, pretrain.PretrainConfig, sys.argv[1:])
"""
    for name, status in (("whole", 0), ("stopped", 143)):
        options = ["--data", clips, "--output", tmp_path / name, "--epochs=2", "--deterministic"]
        process = subprocess.run(
            [sys.executable, "-c", script, *arguments(*options)], capture_output=True, text=True
        )
        assert process.returncode == status, process.stderr
    assert Progress.read(tmp_path / "stopped" / "model.keras").finished_steps == 2
    module = [sys.executable, "-m", "keras_tune.recipes.pretrain"]
    subprocess.run([*module, *arguments(*options, "--resume")], check=True, capture_output=True)
    found, expected = (weights_of(tmp_path / name) for name in ("stopped", "whole"))
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_second_run_is_refused(clips, tmp_path, capsys):
    output = tmp_path / "run"
    with locked(output):
        line = error_of(capsys, "--data", clips, "--output", output, "--epochs=1")
    assert f"--output {output}: another process" in line
    assert not output.exists()


def test_the_lock_of_a_killed_process_is_gone(tmp_path):
    script = (
        "import sys, time; from keras_tune.recipes._folder import locked\n"
        "with locked(sys.argv[1]):\n    print('locked', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(UserError, match="another process"), locked(tmp_path):
            pass
    finally:
        process.kill()
        process.wait()
    with locked(tmp_path):
        pass


def test_a_loss_that_is_not_finite(clips, tmp_path, capsys):
    output = tmp_path / "run"
    options = ["--data", clips, "--output", output, "--augment.gain_probability=0"]
    command(*options, "--epochs=1")
    before = (output / "model.keras").read_bytes()
    # The resumed run takes a step so large that the one after it cannot be computed.
    model = keras.models.load_model(output / "model.keras")
    model.optimizer.learning_rate = 1e30
    model.save(output / "model.keras")
    Progress(1).write(output / "model.keras")
    poisoned = (output / "model.keras").read_bytes()
    assert poisoned != before
    line = error_of(capsys, *options, "--epochs=3", "--resume")
    assert "the loss is nan at step 2 of epoch 2" in line and "failure.json" in line
    assert (output / "model.keras").read_bytes() == poisoned
    failure = json.loads((output / "failure.json").read_text())
    assert [(b["epoch"], b["step"]) for b in failure["batches"]] == [(2, 2), (2, 1)]
    known = set(open_dataset(clips).ids[:12])
    for batch in failure["batches"]:
        assert len(set(batch["ids"])) == 4 and set(batch["ids"]) <= known


@pytest.mark.parametrize("rate", [1e30, 1e42])
def test_a_bad_last_step_is_not_saved(clips, tmp_path, capsys, rate):
    """Its own loss is fine, and there is none after it; weights become huge, or infinite."""
    output = tmp_path / "run"
    options = ["--data", clips, "--output", output, "--epochs=1", "--steps_per_epoch=1"]
    line = error_of(capsys, *options, f"--base_learning_rate={rate}")
    assert "at step 1 of epoch 1" in line and "no checkpoint yet" in line
    assert not (output / "model.keras").exists()


@pytest.fixture(scope="module")
def shards(clips, tmp_path_factory):
    """The same clips as shards, of two to four clips each."""
    pytest.importorskip("tensorflow")
    import soundfile

    folder = tmp_path_factory.mktemp("shards")
    arrays = open_dataset(clips)
    paths = [folder / f"{number}.wav" for number in range(16)]
    for path, audio in zip(paths, arrays.audio, strict=True):
        soundfile.write(path, audio, 22050)
    manifest = pd.DataFrame(
        {"id": arrays.ids, "path": list(map(str, paths)), "split": arrays.split}
    )
    prepare(manifest, folder / "set", name="x", shards=4, workers=1, progress=False)
    return folder / "set"


def test_the_ids_of_a_batch(clips, shards):
    for data in (clips, shards):
        opened = PretrainingData(open_dataset(data), parsed("--data", data, "--epochs=2"))
        batches = [opened.batch_ids(1, step) for step in range(3)]
        assert sorted(sum(batches, [])) == sorted(open_dataset(clips).ids[:12])
        assert batches != [opened.batch_ids(0, step) for step in range(3)]


@pytest.mark.parametrize(
    "damage", ["flipped", "truncated", pytest.param("missing", marks=pytest.mark.nightly)]
)
def test_damaged_shards_are_refused_or_skipped(shards, tmp_path, capsys, damage):
    data = tmp_path / "set"
    shutil.copytree(shards, data)
    shard = next(s for s in DatasetInfo.load(data).shards if s.split == "train" and s.records > 1)
    file = data / shard.file
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
    elif damage == "truncated":
        file.write_bytes(content[:-7])
    else:
        file.unlink()
    options = ["--data", data, "--epochs=1"]
    line = error_of(capsys, *options, "--output", tmp_path / "raise")
    assert shard.file in line
    command(*options, "--output", tmp_path / "skip", "--on_corrupt=skip")
    assert shard.file in capsys.readouterr().err
    report = json.loads((tmp_path / "skip" / "report.json").read_text())
    assert report["left_out"] == [shard.file]
    assert report["steps"] == (12 - shard.records) // 4


def test_probes_leave_out_the_shards_that_training_leaves_out(clips, tmp_path, capsys):
    pytest.importorskip("tensorflow")
    import soundfile

    arrays = open_dataset(clips)
    rows = []
    for number in range(48):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, arrays.audio[number % 16], 22050)
        split = ("train", "train", "valid", "test")[number // 12]
        rows.append((f"tone {number}", str(path), split, "low high".split()[number % 2]))
    manifest = pd.DataFrame(rows, columns=["id", "path", "split", "pitch"])
    data = tmp_path / "set"
    info = prepare(manifest, data, name="x", shards=3, workers=1, progress=False)
    damaged = {}
    for shard in info.shards:
        damaged.setdefault(shard.split, shard)
    for shard in damaged.values():
        content = bytearray((data / shard.file).read_bytes())
        content[len(content) // 2] ^= 4
        (data / shard.file).write_bytes(content)
    probes = ["--probe=pitch", "--online_probe.label=pitch"]
    options = ["--data", data, "--output", tmp_path / "run", "--epochs=1", "--on_corrupt=skip"]
    command(*options, *probes)
    assert capsys.readouterr().err.count("the shard is left out") == 3
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert sorted(report["left_out"]) == sorted(shard.file for shard in damaged.values())
    assert report["probe"]["test_clips"] == 12 - damaged["test"].records
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    # So many clips of valid are left, and what was right of them is a share of these.
    right = history["val_probe"][0] * (12 - damaged["valid"].records)
    assert right == pytest.approx(round(right), abs=1e-4)


def test_the_online_probe_is_in_the_history(whole, clips, tmp_path, capsys):
    history = pd.read_csv(whole / "history.csv")
    # Evaluated in the first epoch and in every fifth, of which there is none here.
    assert history["val_probe"].notna().tolist() == [True, False, False, False]
    assert 0 <= history["val_probe"][0] <= 1
    assert "val_probe" not in json.loads((whole / "report.json").read_text())["final"]
    line = error_of(
        capsys, "--data", clips, "--output", tmp_path / "run", "--online_probe.label=mood"
    )
    assert "--online_probe.label mood: must be a label of" in line and "pitch" in line


def test_the_learning_rate_of_a_recipe(clips, capsys):
    options = ["--data", clips, "--epochs=10", "--optimizer=lars", "--base_learning_rate=0.3"]
    options += ["--warmup_epochs=2", "--schedule=cosine", "--batch_size=512"]
    optimizer = build_optimizer(parsed(*options, *options), 5)
    assert isinstance(optimizer, LARS)
    # TINY comes last and sets a batch of 4.
    peak = 0.3 * 4 / 256

    def rate(step):
        return float(keras.ops.convert_to_numpy(optimizer._learning_rate(step)))

    assert rate(0) == 0
    assert rate(5) == pytest.approx(peak / 2)
    assert rate(10) == pytest.approx(peak)
    for step in (17, 30, 49):
        expected = peak * (1 + np.cos(np.pi * (step - 10) / 40)) / 2
        assert rate(step) == pytest.approx(expected, rel=1e-4)
    optimizer = build_optimizer(parsed("--data", clips, "--warmup_epochs=1"), 4)
    assert isinstance(optimizer, keras.optimizers.Adam)
    values = [optimizer._learning_rate(step) for step in (1, 4, 399)]
    np.testing.assert_allclose(
        [float(keras.ops.convert_to_numpy(v)) for v in values], [0.00075, 0.003, 0.003], rtol=1e-5
    )


def test_a_cosine_is_not_made_longer(clips, tmp_path, capsys):
    output = tmp_path / "run"
    options = ["--data", clips, "--output", output, "--schedule=cosine", "--optimizer=lars"]
    command(*options, "--epochs=1")
    line = error_of(capsys, *options, "--epochs=2", "--resume")
    assert (
        "--epochs 2: must not change when a run is resumed; the run in" in line
        and "config.yaml" in line
    )


@pytest.mark.nightly
def test_a_full_disk_leaves_the_checkpoint_before(clips, tmp_path, capsys):
    """A file system of its own where that may be made, else a limit on the size of files."""
    output = tmp_path / "small"
    output.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(output)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        options = ["--data", clips, "--output", output]
        command(*options, "--epochs=1")
        before = (output / "model.keras").read_bytes()
        free = os.statvfs(output).f_bavail * os.statvfs(output).f_frsize
        (output / "filler").write_bytes(bytes(free - len(before) // 2))
        line = error_of(capsys, *options, "--epochs=2", "--resume")
        assert "No space left on device" in line and "--resume" in line
        assert (output / "model.keras").read_bytes() == before
        assert not list(output.glob(".model*")), "a part of a checkpoint is left"
        pathlib.Path(output / "filler").unlink()
        command(*options, "--epochs=2", "--resume")
        assert Progress.read(output / "model.keras").finished_epochs == 2
    finally:
        # Lazily, since writers of events may be still open.
        subprocess.run(["umount", "--lazy", str(output)], check=True)
