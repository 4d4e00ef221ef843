"""Bad input in bulk: whatever bytes come, the answer is a result or one clear error.

FUZZ_EXAMPLES says how many inputs each target gets.
"""

import io
import json
import os
import pathlib
import resource
import shutil
import signal
import struct
import zipfile

import hypothesis
import keras
import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml
from hypothesis import strategies as st

from keras_tune.data import find_damaged_shards, prepare, read_records
from keras_tune.data.audio import checked, decode_audio, resample
from keras_tune.errors import UserError
from keras_tune.models import TUNe
from keras_tune.recipes import _cli, pretrain
from keras_tune.recipes._load import load_model
from keras_tune.recipes._training import load_checkpoint
from keras_tune.training import Progress

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 200))
fuzz = hypothesis.settings(
    max_examples=EXAMPLES,
    # The few of every day are the same every day; the many of the night are new.
    derandomize=EXAMPLES <= 200,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


@pytest.fixture(autouse=True)
def bounded():
    """No target may hang, or take a gigabyte."""

    def hung(*_):
        raise AssertionError("an input has been at work for an hour")

    before = signal.signal(signal.SIGALRM, hung)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.alarm(3600)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 2**20


@st.composite
def damaged(draw, originals):
    """One of the contents, changed in up to four places."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "replace", "head"]))
        if kind == "flip" and content:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[place:]
        elif kind == "insert":
            content[place:place] = draw(st.binary(max_size=8))
        else:
            # Sizes and counts stand at the beginning of most formats.
            place = place % 64 if kind == "head" else place
            new = draw(st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80"]))
            content[place : place + len(new)] = new
    return bytes(content)


def audio_files():
    tone = 0.5 * np.sin(np.arange(3000) / 9)
    stereo = np.stack([tone, -0.5 * tone], axis=1)
    contents = []
    for format, subtype, samples in (
        ("WAV", "PCM_16", tone),
        ("WAV", "FLOAT", stereo),
        ("AIFF", "PCM_24", stereo),
        ("AU", "PCM_16", tone),
        ("FLAC", "PCM_16", stereo),
        ("OGG", "VORBIS", tone),
        ("MP3", "MPEG_LAYER_III", tone),
    ):
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, 22050, format=format, subtype=subtype)
        contents.append(buffer.getvalue())
    return contents


@fuzz
@hypothesis.given(damaged(audio_files()) | st.binary(max_size=300))
def test_decoder(content):
    try:
        samples, rate = decode_audio(content, "fuzzed")
        samples = checked(resample(samples, rate, 22050), "fuzzed", 22050)
    except UserError as error:
        assert str(error).startswith("fuzzed: ") and "\n" not in str(error)
    else:
        assert samples.dtype == np.float32 and samples.ndim == 1 and np.isfinite(samples).all()


def test_decoder_does_not_believe_the_header():
    """A FLAC of three thousand samples whose header promises 2^36."""
    content = bytearray(audio_files()[4])
    # The last 36 of the 64 bits from byte 18 on are the number of samples.
    content[21] |= 0x0F
    content[22:26] = b"\xff" * 4
    try:
        samples, _ = decode_audio(bytes(content), "fuzzed")
    except UserError:
        return
    assert len(samples) == 3000


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    pytest.importorskip("tensorflow")
    folder = tmp_path_factory.mktemp("shards")
    rows = []
    for number in range(4):
        path = folder / f"{number}.wav"
        soundfile.write(path, np.random.default_rng(number).normal(0, 0.1, 40), 22050)
        rows.append((f"clip{number}", str(path), "train", "ab"[number % 2], number / 2))
    manifest = pd.DataFrame(rows, columns=["id", "path", "split", "letter", "half"])
    prepare(manifest, folder / "set", name="x", shards=1, workers=1, progress=False)
    return folder / "set"


def records_of(folder):
    """Read everything; the ids, or None if that was refused with one line."""
    try:
        return [record["id"] for record in read_records(folder, "train")]
    except UserError as error:
        assert "\n" not in str(error) and str(folder) in str(error)
        return None


def replace_shard(shards, folder, content):
    """A set with `content` for its one shard, and a description that agrees on the size."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(shards, folder)
    info = json.loads((folder / "dataset.json").read_text())
    info["shards"][0]["bytes"] = len(content)
    (folder / "dataset.json").write_text(json.dumps(info))
    (folder / info["shards"][0]["file"]).write_bytes(content)


def test_shards(shards, tmp_path):
    (file,) = shards.glob("*.tfrecord")
    whole = file.read_bytes()
    expected = records_of(shards)
    assert len(expected) == 4

    @fuzz
    @hypothesis.given(damaged([whole]))
    def run(content):
        replace_shard(shards, tmp_path / "set", content)
        found = records_of(tmp_path / "set")
        # Checksums: what is read at all is read as it was written.
        assert found is None or found == expected[: len(found)]
        if content != whole:
            assert find_damaged_shards(tmp_path / "set")

    run()


def masked_crc(content):
    import tensorflow as tf

    # TensorFlow computes the checksum of a record while writing it.
    path = f"ram://{os.getpid()}"
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(content)
    return tf.io.gfile.GFile(path, "rb").read()


def test_records_with_right_checksums(shards, tmp_path):
    import tensorflow as tf

    (file,) = shards.glob("*.tfrecord")
    originals = list(tf.data.TFRecordDataset(str(file)).as_numpy_iterator())

    @fuzz
    @hypothesis.given(damaged(originals) | st.binary(max_size=100))
    def run(content):
        replace_shard(shards, tmp_path / "set", masked_crc(content))
        found = records_of(tmp_path / "set")
        assert found is None or len(found) <= 1

    run()


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["nan", "1e400", "!!python/object:os.system", "*a", "0x1", "[", "mixed"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
KEYS = [
    *pretrain.PretrainConfig.__dataclass_fields__,
    *(f"model.{name}" for name in pretrain.ModelConfig.__dataclass_fields__),
    *(f"online_probe.{name}" for name in pretrain.OnlineProbeConfig.__dataclass_fields__),
    "augment.gain_probability",
    "unknown",
]


def test_recipes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())
    handler = signal.getsignal(signal.SIGTERM)
    file = tmp_path / "recipe.yaml"
    demo = pretrain.DEMO.read_bytes()
    structured = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4).map(
        lambda content: yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "replace")
    )

    @fuzz
    @hypothesis.given(structured | damaged([demo]) | st.binary(max_size=60))
    @hypothesis.example(b"a: &a [x, x]\n" + b"data: [*a, *a, *a]\n")
    @hypothesis.example(b"model: []\n")
    @hypothesis.example(b"online_probe: false\n")
    def run(content):
        file.write_bytes(content)
        capsys.readouterr()
        try:
            _cli.run(pretrain._check, pretrain.PretrainConfig, ["--config", str(file)])
        except SystemExit as stop:
            assert stop.code in (1, 2)
            lines = capsys.readouterr().err.strip().splitlines()
            assert len(lines) == 1 and "error: " in lines[0]

    run()
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model.keras"
    encoder = TUNe(
        contraction_depth=1, decoder_depth=1, base_filters=2, tail_filters=[4], input_samples=27
    )
    encoder.save(path)
    Progress(3).write(path)
    return path


