"""The command lines: `python -m keras_tune.recipes.NAME --help`."""
