import re
import subprocess
import sys

import pytest

from keras_tune.data import open_dataset
from keras_tune.recipes import prepare
from keras_tune.recipes._cli import run

pytestmark = pytest.mark.one_backend

pytest.importorskip("tensorflow")


@pytest.fixture
def command(capsys):
    """Run the command line within this process; gives status, output and errors."""

    def call(*arguments):
        status = 0
        try:
            run(prepare.main, prepare.PrepareConfig, [str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return call


def test_folder_with_bad_files(command, bad_files, tmp_path):
    folder, reasons = bad_files
    options = ["--dataset", "folder", "--source", folder, "--min_seconds", 0.05, "--workers", 1]
    status, printed, errors = command(*options, "--output", tmp_path / "out", "--shards", 1)
    assert status == 0, errors
    assert "5 files left out:" in printed
    for name, reason in reasons.items():
        (line,) = [line for line in printed.splitlines() if name in line]
        assert line.endswith(reason)
    assert sum(open_dataset(tmp_path / "out").info.counts.values()) == 4


def test_strict(command, bad_files, tmp_path):
    folder, reasons = bad_files
    status, printed, errors = command(
        *("--dataset", "folder", "--source", folder, "--output", tmp_path / "out"),
        *("--min_seconds", 0.05, "--workers", 1, "--strict", "true"),
    )
    assert status == 1
    assert all(name in printed for name in reasons)
    assert errors.splitlines()[-1].endswith(
        "(and 4 more). Fix or remove them, or run without --strict."
    )


def test_csv_with_labels(command, clips, tmp_path):
    clips.to_csv(tmp_path / "clips.csv", index=False)
    status, printed, errors = command(
        *("--dataset", "csv", "--source", tmp_path / "clips.csv", "--label_columns", "[letter]"),
        *("--output", tmp_path / "out", "--min_seconds", 0, "--workers", 1),
    )
    assert status == 0, errors
    assert "4 test, 10 train" in printed
    assert [column.name for column in open_dataset(tmp_path / "out").info.labels] == ["letter"]


def test_options_of_another_dataset_are_refused(command, tmp_path):
    status, _, errors = command(
        *("--dataset", "folder", "--source", tmp_path, "--output", tmp_path / "out"),
        *("--group_column", "artist"),
    )
    assert status == 1
    assert "--group_column artist: is not an option of the dataset 'folder'" in errors


@pytest.mark.parametrize(
    "options, expected",
    [
        (("gtzan",), "empty: contains no blues or {} or rock. --source must be the folder with"),
        (("emomusic",), "empty: contains no {} --source must be the folder in which"),
        (("magnatagatune",), "annotations_final.csv: no such file. --source must be the folder"),
        (("mcgill_billboard",), "billboard-2.0-index.csv: no such file. --source must be the"),
        (("giantsteps_key",), "contains 0 folders {} --source must be a folder with one copy"),
        (("debian_music",), "empty: contains no file of {} --source must be the folder into which"),
        (("debian_music", "--max_seconds=9"), "--max_seconds 9: must be at least 30"),
        (("csv",), "empty: no such file. --source must be a csv file"),
    ],
)
def test_errors_about_the_source_name_the_option(command, tmp_path, options, expected):
    (tmp_path / "empty").mkdir()
    arguments = ("--source", tmp_path / "empty", "--output", tmp_path / "out")
    status, _, errors = command("--dataset", *options, *arguments)
    (line,) = errors.splitlines()
    assert status == 1
    assert re.search(re.escape(expected).replace(r"\{\}", ".*"), line)


def test_errors_of_the_preparation_name_the_option(command, clips, tmp_path, monkeypatch):
    def line(*options, output=tmp_path / "out", source=tmp_path / "clips.csv"):
        arguments = ("--dataset", "csv", "--source", source, "--output", output)
        status, _, errors = command(*arguments, "--min_seconds", 0, "--workers", 1, *options)
        (line,) = [line for line in errors.splitlines() if "error:" in line]
        assert status == 1
        return line

    clips.to_csv(tmp_path / "clips.csv", index=False)
    clips.rename(columns={"path": "sound"}).to_csv(tmp_path / "other.csv", index=False)
    assert "--path_column: must be given, as no column of" in line(source=tmp_path / "other.csv")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x.tfrecord").touch()
    message = f"--output {tmp_path / 'full'}: already contains TFRecords with unknown settings"
    assert message in line(output=tmp_path / "full")
    settings = tmp_path / "full" / ".prepare" / "settings.json"
    settings.parent.mkdir()
    settings.touch()
    message = f"{settings}: damaged. Choose another --output, or delete this folder"
    assert message in line(output=tmp_path / "full")
    assert "--name a/b: contains '/'" in line("--name", "a/b")
    message = "--fractions [0.5,0.5,0.5]: must be three shares that sum to 1"
    assert message in line("--split_column", "none", "--fractions", "[.5, .5, .5]")
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    assert "--runner beam: needs Apache Beam: pip install" in line("--runner", "beam")


def test_missing_source_is_one_line(tmp_path):
    source = str(tmp_path / "no.csv")
    arguments = ["--dataset", "csv", "--source", source, "--output", str(tmp_path / "out")]
    process = subprocess.run(
        [sys.executable, "-m", "keras_tune.recipes.prepare", *arguments],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert source in line
