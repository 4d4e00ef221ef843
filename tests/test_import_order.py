"""Imports run one way: a folder or module of the package imports only what comes before it."""

import ast
import pathlib

import pytest

import keras_tune

pytestmark = pytest.mark.one_backend

ROOT = pathlib.Path(keras_tune.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# Folders and modules, each line importing only lines above it; what is on one line does not import
# the rest of the line. The package itself, which registers the classes, comes before the recipes.
ORDER = (
    ("errors", "machine", "progress_bar", "start_up", "types", "version"),
    ("storage", "shipped", "keras_internals"),
    ("files",),
    ("checks",),
    ("layers",),
    ("augment", "losses"),
    ("models",),
    ("data",),
    ("training", "evaluation"),
    ("search", "serving", "interop", "finetuning"),
    ("keras_tune",),
    ("recipes",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
# Reading and writing audio needs neither models nor Keras' layers.
DATA = {"errors", "progress_bar", "start_up", "types", "version", "storage", "files"}

# Where TensorFlow is imported, always inside functions.
TENSORFLOW = ("data", "serving", "layers.tensorflow_fast_paths")
TENSORFLOW_BESIDES = {
    "storage": "object stores are read through tf.io.gfile",
    "search.job": "Keras cannot measure the memory of a GPU",
    "training.distribution": "strategies of tf.distribute are made there, and their batches joined",
    "training.gradient_cache": "a step in micro-batches needs the gradient tape",
    "training.precision": "TensorFlow knows its GPUs, and sets operations to be deterministic",
}


def module_of(path):
    """The dotted name of a file within the package: `data.audio`; `keras_tune` for the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "keras_tune"


def room(name):
    return name.partition(".")[0]


def deferred(node):
    """Whether what is within a node does not run when the module is imported."""
    for_checkers = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    return for_checkers or isinstance(node, ast.FunctionDef)


def imports(tree):
    """Pairs of an imported module's full name and whether its import waits for a call."""
    inside = {id(n) for node in ast.walk(tree) if deferred(node) for n in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "keras_tune":
            names = [f"keras_tune.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [node.module]
        else:
            continue
        yield from ((name, id(node) in inside) for name in names)


def own(tree):
    """The folders and modules of the package that a module imports."""
    for name, _ in imports(tree):
        first, _, rest = name.partition(".")
        if first == "keras_tune":
            yield room(rest) if rest else "keras_tune"


TREES = {module_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def test_the_order_names_every_folder_and_module():
    assert {room(name) for name in TREES} == set(RANK)


@pytest.mark.parametrize("name", TREES)
def test_it_imports_only_what_comes_before_it(name):
    here = room(name)
    if name == "keras_tune":
        # Registers the classes of these folders once Keras is imported.
        allowed = set(RANK) - {"recipes"}
    else:
        allowed = {other for other in RANK if RANK[other] < RANK[here]} | {here}
    if here == "data":
        allowed &= DATA | {"data"}
    assert set(own(TREES[name])) <= allowed


def within(name, places):
    return any(name == place or name.startswith(f"{place}.") for place in places)


@pytest.mark.parametrize("name", TREES)
def test_tensorflow_is_imported_in_few_places_and_inside_functions(name):
    found = [
        inside
        for imported, inside in imports(TREES[name])
        if imported.partition(".")[0] in ("tensorflow", "tensorflow_io")
    ]
    assert all(found)
    assert not found or within(name, (*TENSORFLOW, *TENSORFLOW_BESIDES))


@pytest.mark.parametrize("name", TREES)
def test_keras_tuner_is_imported_by_the_search_only(name):
    found = [imported for imported, _ in imports(TREES[name]) if room(imported) == "keras_tuner"]
    assert not found or room(name) == "search"


def test_no_exception_is_left_that_is_not_needed():
    for name in TENSORFLOW_BESIDES:
        used = {room(imported) for imported, _ in imports(TREES[name])}
        assert used & {"tensorflow", "tensorflow_io"}, f"{name} no longer imports TensorFlow"


def test_an_import_against_the_order_is_found():
    tree = ast.parse("def f():\n    from keras_tune.data.audio import load_audio\n    import keras")
    assert set(own(tree)) == {"data"}
    assert [inside for _, inside in imports(tree)] == [True, True]
    assert RANK["data"] > RANK["models"]