def refused(path):
    """Whether both loaders refuse a file, with one line that names it."""
    outcomes = []
    for load in (load_model, load_checkpoint, Progress.read):
        try:
            load(path)
        except UserError as error:
            assert "\n" not in str(error) and str(path) in str(error)
            outcomes.append(True)
        else:
            outcomes.append(False)
    return all(outcomes[:2])


def test_checkpoints(checkpoint, tmp_path):
    file = tmp_path / "fuzzed.keras"

    @fuzz
    @hypothesis.given(damaged([checkpoint.read_bytes()]))
    def run(content):
        file.write_bytes(content)
        refused(file)

    run()


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def leaves(node, place=()):
    if isinstance(node, (dict, list)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield (*place, key)
            yield from leaves(value, (*place, key))


def test_configurations_inside_checkpoints(checkpoint, tmp_path):
    """Archives that are whole, whose description of the model is not."""
    content = members(checkpoint)
    config = json.loads(content["config.json"])
    file = tmp_path / "fuzzed.keras"
    small = (
        st.none()
        | st.booleans()
        | st.integers(-9, 99)
        | st.text(max_size=9)
        | st.sampled_from(["os", "system", "Lambda", "builtins", "keras.layers", [], {}, "eval"])
    )

    @fuzz
    @hypothesis.given(st.sampled_from(list(leaves(config))), small)
    def run(place, value):
        changed = json.loads(json.dumps(config))
        node = changed
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = value
        write_members(file, {**content, "config.json": json.dumps(changed)})
        refused(file)

    run()


def saved_with(tmp_path, layer):
    inputs = keras.Input((27, 1))
    model = keras.Model(inputs, layer(inputs))
    path = tmp_path / "model.keras"
    model.save(path)
    return path


def test_a_lambda_is_refused(tmp_path):
    marker = tmp_path / "executed"
    function = eval(f"lambda x: (open({str(marker)!r}, 'w'), x)[1]")
    path = saved_with(tmp_path, keras.layers.Lambda(function, output_shape=(27, 1)))
    marker.unlink(missing_ok=True)
    assert refused(path)
    assert not marker.exists()


def test_an_unknown_class_is_refused(tmp_path):
    class Unknown(keras.layers.Layer):
        def call(self, x):
            return x

    assert refused(saved_with(tmp_path, Unknown()))


def test_a_module_named_in_a_file_is_not_imported(checkpoint, tmp_path):
    """A class is looked up among those that are registered, not wherever the file says."""
    content = members(checkpoint)
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    config = json.loads(content["config.json"])
    config.update(module="evil", class_name="Evil", registered_name="Evil")
    write_members(tmp_path / "model.keras", {**content, "config.json": json.dumps(config)})
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        assert refused(tmp_path / "model.keras")


def test_files_of_another_kind(tmp_path):
    for name, content in (("empty", b""), ("text", b"hello"), ("half", b"PK\x03\x04")):
        path = pathlib.Path(tmp_path / f"{name}.keras")
        path.write_bytes(content)
        assert refused(path)
    with pytest.raises(UserError, match="gone on from"):
        write_members(tmp_path / "x.keras", {"keras_tune.json": json.dumps({"steps": 1})})
        Progress.read(tmp_path / "x.keras")


def test_a_length_that_is_a_lie(shards, tmp_path):
    """A record that claims a terabyte, with the right checksum of that claim."""
    length = struct.pack("<Q", 2**40)
    content = length + struct.pack("<I", crc32c_masked(length)) + b"\0" * 100
    replace_shard(shards, tmp_path / "set", content)
    assert records_of(tmp_path / "set") is None
    assert len(find_damaged_shards(tmp_path / "set")) == 1


def crc32c_masked(content):
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
