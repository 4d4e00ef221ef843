"""What every command does about its output: one at a time, one line where it cannot be written."""

import errno
import os
import resource
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import soundfile

from keras_tune.errors import UserError
from keras_tune.files import LockedError, file_lock
from keras_tune.models import TUNe
from keras_tune.recipes import (
    _cli,
    augment,
    convert,
    embed,
    export,
    finetune,
    prepare,
    pretrain,
    probe,
    search,
)
from keras_tune.recipes._folder import locked

pytestmark = pytest.mark.one_backend

COMMANDS = {
    "augment": (augment.AugmentViewsConfig, ["--source=x.wav"]),
    "convert": (convert.ConvertConfig, ["--checkpoint=x.keras"]),
    "embed": (embed.EmbedConfig, ["--encoder=mel", "--source=x"]),
    "export": (export.ExportConfig, ["--model=x", "--format=onnx"]),
    "finetune": (finetune.FinetuneConfig, ["--encoder=x", "--data=x", "--target=x"]),
    "prepare": (prepare.PrepareConfig, ["--dataset=csv", "--source=x.csv"]),
    "pretrain": (pretrain.PretrainConfig, ["--data=x"]),
    "probe": (probe.ProbeConfig, ["--encoder=x", "--data=x", "--target=x"]),
    "search": (search.SearchConfig, ["--data=x"]),
}
FILES = {"convert": "x.pt", "embed": "x.npz"}
MODULES = {
    "augment": augment,
    "convert": convert,
    "embed": embed,
    "export": export,
    "finetune": finetune,
    "prepare": prepare,
    "pretrain": pretrain,
    "probe": probe,
    "search": search,
}


