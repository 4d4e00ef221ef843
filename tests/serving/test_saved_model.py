import io
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")


def wav_bytes(samples, rate=22050, subtype="PCM_16"):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype=subtype)
    return buffer.getvalue()


def read(content):
    return soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)[0].mean(axis=1)


@pytest.mark.parametrize("batch, samples", [(1, 2500), (2, 7623), (40, 5001)])
def test_outputs_are_those_of_keras(signatures, predictions, batch, samples):
    clips = np.random.default_rng(samples).uniform(-1, 1, (batch, samples)).astype("float32")
    expected = predictions(clips)
    assert np.ptp(expected["scores"]) > 1e-3
    found = signatures["serving_default"](waveform=tf.constant(clips))
    assert set(found) == {"embedding", "scores", "labels"}
    np.testing.assert_allclose(found["embedding"], expected["clips"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-5, rtol=0)
    names = [["guitar", "slow", "vöcal"]] * batch
    assert [[label.decode() for label in row] for row in found["labels"].numpy()] == names
    found = signatures["windows"](waveform=tf.constant(clips))
    assert set(found) == {"embedding", "scores", "labels", "start"}
    np.testing.assert_allclose(found["embedding"], expected["windows"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(found["scores"], expected["window_scores"], atol=1e-5, rtol=0)
    starts = np.arange(samples // 2500) * 2500 / 22050
    np.testing.assert_allclose(found["start"], np.tile(starts, (batch, 1)), rtol=1e-6)


def test_wav_files_of_several_lengths_in_one_request(signatures, predictions, clips):
    contents = [wav_bytes(clips[0]), wav_bytes(np.stack([clips[1, :5000], clips[0, :5000]], 1))]
    found = signatures["wav"](wav=tf.constant(contents))
    for row, content in enumerate(contents):
        expected = predictions(read(content)[None])
        np.testing.assert_allclose(found["embedding"][row], expected["clips"][0], atol=1e-5)
        np.testing.assert_allclose(found["scores"][row], expected["scores"][0], atol=1e-5)


def test_scores_averaged_over_windows(tagger, predictions, clips):
    """The functions behind the signatures, with a model that was not exported."""
    import dataclasses

    import keras

    from keras_tune.serving.saved_model import Endpoints
    from keras_tune.serving.windows import Windows

    if keras.backend.backend() != "tensorflow":
        pytest.skip("TensorFlow's graphs hold models of its own backend only")
    windows = dataclasses.replace(Windows.of(tagger), pooling="scores")
    found = Endpoints(tagger, windows).clips(tf.constant(clips))
    means = predictions(clips)["window_scores"].mean(axis=1)
    np.testing.assert_allclose(found["scores"], means, atol=1e-5)


def test_values_are_those_of_keras(clips):
    """Those of a regression, which are not between 0 and 1."""
    import keras
    from seeded import seed_weights

    from keras_tune.models import Tagger, TUNe
    from keras_tune.serving import fold_batch_norm
    from keras_tune.serving.saved_model import Endpoints
    from keras_tune.serving.windows import Windows

    if keras.backend.backend() != "tensorflow":
        pytest.skip("TensorFlow's graphs hold models of its own backend only")
    encoder = TUNe(1, 1, base_filters=2, tail_filters=[4], input_samples=2500)
    options = {"activation": "linear", "scale": [30.0, 0.5], "offset": [120.0, 2.0]}
    tagger = seed_weights(Tagger(encoder, labels=["tempo", "valence"], **options))
    endpoints = Endpoints(fold_batch_norm(tagger), Windows.of(tagger))
    found = endpoints.clips(tf.constant(clips[:1]))["scores"][0]
    expected = tagger.predict_tags(clips[0])
    np.testing.assert_allclose(found, [expected["tempo"], expected["valence"]], rtol=1e-4)


def broken(clips, value):
    clips = clips.copy()
    clips[1, 3000] = value
    return clips


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda clips: broken(clips, np.nan), "finite"),
        (lambda clips: broken(clips, np.inf), "finite"),
        (lambda clips: broken(clips, 32767), "full scale"),
        (lambda clips: clips[:, :2499], "too short"),
        (lambda clips: clips[:, :0], "too short"),
        (lambda clips: clips[:0], "empty"),
        (lambda clips: np.zeros((1, 25_000_000), "float32"), "too long"),
    ],
    ids=["nan", "infinite", "integers", "short", "no samples", "no clips", "100 MB"],
)
@pytest.mark.parametrize("signature", ["serving_default", "windows"])
def test_bad_clips_are_errors(signatures, clips, signature, spoil, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        signatures[signature](waveform=tf.constant(spoil(clips)))


@pytest.mark.parametrize("shape", [(7500,), (2, 7500, 1)])
def test_wrong_rank_is_an_error(signatures, shape):
    with pytest.raises((TypeError, ValueError, tf.errors.InvalidArgumentError)):
        signatures["serving_default"](waveform=tf.zeros(shape))


NOISE = np.random.default_rng(1).uniform(-1, 1, 6000)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"\xff\xfb\x90" + bytes(4000), "not a WAV file"),
        (wav_bytes(NOISE[:2499]), "too short"),
        (wav_bytes(np.full(6000, np.nan), subtype="FLOAT"), "finite"),
        (wav_bytes(np.zeros(1)) + bytes(100_000_000), "bytes at most"),
    ],
    ids=["not a WAV", "short", "nan", "100 MB"],
)
def test_bad_files_are_errors(signatures, content, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        signatures["wav"](wav=tf.constant([content]))


def test_no_files_are_an_error(signatures):
    with pytest.raises(tf.errors.InvalidArgumentError, match="empty"):
        signatures["wav"](wav=tf.constant([], tf.string))


def test_the_graph_has_plain_operations_only(version):
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((version / "saved_model.pb").read_bytes())
    library = saved.meta_graphs[0].graph_def.library
    kinds = {node.op for function in library.function for node in function.node_def}
    assert "Conv2D" in kinds and "RFFT" in kinds
    strange = [k for k in kinds if "Xla" in k or "PyFunc" in k or "BatchNorm" in k or "Jax" in k]
    assert not strange


WITHOUT_KERAS = """
import sys
for name in ("keras", "tf_keras", "keras_tune", "torch", "jax"):
    sys.modules[name] = None
import json
import numpy as np
import tensorflow as tf

folder, clips = sys.argv[1:]
loaded = tf.saved_model.load(folder)
found = loaded.signatures["serving_default"](waveform=tf.constant(np.load(clips)))
print("RESULT", json.dumps(found["embedding"].numpy().tolist()))
from tensorflow.python.tools import saved_model_cli
sys.argv = ["saved_model_cli", "show", "--dir", folder, "--all"]
saved_model_cli.main()
"""


def test_without_keras_and_in_the_command_line_tool(version, clips, predictions, tmp_path):
    np.save(tmp_path / "clips.npy", clips)
    command = [sys.executable, "-c", WITHOUT_KERAS, str(version), str(tmp_path / "clips.npy")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    np.testing.assert_allclose(json.loads(result[7:]), predictions(clips)["clips"], atol=1e-5)
    for signature in ("serving_default", "windows", "wav"):
        assert f"signature_def['{signature}']" in done.stdout
    for output in ("embedding", "scores", "labels", "start"):
        assert f"outputs['{output}']" in done.stdout


C_API = """
import ctypes
import json
import sys

import numpy as np
import numpy.random  # Before the library, whose symbols would otherwise get in its way.

library, folder, clips, feed, fetch = sys.argv[1:]
tf = ctypes.CDLL(library, ctypes.RTLD_LOCAL)
for name in ("TF_NewStatus", "TF_NewGraph", "TF_NewSessionOptions", "TF_AllocateTensor",
             "TF_LoadSessionFromSavedModel", "TF_GraphOperationByName", "TF_TensorData"):
    getattr(tf, name).restype = ctypes.c_void_p
tf.TF_Message.restype = ctypes.c_char_p
tf.TF_TensorByteSize.restype = ctypes.c_size_t
tf.TF_Dim.restype = ctypes.c_int64


class Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


def p(value):
    return ctypes.c_void_p(value)


status, graph = tf.TF_NewStatus(), tf.TF_NewGraph()
tags = (ctypes.c_char_p * 1)(b"serve")
session = tf.TF_LoadSessionFromSavedModel(
    p(tf.TF_NewSessionOptions()), None, folder.encode(), tags, 1, p(graph), None, p(status)
)
assert tf.TF_GetCode(p(status)) == 0, tf.TF_Message(p(status))


def output(name):
    name, index = name.split(":")
    operation = tf.TF_GraphOperationByName(p(graph), name.encode())
    assert operation, name
    return Output(operation, int(index))


def run(values):
    values = np.ascontiguousarray(values)
    dims = (ctypes.c_int64 * max(1, values.ndim))(*values.shape)
    tensor = tf.TF_AllocateTensor(1, dims, values.ndim, ctypes.c_size_t(values.nbytes))
    ctypes.memmove(tf.TF_TensorData(p(tensor)), values.ctypes.data, values.nbytes)
    inputs, outputs = (Output * 1)(output(feed)), (Output * 1)(output(fetch))
    given, found = (ctypes.c_void_p * 1)(tensor), (ctypes.c_void_p * 1)()
    tf.TF_SessionRun(
        p(session), None, inputs, given, 1, outputs, found, 1, None, 0, None, p(status)
    )
    if tf.TF_GetCode(p(status)):
        return tf.TF_Message(p(status)).decode()
    result = p(found[0])
    shape = [tf.TF_Dim(result, axis) for axis in range(tf.TF_NumDims(result))]
    data = ctypes.string_at(tf.TF_TensorData(result), tf.TF_TensorByteSize(result))
    return np.frombuffer(data, "float32").reshape(shape).tolist()


clips = np.load(clips)
spoiled = clips.copy()
spoiled[0, 0] = np.nan
print(json.dumps([run(clips), run(spoiled), run(clips[0]), run(clips[:, :, None]), run(clips)]))
"""


def test_c_api(version, clips, predictions, tmp_path):
    """What TensorFlow Serving is built on: the C++ runtime, without Python."""
    import pathlib

    from tensorflow.core.protobuf import saved_model_pb2

    library = pathlib.Path(tf.__file__).parent / "libtensorflow_cc.so.2"
    if not library.exists():
        pytest.skip("this TensorFlow comes without its C library")
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((version / "saved_model.pb").read_bytes())
    signature = saved.meta_graphs[0].signature_def["serving_default"]
    np.save(tmp_path / "clips.npy", clips)
    names = signature.inputs["waveform"].name, signature.outputs["scores"].name
    command = [sys.executable, "-c", C_API, str(library), str(version), str(tmp_path / "clips.npy")]
    done = subprocess.run([*command, *names], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    good, spoiled, flat, deep, again = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(good, predictions(clips)["scores"], atol=1e-5)
    assert "finite" in spoiled
    # The C++ runtime does not compare shapes with the signature.
    assert isinstance(flat, str)
    assert isinstance(deep, str) or np.allclose(deep, good, atol=1e-5)
    np.testing.assert_allclose(again, good, atol=1e-6)
