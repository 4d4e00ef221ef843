"""Bad input in bulk: whatever bytes come, the answer is a result or one clear error.

FUZZ_EXAMPLES says how many inputs each target gets.
"""

import dataclasses
import io
import json
import math
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

from keras_tune.data import find_damaged_shards, open_dataset, prepare, read_records
from keras_tune.data.audio import checked, decode_audio, resample
from keras_tune.data.datasets import manifest_for
from keras_tune.errors import UserError
from keras_tune.evaluation import ClipEmbeddings
from keras_tune.files import name_fault
from keras_tune.models import TUNe
from keras_tune.models.saved import load_saved_model
from keras_tune.recipes import (
    _cli,
    _options,
    augment,
    convert,
    embed,
    export,
    finetune,
    pretrain,
    probe,
    search,
)
from keras_tune.recipes import (
    prepare as prepare_recipe,
)
from keras_tune.training import ModelConfig, Progress, load_checkpoint
from keras_tune.training.run_folder import read_config

pytestmark = pytest.mark.one_backend

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 200))
# What takes longer than a few milliseconds each gets fewer on every day.
FEW = EXAMPLES if EXAMPLES > 200 else min(EXAMPLES, 30)
fuzz = hypothesis.settings(
    max_examples=EXAMPLES,
    # The few of every day are the same every day; the many of the night are new.
    derandomize=EXAMPLES <= 200,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
slow_fuzz = hypothesis.settings(fuzz, max_examples=FEW)


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


def as_record(content, path):
    """The bytes of a TFRecord file with one record, for which TensorFlow computes the checksum."""
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(content)
    return path.read_bytes()


def test_records_with_right_checksums(shards, tmp_path):
    import tensorflow as tf

    (file,) = shards.glob("*.tfrecord")
    originals = list(tf.data.TFRecordDataset(str(file)).as_numpy_iterator())

    @fuzz
    @hypothesis.given(damaged(originals) | st.binary(max_size=100))
    def run(content):
        replace_shard(shards, tmp_path / "set", as_record(content, tmp_path / "record"))
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
    *(f"model.{name}" for name in ModelConfig.__dataclass_fields__),
    *(f"online_probe.{name}" for name in pretrain.OnlineProbeConfig.__dataclass_fields__),
    "augment.gain_probability",
    "unknown",
]


@_options.names_options()
def check(config):
    config.check()


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
            _cli.run(check, pretrain.PretrainConfig, ["--config", str(file)])
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
    for load in (load_saved_model, load_checkpoint, Progress.read):
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
    with pytest.raises(UserError, match="can be resumed"):
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


COMMANDS = {
    "augment": (augment.AugmentViewsConfig, ["--source=x", "--output=x"]),
    "convert": (convert.ConvertConfig, ["--checkpoint=x", "--output=x"]),
    "embed": (embed.EmbedConfig, ["--encoder=x", "--source=x", "--output=x"]),
    "export": (export.ExportConfig, ["--model=x", "--format=onnx", "--output=x"]),
    "finetune": (finetune.FinetuneConfig, "--encoder=x --data=x --target=x --output=x".split()),
    "prepare": (prepare_recipe.PrepareConfig, ["--dataset=csv", "--source=x", "--output=x"]),
    "pretrain": (pretrain.PretrainConfig, []),
    "probe": (probe.ProbeConfig, "--encoder=x --data=x --target=x --output=x".split()),
    "search": (search.SearchConfig, []),
}


def fields_of(config, prefix=""):
    """The options of a command, those of its parts included, by name."""
    for field in dataclasses.fields(config):
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(field.type):
            yield from fields_of(field.type, f"{name}.")
        else:
            yield name, field.type


NUMERIC = [
    (command, name)
    for command, (config, _) in COMMANDS.items()
    for name, kind in fields_of(config)
    if any(word in str(kind) for word in ("integer", "number", "int", "float"))
]
HOSTILE_NUMBERS = (
    st.integers().map(str)
    | st.floats().map(str)
    | st.sampled_from(
        "-1 0 1e400 -1e400 1e-300 .nan nan .inf -.inf 999999999 2.5 1e2 0x10 1_000 true null [] "
        "[1] {} 4294967296 9223372036854775808 '' ~ 1:30 +1 −1 ١".split()
    )
    | st.text(max_size=4)
)


