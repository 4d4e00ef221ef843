import numpy as np
import pytest
import soundfile

from keras_tune.data.datasets import manifest_for
from keras_tune.data.datasets.gtzan import GENRES
from keras_tune.errors import UserError

pytestmark = pytest.mark.one_backend

RATE = 22050


def build(folder):
    """A small GTZAN: eight excerpts, all that is there of the 1,000."""
    random = np.random.default_rng(6)
    for name in (
        *("blues.00012.wav", "blues.00029.wav", "blues.00000.wav", "rock.00090.wav"),
        *("jazz.00054.au", "metal.00000.au", "pop.00000.au", "disco.00001.au"),
    ):
        path = folder / "genres" / name.split(".")[0] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, random.normal(0, 0.1, RATE // 2), RATE)
    return folder


def test_split_is_the_published_one(tmp_path):
    manifest = manifest_for("gtzan", build(tmp_path))
    assert manifest["split"].value_counts().to_dict() == {"train": 443, "test": 290, "valid": 197}
    assert manifest["split"].value_counts().to_dict() == manifest.attrs["published_counts"]
    assert manifest["id"].is_unique
    assert set(manifest["genre"]) == set(GENRES)
    for clip in manifest.itertuples():
        genre, number = clip.id.split(".")
        assert genre == clip.genre
        assert 0 <= int(number) < 100 and len(number) == 5
    split = dict(zip(manifest["id"], manifest["split"], strict=True))
    assert split["blues.00012"] == "test"
    assert split["blues.00029"] == "train"
    assert split["blues.00000"] == "valid"


# Excerpts that are the same recording note for note: Sturm, "An analysis of the GTZAN music genre
# dataset" (2012).
REPETITIONS = {
    "disco": "50 51 70, 55 60 89, 71 74, 98 99",
    "hiphop": "39 45, 76 78",
    "jazz": "33 51, 34 53, 35 55, 36 58, 37 60, 38 62, 39 65, 40 67, 42 68, 43 69, 44 70, 45 71",
    "metal": "04 13, 34 94, 40 61, 41 62, 42 63, 43 64, 44 65, 45 66",
    "pop": "15 22, 30 31, 45 46, 47 80, 52 57, 54 60, 56 59, 67 71, 87 90",
    "reggae": "03 54, 05 56, 08 57, 10 60, 41 69, 73 74, 80 81 82, 75 91 92",
}


@pytest.mark.parametrize("genre", REPETITIONS)
def test_no_excerpt_is_there_twice(tmp_path, genre):
    listed = set(manifest_for("gtzan", build(tmp_path))["id"])
    for same in REPETITIONS[genre].split(", "):
        assert len(listed & {f"{genre}.000{number}" for number in same.split()}) <= 1


def test_wav_and_au_files_are_found(tmp_path):
    manifest = manifest_for("gtzan", build(tmp_path)).set_index("id")
    assert manifest.at["blues.00012", "path"] == str(tmp_path / "genres/blues/blues.00012.wav")
    assert manifest.at["jazz.00054", "path"] == str(tmp_path / "genres/jazz/jazz.00054.au")
    assert soundfile.info(manifest.at["jazz.00054", "path"]).frames == RATE // 2
    assert manifest.at["rock.00089", "path"] == str(tmp_path / "genres/rock/rock.00089.wav")


@pytest.mark.parametrize("place", [".", "genres_original", "Data/genres_original"])
def test_other_places_of_the_genres(tmp_path, place):
    build(tmp_path / "first")
    folder = tmp_path / "second" / place
    folder.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "first" / "genres").rename(folder)
    manifest = manifest_for("gtzan", tmp_path / "second").set_index("id")
    assert manifest.at["blues.00012", "path"] == str(folder / "blues/blues.00012.wav")


def test_missing_folders(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        manifest_for("gtzan", tmp_path / "nowhere")
    with pytest.raises(UserError, match="contains no blues or classical or .*GTZAN's genres"):
        manifest_for("gtzan", tmp_path)
    with pytest.raises(UserError, match="`fractions` is not an option"):
        manifest_for("gtzan", tmp_path, fractions=[0.8, 0.1, 0.1])
