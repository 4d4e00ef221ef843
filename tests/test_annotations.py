"""Public functions say what they take and return."""

import inspect
import re

import pytest
from public_objects import methods, public_objects

pytestmark = pytest.mark.one_backend

# Methods that redefine those of `Task` have the signature that is written there.
INHERITED = re.compile(r"evaluation\.tasks\.(Classification|Key|Tagging|Regression)\.(?!per_tag)")


def functions():
    """Name and function of all public functions, and of the public methods of public classes."""
    for name, owner in public_objects().items():
        if inspect.isfunction(owner):
            yield name, owner
        for key, value in methods(owner):
            if (key[0] != "_" or key == "__init__") and not INHERITED.match(f"{name}.{key}"):
                yield f"{name}.{key}", value


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
