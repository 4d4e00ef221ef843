import dataclasses
import importlib
import json
import pathlib
import sys

import pytest

from keras_tune.__main__ import COMMANDS
from keras_tune.__main__ import main as keras_tune_command
from keras_tune.errors import UserError
from keras_tune.recipes import _cli, _options

pytestmark = pytest.mark.one_backend


@dataclasses.dataclass
class Config:
    """A command.

    Args:
        columns: Names.
        fast: Whether to hurry.
        backend: Where to run.
    """

    columns: list[str] = dataclasses.field(default_factory=list)
    fast: bool = False
    backend: str | None = None


def parse(*options):
    found = []
    _cli.run(found.append, Config, list(options))
    return found[0]


def test_flags_need_no_value_and_lists_are_yaml():
    assert parse("--fast").fast
    assert parse("--fast", "--columns", "[a, b]") == Config(["a", "b"], True, None)
    assert not parse("--fast", "false").fast


def test_later_options_win_over_the_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("columns: [x]\nfast: true\n")
    assert parse("--config", str(path), "--columns", "[y]") == Config(["y"], True, None)


@pytest.mark.parametrize(
    "options, culprit",
    [
        (["--fsat"], "--fsat"),
        (["--fas", "true"], "--fas"),
        (["--fast", "maybe"], "fast"),
        (["--backend", "theano"], "theano"),
    ],
)
def test_wrong_options_end_with_status_2(capsys, options, culprit):
    with pytest.raises(SystemExit) as stop:
        parse(*options)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert culprit in line and stop.value.code == 2


