"""The messages of the library speak of Python arguments; only command lines speak of options."""

import ast
import pathlib
import re

import pytest

import keras_tune

pytestmark = pytest.mark.one_backend

ROOT = pathlib.Path(keras_tune.__file__).parent
FOLDERS = ("augment", "data", "evaluation", "interop", "layers", "losses", "models", "search")
FOLDERS += ("serving", "training")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
# All modules beside the folders but the one that starts the command lines.
FILES += sorted(path for path in ROOT.glob("*.py") if path.stem != "__main__")

# Options of other programs: TensorBoard, npm and TensorFlow Serving.
FOREIGN = {"--logdir", "--ignore-scripts", "--loglevel", "--model_config_file"}
FOREIGN |= {"--enable_batching", "--batching_parameters_file"}
# Apache Beam has an option of the same name as ours.
FOREIGN_IN = {"data/preparation.py": {"--runner", "--flink_master"}}


def options_in(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"(?<![\w-])--[a-z][a-z_-]*", node.value)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_message_names_an_option(path):
    allowed = FOREIGN | FOREIGN_IN.get(path.relative_to(ROOT).as_posix(), set())
    assert set(options_in(ast.parse(path.read_text(encoding="utf-8")))) <= allowed


def test_an_option_in_a_message_is_found():
    tree = ast.parse("raise ValueError(f'--batch_size {n}: too large')")
    assert list(options_in(tree)) == ["--batch_size"]
