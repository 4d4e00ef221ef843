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
            run(prepare.main, prepare.Config, [str(argument) for argument in arguments])
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
        "(and 4 more). Fix or remove them, or run without strict."
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
    assert "dataset 'folder' takes no option 'group_column'" in errors


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
