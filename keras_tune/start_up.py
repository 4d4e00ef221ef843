"""What the command lines change about the start of TensorFlow and Keras.

- While it is imported, TensorFlow writes lines about oneDNN, CUDA and its log to standard error,
  before it reads `TF_CPP_MIN_LOG_LEVEL`. Where that is 3, which asks for silence, they are dropped.
  The command lines set it to 3 unless the user has set it.
- Keras, TensorFlow and KerasTuner import scikit-learn, matplotlib, pandas and other backends if
  they are installed, for functions that no command calls. This takes more than half as long as
  importing the rest, so the command lines hide these packages meanwhile.
"""

import contextlib
import importlib.abc
import importlib.util
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator

LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# "I0000 00:00:1795599976.8 1257 port.cc:153] ...", the line that explains such lines, and the
# second line of one of them.
NOISE = re.compile(
    rb"[IWE]\d{4} \d\d:\d\d:\d|WARNING: All log messages before absl|To enable the following instr"
)


@contextlib.contextmanager
def dropping_start_up_lines() -> Iterator[None]:
    """Drop TensorFlow's start-up lines within the block, if its log level asks for silence.

    All else that is written to standard error meanwhile follows after the block.
    """
    if os.environ.get(LEVEL) != "3":
        yield
        return
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            for line in file:
                if not NOISE.match(line):
                    os.write(2, line)


@contextlib.contextmanager
def hiding_optional_packages() -> Iterator[None]:
    """Let imports of packages that are optional for Keras fail within the block.

    The packages that have been imported before are not hidden, and neither is the backend of
    `KERAS_BACKEND`. After the block, all of them can be imported.
    """
    names = {"matplotlib", "pandas", "sklearn", "jax", "torch"} - {os.environ.get("KERAS_BACKEND")}
    hidden = names - set(sys.modules)
    # Python raises ImportError for names that have None here.
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


class _Finder:
    """Finds a package in the usual way, and loads it within the block of a context manager."""

    def __init__(self, package, around):
        self.package = package
        self.around = around

    def find_spec(self, name, path=None, target=None):
        if name != self.package:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self.around)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader, around):
        self.loader = loader
        self.around = around

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        # Whoever looks for the source or the files of the package asks its loader.
        module.__spec__.loader = module.__loader__ = self.loader
        with self.around():
            self.loader.exec_module(module)


def _load_within(package, around):
    """Load a package within `around()` when any module imports it."""
    waiting = [(f.package, f.around) for f in sys.meta_path if isinstance(f, _Finder)]
    if package not in sys.modules and (package, around) not in waiting:
        sys.meta_path.insert(0, _Finder(package, around))


def _no_retracing(record):
    """Drop the advice about functions that are traced again: only a programmer can follow it."""
    return "triggered tf.function retracing" not in record.getMessage()


def quiet_tensorflow() -> None:
    """Silence TensorFlow when any module imports it, unless the user has set a level."""
    os.environ.setdefault(LEVEL, "3")
    if os.environ[LEVEL] == "3":
        logging.getLogger("tensorflow").addFilter(_no_retracing)
    _load_within("tensorflow", dropping_start_up_lines)


def skip_optional_imports() -> None:
    """Hide packages that are optional for Keras when any module imports it."""
    for package in ("tensorflow", "keras", "keras_tuner"):
        _load_within(package, hiding_optional_packages)
