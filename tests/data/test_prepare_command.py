import subprocess
import sys

import pytest

from keras_tune.data import load_info

pytest.importorskip("tensorflow")


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "keras_tune.recipes.prepare", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


def test_folder_with_bad_files(bad_files, tmp_path):
    folder, reasons = bad_files
    options = ["--dataset", "folder", "--source", folder, "--min_seconds", 0.05, "--workers", 1]
    run = command(*options, "--output", tmp_path / "out", "--shards", 1)
    assert run.returncode == 0, run.stderr
    assert "5 files left out:" in run.stdout
    for name, reason in reasons.items():
        (line,) = [line for line in run.stdout.splitlines() if name in line]
        assert line.endswith(reason)
    assert sum(load_info(tmp_path / "out").counts.values()) == 4
    strict = command(*options, "--output", tmp_path / "strict", "--strict", "true")
    assert strict.returncode == 1
    assert strict.stderr.splitlines()[-1].startswith("prepare: error:")
    assert "Traceback" not in strict.stderr


def test_csv_with_labels(clips, tmp_path):
    clips.to_csv(tmp_path / "clips.csv", index=False)
    run = command(
        *("--dataset", "csv", "--source", tmp_path / "clips.csv", "--label_columns", "[letter]"),
        *("--output", tmp_path / "out", "--min_seconds", 0, "--workers", 1),
    )
    assert run.returncode == 0, run.stderr
    assert "4 test, 10 train" in run.stdout
    assert [column.name for column in load_info(tmp_path / "out").labels] == ["letter"]


def test_missing_source_is_one_line(tmp_path):
    run = command("--dataset", "csv", "--source", tmp_path / "no.csv", "--output", tmp_path / "out")
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert str(tmp_path / "no.csv") in line
