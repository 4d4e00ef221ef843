"""Public functions say what they take and return."""

import importlib
import inspect

import pytest

# Packages whose public functions are annotated throughout.
PACKAGES = ("augment", "layers")


def functions():
    """Name and function of all public functions, and of the public methods of public classes."""
    for package in PACKAGES:
        module = importlib.import_module(f"keras_tune.{package}")
        for name in module.__all__:
            owner = getattr(module, name)
            if not inspect.isclass(owner):
                yield f"{package}.{name}", owner
                continue
            for key, value in vars(owner).items():
                value = getattr(value, "__func__", getattr(value, "fget", value))
                ours = getattr(value, "__module__", "").startswith("keras_tune")
                if inspect.isfunction(value) and ours and (key[0] != "_" or key == "__init__"):
                    yield f"{package}.{name}.{key}", value


FUNCTIONS = dict(functions())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_everything_is_annotated(name):
    signature = inspect.signature(FUNCTIONS[name])
    missing = [
        key
        for key, parameter in signature.parameters.items()
        if parameter.annotation is parameter.empty and key not in ("self", "cls")
    ]
    if not name.endswith("__init__") and signature.return_annotation is signature.empty:
        missing.append("what it returns")
    assert not missing
