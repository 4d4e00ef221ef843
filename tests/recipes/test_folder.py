import dataclasses
import json

import pytest

from keras_tune.data.demo import demo_corpus
from keras_tune.files import atomic_path, write_json
from keras_tune.recipes import _folder
from keras_tune.recipes._folder import versions, write_report
from keras_tune.recipes.pretrain import PretrainConfig
from keras_tune.training.run_folder import read_config, write_config

pytestmark = pytest.mark.one_backend


@dataclasses.dataclass
class Inner:
    depth: int | None = None


@dataclasses.dataclass
class Config:
    data: str = "Übung"
    inner: Inner = dataclasses.field(default_factory=Inner)


def test_configuration_and_report_can_be_read_back(tmp_path):
    config = Config(inner=Inner(3))
    write_config(tmp_path, config)
    assert read_config(tmp_path) == dataclasses.asdict(config)
    write_report(tmp_path, config, score=0.5)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["score"] == 0.5 and report["config"] == dataclasses.asdict(config)


def test_versions_name_what_computed():
    import keras
    import numpy

    found = versions()
    assert found["backend"] == keras.backend.backend()
    assert found["numpy"] == numpy.__version__


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "deep" / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("killed")
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.slow
def test_the_corpus_is_made_while_keras_is_imported(tmp_path):
    config = PretrainConfig(output=str(tmp_path / "ahead"), seed=3)
    with _folder.demo_corpus_ahead(config):
        pass
    made = tmp_path / "ahead" / "demo_3.npz"
    assert made.read_bytes() == demo_corpus(tmp_path / "here", 3).read_bytes()


def test_no_corpus_is_made_ahead_where_it_may_not_be_wanted(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(_folder.subprocess, "Popen", lambda *_, **__: started.append(1))
    (tmp_path / "history.csv").touch()
    for options in ({"output": str(tmp_path)}, {"output": str(tmp_path / "new"), "data": "clips"}):
        with _folder.demo_corpus_ahead(PretrainConfig(**options)):
            pass
    assert not started
