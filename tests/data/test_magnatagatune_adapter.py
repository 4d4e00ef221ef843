import csv

import numpy as np
import pytest
import soundfile

from keras_tune.data.datasets import manifest_for
from keras_tune.data.datasets.magnatagatune import EMPTY_FILES
from keras_tune.errors import UserError

pytestmark = pytest.mark.one_backend

RATE = 22050
TAGS = [f"tag {number:02d}" for number in range(60)]
TRAIN, VALID, TEST = "0123456789ab", "c", "def"


def build(folder, clips=48, audio=True):
    """A small MagnaTagATune: tag n has about 60 - n clips, and every seventh clip has no tag."""
    random = np.random.default_rng(5)
    rows = []
    for number in range(clips):
        digit = "0123456789abcdef"[number % 16]
        path = f"{digit}/some_one-an_album-{number // 2:02d}-song-{29 * (number % 2)}-58.mp3"
        tagged = random.random(60) < np.linspace(0.9, 0.02, 60)
        rows.append([str(number + 2), *(tagged & (number % 7 > 0)).astype(int), path])
    rows.append(["35644", *[1] * 60, EMPTY_FILES[0]])
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "annotations_final.csv", "w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL)
        writer.writerows([["clip_id", *TAGS, "mp3_path"], *rows])
    for row in rows:
        path = folder / row[-1]
        path.parent.mkdir(exist_ok=True)
        if audio:
            soundfile.write(path, random.normal(0, 0.1, RATE // 2), RATE)
    return folder


@pytest.fixture
def source(tmp_path):
    return build(tmp_path / "magnatagatune", audio=False)


def rows_of(source):
    with open(source / "annotations_final.csv", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def top_tags(rows):
    counts = {tag: sum(row[tag] == "1" for row in rows) for tag in TAGS}
    return sorted(TAGS, key=lambda tag: -counts[tag])[:50]


def test_full_split_is_the_folders_without_the_empty_files(source):
    manifest = manifest_for("magnatagatune", source)
    expected = {}
    for row in rows_of(source):
        if row["clip_id"] != "35644":
            folder = row["mp3_path"][0]
            parts = {"train": TRAIN, "valid": VALID, "test": TEST}
            (expected[row["clip_id"]],) = [name for name, part in parts.items() if folder in part]
    assert dict(zip(manifest["id"], manifest["split"], strict=True)) == expected
    assert manifest.attrs["published_counts"] == {"train": 18706, "valid": 1825, "test": 5329}


def test_tags_are_the_fifty_most_frequent(source):
    manifest = manifest_for("magnatagatune", source)
    rows = {row["clip_id"]: row for row in rows_of(source)}
    tags = top_tags(rows.values())
    assert list(manifest.columns) == ["id", "path", "split", "song", *tags]
    for _, clip in manifest.iterrows():
        assert [clip[tag] for tag in tags] == [float(rows[clip["id"]][tag]) for tag in tags]


def test_clean_split_leaves_out_clips_without_these_tags(source):
    rows = rows_of(source)
    tags = top_tags(rows)
    expected = {
        row["clip_id"]
        for row in rows
        if any(row[tag] == "1" for tag in tags) and row["clip_id"] != "35644"
    }
    clean = manifest_for("magnatagatune", source, split="clean")
    full = manifest_for("magnatagatune", source)
    assert set(clean["id"]) == expected
    assert len(clean) < len(full)
    both = full.set_index("id").loc[clean["id"]]
    assert both.equals(clean.set_index("id"))
    assert clean.attrs["published_counts"] == {"train": 15247, "valid": 1529, "test": 4332}


def test_clips_of_a_song_share_it(source):
    manifest = manifest_for("magnatagatune", source)
    path = {clip: rest for clip, rest in zip(manifest["id"], manifest["song"], strict=True)}
    assert path["2"] == "0/some_one-an_album-00-song"
    assert path["3"] == "1/some_one-an_album-00-song"


def test_folders_of_clips_within_mp3(tmp_path):
    source = build(tmp_path, clips=16)
    (source / "mp3").mkdir()
    for folder in "0123456789abcdef":
        (source / folder).rename(source / "mp3" / folder)
    manifest = manifest_for("magnatagatune", source)
    assert manifest["path"].map(lambda path: soundfile.info(path).frames > 0).all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"0"', '"2"', "the tag 'tag 00' on line 2 is neither 0 nor 1"),
        ('"3"', '"2"', "the id '2' occurs more than once"),
        ("0/some_one", "x/some_one", "'x/some_one.*' in the column 'mp3_path' on line 2"),
        ("mp3_path", "path", "has no column 'mp3_path'"),
    ],
)
def test_damaged_tables(source, old, new, message):
    file = source / "annotations_final.csv"
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        manifest_for("magnatagatune", source)


def test_table_that_breaks_off(source):
    file = source / "annotations_final.csv"
    file.write_text(file.read_text()[:-60])
    with pytest.raises(UserError, match="annotations_final.csv"):
        manifest_for("magnatagatune", source)


def test_missing_table_folders_and_tags(source, tmp_path):
    with pytest.raises(UserError, match="nowhere/annotations_final.csv: no such file"):
        manifest_for("magnatagatune", tmp_path / "nowhere")
    with pytest.raises(UserError, match="`split` must be 'full' or 'clean'. Received"):
        manifest_for("magnatagatune", source, split="small")
    bare = tmp_path / "bare"
    bare.mkdir()
    table = (source / "annotations_final.csv").read_text()
    (bare / "annotations_final.csv").write_text(table)
    with pytest.raises(UserError, match="bare: contains no 0 or 1.*Unpack mp3.zip"):
        manifest_for("magnatagatune", bare)
    (source / "annotations_final.csv").write_text("clip_id\tguitar\tmp3_path\n2\t0\t0/a-0-29.mp3\n")
    with pytest.raises(UserError, match="has 1 columns of tags, fewer than 50"):
        manifest_for("magnatagatune", source)
