"""Settings of the whole process: signals that stop a run, and deterministic algorithms."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType


class StopSignal:
    """Whether a signal has asked the process to stop; call it to find out.

    Attributes:
        status: Integer, the exit status of a process that the signal stops; None before a signal.
    """

    def __init__(self) -> None:
        self.status: int | None = None

    def __call__(self) -> bool:
        return self.status is not None


@contextlib.contextmanager
def stop_signals() -> Iterator[StopSignal]:
    """Catch SIGTERM and SIGINT (Ctrl-C), so that a run can save its state before it stops.

    Within the block the first signal does not end the process; a second one does. Signals can be
    caught in the main thread only.

    Yields:
        `StopSignal`, a function that tells whether a signal has arrived. `PretrainingRun.fit` and
        `Checkpoint` take it as `should_stop`.

    Example:

    ```python
    from keras_tune.training import stop_signals

    with stop_signals() as should_stop:
        should_stop()  # False
    ```
    """
    stop = StopSignal()

    def note(number: int, _: FrameType | None) -> None:
        if stop():
            sys.exit(128 + number)
        stop.status = 128 + number

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def prepare_determinism() -> None:
    """Set the environment variables that deterministic algorithms need.

    Call it before Keras is imported, since the frameworks read them when they are.
    """
    flag = "--xla_gpu_deterministic_ops=true"
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def make_deterministic() -> None:
    """Choose algorithms that give the same bits every time, whatever the order of threads.

    On GPUs `prepare_determinism` must be called as well, before Keras is imported.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    elif keras.backend.backend() == "torch":
        import torch

        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