def numbers_in(value):
    """All numbers of a configuration."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from numbers_in(part)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def test_there_is_no_number_without_a_range():
    """A plain int or float takes what no command can work with."""
    for command, (config, _) in COMMANDS.items():
        for name, kind in fields_of(config):
            # What is searched is checked by the space itself.
            if not name.startswith("space."):
                plain = {int, float, int | None, float | None, list[int] | None, list[float] | None}
                assert kind not in plain, f"{command} --{name}"
    assert len({command for command, _ in NUMERIC}) == len(COMMANDS)


def test_options(tmp_path, monkeypatch, capsys):
    """Any number for any option is refused with a line that names it, or makes sense as it is."""
    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())
    handler = signal.getsignal(signal.SIGTERM)
    found = []

    @slow_fuzz
    @hypothesis.given(st.sampled_from(NUMERIC), HOSTILE_NUMBERS, st.booleans())
    @hypothesis.example(("embed", "workers"), "999999999", False)
    @hypothesis.example(("embed", "hop"), "1e-300", False)
    @hypothesis.example(("augment", "views"), "-1", False)
    @hypothesis.example(("augment", "sample_rate"), "0", False)
    @hypothesis.example(("finetune", "learning_rate"), "1e400", True)
    @hypothesis.example(("probe", "seed"), "-1", False)
    @hypothesis.example(("search", "space.learning_rate"), ".nan", False)
    @hypothesis.example(("search", "augment.max_cents"), ".nan", True)
    def run(option, value, in_file):
        command, name = option
        config, needed = COMMANDS[command]
        options = [f"--{name}={value}"]
        if in_file:
            content = value
            for part in reversed(name.split(".")):
                content = {part: content}
            try:
                # As it stands, where that is YAML, and not as a text in quotes.
                text = yaml.safe_dump(content).replace(yaml.safe_dump(value).strip(), value)
                yaml.safe_load(text)
            except (yaml.YAMLError, ValueError):
                return
            (tmp_path / "x.yaml").write_text(text, encoding="utf-8", errors="replace")
            options = ["--config", str(tmp_path / "x.yaml")]
        capsys.readouterr()
        found.clear()
        try:
            _cli.run(found.append, config, [*needed, *options])
        except SystemExit as stop:
            assert stop.code == 2
            (line,) = capsys.readouterr().err.strip().splitlines()
            assert "error: " in line
            # Of the parts of a space it may be another that does not go with it.
            assert in_file or name.rpartition(".")[-1] in line or "space." in line
        else:
            content = dataclasses.asdict(found[0])
            assert all(math.isfinite(number) for number in numbers_in(content))
            # It can be written down, and is plain.
            assert yaml.safe_load(yaml.safe_dump(content)) == json.loads(json.dumps(content))

    run()
    signal.signal(signal.SIGTERM, handler)


CELLS = st.sampled_from(
    "train valid test q/../../escaped ../x .. . con NUL.txt .hidden a\\b C: * ? nan inf -inf "
    "1e400 -1 0 1 0x1 1e-5 None NA =1+1 \x00 \x1b[31m \u2028 \u202e ü x.wav ./x /dev/null".split()
    + ["", " ", "a\nb", "a,b", '"', "a\tb", "x" * 5000, "../" * 40 + "etc/passwd"]
) | st.text(max_size=6)
COLUMNS = st.sampled_from(
    "path id split genre start duration song artist labels audio ../x".split()
) | st.text(max_size=3)


def test_tables(tmp_path):
    """Whatever a table says, nothing is written outside the output folder."""
    pytest.importorskip("tensorflow")
    folder = tmp_path / "in" / "a" / "b"
    folder.mkdir(parents=True)
    soundfile.write(folder / "x.wav", np.random.default_rng(0).normal(0, 0.1, 60), 8000)
    outside = sorted(tmp_path.rglob("*"))

    rows = st.lists(st.lists(CELLS, min_size=3, max_size=5), min_size=1, max_size=3)
    names = st.lists(COLUMNS, max_size=3)

    @slow_fuzz
    @hypothesis.given(names, rows, st.none() | CELLS)
    @hypothesis.example(["split"], [["x.wav", "q/../../escaped", ""]], "mine")
    @hypothesis.example(["split"], [["x.wav", "train", ""]], "../../x")
    @hypothesis.example(["start", "duration"], [["x.wav", "abc", "1"]], "mine")
    @hypothesis.example(["start", "duration"], [["x.wav", "-1", "1e300"]], "mine")
    @hypothesis.example(["genre"], [["x.wav", "inf", ""]], "mine")
    def run(columns, cells, name):
        table = pd.DataFrame(cells)
        table.columns = ["path", *columns, "l1", "l2", "l3", "l4"][: len(table.columns)]
        table["path"] = "x.wav"
        table["id"] = table.iloc[:, -1]
        try:
            table.to_csv(folder / "x.csv", index=False, errors="surrogatepass")
        except ValueError:
            return
        output = folder / "out" / "in"
        try:
            labels = [column for column in columns if column not in ("path", "id", "split")]
            manifest = manifest_for("csv", folder / "x.csv", label_columns=labels)
            prepare(manifest, output, name=name, sample_rate=8000, workers=1, progress=False)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            info = open_dataset(output).info
            assert sum(info.counts.values()) == len(list(read_all(output, info)))
            assert not any(math.isinf(n) for row in read_all(output, info) for n in numbers_in(row))
        shutil.rmtree(folder / "out", ignore_errors=True)
        (folder / "x.csv").unlink()
        assert sorted(tmp_path.rglob("*")) == outside

    run()


def read_all(folder, info):
    for split, count in info.counts.items():
        if count:
            for record in read_records(folder, split):
                yield record["labels"]


def test_names():
    """What passes for a file's name is one on every system, within its folder."""

    @fuzz
    @hypothesis.given(CELLS)
    def run(name):
        if name_fault(name) is None:
            path = pathlib.PureWindowsPath("C:/out") / f"{name}-train.tfrecord"
            assert path.parent == pathlib.PureWindowsPath("C:/out")
            assert not pathlib.PureWindowsPath(name).is_reserved()
            path = pathlib.Path(os.path.normpath(pathlib.Path("/out") / name))
            assert path.parent == pathlib.Path("/out") and name == name.strip(" .")
            name.encode()

    run()