@pytest.fixture(autouse=True)
def same_backend(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def error_of(capsys, command, *options, status=1):
    config, needed = COMMANDS[command]
    arguments = [str(option) for option in (*needed, *options)]
    with pytest.raises(SystemExit) as stop:
        _cli.run(MODULES[command].main, config, arguments)
    assert stop.value.code == status
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"{command}: error: ")
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_command_on_one_output_ends_with_one_line(command, tmp_path, capsys):
    kind = "file" if command in FILES else "folder"
    output = tmp_path / FILES.get(command, "out")
    with locked(output, kind):
        line = error_of(capsys, command, "--output", output)
    assert f"--output {output}: another process is writing it" in line
    # Afterwards it is something else that is wrong, and nothing is left behind.
    assert "another process" not in error_of(capsys, command, "--output", output)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_below_a_file_is_one_line(command, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    output = tmp_path / "file" / FILES.get(command, "out")
    line = error_of(capsys, command, "--output", output)
    assert str(tmp_path / "file") in line and "give another --output" in line
    if command in FILES:
        (tmp_path / FILES[command]).mkdir()
        line = error_of(capsys, command, "--output", tmp_path / FILES[command])
        assert "is a folder; give a file" in line
    else:
        line = error_of(capsys, command, "--output", tmp_path / "file")
        assert "is a file; give a folder" in line


def test_a_worker_of_a_search_shares_the_folder_of_its_chief(tmp_path, capsys, monkeypatch):
    for name, refused in (("chief", True), ("tuner0", False)):
        monkeypatch.setenv("KERASTUNER_TUNER_ID", name)
        with locked(tmp_path / "out"):
            line = error_of(capsys, "search", "--output", tmp_path / "out")
        assert ("another process" in line) == refused


def test_a_lock_is_given_back_and_not_taken_from_under_a_holder(tmp_path):
    path = tmp_path / "lock"
    with file_lock(path):
        with pytest.raises(LockedError), file_lock(path):
            raise AssertionError("two have it")
        assert path.exists()
    assert not path.exists()
    # One that was opened before it was removed is not taken for the lock of that name.
    script = (
        "import sys; from keras_tune.files import file_lock\n"
        "with file_lock(sys.argv[1], wait=True):\n"
        "    print(sys.argv[1] in map(str, __import__('pathlib').Path(sys.argv[2]).iterdir()))"
    )
    with file_lock(path):
        process = subprocess.Popen(
            [sys.executable, "-c", script, path, tmp_path], stdout=subprocess.PIPE, text=True
        )
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
    assert process.communicate()[0].strip() == "True"


class Full:
    """A disk that is full once so many files have been finished."""

    def __init__(self, monkeypatch, left, error=None):
        replace = os.replace

        def refuse(source, target, **options):
            self.left -= 1
            if self.left < 0:
                raise error or OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
            replace(source, target, **options)

        self.left = left
        monkeypatch.setattr(os, "replace", refuse)


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """An encoder, a labelled set of arrays and a folder of audio, all small."""
    folder = tmp_path_factory.mktemp("things")
    encoder = TUNe(
        contraction_depth=1, decoder_depth=1, base_filters=2, tail_filters=[4], input_samples=27
    )
    encoder.save(folder / "encoder.keras")
    random = np.random.default_rng(0)
    (folder / "music").mkdir()
    for number in range(3):
        samples = random.normal(0, 0.1, 2000)
        soundfile.write(folder / "music" / f"{number}.wav", samples, 22050)
    return folder


def test_embed_keeps_what_it_has_encoded_on_a_full_disk(things, tmp_path, capsys, monkeypatch):
    output = tmp_path / "vectors.npz"
    options = ["--encoder", things / "encoder.keras", "--source", things / "music"]
    monkeypatch.setattr("keras_tune.evaluation.embed_audio.PART", 1)
    # Each part is two files.
    with monkeypatch.context() as patch:
        Full(patch, left=4)
        line = error_of(capsys, "embed", *options, "--output", output)
    assert "No space left on device; free some space and run again" in line
    assert str(tmp_path) in line and not output.exists()
    encoded = []
    from keras_tune.evaluation import embeddings

    cut = embeddings.cut_windows
    monkeypatch.setattr(embeddings, "cut_windows", lambda *given: encoded.append(1) or cut(*given))
    arguments = [str(option) for option in (*options, "--output", output)]
    _cli.run(embed.main, embed.EmbedConfig, arguments)
    assert len(encoded) == 1
    assert sorted(np.load(output)["ids"]) == ["0.wav", "1.wav", "2.wav"]
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize(
    "error",
    [
        OSError("Can't write data (file write failed: errno = 28, 'No space left on device')"),
        RuntimeError("Error : No space left on device"),
    ],
)
def test_libraries_that_write_for_themselves(things, tmp_path, capsys, monkeypatch, error):
    pytest.importorskip("torch")
    output = tmp_path / "x.pt"
    Full(monkeypatch, left=0, error=error)
    options = ["--checkpoint", things / "encoder.keras", "--output", output]
    line = error_of(capsys, "convert", *options)
    assert str(output) in line and "No space left on device" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.nightly
def test_a_limit_of_file_sizes(tmp_path):
    """The system itself refuses, in a process of its own."""
    soundfile.write(tmp_path / "x.wav", np.random.default_rng(0).normal(0, 0.1, 70000), 22050)
    options = ["--source", tmp_path / "x.wav", "--output", tmp_path / "out", "--views=1"]

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    result = subprocess.run(
        [sys.executable, "-m", "keras_tune.recipes.augment", *map(str, options)],
        capture_output=True,
        text=True,
        preexec_fn=limit,
    )
    assert result.returncode == 1
    *_, line = result.stderr.strip().splitlines()
    assert line.startswith("augment: error: ") and "Traceback" not in result.stderr
    assert str(tmp_path / "out") in line


def test_errors_that_are_ours_keep_their_traceback(tmp_path):
    @_cli.dataclasses.dataclass
    class Config:
        """A command.

        Args:
            output: Where.
        """

        output: str = str(tmp_path)

    with pytest.raises(ValueError, match="ours"):
        _cli.run(lambda config: int("ours"), Config, [])


@pytest.mark.parametrize("name", ["../../x", "a/b", ".hidden", "con", "NUL.txt", "", "x."])
def test_names_that_lead_out_of_the_output(name, things, tmp_path, capsys):
    soundfile.write(tmp_path / "x.wav", np.random.default_rng(0).normal(0, 0.1, 3000), 22050)
    (tmp_path / "x.csv").write_text("path\nx.wav\n")
    before = sorted(tmp_path.rglob("*"))
    options = ["--source", tmp_path / "x.csv", "--output", tmp_path / "out" / "in"]
    if name:
        assert "--name" in error_of(capsys, "prepare", *options, "--workers=1", "--name", name)
        options = ["--model", things / "encoder.keras", "--output", tmp_path / "out" / "in"]
        assert "name" in error_of(capsys, "export", *options, "--name", name)
    (tmp_path / "x.csv").write_text(f"path,split\nx.wav,{name}\n")
    options = ["--source", tmp_path / "x.csv", "--output", tmp_path / "out" / "in", "--workers=1"]
    assert "split" in error_of(capsys, "prepare", *options)
    after = sorted(path for path in tmp_path.rglob("*") if path != tmp_path / "out")
    assert after == before


def test_a_split_of_an_npz_file_leads_nowhere(things, tmp_path, capsys):
    audio = np.random.default_rng(0).normal(0, 0.1, (2, 100)).astype("float32")
    np.savez(tmp_path / "x.npz", audio=audio, split=["train", "q/../../escaped"])
    options = ["--data", tmp_path / "x.npz", "--output", tmp_path / "out"]
    line = error_of(capsys, "probe", "--encoder", things / "encoder.keras", *options)
    assert "q/../../escaped" in line and "'/'" in line


def test_hidden_files_are_no_music(things, tmp_path, capsys):
    folder = tmp_path / "music"
    folder.mkdir()
    (folder / "._0.mp3").write_bytes(b"\0\5\x16\7" * 9)
    for path in (things / "music").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    options = ["--encoder", things / "encoder.keras", "--source", folder]
    arguments = [str(o) for o in (*options, "--output", tmp_path / "x.npz", "--strict")]
    _cli.run(embed.main, embed.EmbedConfig, arguments)
    assert "0 clips left out" in capsys.readouterr().out
    from keras_tune.serving.web_page import track_index
    from keras_tune.serving.windows import Windows

    model = keras.models.load_model(things / "encoder.keras")
    names, _, left_out = track_index(folder, model, Windows.of(model))
    assert (names, left_out) == (["0.wav", "1.wav", "2.wav"], [])


def test_a_file_whose_name_is_not_utf_8(things, tmp_path, capsys):
    folder = os.fsencode(tmp_path / "music")
    os.mkdir(folder)
    content = (things / "music" / "0.wav").read_bytes()
    try:
        with open(os.path.join(folder, b"caf\xe9.wav"), "wb") as file:
            file.write(content)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    options = ["--encoder", things / "encoder.keras", "--output", tmp_path / "x.npz"]
    for source in (tmp_path / "music", tmp_path / "music" / os.fsdecode(b"caf\xe9.wav")):
        line = error_of(capsys, "embed", *options, "--source", source)
        assert r"caf\udce9.wav" in line and "UTF-8" in line
    from keras_tune.data import manifest_for

    with pytest.raises(UserError, match="UTF-8"):
        manifest_for("folder", tmp_path / "music")
