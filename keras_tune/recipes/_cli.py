"""What every command line shares: typed options, one-line errors, the choice of the backend."""

import atexit
import contextlib
import dataclasses
import importlib.util
import os
import signal
import sys
import typing

from keras_tune.data.paths import leave
from keras_tune.errors import UserError

BACKENDS = ("tensorflow", "jax", "torch")


def run(main, config_class, argv=None, demo=None):
    """Parse the command line into `config_class` and hand it to `main`.

    Every field of the dataclass becomes an option, its help comes from the docstring, and
    `--config FILE.yaml` sets any of them; later options win. Wrong options end with status 2,
    errors the user can mend with one line and status 1.

    Args:
        main: Function of one `config_class`.
        config_class: A dataclass with documented, typed fields. Where it has a field `backend`,
            that Keras backend is chosen before Keras is imported.
        argv: List of strings. Defaults to the command line's.
        demo: Path of a YAML file with the options to begin with where the command line names
            neither `--data` nor `--config`. Defaults to None.
    """
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):
        def error(self, message, ex=None):
            raise _Usage(" ".join(str(message).split()))

    module = sys.modules[config_class.__module__]
    name = module.__spec__.name if module.__spec__ else module.__name__
    argv = sys.argv[1:] if argv is None else argv
    own_data = any(option.split("=")[0] in ("--data", "--config") for option in argv)
    parser = Parser(
        prog=f"python -m {name}",
        allow_abbrev=False,
        description=(module.__doc__ or "").strip(),
        default_config_files=[str(demo)] if demo and not own_data else [],
    )
    parser.add_argument("--config", action="config", help="YAML file with any option below")
    parser.add_class_arguments(config_class, None)
    # SIGTERM becomes an ordinary exit, so that temporary files are cleaned up on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        namespace = parser.parse_args(_with_values(argv, config_class))
        namespace.pop("config", None)
        _refuse_null(namespace, config_class)
        config = config_class(**vars(parser.instantiate(namespace)))
        if hasattr(config, "backend"):
            choose_backend(config.backend)
    except (_Usage, UserError) as error:
        _stop(name, error, 2)
    except UnicodeDecodeError as error:
        _stop(name, f"--config: not a text in UTF-8 ({error.reason})", 2)
    with _leaving():
        try:
            main(config)
        except UserError as error:
            _stop(name, error, 1)
        except KeyboardInterrupt:
            _stop(name, "interrupted", 130)


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
    filled = []
    for option, after in zip(argv, [*argv[1:], "--"], strict=False):
        filled.append(option)
        if option in flags and after.startswith("--"):
            filled.append("true")
    return filled


def _refuse_null(values, config_class, prefix=""):
    """The parser takes null from a file for every key; here only for those that may be None."""
    for field in dataclasses.fields(config_class):
        value = values[field.name]
        if value is None and type(None) not in typing.get_args(field.type):
            raise _Usage(f"--{prefix}{field.name}: null is no value for it")
        if dataclasses.is_dataclass(field.type):
            # The parser lets what is empty or false through.
            if not isinstance(value, type(values)):
                raise _Usage(f"--{prefix}{field.name}: {value!r} is no value for it; give its keys")
            _refuse_null(value, field.type, f"{prefix}{field.name}.")


class _Usage(Exception):
    pass


def _stop(name, message, status):
    print(f"{name.rsplit('.', 1)[-1]}: error: {message}", file=sys.stderr)
    sys.exit(status)


def choose_backend(backend=None):
    """Set Keras' backend; must come before the first import of Keras.

    Args:
        backend: "tensorflow", "jax", "torch", or None for what `KERAS_BACKEND` says, and else the
            first of these three that is installed.

    Returns:
        The name of the backend.

    Raises:
        UserError: The backend is unknown or not installed.
    """
    chosen = backend or os.environ.get("KERAS_BACKEND")
    if chosen is None:
        chosen = next((b for b in BACKENDS if importlib.util.find_spec(b)), None)
        if chosen is None:
            raise UserError("no backend is installed: pip install tensorflow, jax or torch")
    if chosen not in BACKENDS:
        raise UserError(f"--backend {chosen}: unknown; take one of {', '.join(BACKENDS)}")
    if not importlib.util.find_spec(chosen):
        raise UserError(f"--backend {chosen}: not installed here; pip install {chosen}")
    os.environ["KERAS_BACKEND"] = chosen
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if chosen == "jax":
        _keep_compiled()
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