@pytest.mark.parametrize("place", ["dataset.json", ".prepare/settings.json", "report"])
def test_descriptions(shards, tmp_path, place):
    """The files beside the shards: a description of a folder from elsewhere, or damaged ones."""
    if place == "report":
        place = str(next((shards / ".prepare").glob("x-*.json")).relative_to(shards))
    whole = json.loads((shards / place).read_text())
    manifest = pd.DataFrame({"id": ["a"], "path": [str(shards / "a.wav")], "split": ["train"]})
    small = VALUES | st.sampled_from(["../../etc/passwd", "/dev/zero", "a\x00b", -1, 2**63, 1e400])

    @slow_fuzz
    @hypothesis.given(
        st.tuples(st.sampled_from(list(leaves(whole))), small)
        | damaged([json.dumps(whole).encode()])
        | st.binary(max_size=40)
    )
    @hypothesis.example(b"[" * 100_000)
    def run(change):
        if isinstance(change, tuple):
            keys, value = change
            content = json.loads(json.dumps(whole))
            node = content
            for key in keys[:-1]:
                node = node[key]
            node[keys[-1]] = value
            change = json.dumps(content, default=str).encode()
        folder = tmp_path / "set"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(shards, folder)
        (folder / place).write_bytes(change)
        try:
            info = open_dataset(folder).info
            assert all((folder / shard.file).parent == folder for shard in info.shards)
            for split in info.counts:
                list(read_records(folder, split))
        except UserError as error:
            assert "\n" not in str(error)
        if place != "dataset.json":
            with pytest.raises(UserError):
                prepare(manifest, folder, name="x", workers=1, progress=False)

    run()


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A file of embeddings."""
    path = tmp_path_factory.mktemp("embeddings") / "kept.npz"
    random = np.random.default_rng(0)
    ClipEmbeddings(
        ["a", "b"],
        random.normal(size=(2, 3)).astype("float32"),
        [{"genre": "x"}, {"genre": None}],
        ["c"],
        windows=random.normal(size=(3, 3)).astype("float32"),
        owners=np.array([0, 0, 1]),
        crops=random.normal(size=(2, 3)).astype("float32"),
        stages={"tail_1": random.normal(size=(2, 2)).astype("float32")},
    ).save(path)
    return path


SMALL = st.binary(max_size=60)
ARRAYS = st.sampled_from(
    [
        np.zeros(0),
        np.zeros((2, 3), "float32"),
        np.zeros((2, 0), "float32"),
        np.zeros((5, 3), "int16"),
        np.array("text"),
        np.array("[" * 5000),
        np.array('{"ids": ["a"], "labels": [], "skipped": []}'),
        np.array('{"ids": 3, "labels": [{}], "skipped": null}'),
        np.array('{"x": 1}'),
        np.array([b"\xff", b"a"]),
        np.array(["q/../../x", "train"]),
        np.array(["", "\x00"]),
        np.array([0, 9, -1]),
        np.array([np.inf, np.nan]),
        np.array([1 + 2j, 0]),
        np.array(["2020-01-01", "2020-01-02"], "datetime64[D]"),
        np.array(-5),
        np.array(np.nan),
    ]
)


def replaced(path, name, values):
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    buffer = io.BytesIO()
    np.savez(buffer, **{**arrays, name: values})
    return buffer.getvalue()


def test_kept_embeddings(kept, tmp_path):
    """Damaged ones are refused by name; what is read fits together."""
    file = tmp_path / "fuzzed.npz"
    names = st.sampled_from("description vectors windows owners crops stage/x y".split())

    @fuzz
    @hypothesis.given(damaged([kept.read_bytes()]) | st.tuples(names, ARRAYS) | SMALL)
    def run(content):
        file.write_bytes(content if isinstance(content, bytes) else replaced(kept, *content))
        try:
            found = ClipEmbeddings.load(file)
        except UserError as error:
            assert "\n" not in str(error) and str(file) in str(error)
        else:
            found.take([0])
            ClipEmbeddings.merge([found, found])
            assert len(found.vectors) == len(found.ids) == len(found.labels)

    run()


def test_arrays(tmp_path):
    """Files of clips from elsewhere."""
    whole = tmp_path / "whole.npz"
    audio = np.random.default_rng(0).normal(0, 0.1, (2, 30)).astype("float32")
    np.savez(whole, audio=audio, ids=["a", "b"], split=["train", "test"], genre=["x", ""])
    names = st.sampled_from([*"audio ids split sample_rate genre tempo ../x".split(), "\n"])
    file = tmp_path / "fuzzed.npz"

    @fuzz
    @hypothesis.given(damaged([whole.read_bytes()]) | st.tuples(names, ARRAYS) | SMALL)
    def run(content):
        file.write_bytes(content if isinstance(content, bytes) else replaced(whole, *content))
        try:
            found = open_dataset(file)
            for split in found.info.counts:
                list(found.records(split))
        except UserError as error:
            assert "\n" not in str(error) and str(file) in str(error)
        else:
            assert all(name_fault(split) is None for split in found.info.counts)
            assert np.isfinite(found.audio).all() and not np.isinf(found.labels).any()

    run()


@st.composite
def scaled_audio(draw):
    """A file of samples of any size, and of any length that its header names."""
    count = draw(st.integers(0, 400))
    scale = draw(st.sampled_from([0, 1e-30, 1e-4, 1, 32768, 1e30, 3e38, math.inf, math.nan]))
    with np.errstate(all="ignore"):
        samples = (np.random.default_rng(count).normal(0, 0.3, count) * scale).astype("float32")
    rate = draw(st.sampled_from([1, 999, 1000, 8000, 22050, 192000, 1_000_000, 2**31 - 1]))
    subtype = draw(st.sampled_from(["FLOAT", "DOUBLE", "PCM_16", "PCM_U8"]))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype=subtype)
    content = bytearray(buffer.getvalue())
    if draw(st.booleans()) and len(content) > 4:
        del content[draw(st.integers(1, len(content) - 1)) :]
    return bytes(content)


@fuzz
@hypothesis.given(scaled_audio())
def test_audio_out_of_scale(content):
    """One line or samples that can be computed with."""
    try:
        samples, rate = decode_audio(content, "fuzzed")
        samples = checked(resample(samples, rate, 22050), "fuzzed", 22050)
    except UserError as error:
        assert str(error).startswith("fuzzed: ") and "\n" not in str(error)
    else:
        assert np.isfinite(samples).all()


def test_configurations_of_runs(tmp_path):
    """The config.yaml of a run that is resumed."""
    file = tmp_path / "config.yaml"

    @fuzz
    @hypothesis.given(damaged([b"epochs: 3\nmodel:\n  preset: clmr\n"]) | st.binary(max_size=60))
    @hypothesis.example(b"[" * 5000)
    def run(content):
        file.write_bytes(content)
        try:
            assert isinstance(read_config(tmp_path), dict)
        except UserError as error:
            assert str(file) in str(error) and "\n" not in str(error)

    run()
