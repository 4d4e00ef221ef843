"""Training end to end on tones whose pitch is their label."""

import dataclasses
import json
import os
import signal

import keras
import numpy as np
import pandas as pd
import pytest
import scipy.special
import soundfile

from keras_tune import finetuning
from keras_tune.errors import UserError
from keras_tune.models import TUNe
from keras_tune.recipes._cli import run
from keras_tune.recipes.finetune import FinetuneConfig, main
from keras_tune.training import Checkpoint, Progress
from keras_tune.training.run_folder import write_config


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
    # More than a batch of eight, and no multiple of it.
    assert report["valid_clips"] == 12
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
    # The tagger gives values in Hz.
    tagger, clips = keras.models.load_model(output / "tagger.keras"), np.load(folder / "tones.npz")
    pitch = clips["pitch"][clips["split"] == "train"]
    windows = clips["audio"][0][: 4 * 243].reshape(4, 243, 1)
    value = keras.ops.convert_to_numpy(tagger(windows)).mean() * pitch.std() + pitch.mean()
    assert tagger.predict_tags(clips["audio"][0]) == {"pitch": pytest.approx(value, rel=1e-4)}


@pytest.mark.one_backend
@pytest.mark.parametrize(("rate", "status"), [("1e400", 2), ("1e30", 1)])
def test_a_learning_rate_that_leads_nowhere(folder, rate, status, capsys):
    with pytest.raises(SystemExit) as stop:
        finetune(folder, rate, "--target", "label", "--epochs", "2", "--learning_rate", rate)
    assert stop.value.code == status
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "--learning_rate" in line
    assert not (folder / rate / "tagger.keras").exists()


@pytest.mark.one_backend
def test_a_prepared_set_of_fewer_clips_than_a_batch(folder, tmp_path):
    pytest.importorskip("tensorflow")
    from keras_tune.data import prepare

    rows = []
    with np.load(folder / "tones.npz") as tones:
        for number, clip in enumerate(tones["audio"]):
            soundfile.write(tmp_path / f"{number}.wav", clip, 22050)
            labels = (tones["split"][number], tones["label"][number])
            rows.append((str(number), str(tmp_path / f"{number}.wav"), *labels))
    manifest = pd.DataFrame(rows, columns=["id", "path", "split", "label"])
    prepare(manifest, tmp_path / "set", workers=1, progress=False)
    options = ["--target", "label", "--epochs", "1", "--data", str(tmp_path / "set")]
    _, report = finetune(folder, "shards", *options, "--batch_size", "32")
    assert (report["valid_clips"], report["test_clips"]) == (12, 12)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("number", "step"),
    [(signal.SIGINT, 2), pytest.param(signal.SIGTERM, 8, marks=pytest.mark.nightly)],
)
def test_stopped_and_resumed(folder, monkeypatch, number, step):
    """In the first epoch, of the head alone, and in the third, of the whole model."""
    options = ["--target", "pitch", "--frozen_epochs", "2", "--epochs", "4"]
    if not (folder / "whole").exists():
        finetune(folder, "whole", *options)
    whole, stopped = folder / "whole", folder / f"stopped_{step}"
    original = Checkpoint.on_train_batch_end
    made = []

    def signalled(self, batch, logs=None):
        made.append(batch)
        if len(made) == step:
            os.kill(os.getpid(), number)
        original(self, batch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "on_train_batch_end", signalled)
        with pytest.raises(SystemExit) as stop:
            finetune(folder, stopped.name, *options)
    assert stop.value.code == 128 + number and len(made) == step
    progress = Progress.read(stopped / "model.keras")
    assert 3 * progress.finished_epochs + progress.finished_steps == step
    assert not (stopped / "report.json").exists()
    # The best epoch so far is there to be used; in the first there is none yet.
    assert (stopped / "tagger.keras").exists() == (step > 3)
    finetune(folder, stopped.name, *options, "--resume")
    found, expected = (pd.read_csv(path / "history.csv") for path in (stopped, whole))
    assert found["epoch"].tolist() == expected["epoch"].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(found.to_numpy(), expected.to_numpy(), rtol=1e-3, atol=1e-4)
    found, expected = (
        keras.models.load_model(path / "tagger.keras").get_weights() for path in (stopped, whole)
    )
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    # Once more: nothing is left to train.
    finetune(folder, stopped.name, *options, "--resume")
    assert len(pd.read_csv(stopped / "history.csv")) == 4


def test_the_best_epoch_is_kept_and_restored(folder):
    """With a rate at which the loss on valid does not only fall."""
    output, report = finetune(
        folder,
        "best",
        "--target",
        "label",
        "--epochs",
        "8",
        "--patience",
        "2",
        "--learning_rate",
        "0.3",
    )
    history = pd.read_csv(output / "history.csv")
    assert len(history) == report["epochs"]
    notes = Progress.read(output / "model.keras").notes
    assert notes["best"] == pytest.approx(history["val_loss"].min(), rel=1e-5)
    assert notes["wait"] == len(history) - 1 - history["val_loss"].argmin()


