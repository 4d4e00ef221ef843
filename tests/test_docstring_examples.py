"""The examples in the docstrings of public names run as they stand.

They see only `keras`, `keras_tune`, NumPy as `np` and Keras' operations as `ops`, and import what
else they need. Files and models that an example cannot make by itself are prepared here.
"""

import importlib
import inspect
import re

import keras
import numpy as np
import pytest
import soundfile
from keras import ops

import keras_tune

PACKAGES = ("augment", "layers", "losses", "models")

# Public helpers that no package exports.
MODULES = ("augment.augmentation", "augment.phase_vocoder", "augment.spectral", "models.sample_cnn")


def song(folder):
    noise = np.random.default_rng(0).normal(0.0, 0.1, 3 * 22050)
    soundfile.write(folder / "song.mp3", noise, 22050, format="MP3")
    return {}


# What examples need besides that, by the name of their object: a function that takes the folder in
# which the example runs, may write files to it, and returns further names.
PREPARED = {"models.Tagger": song}


def examples(owner, name):
    """Pairs of a name and the source of an example, for an object and its own public methods."""
    text = inspect.cleandoc(getattr(owner, "__doc__", None) or "")
    for number, source in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL)):
        yield (f"{name}[{number}]" if number else name), source
    if inspect.isclass(owner):
        for key, value in vars(owner).items():
            value = getattr(value, "__func__", value)
            if not key.startswith("_") and inspect.isfunction(value):
                yield from examples(value, f"{name}.{key}")


def public_objects():
    for package in PACKAGES:
        module = importlib.import_module(f"keras_tune.{package}")
        yield from ((f"{package}.{name}", getattr(module, name)) for name in module.__all__)
    for path in MODULES:
        module = importlib.import_module(f"keras_tune.{path}")
        for name, value in vars(module).items():
            if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__:
                yield f"{path}.{name}", value


EXAMPLES = dict(example for name, owner in public_objects() for example in examples(owner, name))


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"keras": keras, "keras_tune": keras_tune, "np": np, "ops": ops}
    namespace.update(PREPARED[name](tmp_path) if name in PREPARED else {})
    exec(compile(EXAMPLES[name], f"<example of {name}>", "exec"), namespace)


def test_every_public_class_and_function_has_an_example():
    missing = [
        name
        for name, owner in public_objects()
        if name.count(".") == 1 and callable(owner) and name not in EXAMPLES
    ]
    assert not missing


def test_what_is_prepared_belongs_to_an_example():
    assert set(PREPARED) <= set(EXAMPLES)


def test_a_broken_example_is_found():
    def broken():
        """A function.

        Example:

        ```python
        nothing_of_this_name
        ```
        """

    ((name, source),) = examples(broken, "broken")
    assert name == "broken"
    with pytest.raises(NameError):
        exec(source, {})
