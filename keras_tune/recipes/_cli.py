"""What every command line shares: typed options, one-line errors, the choice of the backend."""

import atexit
import contextlib
import dataclasses
import difflib
import errno
import functools
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import signal
import sys
import typing

from keras_tune.errors import UserError
from keras_tune.machine import BACKENDS, installed_backends, keep_freed_memory
from keras_tune.quiet import quiet_tensorflow
from keras_tune.recipes._lines import plain_warnings
from keras_tune.storage import leave

# The recipes' folder: in a checkout beside the package, in an installation beside its programs.
CHECKOUT = pathlib.Path(__file__).parents[2] / "recipes"
INSTALLED = "share/keras_tune/recipes/"

# Errors of the system, and how to fix them.
FIXES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENAMETOOLONG: "give a shorter name",
}


def run(main, config_class, argv=None, demo=None):
    """Parse the command line into `config_class` and hand it to `main`.

    Every field of the dataclass becomes an option, its help comes from the docstring, and
    `--config FILE.yaml` sets any of them; later options win. In place of a file, `--config` takes
    the name of a recipe that comes with the package. Wrong options end with status 2, errors that
    the user can fix with one line and status 1.

    Args:
        main: Function of one `config_class`.
        config_class: A dataclass with documented, typed fields. Where it has a field `backend`,
            that Keras backend is chosen before Keras is imported, unless it has an attribute
            `needs_keras` that is false. The class attribute `positional` names the option that may
            be given first, without its name.
        argv: List of strings. Defaults to the command line's.
        demo: Path of a YAML file with the options to begin with where the command line names
            neither `--data` nor `--config`. Defaults to None.
    """
    from jsonargparse import ArgumentParser

    from keras_tune.recipes._types import as_options, from_options

    class Parser(ArgumentParser):
        def error(self, message, ex=None):
            raise _Usage(_described(" ".join(str(message).split()), _option_strings(self)))

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
        action="config",
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
        # Also commands without a backend import TensorFlow, and so do their workers.
        quiet_tensorflow()
        if getattr(config, "needs_keras", hasattr(config, "backend")):
            backend = choose_backend(config.backend)
            if "keras" not in sys.modules and sys.stderr.isatty():
                # Seconds pass before a command can print anything of its own.
                print(f"loading Keras with {backend} …", file=sys.stderr, flush=True)
    except (_Usage, UserError) as error:
        _stop(name, _with_option_names(str(error), config_class), 2)
    except UnicodeDecodeError as error:
        _stop(name, f"--config: not a text in UTF-8 ({error.reason})", 2)
    with _leaving(), plain_warnings():
        try:
            main(config)
        except UserError as error:
            _stop(name, _with_option_names(str(error), config_class), 1)
        except KeyboardInterrupt:
            _stop(name, "interrupted", 130)
        except Exception as error:
            line = _answer_of_system(error, config)
            if line is None:
                raise
            _stop(name, line, 1)


def _answer_of_system(error, config):
    """An error of the system as one line with the file and the fix; None for other errors.

    Libraries that write files themselves (HDF5, TensorFlow, libsndfile) raise their own errors, at
    best with the message of the system in them.
    """
    if isinstance(error, MemoryError):
        return f"not enough memory ({error or 'none left'}); give a smaller batch or shorter clips"
    number, reason, file = None, None, None
    if isinstance(error, OSError):
        number, reason, file = error.errno, error.strerror or str(error), error.filename
    else:
        for code in (*FIXES, errno.EACCES, errno.EROFS):
            if os.strerror(code) in str(error):
                number, reason = code, os.strerror(code)
        if number is None:
            return None
    output = getattr(config, "output", None)
    file = file if file is not None else output
    fix = FIXES.get(number)
    if fix is None:
        fix = f"give another --output than {output}" if _within(file, output) else "check the file"
    again = "resume with --resume true" if hasattr(config, "resume") else "run again"
    return f"{file}: {reason}; {fix} and {again}"


def _within(file, output):
    """Whether a file is the output, in it, or what it lies in."""
    if output is None or isinstance(file, int):
        return False
    file, output = os.path.abspath(os.fsdecode(file)), os.path.abspath(output)
    return os.path.commonpath([file, output]) in (file, output)


# How many options stand first in the help: the first fields of the configuration.
MAIN_OPTIONS = 5


def _promote(parser, group, config_class):
    """Move the options that most users need to the top of the help, and what is left to the end."""
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


def _option_strings(parser):
    """The names of a parser's options, without those of the parser itself."""
    return [name for name in parser._option_string_actions if name.startswith("--")]


