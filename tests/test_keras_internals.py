"""What is used of Keras without being public exists, works as assumed, and is listed in one place.

A failure names the version of Keras that broke it and what stops working.
"""

import ast
import importlib
import inspect
import pathlib

import keras
import numpy as np
import pytest

import keras_tune
from keras_tune.keras_internals import INTERNALS, sublayers
from keras_tune.layers import FusedConv1D, TailBlock

FILES = sorted(pathlib.Path(keras_tune.__file__).parent.rglob("*.py"))
TENSORFLOW_ONLY = {"Trainer._maybe_symbolic_build", "Trainer.distribute_strategy"}


def model():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    return model


def flatten_layers():
    inputs = keras.Input((27, 2))
    block = TailBlock(4, data_format="channels_last", name="tail")
    around = keras.Model(inputs, block(inputs))
    assert sublayers(around, recursive=False)[-1] is block
    assert block not in sublayers(block)
    # The normalization is within the block of the block.
    assert [layer for layer in sublayers(around) if layer is block.block.normalization]


def input_spec():
    plain = keras.layers.Conv1D(2, 3)
    pair = [np.zeros((1, 9, 2), "float32"), np.zeros((1, 9, 1), "float32")]
    with pytest.raises(ValueError):
        plain(pair)
    assert plain.input_spec is not None
    assert FusedConv1D(2, 3)(pair).shape == (1, 7, 2)


def get_variable_index():
    optimizer = keras.optimizers.SGD()
    variables = [keras.Variable(np.zeros(2)), keras.Variable(np.zeros(3))]
    optimizer.build(variables)
    assert [optimizer._get_variable_index(variable) for variable in variables] == [0, 1]


def loss_tracker():
    trained = model()
    trained._loss_tracker.update_state(3.0, sample_weight=1)
    trained._loss_tracker.update_state(6.0, sample_weight=2)
    assert float(trained.get_metrics_result()["loss"]) == pytest.approx(5.0)


def maybe_symbolic_build():
    calls = []

    class Recorder(keras.Model):
        def _maybe_symbolic_build(self, iterator=None, data_batch=None):
            calls.append(iterator is not None)

    inputs = keras.Input((8,))
    recorder = Recorder(inputs, keras.layers.Dense(1)(inputs))
    recorder.compile("sgd", "mse")
    recorder.fit(np.zeros((2, 8)), np.zeros((2, 1)), verbose=0)
    assert calls == [True]


def distribute_strategy():
    strategy = model().distribute_strategy
    assert strategy.num_replicas_in_sync == 1
    with strategy.scope():
        pass


def train_function():
    trained = model()
    trained.make_train_function()
    before = trained.train_function
    assert before is not None
    trained.make_train_function()
    assert trained.train_function is before
    trained.train_function = None
    trained.make_train_function()
    assert trained.train_function not in (None, before)


CHECKS = {
    "Layer._flatten_layers": flatten_layers,
    "Layer.input_spec": input_spec,
    "Optimizer._get_variable_index": get_variable_index,
    "Trainer._loss_tracker": loss_tracker,
    "Trainer._maybe_symbolic_build": maybe_symbolic_build,
    "Trainer.distribute_strategy": distribute_strategy,
    "Trainer.train_function": train_function,
}


def test_everything_listed_is_checked():
    assert set(CHECKS) == set(INTERNALS)


@pytest.mark.parametrize("name", INTERNALS)
def test_it_works_as_assumed(name):
    if name in TENSORFLOW_ONLY and keras.backend.backend() != "tensorflow":
        pytest.skip("TensorFlow only")
    try:
        CHECKS[name]()
    except (AttributeError, AssertionError, TypeError, ValueError) as error:
        pytest.fail(f"Keras {keras.__version__} changed {name}, which {INTERNALS[name]}: {error!r}")


def private(name):
    return name.startswith("_") and not name.startswith("__")


def names_of(tree):
    """The private names that a module defines, and the private attributes that it uses."""
    defined, used = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.Attribute) and private(node.attr):
            (defined if isinstance(node.ctx, ast.Store) else used).add(node.attr)
    return defined, used


def test_no_other_private_attribute_is_used():
    from keras_tune.search.tuner import INTERNALS as KERAS_TUNER

    # The command lines go into their parser, and nowhere into Keras.
    library = [path for path in FILES if path.parent.name != "recipes"]
    found = [names_of(ast.parse(path.read_text(encoding="utf-8"))) for path in library]
    own = set().union(*(defined for defined, _ in found))
    used = set().union(*(used for _, used in found))
    listed = {name.rpartition(".")[2] for name in (*INTERNALS, *KERAS_TUNER)}
    # The end of a process without its cleanup, which Python documents.
    assert used - own - listed <= {"_exit"}


def classes():
    """The package's own classes that extend one of Keras."""
    for path in FILES:
        name = ".".join(path.relative_to(path.parents[len(path.parts) - 2]).with_suffix("").parts)
        name = name[name.index("keras_tune") :].removesuffix(".__init__")
        if ".recipes" in name:
            continue
        module = importlib.import_module(name)
        for value in vars(module).values():
            own = inspect.isclass(value) and value.__module__ == module.__name__
            if own and any(base.__module__.startswith("keras.src") for base in value.__mro__):
                yield value


def test_no_other_private_method_is_overridden():
    listed = {name.rpartition(".")[2] for name in INTERNALS}
    found = set()
    for owner in classes():
        theirs = [base for base in owner.__mro__ if base.__module__.startswith("keras.src")]
        for name in filter(private, vars(owner)):
            if any(name in vars(base) for base in theirs):
                found.add(name)
    assert found - listed <= {"_abc_impl"}
    if keras.backend.backend() == "tensorflow":
        assert "_maybe_symbolic_build" in found
