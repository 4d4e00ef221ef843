"""What the evaluation package may import, and that it knows nothing of command lines."""

import ast
import pathlib
import re

import pytest

import keras_tune

FILES = sorted((pathlib.Path(keras_tune.__file__).parent / "evaluation").glob("*.py"))
# The packages that come before it, and the modules beside them.
ALLOWED = {"evaluation", "data", "models", "augment", "losses", "layers"}
ALLOWED |= {"checks", "errors", "files", "storage", "types"}


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def texts(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_imports_only_what_comes_before_it(path):
    names = [name.split(".") for name in imports(ast.parse(path.read_text()))]
    assert not [name for name in names if name[0] == "tensorflow"]
    ours = {name[1] for name in names if name[0] == "keras_tune" and len(name) > 1}
    assert ours <= ALLOWED


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_message_names_an_option(path):
    # TensorBoard's own option is in the description of the projector.
    named = [
        option
        for text in texts(ast.parse(path.read_text()))
        for option in re.findall(r"(?<![\w-])--[a-z_]+", text)
        if option != "--logdir"
    ]
    assert not named