def test_an_unknown_key_in_the_file_is_named(capsys, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("speed: 3\n")
    with pytest.raises(SystemExit) as stop:
        parse("--config", str(path))
    assert "speed" in capsys.readouterr().err and stop.value.code == 2


def test_user_errors_are_one_line_and_others_keep_their_traceback(capsys):
    def fail(config):
        raise UserError("x.wav:\n  not audio")

    with pytest.raises(SystemExit) as stop:
        _cli.run(fail, Config, [])
    assert capsys.readouterr().err.endswith("error: x.wav: not audio\n")
    assert stop.value.code == 1
    with pytest.raises(ZeroDivisionError):
        _cli.run(lambda config: 1 / 0, Config, [])


@pytest.mark.parametrize(
    "message, expected",
    [
        ("`fast` must be true. Received: fast=False", "--fast False: must be true"),
        # Arguments may have another name than the option, and lists are as the user writes them.
        ("`names` must be two. Received: names=['a', 'b c']", "--columns [a,b c]: must be two"),
        ("`fast` must be given, as it is late. Received: fast=None", "--fast: must be given, as"),
    ],
)
def test_errors_about_arguments_name_the_option(message, expected):
    @_options.names_options(names="columns")
    def main(config):
        raise ValueError(message)

    with pytest.raises(UserError) as found:
        main(Config())
    assert str(found.value).startswith(expected)


@dataclasses.dataclass
class Table:
    """A group of options.

    Args:
        width: How wide.
    """

    width: int = 1

    def __post_init__(self):
        if self.width < 1:
            raise UserError(f"`width` must be positive. Received: width={self.width}")


@dataclasses.dataclass
class Grouped:
    """A command with groups of options.

    Args:
        table: A group.
        other: Another.
        height: How high.
    """

    table: Table = dataclasses.field(default_factory=Table)
    other: dict[str, int] = dataclasses.field(default_factory=dict)
    height: int = 1


@pytest.mark.parametrize(
    "message, expected",
    [
        ("`width` must be even. Received: width=3", "--table.width 3: must be even"),
        ("`other.a` must be even. Received: other.a=3", "--other.a 3: must be even"),
        ("`height` must be even. Received: height=3", "--height 3: must be even"),
        # Arguments that are named in passing, and others than the command's.
        ("a.csv: missing. `height` must be 2", "a.csv: missing. --height must be 2"),
        ("`height` must be 2 with `depth`. Received: height=3", "must be 2 with `depth`"),
        ("a.csv: damaged. Try `width=2`", "a.csv: damaged. Try --table.width 2"),
    ],
)
def test_errors_about_arguments_name_options_of_groups_too(capsys, message, expected):
    def fail(config):
        raise UserError(message)

    with pytest.raises(SystemExit):
        _cli.run(fail, Grouped, [])
    assert expected in capsys.readouterr().err


def test_what_a_group_refuses_is_a_wrong_option(capsys):
    with pytest.raises(SystemExit) as stop:
        _cli.run(print, Grouped, ["--table.width=0"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith("error: --table.width 0: must be positive\n")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("`speed` must be positive. Received: speed=0"),
        ValueError("shapes (3,) and (4,) do not match"),
        UserError("song.mp3: silent"),
    ],
)
def test_errors_about_anything_else_stay_as_they_are(error):
    @_options.names_options()
    def main(config):
        raise error

    with pytest.raises(type(error)) as found:
        main(Config())
    assert found.value is error


def test_options_that_an_error_does_not_name():
    @_options.names_options(otherwise="--model, --augment")
    def main(config, error):
        raise error

    for error, expected in (
        (ValueError("shapes do not match"), "--model, --augment: shapes do not match"),
        (ValueError("`fast` must be off. Received: fast=True"), "--fast True: must be off"),
        (UserError("song.mp3: silent"), "song.mp3: silent"),
    ):
        with pytest.raises(UserError) as found:
            main(Config(), error)
        assert str(found.value) == expected


def test_backend_defaults_to_the_environment_then_to_what_is_installed(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setattr(_cli.importlib.util, "find_spec", lambda name: name == "torch")
    assert _cli.choose_backend() == "torch"
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setattr(_cli.importlib.util, "find_spec", lambda name: name != "tensorflow")
    assert _cli.choose_backend() == "jax"
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setattr(_cli.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="no backend is installed"):
        _cli.choose_backend()


def test_a_terminal_shows_that_keras_is_being_loaded(capsys, monkeypatch):
    monkeypatch.setattr(_cli, "choose_backend", lambda backend: "jax")
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    for terminal in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        parse("--fast")
        expected = "loading Keras with jax …\n" if terminal else ""
        assert capsys.readouterr().err == expected


def test_the_printed_configuration_is_a_recipe(capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        parse("--columns", "[a]", "--print_config")
    assert stop.value.code == 0
    path = tmp_path / "printed.yaml"
    path.write_text(capsys.readouterr().out)
    assert json.dumps(dataclasses.asdict(parse("--config", str(path)))) == json.dumps(
        dataclasses.asdict(Config(["a"]))
    )


def test_misspelled_options_and_recipes_are_answered_with_the_nearest(capsys):
    for options, answer in (
        (["--colums", "[a]"], "--colums: no such option; did you mean --columns?"),
        (["--config", "emotfy"], "no recipe of this name; did you mean emotify?"),
        (["--config=emotfy"], "no recipe of this name; did you mean emotify?"),
    ):
        with pytest.raises(SystemExit) as stop:
            parse(*options)
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.endswith(answer)


def test_a_recipe_is_found_by_its_name_unless_there_is_such_a_file(tmp_path, monkeypatch):
    recipe = tmp_path / "recipes" / "own" / "fast.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text("fast: true\n")
    monkeypatch.setattr("keras_tune.recipes._cli.CHECKOUT", tmp_path / "recipes")
    # Without a setup.cfg beside it, it is another package's folder.
    assert "own/fast" not in _cli.shipped_recipes()
    (tmp_path / "setup.cfg").touch()
    assert parse("--config", "own/fast").fast
    assert parse("--config=own/fast").fast
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "fast").write_text("columns: [file]\n")
    assert parse("--config", "own/fast") == Config(["file"])


def test_an_installation_finds_its_recipes(monkeypatch, tmp_path):
    """A wheel has them where its list of files says."""

    class File(pathlib.PurePosixPath):
        def locate(self):
            return tmp_path / self

    files = [
        File("../../../share/keras_tune/recipes/emotify.yaml"),
        File("../../../share/keras_tune/recipes/study/base.yaml"),
        File("keras_tune/recipes/demo.yaml"),
    ]
    monkeypatch.setattr("importlib.metadata.files", lambda name: files)
    monkeypatch.setattr("keras_tune.recipes._cli.CHECKOUT", tmp_path / "missing")
    found = _cli.shipped_recipes()
    assert found == {"emotify": tmp_path / files[0], "study/base": tmp_path / files[1]}


def test_one_command_runs_all_recipes(capsys, monkeypatch):
    run = []
    for name in COMMANDS:
        module = importlib.import_module(f"keras_tune.recipes.{name}")
        monkeypatch.setattr(module, "cli", lambda argv, name=name: run.append((name, argv)))
        keras_tune_command([name, "--x"])
    assert run == [(name, ["--x"]) for name in COMMANDS]
    keras_tune_command(["--help"])
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert tuple(listed) == COMMANDS
    modules = {path.stem for path in pathlib.Path(_cli.__file__).parent.glob("[a-z]*.py")}
    assert set(COMMANDS) == modules
    for wrong, answer in ((["emebd"], "did you mean embed?"), ([], "usage: keras-tune COMMAND")):
        with pytest.raises(SystemExit) as stop:
            keras_tune_command(wrong)
        assert stop.value.code == 2 and answer in capsys.readouterr().err


def test_help_begins_with_a_sentence_and_the_main_options(capsys):
    with pytest.raises(SystemExit):
        importlib.import_module("keras_tune.recipes.embed").cli(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: keras-tune embed [SOURCE] [options]"
    assert lines[2] == "Embed audio files, or a prepared set, with an encoder."
    assert lines[4] == "main options:"
    named = [line.split()[0] for line in lines if line.startswith("  --")]
    assert named[:5] == ["--source", "--encoder", "--output", "--hop", "--pool"]
    assert named[-2:] == ["--config", "--print_config"]


@pytest.mark.parametrize(
    ("command", "options", "answer"),
    [
        (
            "pretrain",
            ["--preset", "clmr"],
            "--preset: no such option; did you mean --model.preset?",
        ),
        ("pretrain", ["--lr", "1"], "--lr: no such option; see --help"),
        (
            "pretrain",
            ["--batchsize", "8"],
            "--batchsize: no such option; did you mean --batch_size?",
        ),
        ("prepare", ["--source", "x"], "--dataset, --output: required; see --help"),
        ("embed", ["x.wav", "--pool", "max"], "--pool max: use one of mean, mean_max, none"),
        ("embed", ["x.wav", "--pool", "mean_mx"], "--pool mean_mx: did you mean mean_max?"),
        (
            "pretrain",
            ["--config", "x/emotify.yaml"],
            "did you mean the recipe emotify, which comes",
        ),
        ("pretrain", ["--config", "x/y.yaml"], "x/y.yaml: no such file"),
        ("pretrain", ["--config", "."], "is no file; give a YAML file or the name of a recipe"),
        (
            "embed",
            ["x.wav", "--config", "search_depth"],
            "--config: space.decoder_depth is no option of this command",
        ),
        ("embed", ["--output", "x.npz", "x.wav"], "x.wav: unexpected; write --source VALUE"),
        ("embed", ["x.wav", "y.wav"], "one value: for several files, their folder"),
        ("embed", ["x.wav", "-o", "x.npz"], "-o: no such option; options begin with --"),
        (
            "probe",
            ["--data", "x", "--target", "y", "--output", "z", "--task", "keys"],
            "--task keys: did you mean key?",
        ),
        (
            "probe",
            ["--data", "x", "--target", "y", "--output", "z", "--task", "autotag"],
            "--task autotag: use one of classification, tagging, key, regression",
        ),
    ],
)
def test_wrong_options_are_answered_with_the_right_ones(capsys, command, options, answer):
    module = importlib.import_module(f"keras_tune.recipes.{command}")
    with pytest.raises(SystemExit) as stop:
        module.cli(options)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and answer in line and "Parser key" not in line