def _described(message, options=()):
    """The parser's message; of a value of the wrong type `--option value: takes ...`."""
    stray = re.match(r"unrecognized arguments: ([^-].*)", message)
    if stray:
        return f"{stray[1]}: unexpected; write --option value, and lists as [a,b]"
    unknown = re.match(r"unrecognized arguments: (--[^ =]+)", message)
    if unknown:
        hint = _nearest_option(unknown[1], options)
        return f"{unknown[1]}: no such option; {hint or 'see --help'}"
    required = re.match(r"the following arguments are required: (.*)", message)
    if required:
        names = (f"--{name}" for name in required[1].split(", "))
        return f"{', '.join(names)}: required; see --help"
    key = re.match(r'Parser key "([^"]+)": (.*)', message)
    if key is None:
        return message
    option, rest = key.groups()
    missing = re.match(r"File does not exist: '(.*)'", rest)
    if missing:
        recipes = {file.name: name for name, file in shipped_recipes().items()}
        close = difflib.get_close_matches(pathlib.Path(missing[1]).name, recipes, n=1)
        hint = "".join(
            f"; did you mean the recipe {recipes[name]}, which comes with the package?"
            for name in close
        )
        return f"--{option} {missing[1]}: no such file{hint}"
    choice = re.match(r"Expected a typing.Literal\[(.*?)\]. Got value: (.*)$", rest)
    if choice:
        known = re.findall(r"'([^']*)'", choice[1])
        hint = did_you_mean(choice[2], known)
        return f"--{option} {choice[2]}: {hint or 'take one of ' + ', '.join(known)}"
    one = re.match(r"Not of type (.+?): got (.*)$", rest)
    several = re.search(r"Subtypes: [\[(](.*?)[\])] Errors: .* Given value: (.*)$", rest)
    if one is None and several is None:
        return message
    kinds, value = (one or several).groups()
    # <class 'keras_tune.recipes._types.integer from 1 to 9'>, <class 'NoneType'>
    kinds = re.sub(r"<class '([^']+)'>", r"\1", kinds).replace("keras_tune.recipes._types.", "")
    kinds = kinds.replace("NoneType", "null")
    return f"--{option} {value}: takes {kinds.replace(', null', ' or null')}"


def _nearest_option(option, options):
    """The option that is meant: of all options, or by the last part of its name, model.preset."""
    options = [name for name in options if name not in ("--help", "--config")]
    ends = {f"--{name.rpartition('.')[2].removeprefix('--')}": name for name in reversed(options)}
    if option in ends:
        return f"did you mean {ends[option]}?"
    # Every name has the two hyphens; with them, words that have little in common would be near.
    names = {name.removeprefix("--"): name for name in options}
    close = difflib.get_close_matches(option.removeprefix("--"), names, n=1)
    return f"did you mean {names[close[0]]}?" if close else ""


@contextlib.contextmanager
def _leaving():
    """Let the status that the block leads to be the process's, whatever a plug-in does to it."""
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
    argv = list(_with_recipes(argv))
    filled = []
    for option, after in zip(argv, [*argv[1:], "--"], strict=False):
        filled.append(option)
        if option in flags and after.startswith("--"):
            filled.append("true")
    return filled


def _with_recipes(argv):
    """`--config NAME` means the file of the recipe of that name, unless there is such a file."""
    expected = False
    for option in argv:
        prefix, is_config, name = option.partition("--config=")
        if expected or (is_config and not prefix):
            name = option if expected else name
            option = option.removesuffix(name) + _recipe(name)
        expected = option == "--config"
        yield option


def _recipe(name):
    recipes = shipped_recipes()
    if os.path.exists(name) or not re.fullmatch(r"[\w/]+", name):
        return name
    if name not in recipes:
        hint = did_you_mean(name, recipes) or f"take one of {', '.join(recipes)}"
        raise _Usage(f"--config {name}: no such file, and no recipe of this name; {hint}")
    return str(recipes[name])


