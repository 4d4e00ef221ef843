"""The examples of the evaluation package run as they stand, and its functions are annotated."""

import importlib
import inspect
import pathlib
import re

import keras
import numpy as np
import pytest
from keras import ops

import keras_tune


def modules():
    folder = pathlib.Path(keras_tune.__file__).parent / "evaluation"
    for path in sorted(folder.glob("[!_]*.py")):
        yield importlib.import_module(f"keras_tune.evaluation.{path.stem}")


def public_objects():
    """Name and object of all public functions, classes and their public methods."""
    for module in modules():
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", "") != module.__name__:
                continue
            name = f"{module.__name__.rsplit('.', 1)[-1]}.{name}"
            yield name, value
            if inspect.isclass(value):
                for key, method in vars(value).items():
                    method = getattr(method, "__func__", getattr(method, "fget", method))
                    if inspect.isfunction(method) and (not key.startswith("_")):
                        yield f"{name}.{key}", method


OBJECTS = dict(public_objects())
EXAMPLES = {
    name: match.group(1)
    for name, value in OBJECTS.items()
    for match in [re.search(r"```python\n(.*?)```", inspect.getdoc(value) or "", re.DOTALL)]
    if match and "." in name
}
# Methods that redefine those of `Task` have the signature that is written there.
INHERITED = re.compile(r"tasks\.(Classification|Key|Tagging|Regression)\.(?!per_tag)")


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"keras": keras, "keras_tune": keras_tune, "np": np, "ops": ops}
    exec(compile(EXAMPLES[name], f"<example of {name}>", "exec"), namespace)


def test_what_the_package_exports_has_an_example():
    exported = [getattr(keras_tune.evaluation, name) for name in keras_tune.evaluation.__all__]
    missing = [
        value.__name__
        for value in exported
        if callable(value) and "```python" not in (inspect.getdoc(value) or "")
    ]
    assert not missing


def test_public_functions_are_annotated():
    missing = []
    for name, value in OBJECTS.items():
        if not inspect.isfunction(value) or INHERITED.match(name):
            continue
        signature = inspect.signature(value)
        missing += [
            f"{name}({key})"
            for key, parameter in signature.parameters.items()
            if parameter.annotation is parameter.empty and key not in ("self", "cls")
        ]
        if signature.return_annotation is signature.empty:
            missing.append(f"{name} -> ?")
    assert not missing
