import csv
import hashlib
import importlib.resources
import pathlib
import re

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from keras_tune.data import manifest_for, prepare, read_records
from keras_tune.data.datasets import split_report
from keras_tune.data.datasets.debian_music import stretches
from keras_tune.errors import UserError

pytestmark = pytest.mark.one_backend

RATE = 8000
TRACKS = [
    # package, artist, split, song, path, seconds
    ("chess-data", "chess-data", "train", "opening", "usr/share/chess/opening.ogg", 75.5),
    ("chess-data", "chess-data", "train", "endgame", "usr/share/chess/endgame.wav", 12.25),
    ("go-data", "boards", "test", "stones", "usr/share/go/all.pk3.d/stones.flac", 64.0),
    ("go-music", "boards", "test", "stones", "usr/share/go/music/stones fast.wav", 31.0),
    ("halma", "halma", "valid", "gone", "usr/share/halma/gone.ogg", 50.0),
]
DOCS = pathlib.Path(__file__).parents[2] / "docs" / "open_music.md"


def build(folder):
    """Three small packages with a table of their own, and a fourth that is not there."""
    random, rows = np.random.default_rng(14), []
    for package, *common, path, seconds in TRACKS:
        file, digest = folder / package / path, "0" * 16
        if package != "halma":
            file.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(file, random.uniform(-0.5, 0.5, round(seconds * RATE)), RATE)
            digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        rows.append((package, *common, path, seconds, digest))
    folder.mkdir(exist_ok=True)
    with open(folder / "debian_music.tsv", "w", newline="") as file:
        header = "package artist split song path seconds sha256_16".split()
        csv.writer(file, delimiter="\t").writerows([header, *rows])
    return folder


def test_tracks_are_cut_into_stretches(tmp_path):
    manifest = manifest_for("debian_music", build(tmp_path))
    parts = manifest.groupby("path", sort=False)[["start", "duration"]].agg(list)
    expected = {
        "opening.ogg": [(0, 30), (30, 30), (60, 15.5)],
        "endgame.wav": [(0, 12.25)],
        "stones.flac": [(0, 30), (30, 30)],
        "stones fast.wav": [(0, 30)],
    }
    for path, row in parts.iterrows():
        if pathlib.Path(path).is_file():
            wanted = expected.pop(pathlib.Path(path).name)
            assert list(zip(row["start"], row["duration"], strict=True)) == wanted
    assert not expected
    assert list(manifest.loc[manifest["start"].isna(), "package"]) == ["halma"]
    assert set(manifest["song"]) == {
        *("chess-data/opening", "chess-data/endgame", "go-data/stones", "go-music/stones"),
        "halma/gone",
    }
    assert set(manifest.loc[manifest["split"] == "test", "artist"]) == {"boards"}
    assert manifest.attrs["published_counts"] == {"train": 4, "valid": 2, "test": 3}
    assert "warning: 1 files of halma are missing" in split_report(manifest)


