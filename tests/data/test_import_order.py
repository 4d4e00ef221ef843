"""Data stands on the path layer alone, and the path layer on nothing of the package."""

import ast
import pathlib

import pytest

import keras_tune

ROOT = pathlib.Path(keras_tune.__file__).parent
BASE = {"keras_tune.errors", "keras_tune.files", "keras_tune.storage", "keras_tune.version"}


def imported(file):
    """The modules of the package that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name for name in names if name.split(".")[0] == "keras_tune")


@pytest.mark.parametrize("name", ["errors", "files", "storage", "version"])
def test_the_path_layer_imports_no_data(name):
    assert set(imported(ROOT / f"{name}.py")) <= BASE


def test_data_imports_no_other_room():
    found = {
        (file.relative_to(ROOT).as_posix(), name)
        for file in (ROOT / "data").rglob("*.py")
        for name in imported(file)
        if name not in BASE and not name.startswith("keras_tune.data")
    }
    assert not found
