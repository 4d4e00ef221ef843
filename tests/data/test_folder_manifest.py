import pytest

from keras_tune.data.datasets import folder_manifest, manifest_for
from keras_tune.data.datasets.splits import stratified_split
from keras_tune.errors import UserError

pytestmark = pytest.mark.one_backend


def fill(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_subfolders_are_labels(tmp_path):
    fill(
        tmp_path, ["rock/b.MP3", "rock/a.wav", "jazz/live/c.ogg", "jazz/cover.jpg", "rock/._a.wav"]
    )
    manifest = manifest_for("folder", tmp_path, label="genre")
    assert list(manifest["id"]) == ["jazz/live/c.ogg", "rock/a.wav", "rock/b.MP3"]
    assert list(manifest["genre"]) == ["jazz", "rock", "rock"]
    assert list(manifest["path"]) == [str(tmp_path / clip) for clip in manifest["id"]]


def test_flat_folder_has_no_label(tmp_path):
    fill(tmp_path, ["a.wav", "b.flac"])
    assert list(folder_manifest(tmp_path).columns) == ["id", "path", "split"]


def test_each_label_is_split_in_the_same_proportions(tmp_path):
    fill(tmp_path, [f"{label}/{n}.wav" for label in ("jazz", "rock") for n in range(50)])
    manifest = folder_manifest(tmp_path)
    for _, splits in manifest.groupby("label")["split"]:
        assert splits.value_counts().to_dict() == {"train": 40, "valid": 5, "test": 5}
    assert folder_manifest(tmp_path).equals(manifest)


def test_small_labels_are_in_every_split_where_possible():
    for count in range(1, 12):
        splits = stratified_split([str(n) for n in range(count)], ["x"] * count)
        assert set(splits) == {"train", "valid", "test"} or count < 3
        assert "train" in splits


def test_fractions():
    ids = [str(n) for n in range(20)]
    splits = stratified_split(ids, [""] * 20, (0.5, 0.0, 0.5))
    assert (splits.count("train"), splits.count("test")) == (10, 10)
    assert set(stratified_split(ids, [""] * 20, (0, 0, 1))) == {"test"}


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        folder_manifest(tmp_path / "nowhere")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="contains no audio file"):
        folder_manifest(tmp_path)


@pytest.mark.parametrize("label", ["id", "path", "split"])
def test_a_label_replaces_no_other_column(tmp_path, label):
    fill(tmp_path, ["rock/a.wav", "jazz/b.wav"])
    with pytest.raises(UserError, match=f"Received: label={label}"):
        folder_manifest(tmp_path, label=label)
