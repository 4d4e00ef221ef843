"""The commands on data in a store, which TensorFlow's `ram://` is here."""

import json
import uuid

import numpy as np
import pandas as pd
import pytest
import soundfile

from keras_tune.data import prepare
from keras_tune.recipes import _cli, embed, pretrain, probe

pytestmark = pytest.mark.one_backend

pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def data():
    """Where the set is. TensorFlow's `ram://` appends to a file that is there, so the fixture takes
    a new place each time it is made, which is more than once where other tests run in between."""
    return f"ram://commands-{uuid.uuid4().hex}/set"


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    """The folder of a pretraining run on 24 clips of one of two pitches."""
    folder = tmp_path_factory.mktemp("run")
    generator = np.random.default_rng(0)
    rows = []
    for number in range(24):
        time = np.arange(7000) / 22050
        audio = 0.3 * np.sin(2 * np.pi * (300, 4000)[number % 2] * time)
        path = folder / f"{number}.wav"
        soundfile.write(path, audio + generator.normal(0, 0.02, len(time)), 22050)
        split = ("train", "valid", "test")[number // 8]
        rows.append((f"tone {number}", str(path), split, "low high".split()[number % 2]))
    manifest = pd.DataFrame(rows, columns=["id", "path", "split", "pitch"])
    prepare(manifest, data, name="x", shards=2, workers=1, progress=False)
    options = [
        "--model.contraction_depth=2",
        "--model.decoder_depth=1",
        "--model.base_filters=2",
        "--model.tail_filters=[4, 6, 8]",
        "--model.input_samples=6561",
        "--augment.pitch_shift_probability=0",
        "--augment.reverb_probability=0",
        "--augment.delay_probability=0",
        "--batch_size=4",
        "--epochs=1",
        "--on_corrupt=skip",
        "--probe=pitch",
        f"--data={data}",
        f"--output={folder / 'run'}",
    ]
    _cli.run(pretrain.main, pretrain.PretrainConfig, options)
    return folder / "run"


def test_pretrain(run, data):
    report = json.loads((run / "report.json").read_text())
    assert report["data"] == data and report["steps"] == 2
    assert report["probe"]["test_clips"] == 8 and report["left_out"] == []


def test_probe(run, data, tmp_path):
    options = [f"--encoder={run}", f"--data={data}", "--target=pitch", f"--output={tmp_path}"]
    _cli.run(probe.main, probe.ProbeConfig, [*options, "--protocol=logistic", "--seeds=1"])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["clips"] == {"train": 8, "valid": 8, "test": 8}
    # Two pitches are no task for a mel spectrogram.
    assert report["results"]["logistic"]["mel"]["accuracy"] == 1


def test_embed(run, data, tmp_path):
    output = tmp_path / "clips.npz"
    options = [f"--encoder={run}", f"--source={data}", f"--output={output}"]
    _cli.run(embed.main, embed.EmbedConfig, options)
    with np.load(output) as file:
        assert len(file["ids"]) == 24


def test_a_run_keeps_its_files_here(run, data, capsys):
    options = [f"--data={data}", "--output=ram://commands/run"]
    with pytest.raises(SystemExit) as stop:
        _cli.run(pretrain.main, pretrain.PretrainConfig, options)
    assert stop.value.code == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--output ram://commands/run: must be a local path" in line
