"""Training end to end on tones whose pitch is their label."""

import json

import keras
import numpy as np
import pytest

from keras_tune.models import TUNe
from keras_tune.recipes._cli import run
from keras_tune.recipes.finetune import FinetuneConfig, main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    generator = np.random.default_rng(0)
    count, time = 48, np.arange(1000) / 22050
    high = np.arange(count) % 2
    pitch = np.where(high, 5000, 300) * generator.uniform(0.9, 1.1, count)
    audio = np.sin(2 * np.pi * pitch[:, None] * time) * 0.3
    np.savez(
        folder / "tones.npz",
        audio=(audio + generator.normal(0, 0.02, audio.shape)).astype("float32"),
        split=np.array(["train", "train", "valid", "test"])[np.arange(count) // 2 % 4],
        label=np.where(high, "high", "low"),
        pitch=pitch,
        # A tag that some clips have no opinion on.
        tag=np.where(np.arange(count) % 8 == 0, np.nan, high),
    )
    keras.utils.set_random_seed(0)
    TUNe(
        contraction_depth=1, decoder_depth=1, base_filters=4, tail_filters=[8], input_samples=243
    ).save(folder / "encoder.keras")
    return folder


def finetune(folder, name, *options):
    output = folder / name
    run(
        main,
        FinetuneConfig,
        [
            "--encoder",
            str(folder / "encoder.keras"),
            "--data",
            str(folder / "tones.npz"),
            "--output",
            str(output),
            "--batch_size",
            "8",
            "--learning_rate",
            "0.01",
            "--resamples",
            "50",
            *options,
        ],
    )
    return output, json.loads((output / "report.json").read_text())


def encoder_weights(path):
    model = keras.models.load_model(path)
    return getattr(model, "encoder", model).get_weights()


def test_a_class_is_learned(folder):
    output, report = finetune(folder, "class", "--target", "label", "--epochs", "12")
    assert report["metric"] == "accuracy"
    assert report["score"] > 0.9
    assert (output / "history.csv").read_text().startswith("epoch,")
    tagger = keras.models.load_model(output / "tagger.keras")
    assert (tagger.activation, tagger.pooling) == ("softmax", "scores")
    before, after = (
        encoder_weights(p) for p in (folder / "encoder.keras", output / "tagger.keras")
    )
    assert not all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_frozen_encoder_stays_as_it_was(folder):
    output, report = finetune(
        folder, "frozen", "--target", "tag", "--frozen", "--epochs", "2", "--hidden_units", "4"
    )
    assert report["metric"] == "mean_of_roc_auc_and_ap"
    before, after = (
        encoder_weights(p) for p in (folder / "encoder.keras", output / "tagger.keras")
    )
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_encoder_thaws(folder):
    output, report = finetune(
        folder, "thaws", "--target", "pitch", "--frozen_epochs", "1", "--epochs", "3"
    )
    assert report["metric"] == "r2"
    assert report["epochs"] == 3
    rows = (output / "history.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["0", "1", "2"]


@pytest.mark.parametrize("rate", ["1e400", "1e30"])
def test_a_learning_rate_that_leads_nowhere(folder, rate, capsys):
    with pytest.raises(SystemExit) as stop:
        finetune(folder, rate, "--target", "label", "--epochs", "2", "--learning_rate", rate)
    assert stop.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "--learning_rate" in line
    assert not (folder / rate / "tagger.keras").exists()


def test_a_run_is_not_overwritten(folder, capsys):
    (folder / "there").mkdir()
    (folder / "there" / "history.csv").touch()
    with pytest.raises(SystemExit):
        finetune(folder, "there", "--target", "label")
    assert "holds a run already" in capsys.readouterr().err
