"""Hints for what was misspelled, and the recipes that come with the package."""

import difflib
import importlib.metadata
import pathlib

# The recipes' folder: in a checkout beside the package, in an installation beside its programs.
CHECKOUT = pathlib.Path(__file__).parents[2] / "recipes"
INSTALLED = "share/keras_tune/recipes/"


def did_you_mean(word, known):
    """Return "did you mean X?" for the nearest of the known words, or "" if none is near.

    Example:

    ```python
    from keras_tune.recipes._suggestions import did_you_mean

    did_you_mean("emebd", ["embed", "probe"])  # "did you mean embed?"
    ```
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]}?" if close else ""


def shipped_recipes():
    """Return the paths of the recipes that come with the package, by name.

    A recipe's name is its path within the folder of recipes, without the suffix: `emotify`,
    `study/base`.

    Example:

    ```python
    from keras_tune.recipes._suggestions import shipped_recipes

    shipped_recipes()["emotify"]  # PosixPath('.../recipes/emotify.yaml')
    ```
    """
    if CHECKOUT.is_dir():
        found = {path.relative_to(CHECKOUT): path for path in CHECKOUT.rglob("*.yaml")}
    else:
        found = {}
        for file in importlib.metadata.files("keras_tune") or []:
            _, installed, name = file.as_posix().partition(INSTALLED)
            if installed and name.endswith(".yaml"):
                found[pathlib.PurePosixPath(name)] = pathlib.Path(file.locate())
    return {path.with_suffix("").as_posix(): file for path, file in sorted(found.items())}
