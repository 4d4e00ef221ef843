"""What every command line shares: typed options, one-line errors, the choice of the backend."""

import atexit
import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import signal
import sys
import typing
import warnings

from keras_tune.errors import UserError
from keras_tune.machine import BACKENDS, installed_backends, keep_freed_memory
from keras_tune.recipes._options import (
    answer_of_system,
    as_options,
    described,
    did_you_mean,
    from_options,
    with_option_names,
)
from keras_tune.start_up import quiet_tensorflow, skip_optional_imports
from keras_tune.storage import leave

# The recipes' folder: in a checkout beside the package, in an installation beside its programs.
CHECKOUT = pathlib.Path(__file__).parents[2] / "recipes"
INSTALLED = "share/keras_tune/recipes/"


def run(main, config_class, argv=None, demo=None):
    """Parse the command line into `config_class` and hand it to `main`.

    Every field of the dataclass becomes an option, its help comes from the docstring, and
    `--config FILE.yaml` sets any of them; later options win. Instead of a file, `--config` accepts
    the name of a recipe in the package. Wrong options end the program with one line and status 2,
    errors that the user can fix with one line and status 1.

    Args:
        main: Function of one `config_class`.
        config_class: A dataclass with documented, typed fields. If it has a field `backend`, that
            Keras backend is chosen before Keras is imported, unless the attribute `needs_keras` is
            false. The class attribute `positional` names the option that may be given first,
            without its name.
        argv: List of strings. Defaults to the command line's.
        demo: Path of a YAML file with the default options if the command line has neither `--data`
            nor `--config`. Defaults to None.
    """
    from jsonargparse import ActionConfigFile, ArgumentParser

    class Parser(ArgumentParser):
        def error(self, message, ex=None):
            options = [one for one in self._option_string_actions if one.startswith("--")]
            message = " ".join(str(message).split())
            raise _Usage(described(message, options, shipped_recipes(), positional))

    class ConfigFile(ActionConfigFile):
        def __call__(self, parser, cfg, values, option_string=None):
            super().__call__(parser, cfg, _recipe(values), option_string)

    module = sys.modules[config_class.__module__]
    name = (module.__spec__.name if module.__spec__ else module.__name__).rpartition(".")[2]
    summary, _, details = (module.__doc__ or "").strip().partition("\n\n")
    argv = list(sys.argv[1:] if argv is None else argv)
    positional = getattr(config_class, "positional", "")
    if positional and argv and not argv[0].startswith("-"):
        argv.insert(0, f"--{positional}")
    # The help shows what applies to a user's own data.
    no_demo = ("--data", "--config", "--help", "-h")
    own_data = any(option.split("=")[0] in no_demo for option in argv)
    parser = Parser(
        prog=f"keras-tune {name}",
        usage=f"%(prog)s {positional and f'[{positional.upper()}] '}[options]",
        allow_abbrev=False,
        description=summary,
        epilog=details,
        default_config_files=[str(demo)] if demo and not own_data else [],
    )
    first = parser.add_argument_group("main options")
    parser.add_class_arguments(as_options(config_class), None)
    parser.add_argument(
        "--config",
        action=ConfigFile,
        help="YAML file with any of these options, or the name of a recipe that comes with the "
        f"package: {', '.join(name for name in shipped_recipes() if '/' not in name)}",
    )
    _promote(parser, first, config_class)
    # SIGTERM becomes an ordinary exit, so that temporary files are cleaned up on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        namespace = parser.parse_args(_with_values(argv, config_class))
        namespace.pop("config", None)
        _refuse_null(namespace, config_class)
        config = from_options(config_class, vars(parser.instantiate(namespace)))
        # Commands without a backend and their workers also import TensorFlow.
        quiet_tensorflow()
        skip_optional_imports()
        if getattr(config, "needs_keras", hasattr(config, "backend")):
            backend = choose_backend(config.backend)
            if "keras" not in sys.modules and sys.stderr.isatty():
                # Seconds pass before a command can print anything of its own.
                print(f"loading Keras with {backend} …", file=sys.stderr, flush=True)
    except (_Usage, UserError) as error:
        _stop(name, with_option_names(str(error), config_class), 2)
    except UnicodeDecodeError as error:
        _stop(name, f"--config: not UTF-8 text ({error.reason})", 2)
    with _leaving(), plain_warnings():
        try:
            main(config)
        except UserError as error:
            _stop(name, with_option_names(str(error), config_class), 1)
        except KeyboardInterrupt:
            _stop(name, "interrupted", 130)
        except Exception as error:
            line = answer_of_system(error, config)
            if line is None:
                raise
            _stop(name, line, 1)


# The number of options at the top of the help: the first fields of the configuration.
MAIN_OPTIONS = 5


def _promote(parser, group, config_class):
    """Move the options that most users need to the top of the help, ungrouped ones to the end."""
    plain = [
        f.name for f in dataclasses.fields(config_class) if not dataclasses.is_dataclass(f.type)
    ]
    for action in list(parser._actions):
        if action.dest in plain[:MAIN_OPTIONS]:
            for other in parser._action_groups:
                if action in other._group_actions:
                    other._group_actions.remove(action)
            group._group_actions.append(action)
    groups = parser._action_groups
    groups.sort(
        key=lambda one: (one is not group, one.title in ("options", "positional arguments"))
    )


