"""TensorFlow's start-up lines are dropped, nothing else is, and commands start without packages
that they do not need."""

import logging
import os
import subprocess
import sys

import pytest

from keras_tune.start_up import dropping_start_up_lines, quiet_tensorflow

pytestmark = pytest.mark.one_backend

LINES = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    "I0000 00:00:1795599976.839425    1257 port.cc:153] oneDNN custom operations are on.\n"
    "E0000 00:00:1795599982.683758    1257 cuda_platform.cc:52] failed call to cuInit\n"
)


@pytest.mark.parametrize("level, kept", [("3", ""), ("2", LINES)])
def test_what_is_dropped_and_what_is_not(capfd, monkeypatch, level, kept):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
    with pytest.raises(ZeroDivisionError), dropping_start_up_lines():
        os.write(2, f"{LINES}of another library\n".encode())
        raise ZeroDivisionError
    os.write(2, b"later\n")
    assert capfd.readouterr().err == f"{kept}of another library\nlater\n"


@pytest.mark.parametrize("level, kept", [("3", False), ("2", True)])
def test_advice_about_retracing_is_dropped(monkeypatch, level, kept):
    logger = logging.getLogger("tensorflow")
    monkeypatch.setattr(logger, "filters", [])
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
    quiet_tensorflow()
    advice = {"msg": "%d calls triggered tf.function retracing", "args": (5,)}
    assert bool(logger.filter(logging.makeLogRecord(advice))) == kept
    assert logger.filter(logging.makeLogRecord({"msg": "another warning"}))


def test_a_command_writes_nothing_of_tensorflow_s():
    pytest.importorskip("tensorflow")
    script = (
        "from keras_tune.recipes._cli import choose_backend\n"
        "choose_backend('tensorflow')\n"
        "import keras\n"
        "print(keras.ops.ones(2).device.rpartition('/')[2])\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "device:CPU:0" or "GPU" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_a_command_imports_keras_without_optional_packages(backend):
    pytest.importorskip(backend)
    script = (
        "import os, sys\n"
        "from keras_tune.recipes._cli import choose_backend\n"
        f"choose_backend({backend!r})\n"
        "import keras\n"
        "print({'matplotlib', 'pandas', 'sklearn', 'jax', 'torch'} & set(sys.modules))\n"
        "import matplotlib, pandas, sklearn\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str({backend} - {"tensorflow"})
