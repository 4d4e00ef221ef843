import importlib
import pathlib

import pandas as pd
import pytest
import test_debian_music_adapter
import test_emomusic_adapter
import test_fma_adapter
import test_giantsteps_key_adapter
import test_gtzan_adapter
import test_magnatagatune_adapter
import test_mcgill_billboard_adapter

from keras_tune.data import open_dataset
from keras_tune.data.datasets import DATASETS, manifest_for, split_report
from keras_tune.data.schema import fingerprint
from keras_tune.recipes import prepare
from keras_tune.recipes._cli import run

pytestmark = pytest.mark.one_backend

SETS = {
    "debian_music": test_debian_music_adapter.build,
    "emomusic": test_emomusic_adapter.build,
    "fma": test_fma_adapter.build,
    "giantsteps_key": test_giantsteps_key_adapter.build,
    "gtzan": test_gtzan_adapter.build,
    "magnatagatune": test_magnatagatune_adapter.build,
    "mcgill_billboard": test_mcgill_billboard_adapter.build,
}


def test_every_set_is_tested_here():
    assert set(DATASETS) == {"csv", "folder", *SETS}


@pytest.mark.parametrize("name", SETS)
def test_header_says_what_one_must_know(name):
    text = importlib.import_module(f"keras_tune.data.datasets.{name}").__doc__
    assert text.startswith(f"{name}: ")
    for word in (
        "Citation:",
        "Licence:",
        "Where to get it:",
        "Layout expected",
        "\nLabel",
        "\nSplit",
    ):
        assert word in text


@pytest.mark.parametrize("name", SETS)
def test_command_writes_what_is_there_and_names_the_rest(name, tmp_path, capsys):
    pytest.importorskip("tensorflow")
    source, output = SETS[name](tmp_path / "source"), tmp_path / "out"
    manifest = manifest_for(name, source)
    assert manifest.equals(manifest_for(name, source))
    assert list(manifest.columns[:3]) == ["id", "path", "split"]
    assert manifest["id"].is_unique
    assert set(manifest["split"]) <= {"train", "valid", "test"}
    arguments = ["--dataset", name, "--source", source, "--output", output]
    arguments += ["--min_seconds", 0.1, "--workers", 1, "--shards", 1, "--sample_rate", 8000]
    run(prepare.main, prepare.PrepareConfig, [str(argument) for argument in arguments])
    printed = capsys.readouterr().out
    info = open_dataset(output).info
    assert split_report(manifest) in printed
    there = manifest["path"].map(lambda path: pathlib.Path(path).is_file())
    missing = manifest.loc[~there]
    assert {entry["id"] for entry in info.failed} == set(missing["id"])
    assert all(path in printed for path in missing["path"])
    assert sum(info.counts.values()) == there.sum() > 0
    for split, rows in manifest[there].groupby("split"):
        assert info.fingerprints[split] == fingerprint(rows["id"])
        assert info.fingerprints[split][:12] in printed


def test_split_report():
    splits = ["train"] * 1200 + ["test"] * 3
    manifest = pd.DataFrame({"id": [f"{n}" for n in range(1203)], "split": splits})
    lines = split_report(manifest).splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [["train", "1,200", "-"], ["test", "3", "-"]]
    assert lines[1].split()[3] == fingerprint(manifest["id"][:1200])[:12]
    manifest.attrs["published_counts"] = {"train": 1200, "valid": 7, "test": 4}
    lines = split_report(manifest).splitlines()
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["train", "1,200", "1,200"],
        ["valid", "0", "7"],
        ["test", "3", "4"],
    ]
    assert lines[4:] == [
        "warning: 0 clips in valid instead of the 7 published",
        "warning: 3 clips in test instead of the 4 published",
    ]
    manifest.attrs["published_counts"] = {"total": 1204}
    (warning,) = split_report(manifest).splitlines()[3:]
    assert warning == "warning: 1,203 clips in total instead of the 1,204 published"
    manifest.attrs["published_counts"] = {"total": 1203}
    assert len(split_report(manifest).splitlines()) == 3
