"""The examples in the docstrings of public names run as they stand.

They see only `keras`, `keras_tune`, NumPy as `np` and Keras' operations as `ops`, and import what
else they need. Files and models that an example cannot make by itself are prepared here.
"""

import functools
import importlib
import inspect
import pathlib
import re
import types

import keras
import numpy as np
import pytest
import soundfile
from keras import ops
from public_objects import EXPORTING, methods, public_objects

import keras_tune

pytestmark = pytest.mark.one_backend


def song(folder, monkeypatch):
    noise = np.random.default_rng(0).normal(0.0, 0.1, 3 * 22050)
    soundfile.write(folder / "song.mp3", noise, 22050, format="MP3")
    return {}


def tagger(folder, monkeypatch):
    """A small encoder and tagger, and the folder `music` with a song."""
    (folder / "music").mkdir()
    soundfile.write(folder / "music" / "song.wav", np.full(5000, 0.1), 22050)
    sizes = {"base_filters": 2, "tail_filters": [4], "input_samples": 2187}
    encoder = keras_tune.models.TUNe(1, 1, **sizes, name="small")
    return {
        "encoder": encoder,
        "tagger": keras_tune.models.Tagger(encoder, labels=["calm", "tense"]),
    }


def page(folder, monkeypatch):
    """As `tagger`, without what npm would fetch."""
    vendor = "keras_tune.serving.web_page.vendor_onnxruntime_web"
    monkeypatch.setattr(vendor, lambda folder: folder.mkdir())
    monkeypatch.setattr("keras_tune.serving.web_page.find_npm", lambda: "npm")
    return tagger(folder, monkeypatch)


def search(folder, monkeypatch):
    """A job and a tuner for one tiny encoder, and the streams that they read."""
    import keras_tuner

    from keras_tune.search import Job, Space, TUNeHyperModel, TUNeTuner, make_oracle

    clips = np.random.default_rng(0).normal(0, 0.1, (8, 500)).astype("float32")

    def streams(initial_epoch, epochs):
        crops = {"clip_samples": 243, "crops": 2, "batch_size": 4}
        train = keras_tune.data.array_clips(clips, **crops, seed=1, epochs=epochs)
        valid = keras_tune.data.array_clips(clips, **crops, shuffle=False)
        return types.SimpleNamespace(train=train, valid=valid, steps_per_epoch=2)

    steps = ("polarity", "noise", "gain", "filter", "delay", "pitch_shift", "reverb")
    hypermodel = TUNeHyperModel(
        Space(1, 1, 2, representation_dim=4, base_filters=2),
        parameter_budget=None,
        input_samples=243,
        augment={f"{step}_probability": 0.0 for step in steps},
    )
    oracle = make_oracle("grid", "val_contrastive_accuracy", "max")
    return {
        "streams": streams,
        "job": Job(hypermodel, keras_tuner.HyperParameters(), streams, epochs=1),
        "tuner": TUNeTuner(oracle, hypermodel, folder / "trials", report=lambda line: None),
    }


def small_set(name, folder, monkeypatch, source=None, **options):
    """The small copy of a set that the tests of its adapter read, in a folder of its name."""
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parent / "data")
    tests = importlib.import_module(f"test_{name}_adapter")
    if name == "debian_music":
        # The shortest track only: the others take long to encode.
        monkeypatch.setattr(tests, "TRACKS", tests.TRACKS[1:2])
    tests.build(folder / (source or name), **options)
    return {}


# The options of the small copies of sets.
SMALL_SETS = {
    "debian_music": {"source": "packages"},
    "emomusic": {"audio": False},
    "fma": {"subset": "medium", "audio": False},
    "giantsteps_key": {"source": "giantsteps", "audio": False},
    "gtzan": {},
    "magnatagatune": {"audio": False},
    "mcgill_billboard": {"source": "billboard"},
}
# What examples need besides that, by the name of their object: a function of the folder in which
# the example runs that may write files to it and returns further names.
PREPARED = {
    f"data.datasets.{name}_manifest": functools.partial(small_set, name, **options)
    for name, options in SMALL_SETS.items()
}
PREPARED |= {
    "models.Tagger": song,
    "search.Job": search,
    "search.TUNeTuner.give_up_reason": search,
    "search.TUNeTuner.repeat": search,
    "search.TUNeTuner.search": search,
    "search.trial_table": search,
    "serving.export_onnx": tagger,
    "serving.export_onnx_head": tagger,
    "serving.export_saved_model": tagger,
    "serving.export_tf_serving": tagger,
    "serving.export_web": page,
}


def examples(owner, name):
    """Pairs of a name and the source of an example, for an object and its own public methods."""
    text = inspect.cleandoc(getattr(owner, "__doc__", None) or "")
    for number, source in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL)):
        yield (f"{name}[{number}]" if number else name), source
    for key, value in methods(owner):
        if not key.startswith("_"):
            yield from examples(value, f"{name}.{key}")


EXAMPLES = dict(
    example for name, owner in public_objects().items() for example in examples(owner, name)
)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"keras": keras, "keras_tune": keras_tune, "np": np, "ops": ops}
    namespace.update(PREPARED[name](tmp_path, monkeypatch) if name in PREPARED else {})
    exec(compile(EXAMPLES[name], f"<example of {name}>", "exec"), namespace)


def test_every_public_class_and_function_has_an_example():
    missing = [
        name
        for name, owner in public_objects().items()
        if name.rpartition(".")[0] in EXPORTING and callable(owner) and name not in EXAMPLES
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
