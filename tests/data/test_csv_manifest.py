import pandas as pd
import pytest

from keras_tune.data.datasets import csv_manifest, manifest_for
from keras_tune.errors import UserError

pytestmark = pytest.mark.one_backend


@pytest.fixture
def table(tmp_path):
    def write(text, name="tracks.csv"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_columns_are_found_and_kept(table, tmp_path):
    source = table(
        "track_id,file,genre,bpm,split\n007,audio/a.ogg,None,93.5,train\n008,/b.ogg,NA,,test\n"
    )
    manifest = manifest_for("csv", source, label_columns=["genre", "bpm"])
    assert list(manifest.columns) == ["id", "path", "split", "genre", "bpm"]
    assert list(manifest["id"]) == ["007", "008"]
    assert list(manifest["path"]) == [str(tmp_path / "audio/a.ogg"), "/b.ogg"]
    assert list(manifest["split"]) == ["train", "test"]
    assert list(manifest["genre"]) == ["None", "NA"]
    assert manifest["bpm"][0] == 93.5
    assert pd.isna(manifest["bpm"][1])


def test_tabs_and_named_columns(table):
    source = table("Key\tWhere\tFold\n1\ta.mp3\tvalid\n")
    manifest = csv_manifest(source, path_column="Where", id_column="Key", split_column="Fold")
    assert manifest.loc[0, ["id", "split"]].tolist() == ["1", "valid"]


def test_path_is_the_id_where_there_is_no_other(table):
    assert list(csv_manifest(table("path\nx/a.wav\n"))["id"]) == ["x/a.wav"]


def rows(count, groups):
    return "path,artist\n" + "".join(f"{n}.wav,artist {n % groups}\n" for n in range(count))


def test_drawn_splits_have_about_the_asked_fractions(table):
    counts = csv_manifest(table(rows(2000, 1)))["split"].value_counts(normalize=True)
    assert abs(counts["train"] - 0.8) < 0.04
    assert abs(counts["valid"] - 0.1) < 0.03
    assert abs(counts["test"] - 0.1) < 0.03


def test_drawn_splits_do_not_tear_groups_apart(table):
    source = table(rows(600, 60))
    manifest = csv_manifest(source, label_columns=["artist"], group_column="artist")
    assert (manifest.groupby("artist")["split"].nunique() == 1).all()
    assert set(manifest["split"]) == {"train", "valid", "test"}


def test_drawn_splits_stay_when_clips_are_added(table):
    few, many = csv_manifest(table(rows(100, 1))), csv_manifest(table(rows(200, 1)))
    assert list(few["split"]) == list(many["split"][:100])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("track,x\n1,2\n", {}, "`path_column` must be given, as no column of"),
        ("path;bpm\na;93,5\n", {}, "commas or tabs, not by semicolons. Received: path;bpm"),
        ("path\na\n", {"label_columns": ["genre"]}, "has no column 'genre'. It has: path"),
        ("path\na\n", {"id_column": "key"}, "has no column 'key'"),
        ("id,path\n1,a\n1,b\n", {}, "the id '1' occurs more than once"),
        ("id,path\n1,a\n2,\n", {}, "the column 'path' is empty on line 3"),
        ("id,path,split\n1,a,\n", {}, "the column 'split' is empty on line 2"),
        ("path\na\n", {"label_columns": ["path"]}, "'path' cannot be the name of a label"),
        ("path\na\n", {"fractions": [0.5, 0.5, 0.5]}, "`fractions` must be three shares"),
        ("path\na\n", {"colour": "red"}, "`colour` is not an option of .* Received"),
        ("", {}, "cannot be read as csv"),
    ],
)
def test_mistakes_are_named(table, text, options, message):
    with pytest.raises(UserError, match=message):
        manifest_for("csv", table(text), **options)


def test_missing_file_and_unknown_dataset(tmp_path):
    with pytest.raises(UserError, match="nothing.csv: no such file"):
        csv_manifest(tmp_path / "nothing.csv")
    with pytest.raises(UserError, match="`dataset` must be one of csv, folder"):
        manifest_for("gtzam", tmp_path)


def test_a_number_that_is_none_makes_categories_and_is_named(table):
    source = table("path,bpm\na.wav,120\nb.wav,12O\nc.wav,90\n")
    with pytest.warns(UserWarning, match="bpm is read as categories.*'12O' in line 3$"):
        manifest = csv_manifest(source, label_columns=["bpm"])
    assert list(manifest["bpm"]) == ["120", "12O", "90"]


def test_a_number_that_is_nan_is_missing(table):
    source = table("path,bpm\na.wav,120\nb.wav,nan\nc.wav, NaN\nd.wav,\n")
    manifest = csv_manifest(source, label_columns=["bpm"])
    assert manifest["bpm"][0] == 120 and manifest["bpm"][1:].isna().all()


def test_numbers_of_a_catalogue_stay_apart(table):
    source = table("path,song,plays\na.wav,3000000001,5000000\nb.wav,3000000002,7\nc.wav,,1\n")
    with pytest.warns(UserWarning, match="song is read as categories"):
        manifest = csv_manifest(source, label_columns=["song", "plays"])
    assert list(manifest["song"][:2]) == ["3000000001", "3000000002"] and pd.isna(
        manifest["song"][2]
    )
    assert list(manifest["plays"]) == [5e6, 7, 1]
    for third in (2**60 + 2, ""):
        source = table(f"path,song\na.wav,{2**60}\nb.wav,{2**60 + 1}\nc.wav,{third}\n")
        with pytest.warns(UserWarning, match="song is read as categories"):
            songs = csv_manifest(source, label_columns=["song"])["song"]
        assert list(songs[:2]) == [str(2**60), str(2**60 + 1)]


def test_rows_of_one_file_need_ids(table):
    source = table("path,start,duration\na.wav,0,30\na.wav,30,30\n")
    with pytest.raises(UserError, match="a.wav is in several rows, .* Add a column id"):
        csv_manifest(source, label_columns=["start", "duration"])


def test_parts_of_files_that_are_not_asked_for_are_named(table):
    source = table("id,path,start,duration\n1,a.wav,0,30\n2,a.wav,30,30\n")
    with pytest.warns(UserWarning, match="each clip is a whole file"):
        csv_manifest(source)
    manifest = csv_manifest(source, label_columns=["start", "duration"])
    assert manifest["start"].tolist() == [0, 30]
