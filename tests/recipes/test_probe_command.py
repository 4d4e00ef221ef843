"""The probe command on a set of tones whose pitch is their genre."""

import json
import math

import keras
import numpy as np
import pytest
from seeded import seed_weights

from keras_tune.data import open_dataset
from keras_tune.errors import UserError
from keras_tune.evaluation.pretraining_probes import final_probe, final_probe_summary
from keras_tune.models import TUNe
from keras_tune.recipes._cli import run
from keras_tune.recipes.probe import ProbeConfig, main

pytestmark = pytest.mark.one_backend

DEFAULT = ["pretrained", "untrained", "untrained_bn_level", "mel", "mel_level"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A set of 54 clips, tones.npz, and an encoder, encoder.keras."""
    folder = tmp_path_factory.mktemp("probe")
    generator = np.random.default_rng(0)
    count, time = 54, np.arange(1200) / 22050
    genre = np.array(["low", "mid", "high"])[np.arange(count) % 3]
    pitch = np.array([300, 1500, 4000])[np.arange(count) % 3] * generator.uniform(0.9, 1.1, count)
    audio = np.sin(2 * np.pi * pitch[:, None] * time) * 0.3
    np.savez(
        folder / "tones.npz",
        audio=(audio + generator.normal(0, 0.02, audio.shape)).astype("float32"),
        split=np.repeat(["train", "valid", "test"], 18),
        genre=genre,
        pitch=np.log(pitch),
        high=(pitch > 1000).astype("float32"),
        artist=[f"artist {k // 3}" for k in range(count)],
    )
    encoder = TUNe(
        contraction_depth=1, decoder_depth=1, base_filters=2, tail_filters=[8], input_samples=243
    )
    seed_weights(encoder).save(folder / "encoder.keras")
    return folder


@pytest.fixture(autouse=True)
def small_mel(monkeypatch):
    """Windows here are shorter than the mel spectrogram's frames: longer ones for it alone."""
    from keras_tune.evaluation import baselines

    class Longer(baselines.MelStatistics):
        def __init__(self, sample_rate=22050, input_samples=None, level=None):
            super().__init__(sample_rate, num_mels=16, input_samples=1200, level=level)

    monkeypatch.setattr("keras_tune.evaluation.baselines.MelStatistics", Longer)
    monkeypatch.setattr("keras_tune.evaluation.MelStatistics", Longer, raising=False)


def probe(folder, *options, encoder=None, data=None, baselines="[mel]", output=None):
    """Run the command; returns the folder of the report, and the report."""
    output = output or folder / f"report {len(list(folder.glob('report *')))}"
    run(
        main,
        ProbeConfig,
        [
            "--encoder",
            encoder or str(folder / "encoder.keras"),
            "--data",
            str(data or folder / "tones.npz"),
            "--output",
            str(output),
            "--cache",
            str(folder / "cache"),
            "--resamples",
            "100",
            "--seeds",
            "1",
            *(["--baselines", baselines] if baselines else []),
            *options,
        ],
    )
    return output, json.loads((output / "report.json").read_text())


def test_stages_are_probed_as_a_model_of_them_is(folder):
    from keras_tune.evaluation import embedding_model

    encoder = keras.models.load_model(folder / "encoder.keras")
    stages = embedding_model(encoder, ["bottleneck", "tail_1"], "mean_std")
    stages.save(folder / "stages.keras")
    options = ("--target", "genre", "--protocol", "logistic")
    named = ("--layers", "bottleneck,tail_1", "--layer_pooling", "mean_std")
    _, found = probe(folder, *options, *named, baselines="[untrained]")
    _, expected = probe(folder, *options, encoder=str(folder / "stages.keras"), baselines="none")
    ours, theirs = (report["results"]["logistic"]["pretrained"] for report in (found, expected))
    for key in ("accuracy", "valid_score", "interval_95", "confusion"):
        assert ours[key] == theirs[key]
    assert "untrained" in found["results"]["logistic"]


def test_report_of_a_classification(folder):
    options = ("--target", "genre", "--protocol", "[knn,logistic,layers]")
    output, report = probe(folder, *options, baselines=None)
    assert list(report["results"]) == ["knn", "logistic", "layers"]
    for protocol in ("knn", "logistic"):
        results = report["results"][protocol]
        assert list(results) == DEFAULT
        # Pitch is what tells these clips apart, and the mel spectrum is made of it.
        assert results["mel"]["accuracy"] > 0.9
        for entry in results.values():
            low, high = entry["interval_95"]
            assert low <= entry["accuracy"] <= high
            assert entry["chosen_on_valid"][0]["valid_score"] == entry["valid_score"]
            # Each of 18 clips is in one cell.
            assert np.sum(entry["confusion"]["counts"]) == 18
            assert entry["confusion"]["seeds"] == 1
    assert list(report["results"]["layers"]) == ["pretrained", "untrained", "untrained_bn_level"]
    assert list(report["results"]["layers"]["pretrained"]) == [
        "contract_1",
        "bottleneck",
        "expand_1",
        "tail_1",
    ]
    assert report["clips"] == {"train": 18, "valid": 18, "test": 18}
    assert len(set(report["encoders"].values())) == 5
    about = report["representations"]
    assert {name: row["pooling"] for name, row in about.items()} == {
        name: "mean_std" if name.startswith("mel") else "mean" for name in DEFAULT
    }
    assert {name for name, row in about.items() if row["level"]} == {
        "untrained_bn_level",
        "mel_level",
    }
    assert about["untrained"]["batch_norm"] == "as built"
    assert about["untrained_bn_level"]["batch_norm"] == "estimated on train"
    # Nothing was made of numbers.
    assert report["threshold"] is None
    assert all(len(hashed) == 64 for hashed in report["splits"].values())
    for plot in ("scores.png", "layers.png", "confusion_knn_mel.png", "map_pretrained.png"):
        assert plot in report["plots"]
        assert (output / plot).read_bytes().startswith(b"\x89PNG")
    text = (output / "report.md").read_text()
    assert "mel | " in text
    assert report["encoders"]["pretrained"] in text
    # knn is no layer of a model; logistic regression is.
    assert report["tagger"]["protocol"] == "logistic"
    tagger = keras.models.load_model(output / "tagger.keras")
    assert (tagger.labels, tagger.activation) == (["high", "low", "mid"], "softmax")
    vectors = (output / "projector" / "pretrained" / "vectors.tsv").read_text().splitlines()
    metadata = (output / "projector" / "pretrained" / "metadata.tsv").read_text().splitlines()
    assert len(vectors) == 54
    assert metadata[0].split("\t") == ["id", "genre", "pitch", "high", "artist"]
    assert len(metadata) == 55


def test_a_second_run_takes_the_embeddings_of_the_first(folder, monkeypatch):
    options = ("--target", "genre", "--protocol", "knn")
    first = probe(folder, *options, baselines=None)[1]
    monkeypatch.setattr(
        "keras_tune.evaluation.embedding_cache.embed_clips",
        lambda *_, **__: pytest.fail("embedded once more"),
    )
    monkeypatch.setattr(
        "keras_tune.evaluation.baselines.estimate_on",
        lambda *_, **__: pytest.fail("estimated once more"),
    )
    assert (
        probe(folder, *options, baselines=None)[1]["results"]["knn"]["pretrained"]["score"]
        == (first["results"]["knn"]["pretrained"]["score"])
    )


def test_another_target_finds_the_labels_of_the_set_as_it_is_now(folder, tmp_path):
    """Labels lie beside cached embeddings: a set written anew is embedded anew."""
    arrays = dict(np.load(folder / "tones.npz"))
    options = ("--target", "genre", "--protocol", "knn")
    reports = []
    for genre in (arrays["genre"], np.roll(arrays["genre"], 1)):
        np.savez(tmp_path / "tones.npz", **{**arrays, "genre": genre})
        output, _ = probe(tmp_path, *options, encoder="mel")
        rows = (output / "projector" / "mel" / "metadata.tsv").read_text()
        reports.append([row.split("\t")[1] for row in rows.splitlines()[1:]])
        assert reports[-1] == genre.tolist()


def test_no_choice_sees_the_test_split(folder, tmp_path):
    """Other audio and other labels in the test split: everything but the scores stays."""
    arrays = dict(np.load(folder / "tones.npz"))
    test = arrays["split"] == "test"
    changed = {**arrays, "genre": arrays["genre"].copy(), "audio": arrays["audio"].copy()}
    changed["genre"][test] = "low"
    changed["audio"][test] = changed["audio"][test][:, ::-1] ** 2
    np.savez(tmp_path / "changed.npz", **changed)
    options = ("--target", "genre", "--protocol", "[linear,knn,logistic]")
    _, before = probe(folder, *options, encoder="mel")
    _, after = probe(folder, *options, encoder="mel", data=tmp_path / "changed.npz")
    for protocol in ("linear", "knn", "logistic"):
        one, other = (report["results"][protocol]["mel"] for report in (before, after))
        assert one["chosen_on_valid"] == other["chosen_on_valid"]
        assert one["valid_score"] == other["valid_score"]
        assert one["score"] != other["score"]


def test_the_key_of_songs_that_are_cut_into_clips(folder, tmp_path):
    """Triads in three keys, two clips a song: songs are scored, by the MIREX weights."""
    generator = np.random.default_rng(0)
    keys = {"C major": (262, 330, 392), "E minor": (330, 392, 494), "Gb major": (370, 466, 554)}
    songs = [(key, number) for number in range(9) for key in keys]
    time = np.arange(1200) / 22050
    audio, labels = [], []
    for number, (key, _) in enumerate(songs):
        for _ in range(2):
            tones = [np.sin(2 * np.pi * 4 * f * time) for f in keys[key]]
            audio.append(np.mean(tones, axis=0) + generator.normal(0, 0.01, 1200))
            labels.append((key, f"song {number}"))
    np.savez(
        tmp_path / "keys.npz",
        audio=np.array(audio, "float32") * 0.3,
        split=np.repeat(["train", "valid", "test"], 18),
        key=[key for key, _ in labels],
        song=[song for _, song in labels],
    )
    options = ("--target", "key", "--task", "key", "--protocol", "knn")
    _, report = probe(folder, *options, encoder="mel", data=tmp_path / "keys.npz")
    found = report["results"]["knn"]["mel"]
    assert (report["task"], report["metric"]) == ("key", "weighted_score")
    assert report["combines_songs"]
    # Keys that are near each other count in part.
    assert found["weighted_score"] == found["score"] >= found["accuracy"] > 0.5
    # Nine songs are scored, not eighteen clips.
    assert found["accuracy"] * 9 == pytest.approx(round(found["accuracy"] * 9))
    assert "confusion_knn_mel.png" in report["plots"]


def test_folds_of_tags(folder):
    _, report = probe(
        folder,
        "--target",
        "[genre,pitch]",
        "--threshold",
        "7",
        "--folds",
        "3",
        "--group",
        "artist",
        "--protocol",
        "logistic",
    )
    assert report["task"] == "tagging"
    assert report["threshold"] == report["config"]["threshold"] == 7
    # The probes of folds are many, none of which is the model to take.
    assert report["tagger"] is None
    assert report["outputs"] == ["high", "low", "mid", "pitch"]
    entry = report["results"]["logistic"]["mel"]
    assert len(entry["scores_of_runs"]) == 3
    assert entry["score"] == pytest.approx(np.mean(entry["scores_of_runs"]))
    assert entry["roc_auc"] > 0.9


def test_the_task_follows_from_the_labels_of_all_splits(folder, tmp_path):
    """Numbers that train lacks are numbers, not tags."""
    with np.load(folder / "tones.npz") as content:
        found = dict(content)
    pitch = (found["pitch"] - 5) / 4
    found["pitch"] = np.where(found["split"] == "train", math.nan, pitch)
    np.savez(tmp_path / "tones.npz", **found)
    options = ("--target", "pitch", "--folds", "3", "--group", "artist", "--protocol", "logistic")
    _, report = probe(folder, *options, data=tmp_path / "tones.npz")
    assert (report["task"], report["metric"]) == ("regression", "r2")


def test_stages_beside_deviations_over_windows(folder):
    options = ("--target", "genre", "--protocol", "layers", "--pooling", "mean_std")
    _, report = probe(folder, *options)
    (stages,) = (found for name, found in report["results"]["layers"].items() if name != "mel")
    assert "tail_1" in stages


def test_a_second_run_leaves_nothing_of_the_first(folder, tmp_path):
    output = tmp_path / "report"
    probe(folder, "--target", "genre", "--protocol", "logistic", output=output)
    written = {path.name for path in output.iterdir()}
    assert {"tagger.keras", "confusion_logistic_mel.png"} <= written
    _, report = probe(folder, "--target", "genre", "--protocol", "knn", output=output)
    written = {path.name for path in output.iterdir()}
    assert "confusion_knn_mel.png" in written
    assert not {"tagger.keras", "confusion_logistic_mel.png"} & written
    assert report["tagger"] is None and set(report["plots"]) <= written


def test_the_threshold_that_was_used_is_in_the_report(folder):
    """Zeros and ones are tags at 0.5 without being asked for."""
    options = ("--target", "[genre,high]", "--protocol", "knn")
    output, report = probe(folder, *options, encoder="mel")
    assert report["outputs"] == ["genre: high", "low", "mid", "high"]
    assert report["threshold"] == report["config"]["threshold"] == 0.5
    assert "present if the number is 0.5 or more" in (output / "report.md").read_text()


def test_baselines_and_poolings_side_by_side(folder):
    options = ("--target", "genre", "--baselines", "[mel,untrained]")
    options += ("--pooling", "[mean,mean_std]", "--protocol", "[linear,logistic]")
    output, report = probe(folder, *options)
    rows = ["pretrained", "pretrained_mean_std", "mel", "mel_mean"]
    rows += ["untrained", "untrained_mean_std"]
    assert list(report["results"]["logistic"]) == list(report["representations"]) == rows
    widths = [row["width"] for row in report["representations"].values()]
    assert widths == [8, 16, 32, 16, 8, 16]
    # A single window has no deviation over windows.
    linear = ["pretrained", "mel", "mel_mean", "untrained"]
    assert list(report["results"]["linear"]) == linear
    text = (output / "report.md").read_text()
    assert "Not evaluated: pretrained_mean_std, untrained_mean_std." in text
    assert "| mel_mean | mean |" in text and "| mel | mean_std |" in text
    for plot in ("scores.png", "confusion_logistic_pretrained_mean_std.png"):
        assert plot in report["plots"]
    # Means and deviations tell at least as much on the clips that a probe learns from.
    assert report["tagger"]["protocol"] in ("linear", "logistic")
    assert report["tagger"]["candidates"] in (2, 6)


def test_a_baseline_that_the_encoder_is_itself_is_not_reported_twice(folder, monkeypatch):
    built = keras.models.load_model(folder / "encoder.keras")
    monkeypatch.setattr("keras_tune.models.TUNe.from_preset", lambda preset, **_: built)
    options = ("--target", "genre", "--protocol", "knn", "--baselines", "[untrained,mel]")
    _, report = probe(folder, *options, encoder="untrained:tune_plus")
    assert list(report["results"]["knn"]) == ["untrained", "mel"]


def test_folds_of_some_splits_leave_the_others_out(folder):
    options = ("--target", "genre", "--protocol", "logistic", "--folds", "2", "--group", "artist")
    _, report = probe(folder, *options, "--fold_splits", "[valid,test]")
    _, whole = probe(folder, *options)
    assert set(whole["clips"]) == {"train", "valid", "test"}
    assert report["clips"] == {split: whole["clips"][split] for split in ("valid", "test")}
    assert report["folds"]["fingerprint"] != whole["folds"]["fingerprint"]


def test_shares_of_the_labels_and_deformations(folder, monkeypatch):
    from keras_tune.evaluation.study import deformations

    # Two of them: what each does is tested elsewhere.
    two = {name: deform for name, deform in deformations().items() if name in ("noise_0_db", "mp3")}
    monkeypatch.setattr("keras_tune.evaluation.study.deformations", lambda rate: two)
    options = ("--target", "pitch", "--protocol", "knn", "--label_fraction", "[0.5,1]")
    _, report = probe(folder, *options, "--deformations", encoder="mel")
    assert report["task"] == "regression"
    whole = report["results"]["knn"]["mel"]["r2"]
    shares = report["label_fraction"]["knn"]["mel"]
    assert shares["1.0"] == [pytest.approx(whole)]
    assert shares["0.5"] != shares["1.0"]
    deformed = report["deformations"]["knn"]["mel"]
    assert deformed["none"] == pytest.approx(whole)
    assert deformed["noise_0_db"] < deformed["none"]
    assert set(deformed) == {"none", "noise_0_db", "mp3"}
    for plot in ("label_fraction_knn.png", "deformations_knn.png"):
        assert plot in report["plots"]


@pytest.mark.parametrize(
    "options, message",
    [
        (("--target", "mood"), "has no label 'mood'"),
        (("--target", "genre", "--protocol", "svm"), "--protocol svm: unknown"),
        (("--target", "genre", "--folds", "3"), "also give --group"),
        (("--target", "genre", "--folds", "3", "--group", "label"), "has no label 'label'"),
        (("--target", "genre", "--fold_splits", "[test]"), "only valid together with --folds"),
        (
            ("--target", "genre", "--folds", "3", "--group", "artist", "--fold_splits", "[exam]"),
            "--fold_splits exam: ",
        ),
        (("--target", "genre", "--label_fraction", "[2]"), "list[number above 0 to 1]"),
        (("--target", "genre", "--seeds", "0"), "--seeds 0: takes integer from 1 to 1,000"),
        (
            ("--target", "[genre,pitch]", "--encoder", "mel"),
            "--threshold: must be given",
        ),
        (("--target", "genre", "--task", "regression"), "--target [genre]: must be numbers"),
        (
            ("--target", "genre", "--folds", "54", "--group", "artist"),
            "--folds 54: must be at least 2 and less than the number of groups, which is 18",
        ),
        (("--target", "genre", "--baselines", "[noise]"), "--baselines noise: unknown"),
        (("--target", "genre", "--pooling", "max"), "--pooling max: unknown"),
        (("--target", "genre", "--pooling", "mean_std"), "uses single windows"),
        (("--target", "genre", "--layer_pooling", "mean_std"), "mean_std: needs --layers"),
        (("--target", "genre", "--layers", "tail_2"), "the encoder has no stage 'tail_2'"),
        (
            ("--target", "genre", "--layers", "tail_1", "--protocol", "layers"),
            "--layers: cannot be combined with --protocol layers",
        ),
    ],
)
def test_one_line_says_what_is_wrong(folder, capsys, options, message):
    with pytest.raises(SystemExit):
        probe(folder, *options)
    [line] = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("probe: error:") or "error:" in line
    assert message in line


def test_probe_of_a_pretraining_run(folder, monkeypatch):
    encoder = keras.models.load_model(folder / "encoder.keras")
    results = final_probe(encoder, open_dataset(folder / "tones.npz"), "genre")
    names = ["pretrained", "untrained", "untrained_bn_level"]
    assert results["encoders"] == names
    for name in names:
        assert f"  {name} " in final_probe_summary("genre", results)
        low, high = results[name]["interval_95"]
        assert low <= results[name]["accuracy"] <= high
    assert results["chance"] == pytest.approx(1 / 3)
    assert "chance" in final_probe_summary("genre", results)
    # 36 clips of valid and test tell too little, 12 artists would do.
    assert results["unseen"] is None and "not seen" not in final_probe_summary("genre", results)
    monkeypatch.setattr("keras_tune.evaluation.pretraining_probes.LEAST", 36)
    found = final_probe(encoder, open_dataset(folder / "tones.npz"), "genre", group="artist")
    assert found["pretrained"]["accuracy"] == results["pretrained"]["accuracy"]
    assert "36 clips that pretraining has not seen" in final_probe_summary("genre", found)
    options = ("--target", "genre", "--protocol", "logistic", "--folds", "5", "--group", "artist")
    options += ("--fold_splits", "[valid,test]", "--seeds", "3")
    _, report = probe(folder, *options, baselines="[untrained,untrained_bn_level]")
    for name in names:
        expected = report["results"]["logistic"][name]["scores_of_runs"]
        assert found["unseen"][name]["scores_of_runs"] == pytest.approx(expected)
    with pytest.raises(UserError, match="no label 'singer'"):
        final_probe(encoder, open_dataset(folder / "tones.npz"), "genre", group="singer")
