"""One module of these packages imports TensorFlow: they must work where it is not installed."""

import ast
import pathlib

import keras_tune


def imports_tensorflow(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return any(name.split(".")[0] == "tensorflow" for name in names)


def test_only_the_fast_paths_import_tensorflow():
    root = pathlib.Path(keras_tune.__file__).parent
    found = {
        path.name
        for package in ("augment", "layers", "losses", "models")
        for path in (root / package).glob("*.py")
        if imports_tensorflow(path)
    }
    assert found == {"tensorflow_fast_paths.py"}