@given(st.floats(0.5, 2000), st.floats(30, 700))
def test_stretches_are_full_disjoint_and_spread_over_the_track(seconds, most):
    parts = stretches(seconds, most)
    numbers = [number for number, _, _ in parts]
    assert numbers == sorted(set(numbers)) and numbers[0] >= 0
    assert all(start == 30 * number for number, start, _ in parts)
    assert all(length == 30 for _, _, length in parts[:-1])
    # Never beyond the end of the track, where decoding would fail.
    assert parts[-1][1] + parts[-1][2] <= seconds + 1e-9
    assert parts[-1][2] >= min(10, seconds) - 1e-3
    used = sum(length for _, _, length in parts)
    assert used <= max(most, min(30, seconds)) + 1e-3
    if seconds <= most - 30:
        assert seconds - used < 10
    # Whatever part of the track one takes, its share of the stretches is off by less than one.
    whole = int(seconds // 30) + (seconds % 30 >= 10 or seconds < 30)
    for end in range(whole + 1):
        before = sum(number < end for number in numbers)
        assert abs(before - end * len(numbers) / whole) <= 1


def test_records_hold_the_parts_of_the_tracks(tmp_path):
    pytest.importorskip("tensorflow")
    manifest = manifest_for("debian_music", build(tmp_path / "source"), max_seconds=30)
    assert manifest["song"].is_unique
    options = {"sample_rate": RATE, "workers": 1, "progress": False, "shards": 1}
    info = prepare(manifest, tmp_path / "out", **options)
    assert [entry["reason"] for entry in info.failed] == ["missing"]
    package = info.label_column("package")[0]
    assert package.values == ("chess-data", "go-data", "go-music", "halma")
    assert info.counts == {"train": 2, "valid": 0, "test": 2}
    for split in ("train", "test"):
        for record in read_records(tmp_path / "out", split):
            (row,) = manifest[manifest["id"] == record["id"]].itertuples()
            whole, _ = soundfile.read(row.path, dtype="float32")
            part = whole[int(row.start) * RATE :][: round(row.duration * RATE)]
            np.testing.assert_allclose(record["audio"], part, atol=2**-15)
            assert record["labels"]["package"] == row.package
            assert record["labels"]["song"] == row.song


def test_another_version_of_a_file_is_named_and_left_or_taken(tmp_path):
    source = build(tmp_path)
    other = source / "chess-data/usr/share/chess/opening.ogg"
    soundfile.write(other, np.random.default_rng(15).uniform(-0.5, 0.5, 100 * RATE), RATE)
    left = manifest_for("debian_music", source)
    assert str(other) not in set(left["path"])
    assert f"warning: {other} is not the version in debian_music.tsv: left out" in split_report(
        left
    )
    taken = manifest_for("debian_music", source, changed="take")
    assert f"warning: {other} is not the version in debian_music.tsv: taken" in split_report(taken)
    # As long as the file is, not as the table says.
    assert list(taken.loc[taken["path"] == str(other), "duration"]) == [30, 30, 30, 10]
    other.write_bytes(b"This is not audio.")
    damaged = manifest_for("debian_music", source, changed="take")
    assert damaged.loc[damaged["path"] == str(other), "start"].isna().tolist() == [True]


def test_packages_may_be_installed_in_one_root(tmp_path):
    source, root = build(tmp_path / "source"), tmp_path / "root"
    for package in {package for package, *_ in TRACKS if package != "halma"}:
        for file in (source / package).rglob("*.*"):
            if file.is_file():
                target = root / file.relative_to(source / package)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.rename(target)
    (source / "debian_music.tsv").rename(root / "debian_music.tsv")
    manifest = manifest_for("debian_music", root)
    there = manifest[manifest["start"].notna()]
    assert len(there) == 7
    assert all(pathlib.Path(path).is_relative_to(root / "usr") for path in there["path"])


def test_errors_name_the_argument_and_the_fix(tmp_path):
    source = build(tmp_path / "source")
    with pytest.raises(UserError, match="`max_seconds` must be at least 30.*=20"):
        manifest_for("debian_music", source, max_seconds=20)
    with pytest.raises(UserError, match="`changed` must be 'leave' or 'take'. Received"):
        manifest_for("debian_music", source, changed="keep")
    with pytest.raises(UserError, match="nowhere: no such folder"):
        manifest_for("debian_music", tmp_path / "nowhere")
    with pytest.raises(UserError, match="contains no file of debian_music.tsv. `source`"):
        manifest_for("debian_music", tmp_path)
    table = source / "debian_music.tsv"
    text = table.read_text()
    table.write_text(text.replace("valid", "dev"))
    with pytest.raises(UserError, match="'dev' in the column 'split' on line 6 must be one of"):
        manifest_for("debian_music", source)
    table.write_text(text.replace("75.5", "long"))
    with pytest.raises(UserError, match="'long' in the column 'seconds' on line 2 is not a number"):
        manifest_for("debian_music", source)
    table.write_text(re.sub(r"[0-9a-f]{16}", "f" * 16, text))
    with pytest.raises(UserError, match="no file is the version in .* Pass `changed='take'`"):
        manifest_for("debian_music", source)


@pytest.fixture(scope="module")
def shipped():
    table = importlib.resources.files("keras_tune.data.datasets") / "debian_music.tsv"
    with importlib.resources.as_file(table) as file:
        return pd.read_csv(file, sep="\t", keep_default_na=False)


def test_shipped_table_says_what_one_must_know_of_each_track(shipped):
    assert not (shipped.astype(str) == "").to_numpy().any()
    assert shipped["sha256_16"].str.fullmatch("[0-9a-f]{16}").all()
    assert shipped["sha256_16"].is_unique
    assert not shipped.duplicated(["package", "path"]).any()
    assert shipped["path"].str.match(r"usr/share/\S").all()
    assert (shipped["seconds"] >= 29).all()
    for column in ("version", "artist", "split"):
        assert (shipped.groupby("package")[column].nunique() == 1).all()


def test_shipped_split_is_by_artist_and_about_as_described(shipped):
    assert (shipped.groupby("artist")["split"].nunique() == 1).all()
    used = shipped["seconds"].clip(upper=300).groupby(shipped["split"]).sum()
    share = used / used.sum()
    assert 0.85 < share["train"] < 0.93
    assert share["valid"] > 0.04 and share["test"] > 0.04
    held_out = shipped[shipped["split"] != "train"]
    # Same-package retrieval needs two tracks of a package.
    assert (held_out.groupby("package")["song"].nunique() >= 2).sum() >= 12
    trained = shipped.loc[shipped["split"] == "train", "licence"]
    assert not trained.str.contains("Drascula|Ethymonics|nothing").any()
    assert not trained.str.contains(r"\b(?:NC|ND)\b").any()


def test_page_credits_every_package(shipped):
    text = DOCS.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\S+) \| (train|valid|test) \| (\d+) \| ([\d.]+) \| \w", text, re.M)
    found = {row[0]: row[1:] for row in rows}
    hours = shipped.groupby("package")["seconds"].sum() / 3600
    tracks = shipped.groupby("package").size()
    split = shipped.groupby("package")["split"].first()
    assert found == {
        name: (split[name], str(tracks[name]), f"{hours[name]:.2f}") for name in hours.index
    }
    for licence in shipped["licence"].unique():
        assert licence in text
    for credit in shipped["credits"].unique():
        assert credit in text
