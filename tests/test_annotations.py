"""Public functions say what they take and return, in annotations and in docstrings."""

import dataclasses
import inspect
import re

import pytest
from public_objects import methods, public_objects

pytestmark = pytest.mark.one_backend


def functions():
    """Name and function of all public functions, and of the public methods of public classes."""
    for name, owner in public_objects().items():
        if inspect.isfunction(owner):
            yield name, owner
        for key, value in methods(owner):
            if key[0] != "_" or key == "__init__":
                yield f"{name}.{key}", value


FUNCTIONS = dict(functions())
CLASSES = {name: owner for name, owner in public_objects().items() if inspect.isclass(owner)}


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


# The command lines show the defaults of these next to their text.
SHOWN_IN_HELP = ("AugmentConfig", "FinetuneConfig", "ModelConfig", "PretrainConfig", "Space")


def described(docstring):
    """A dict from the names under `Args:` to their texts; None without such a section."""
    section = re.search(r"^Args:\n((?: .*\n|\n)+)", f"{docstring}\n", re.MULTILINE)
    if section is None:
        return None
    entries = re.split(r"\n(?=    \S)", f"\n{section[1]}")[1:]
    found = {}
    for entry in entries:
        names, _, text = entry.strip().partition(": ")
        found |= dict.fromkeys(re.findall(r"\w+", names), text)
    return found


def documented():
    """Pairs of a name, and of the docstring and the parameters that it describes."""
    for name, owner in CLASSES.items():
        if owner.__doc__ and "__init__" in vars(owner):
            yield name, (inspect.getdoc(owner), inspect.signature(owner.__init__).parameters)
    for name, function in FUNCTIONS.items():
        if function.__doc__ and not name.endswith("__init__"):
            yield name, (inspect.getdoc(function), inspect.signature(function).parameters)


DOCUMENTED = dict(documented())


@pytest.mark.parametrize("name", DOCUMENTED)
def test_arguments_are_described_with_their_defaults(name):
    docstring, parameters = DOCUMENTED[name]
    args = described(docstring)
    owner = CLASSES.get(name)
    if args is None:
        assert not dataclasses.is_dataclass(owner), "the fields of a dataclass are its Args"
        return
    parameters = {key: p for key, p in parameters.items() if key not in ("self", "cls")}
    assert set(args) == set(parameters)
    if name.rpartition(".")[2] not in SHOWN_IN_HELP:
        with_default = {k for k, p in parameters.items() if p.default is not p.empty}
        missing = {(name, key) for key in with_default if "efault" not in args[key]}
        assert not missing


def test_an_argument_without_its_default_is_found():
    args = described("Do it.\n\nArgs:\n    a, b: Integers.\n        Defaults to 1.\n    c: Text.\n")
    assert list(args) == ["a", "b", "c"]
    assert [key for key in args if "efault" not in args[key]] == ["c"]
