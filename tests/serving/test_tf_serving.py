import re
import shutil

import numpy as np
import pytest

from keras_tune.serving import export_tf_serving

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
pytestmark = pytest.mark.one_backend


@pytest.fixture(scope="module")
def apis():
    """The protocol buffers of TensorFlow Serving."""
    pytest.importorskip(
        "tensorflow_serving.apis.prediction_log_pb2",
        reason="tensorflow-serving-api is not installed",
    )
    from tensorflow_serving.apis import prediction_log_pb2
    from tensorflow_serving.config import model_server_config_pb2

    return prediction_log_pb2, model_server_config_pb2


@pytest.fixture
def fast_export(monkeypatch, version):
    """Copies an exported model instead of exporting it, for tests about the folder."""

    def export(model, path, *options):
        shutil.copytree(version, path, dirs_exist_ok=True)
        shutil.rmtree(path / "assets.extra")
        labels = list(model.labels)
        return {
            "signatures": ["wav"],
            "window_samples": 9,
            "sample_rate": 100,
            "embedding": 6,
            "labels": labels,
        }

    monkeypatch.setattr("keras_tune.serving.tf_serving.export_saved_model", export)
    return export


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_layout(version):
    assert version.name == "1" and version.parent.name == "moods"
    assert [path.name for path in version.parent.iterdir()] == ["1"]
    assert (version / "saved_model.pb").is_file()
    assert (version / "variables" / "variables.index").is_file()
    assert version.stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask():
    import os

    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_the_next_version_leaves_the_others_alone(tagger, tmp_path, fast_export):
    first = export_tf_serving(tagger, tmp_path)
    before = contents(first)
    (tmp_path / "moods" / "7").mkdir()
    assert export_tf_serving(tagger, tmp_path).name == "8"
    assert contents(first) == before
    assert sorted(path.name for path in first.parent.iterdir()) == ["1", "7", "8"]


def test_a_version_appears_complete_or_not_at_all(tagger, tmp_path, monkeypatch, fast_export):
    def die(model, path, *options):
        (path / "saved_model.pb").write_bytes(b"half")
        # A server takes any folder whose name is an integer for a version.
        assert not [p for p in path.parent.iterdir() if p.name.isdecimal()]
        raise KeyboardInterrupt

    monkeypatch.setattr("keras_tune.serving.tf_serving.export_saved_model", die)
    with pytest.raises(KeyboardInterrupt):
        export_tf_serving(tagger, tmp_path)
    assert not list((tmp_path / "moods").iterdir())


def test_what_a_killed_export_has_left_goes_with_the_next(tmp_path):
    from keras_tune.serving.versions import write_version

    left = tmp_path / "moods" / ".unfinished-abc"
    left.mkdir(parents=True)
    (left / "saved_model.pb").write_bytes(b"half")
    version, _ = write_version(tmp_path / "moods", lambda folder: (folder / "a").write_text("a"))
    assert list((tmp_path / "moods").iterdir()) == [version]


def test_a_number_that_is_taken_meanwhile_is_not_overwritten(tagger, tmp_path, monkeypatch):
    from keras_tune.serving import versions

    home = tmp_path / "moods"
    (home / "1").mkdir(parents=True)
    (home / "1" / "saved_model.pb").write_bytes(b"theirs")
    temporary = home / ".unfinished"
    temporary.mkdir()
    (temporary / "saved_model.pb").write_bytes(b"ours")
    seen = iter([[], [1]])
    monkeypatch.setattr(versions, "version_numbers", lambda home: next(seen))
    assert versions.publish(temporary, home).name == "2"
    assert (home / "1" / "saved_model.pb").read_bytes() == b"theirs"
    assert (home / "2" / "saved_model.pb").read_bytes() == b"ours"


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "a b", 'a"'])
def test_names_that_do_not_do(tagger, tmp_path, name):
    with pytest.raises(ValueError, match="Received: name="):
        export_tf_serving(tagger, tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_warmup_requests_can_be_replayed(version, signatures, apis):
    path = version / "assets.extra" / "tf_serving_warmup_requests"
    asked = []
    for record in tf.data.TFRecordDataset([str(path)]):
        log = apis[0].PredictionLog.FromString(record.numpy())
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert request.model_spec.name == "moods"
        name = request.model_spec.signature_name
        inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        found = signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
        assert np.isfinite(found["scores"]).all()
        asked.append(name)
    assert sorted(asked) == sorted(signatures)


def test_models_config(tagger, tmp_path, apis, fast_export):
    from google.protobuf import text_format

    export_tf_serving(tagger, tmp_path, "one")
    export_tf_serving(tagger, tmp_path, "two")
    (tmp_path / "unrelated").mkdir()
    text = (tmp_path / "models.config").read_text()
    config = text_format.Parse(text, apis[1].ModelServerConfig())
    found = [(m.name, m.base_path, m.model_platform) for m in config.model_config_list.config]
    assert found == [(n, f"/models/{n}", "tensorflow") for n in ("one", "two")]


def batching_parameters():
    """The message that a server reads `batching.config` as, which is in no Python package.

    Source: tensorflow_serving/servables/tensorflow/session_bundle_config.proto of TensorFlow
    Serving, message BatchingParameters.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

    file = descriptor_pb2.FileDescriptorProto(name="batching.proto", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    message = file.message_type.add(name="BatchingParameters")
    kinds = message.field.add
    for number, (name, kind) in enumerate(
        [
            ("max_batch_size", "Int64Value"),
            ("batch_timeout_micros", "Int64Value"),
            ("max_enqueued_batches", "Int64Value"),
            ("num_batch_threads", "Int64Value"),
            ("thread_pool_name", "StringValue"),
        ],
        start=1,
    ):
        kinds(name=name, number=number, label=1, type=11, type_name=f".google.protobuf.{kind}")
    kinds(name="allowed_batch_sizes", number=6, label=3, type=3)
    kinds(name="pad_variable_length_inputs", number=7, label=1, type=8)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("BatchingParameters"))()


def test_batching_config(version):
    from google.protobuf import text_format

    text = (version.parents[1] / "batching.config").read_text()
    found = text_format.Parse(text, batching_parameters())
    assert found.max_batch_size.value == 32 and found.batch_timeout_micros.value > 0
    assert found.num_batch_threads.value >= 1 and found.max_enqueued_batches.value >= 1
    # Padding would change embeddings.
    assert not found.pad_variable_length_inputs


def test_the_client_in_the_readme(version, clips, tmp_path, monkeypatch, capsys):
    """The client posts what the server's REST interface takes, and prints its answer."""
    import base64
    import types

    text = (version.parents[1] / "README.md").read_text()
    assert "/models/models.config" in text and "v1/models/moods:predict" in text
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    (tmp_path / "clip.wav").write_bytes(b"RIFFxyz")

    def post(url, json, timeout):
        assert url == "http://localhost:8501/v1/models/moods:predict"
        (instance,) = json["instances"]
        assert json["signature_name"] == "wav" and set(instance) == {"b64"}
        assert base64.b64decode(instance["b64"]) == b"RIFFxyz"
        return types.SimpleNamespace(ok=True, json=lambda: {"predictions": [{"scores": [0.5]}]})

    requests = types.ModuleType("requests")
    requests.post = post
    monkeypatch.setitem(__import__("sys").modules, "requests", requests)
    monkeypatch.setattr("sys.argv", ["client.py", str(tmp_path / "clip.wav")])
    exec(compile(code, "client.py", "exec"), {})
    assert "{'scores': [0.5]}" in capsys.readouterr().out