def did_you_mean(word, known):
    """Return "did you mean X?" for the nearest of the known words, or "" if none is near.

    Example:

    ```python
    from keras_tune.recipes._cli import did_you_mean

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
    from keras_tune.recipes._cli import shipped_recipes

    shipped_recipes()["emotify"]  # PosixPath('.../recipes/emotify.yaml')
    ```
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
    """The parser takes null from a file for every key; here only for those that may be None."""
    for field in dataclasses.fields(config_class):
        value = values[field.name]
        if value is None and type(None) not in typing.get_args(field.type):
            raise _Usage(f"--{prefix}{field.name}: must not be null")
        if dataclasses.is_dataclass(field.type):
            # The parser lets what is empty or false through.
            if not isinstance(value, type(values)):
                raise _Usage(f"--{prefix}{field.name}: must be a group of keys, not {value!r}")
            _refuse_null(value, field.type, f"{prefix}{field.name}.")


class _Usage(Exception):
    pass


def _stop(name, message, status):
    print(f"{name}: error: {message}", file=sys.stderr)
    sys.exit(status)


def names_options(**names):
    """Let errors about arguments of library functions name the option that the value came from.

    The library raises `ValueError`s such as "`folds` must be at least 2. Received: folds=1". If the
    configuration has an option of this name, or exactly one of its groups has (`task.folds`),
    `main` raises a `UserError` instead, which says "--folds 1: must be at least 2". All other
    errors stay as they are.

    Args:
        **names: The options whose names differ from those of the arguments: `columns="target"`.
            None for an argument that no option gives.

    Returns:
        A decorator of `main`, or of another function whose first argument is the configuration.

    Example:

    ```python
    from keras_tune.recipes._cli import names_options

    @names_options(columns="target", kind="task")
    def main(config):
        ...
    ```
    """

    def decorate(main):
        @functools.wraps(main)
        def wrapped(config, *arguments):
            try:
                return main(config, *arguments)
            except ValueError as error:
                message = _about_option(str(error), names, type(config))
                if message is None:
                    raise
                raise UserError(_with_options(message, type(config))) from error

        return wrapped

    return decorate


def _with_option_names(message, config_class):
    """The library's message with the names of options in place of those of arguments."""
    return _with_options(_about_option(message, {}, config_class) or message, config_class)


def _about_option(message, names, config_class):
    """The library's message about an argument as one about an option; None if there is no such."""
    found = re.fullmatch(r"`([\w.]+)` (.+?)\.? Received: \1=(.*)", message, re.DOTALL)
    if found is None:
        return None
    argument, problem, value = found.groups()
    option = _option_of(names.get(argument, argument), config_class)
    if option is None:
        return None
    if value == "None":
        return f"--{option}: {problem}"
    if value.startswith("["):
        # Lists as they are written on the command line.
        value = value.replace("'", "").replace(", ", ",")
    return f"--{option} {value}: {problem}"


def _option_of(argument, config_class):
    """The name of the option that gives an argument; None if none does, or several could."""
    options = list(_options(config_class))
    if argument in options:
        return argument
    # What lies within an option that is a table, such as `space.augment.min_cents`.
    if any(argument.startswith(f"{option}.") for option in options):
        return argument
    within = [option for option in options if option.endswith(f".{argument}")]
    return within[0] if len(within) == 1 else None


def _with_options(message, config_class):
    """A message in which arguments that are named in passing are options, too.

    "`micro_batch`" becomes "--micro_batch", and "`resume=True`" becomes "--resume true".
    """

    def replace(found):
        option = _option_of(found[1], config_class)
        if option is None:
            return found[0]
        if found[2] is None:
            return f"--{option}"
        value = found[2].strip("'\"")
        return f"--{option} {value.lower() if value in ('True', 'False') else value}"

    return re.sub(r"`([\w.]+)(?:=([^`]+))?`", replace, message)


def _options(config_class, prefix=""):
    """The dotted names of all options, those with keys of their own included."""
    for field in dataclasses.fields(config_class):
        yield prefix + field.name
        if dataclasses.is_dataclass(field.type):
            yield from _options(field.type, f"{prefix}{field.name}.")


def choose_backend(backend=None):
    """Set Keras' backend; must come before the first import of Keras.

    Args:
        backend: "tensorflow", "jax" or "torch". Defaults to what `KERAS_BACKEND` says, and else to
            the first of these three that is installed.

    Returns:
        The name of the backend.

    Raises:
        UserError: The backend is unknown or not installed.
    """
    chosen = backend or os.environ.get("KERAS_BACKEND")
    if chosen is None:
        chosen = next(iter(installed_backends()), None)
        if chosen is None:
            raise UserError("no backend is installed: pip install tensorflow, jax or torch")
    if chosen not in BACKENDS:
        raise UserError(f"--backend {chosen}: unknown; take one of {', '.join(BACKENDS)}")
    if not importlib.util.find_spec(chosen):
        raise UserError(f"--backend {chosen}: not installed here; pip install {chosen}")
    os.environ["KERAS_BACKEND"] = chosen
    quiet_tensorflow()
    if chosen == "jax":
        _keep_compiled()
    keep_freed_memory(chosen)
    return chosen


def _keep_compiled():
    """Let JAX keep what it has compiled, so that a second start need not compile again.

    JAX reads this when it is imported. It goes on without where the folder cannot be written, and
    compiles again what it cannot read.
    """
    folder = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    # A user without a home has no cache.
    if os.path.isabs(folder):
        folder = os.path.join(folder, "keras_tune", "jax")
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", folder)
    # By default what compiles within a second is not kept, and a start has a lot of that.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
