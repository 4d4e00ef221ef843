"""TensorFlow's start-up lines, which it writes whatever its log level is.

While it is imported, TensorFlow writes lines about oneDNN, CUDA and its log to standard error,
before it reads `TF_CPP_MIN_LOG_LEVEL`. Where that is 3, which asks for silence, they are dropped.
The command lines set it to 3 unless the user has set it.
"""

import contextlib
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


class _QuietFinder:
    """Finds tensorflow in the usual way, and loads it with `dropping_start_up_lines`."""

    def find_spec(self, name, path=None, target=None):
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                with dropping_start_up_lines():
                    execute(module)

            spec.loader.exec_module = exec_module
        return spec


def _no_retracing(record):
    """Drop the advice about functions that are traced again: only a programmer can follow it."""
    return "triggered tf.function retracing" not in record.getMessage()


def quiet_tensorflow() -> None:
    """Silence TensorFlow when any module imports it, unless the user has set a level."""
    os.environ.setdefault(LEVEL, "3")
    if os.environ[LEVEL] == "3":
        logging.getLogger("tensorflow").addFilter(_no_retracing)
    waiting = any(isinstance(finder, _QuietFinder) for finder in sys.meta_path)
    if "tensorflow" not in sys.modules and not waiting:
        sys.meta_path.insert(0, _QuietFinder())
