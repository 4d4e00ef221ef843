import sys

import pytest

from keras_tune.data import prepare
from keras_tune.errors import UserError
from keras_tune.storage import files_below, to_path

pytestmark = pytest.mark.one_backend

pytest.importorskip("tensorflow")


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_shards_are_those_of_the_process_pool(clips, tmp_path):
    pytest.importorskip("apache_beam")
    # One clip that cannot be read is reported on the way.
    manifest = clips.assign(path=clips["path"].str.replace("03.wav", "gone.wav"))
    options = {"name": "x", "shards": 3, "workers": 1, "progress": False}
    expected = prepare(manifest, tmp_path / "pool", **options)
    found = prepare(manifest, tmp_path / "beam", **options, runner="beam")
    assert found == expected and len(found.failed) == 1
    assert content(tmp_path / "beam") == content(tmp_path / "pool")
    # What is there is not written again.
    shard = next((tmp_path / "beam").glob("*.tfrecord"))
    before = shard.stat().st_mtime_ns
    prepare(manifest, tmp_path / "beam", **options, runner="beam")
    assert shard.stat().st_mtime_ns == before


def test_shards_in_a_store_are_those_in_a_folder(clips, tmp_path):
    pytest.importorskip("apache_beam")
    options = {"name": "x", "shards": 3, "progress": False}
    prepare(clips, tmp_path / "pool", workers=1, **options)
    # The direct runner works in this process, in which TensorFlow keeps the store.
    prepare(clips, "ram://beam/x", **options, runner="beam")
    store = to_path("ram://beam/x")
    files = [path for path in files_below(store) if len(path.parts) == 1]
    assert {path.name: (store / path).read_bytes() for path in files} == content(tmp_path / "pool")


def test_options_are_handed_to_beam(clips, tmp_path):
    pytest.importorskip("apache_beam")
    with pytest.raises(UserError, match="(?s)pipeline failed.*NoSuchRunner"):
        prepare(clips, tmp_path, runner="beam", beam_options=["--runner=NoSuchRunner"])


def test_beam_is_an_extra(clips, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"pip install 'keras_tune\[beam\]'"):
        prepare(clips, tmp_path, runner="beam")
