"""The command `keras-tune`: one name for all command lines.

`keras-tune NAME …` does what `python -m keras_tune.recipes.NAME …` does.
"""

import ast
import importlib
import importlib.util
import sys

from keras_tune.recipes._options import did_you_mean
from keras_tune.version import __version__

# In the order in which a new user needs them.
COMMANDS = (
    "prepare",
    "pretrain",
    "embed",
    "probe",
    "finetune",
    "search",
    "export",
    "convert",
    "augment",
)


def main(argv=None):
    """Run a command with a list of arguments, by default the command line's."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["--version"]:
        print(f"keras_tune {__version__}")
    elif argv[:1] in (["--help"], ["-h"], ["help"]):
        print(_help())
    elif not argv:
        print(_help(), file=sys.stderr)
        sys.exit(2)
    elif argv[0] not in COMMANDS:
        hint = did_you_mean(argv[0], COMMANDS) or "see keras-tune --help"
        print(f"keras-tune: error: {argv[0]}: no such command; {hint}", file=sys.stderr)
        sys.exit(2)
    else:
        importlib.import_module(f"keras_tune.recipes.{argv[0]}").cli(argv[1:])


def _help():
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: keras-tune COMMAND [options]",
            "",
            "Music representations with TUNe and CLMR encoders, in Keras.",
            "",
            "commands, in the order of use:",
            *(f"  {name:{width}}  {_summary(name)}" for name in COMMANDS),
            "",
            "keras-tune COMMAND --help shows the options of a command.",
            "keras-tune --version shows the version.",
        ]
    )


def _summary(name):
    """The first line of a command's docstring, which is read without importing anything."""
    module = f"keras_tune.recipes.{name}"
    source = importlib.util.find_spec(module).loader.get_source(module)
    return ast.get_docstring(ast.parse(source)).splitlines()[0].removesuffix(".")


if __name__ == "__main__":
    main()