@pytest.mark.one_backend
def test_the_best_epoch_may_be_one_of_the_frozen_encoder(folder):
    """The head stops early, and then the whole model is trained at a rate that ruins it."""
    path = folder / "best_of_both"
    options = {"frozen_epochs": 6, "epochs": 8, "patience": 1, "learning_rate": 2.0}
    data, encoder = str(folder / "tones.npz"), str(folder / "encoder.keras")
    config = FinetuneConfig(data, "label", str(path), encoder=encoder, batch_size=8, **options)
    run = finetuning.FinetuningRun(config)
    run.fit(verbose=0)
    run.save_tagger()
    history = pd.read_csv(path / "history.csv")
    phase = Progress.read(path / "model.keras").notes
    assert phase["phase"] == 1 and phase["kept"] < phase["best"]
    # The epochs that the head did not need are left to the whole model.
    assert history["epoch"].tolist() == list(range(8)) and run.epochs == 8
    waveforms, classes, _ = run._valid()
    logits = keras.models.load_model(path / "tagger.keras").predict(waveforms, verbose=0)
    loss = -scipy.special.log_softmax(logits, axis=-1)[np.arange(len(classes)), classes].mean()
    assert loss == pytest.approx(history["val_loss"].min(), rel=1e-4)


@pytest.mark.one_backend
def test_a_run_is_not_overwritten(folder, capsys):
    (folder / "there").mkdir()
    (folder / "there" / "history.csv").touch()
    with pytest.raises(SystemExit):
        finetune(folder, "there", "--target", "label")
    assert "already contains a run; pass --resume true" in capsys.readouterr().err


@pytest.mark.one_backend
def test_a_run_is_not_resumed_with_other_labels(folder, tmp_path, capsys):
    """As many as before: the outputs would mean other ones."""
    clips = dict(np.load(folder / "tones.npz"))
    np.savez(tmp_path / "clips.npz", **clips)
    options = ["--target", "label", "--data", str(tmp_path / "clips.npz"), "--epochs"]
    finetune(folder, "other_labels", *options, "1")
    clips["label"] = np.where(clips["label"] == "low", "middle", clips["label"])
    np.savez(tmp_path / "clips.npz", **clips)
    with pytest.raises(SystemExit):
        finetune(folder, "other_labels", *options, "2", "--resume")
    error = capsys.readouterr().err
    assert "learned high, low, but the set now has high, middle; train anew" in error


def test_from_python_as_from_the_command_line(folder):
    finetune(folder, "by_command", "--target", "label", "--epochs", "3")
    options = {"epochs": 3, "batch_size": 8, "learning_rate": 0.01}
    data, file = folder / "tones.npz", str(folder / "encoder.keras")
    tagger = finetuning.finetune(data, "label", folder / "by_name", file, **options)
    assert tagger.labels == ["high", "low"] and tagger.encoder.trainable
    reference = keras.models.load_model(folder / "by_command" / "tagger.keras")
    for one, two in zip(reference.get_weights(), tagger.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    encoder = keras.models.load_model(file)
    tagger = finetuning.finetune(data, "label", folder / "given", encoder, **options)
    assert tagger.encoder is encoder


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": "mel"}, "`encoder` has no weights to train. Received: encoder=mel"),
        ({"epochs": 0}, "`epochs` .* Received: epochs=0"),
        ({"output": "s3://bucket/run"}, "`output` must be a local path.* output=s3://bucket/run"),
        ({"target": "unknown"}, "`target` must be a label that clips of train have"),
    ],
)
def test_arguments_that_are_refused(folder, tmp_path, arguments, message):
    clips = dict(np.load(folder / "tones.npz"))
    np.savez(tmp_path / "clips.npz", unknown=np.full(len(clips["label"]), np.nan), **clips)
    options = {"target": "label", "output": tmp_path / "run", **arguments}
    with pytest.raises(ValueError, match=message):
        finetuning.finetune(tmp_path / "clips.npz", **options)
    assert [file.name for file in tmp_path.iterdir()] == ["clips.npz"]


@pytest.mark.one_backend
@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_split_without_labels_is_named_before_the_training(folder, tmp_path, capsys, split):
    with np.load(folder / "tones.npz") as content:
        found = dict(content)
    found["label"] = np.where(found["split"] == split, "", found["label"])
    np.savez(tmp_path / "tones.npz", **found)
    with pytest.raises(SystemExit):
        finetune(tmp_path, "run", "--target", "label", "--encoder", str(folder / "encoder.keras"))
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.endswith(f"tones.npz: no clip of the {split} split has the label label")
    assert not (tmp_path / "run" / "history.csv").exists()


def test_an_encoder_that_was_given_must_be_given_again(folder, tmp_path):
    """If the run was killed before its first checkpoint; and it must have the rate of the data."""
    sizes = {"base_filters": 2, "tail_filters": [4], "input_samples": 243}
    with pytest.raises(UserError, match="made for audio at 16000 Hz, not at 22050 Hz"):
        finetuning.finetune(
            folder / "tones.npz", "label", tmp_path, TUNe(1, 1, sample_rate=16000, **sizes)
        )
    config = FinetuneConfig(str(folder / "tones.npz"), "label", str(tmp_path), resume=True)
    write_config(tmp_path, dataclasses.replace(config, encoder=finetuning.GIVEN))
    with pytest.raises(ValueError, match="`encoder` was given as a model, and must be given again"):
        finetuning.FinetuningRun(dataclasses.replace(config, encoder=finetuning.GIVEN)).build()