@contextlib.contextmanager
def _leaving():
    """Make the exit status of the block that of the process, even if a plug-in would change it."""
    status = 1
    try:
        yield
        status = 0
    except SystemExit as stop:
        status = stop.code
        raise
    finally:
        atexit.register(leave, status)


def _with_values(argv, config_class):
    """`--resume` alone means `--resume true`, which is what the parser takes."""
    flags = {f"--{field.name}" for field in dataclasses.fields(config_class) if field.type is bool}
    filled = []
    for option, after in zip(argv, [*argv[1:], "--"], strict=False):
        filled.append(option)
        if option in flags and after.startswith("--"):
            filled.append("true")
    return filled


def _recipe(name):
    """The file of the recipe of a name, unless the name is that of a file."""
    recipes = shipped_recipes()
    if os.path.exists(name) or not re.fullmatch(r"[\w/]+", name):
        return name
    if name not in recipes:
        hint = did_you_mean(name, recipes) or f"use one of {', '.join(recipes)}"
        raise _Usage(f"--config {name}: no such file, and no recipe of this name; {hint}")
    return str(recipes[name])


def shipped_recipes():
    """Return the paths of the recipes that come with the package, by name.

    A recipe's name is its path within the folder of recipes, without the suffix: `emotify`,
    `study/base`.
    """
    # An installation may have a folder of this name that is another package's.
    if CHECKOUT.is_dir() and CHECKOUT.with_name("setup.cfg").is_file():
        found = {path.relative_to(CHECKOUT): path for path in CHECKOUT.rglob("*.yaml")}
    else:
        found = {}
        for file in importlib.metadata.files("keras_tune") or []:
            _, installed, name = file.as_posix().partition(INSTALLED)
            if installed and name.endswith(".yaml"):
                found[pathlib.PurePosixPath(name)] = pathlib.Path(file.locate())
    return {path.with_suffix("").as_posix(): file for path, file in sorted(found.items())}


def _refuse_null(values, config_class, prefix=""):
    """Refuse null for keys that must not be None; the parser accepts it for every key of a file."""
    for field in dataclasses.fields(config_class):
        value = values[field.name]
        if value is None and type(None) not in typing.get_args(field.type):
            raise _Usage(f"--{prefix}{field.name}: must not be null")
        if dataclasses.is_dataclass(field.type):
            # The parser accepts values that are empty or false.
            if not isinstance(value, type(values)):
                raise _Usage(f"--{prefix}{field.name}: must be a group of keys, not {value!r}")
            _refuse_null(value, field.type, f"{prefix}{field.name}.")


class _Usage(Exception):
    pass


def _stop(name, message, status):
    print(f"{name}: error: {message}", file=sys.stderr)
    sys.exit(status)


def choose_backend(backend=None):
    """Set Keras' backend and return its name; must come before the first import of Keras.

    By default it is `KERAS_BACKEND`, else the first one that is installed.
    """
    chosen = backend or os.environ.get("KERAS_BACKEND")
    if chosen is None:
        chosen = next(iter(installed_backends()), None)
        if chosen is None:
            raise UserError("no backend is installed: pip install tensorflow, jax or torch")
    if chosen not in BACKENDS:
        raise UserError(f"--backend {chosen}: unknown; use one of {', '.join(BACKENDS)}")
    if not importlib.util.find_spec(chosen):
        raise UserError(f"--backend {chosen}: not installed here; pip install {chosen}")
    os.environ["KERAS_BACKEND"] = chosen
    quiet_tensorflow()
    skip_optional_imports()
    if chosen == "jax":
        _keep_compiled()
    keep_freed_memory(chosen)
    return chosen


def prepare_determinism():
    """Set the environment variables that deterministic algorithms need on GPUs.

    Call it before Keras is imported, since the frameworks read them when they are.
    """
    flag = "--xla_gpu_deterministic_ops=true"
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _keep_compiled():
    """Let JAX keep compiled programs, so that a second start does not compile them again.

    JAX reads these variables when it is imported. If it cannot write the folder, it continues
    without a cache, and it compiles again what it cannot read.
    """
    folder = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    # A user without a home has no cache.
    if os.path.isabs(folder):
        folder = os.path.join(folder, "keras_tune", "jax")
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", folder)
    # By default, programs that compile within a second are not kept, but a start compiles many.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def print_precision(policy, reason):
    """Print the chosen precision and the reason; nothing if the options set it (no reason)."""
    if reason:
        print(f"precision: {policy}, since {reason}", flush=True)


def print_compiling():
    """Print that the first step is compiled, where the backend does so."""
    import keras

    if keras.backend.backend() != "torch":
        print("compiling the first step …", flush=True)


@contextlib.contextmanager
def plain_warnings():
    """Print warnings of the library, about damaged shards for example, as lines on standard error.

    Warnings for programmers, such as those about deprecated functions, are not changed.
    """
    with warnings.catch_warnings():
        show, printed = warnings.showwarning, set()

        def show_plainly(message, category, *rest, **options):
            if category is UserWarning:
                if str(message) not in printed:
                    print(message, file=sys.stderr)
                printed.add(str(message))
            else:
                show(message, category, *rest, **options)

        warnings.showwarning = show_plainly
        yield
