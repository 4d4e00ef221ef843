"""The public functions, classes and methods of the package, for tests of all of them."""

import importlib
import inspect
import pathlib

import keras_tune

ROOT = pathlib.Path(keras_tune.__file__).parent
# Of these folders all modules are looked at; of the others what the folder exports, and some more.
WHOLE = (
    "data.datasets",
    "evaluation",
    "interop",
    "losses",
    "models",
    "search",
    "serving",
    "training",
)
EXPORTED = ("augment", "data", "layers")
# What these export is the public interface. The other names are for use within the package; they
# need no example.
EXPORTING = (*WHOLE, *EXPORTED, "finetuning")
MORE = ("augment.augmentation", "augment.phase_vocoder", "augment.spectral", "checks")
MORE += ("data.array_dataset", "data.crop_stream", "data.shards", "errors", "files")
MORE += ("finetuning", "keras_internals", "machine", "shipped", "start_up", "storage")


def modules():
    """Dotted names of the modules all of whose public objects are looked at."""
    for folder in WHOLE:
        for path in sorted((ROOT / folder.replace(".", "/")).glob("[!_]*.py")):
            yield f"{folder}.{path.stem}"
    yield from MORE


def public_objects():
    """Name and object: `models.TUNe` where a folder exports it, else `models.saved.save_model`."""
    found = {}
    for folder in (*WHOLE, *EXPORTED):
        exported = importlib.import_module(f"keras_tune.{folder}")
        found |= {f"{folder}.{name}": getattr(exported, name) for name in exported.__all__}
    known = [value for value in found.values() if callable(value)]
    for path in modules():
        module = importlib.import_module(f"keras_tune.{path}")
        for name, value in vars(module).items():
            own = not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
            if own and callable(value) and not any(value is other for other in known):
                found[f"{path}.{name}"] = value
    return found


def methods(owner):
    """Name and function of the methods and properties that a class itself defines."""
    for name, value in vars(owner).items() if inspect.isclass(owner) else ():
        value = getattr(value, "__func__", getattr(value, "fget", value))
        own = getattr(value, "__module__", None) or ""
        if inspect.isfunction(value) and own.startswith("keras_tune"):
            yield name, value
