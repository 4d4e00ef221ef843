"""The training of one trial, in this process or in a separate one, and the memory it needs."""

from __future__ import annotations

import dataclasses
import gc
import math
import multiprocessing
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import keras_tuner
from keras_tuner.errors import FailedTrialError

from keras_tune.errors import UserError
from keras_tune.storage import begin_child_process

if TYPE_CHECKING:
    from keras_tune.search.hypermodel import TUNeHyperModel

# Linux: writing "5" to the first file resets the peak of the resident memory in the second.
CLEAR_REFS = pathlib.Path("/proc/self/clear_refs")
STATUS = pathlib.Path("/proc/self/status")
# The exception classes of TensorFlow, PyTorch and Python for running out of memory.
MEMORY_ERRORS = ("MemoryError", "OutOfMemoryError", "ResourceExhaustedError")


@dataclasses.dataclass
class Job:
    """Everything that the training of one configuration needs; picklable, for another process.

    Args:
        hypermodel: `TUNeHyperModel`.
        hyperparameters: `keras_tuner.HyperParameters`.
        streams: Function of (initial_epoch, epochs) that returns an object with `train`, `valid`
            and `steps_per_epoch`. For `run_isolated`, it must be defined at the top of a module.
        epochs: Integer, the epoch before which training ends.
        callbacks: Function without arguments that returns a list of Keras callbacks. Defaults to
            none.
        initial_epoch: Integer, the epoch at which training begins. Defaults to 0.
        warm_start: Path of the `.keras` file to resume from. Defaults to None.
        history: Path of the `.csv` file for the metrics of every epoch. Defaults to None.
        save: Path for the trained model with its optimizer. Defaults to None.

    Example:

    ```python
    import keras_tuner
    from keras_tune.search import Job, TUNeHyperModel

    job = Job(TUNeHyperModel(), keras_tuner.HyperParameters(), streams, epochs=10)
    job.initial_epoch  # 0
    ```
    """

    hypermodel: TUNeHyperModel
    hyperparameters: keras_tuner.HyperParameters
    streams: Callable[[int, int], Any]
    epochs: int
    callbacks: Callable[[], list] | None = None
    initial_epoch: int = 0
    warm_start: pathlib.Path | None = None
    history: pathlib.Path | None = None
    save: pathlib.Path | None = None


def run(job: Job) -> dict[str, Any]:
    """Train a configuration.

    Returns:
        A dict with `history` (lists by metric), `parameters`, `seconds` and `peak_memory_mb`.

    Raises:
        FailedTrialError: The configuration fits neither view nor budget, or memory ran out.
        UserError: The data or the settings that all trials share are wrong.
    """
    from keras_tune.files import atomic_path
    from keras_tune.training import load_checkpoint

    keras.utils.clear_session()
    gc.collect()
    reset_peak()
    try:
        if job.warm_start:
            job.hypermodel.prepare()
            model = load_checkpoint(job.warm_start, job.hypermodel.jit_compile)
        else:
            model = job.hypermodel.build(job.hyperparameters)
        started = time.monotonic()
        history = _fit(job, model)
        seconds = time.monotonic() - started
        if job.save:
            with atomic_path(job.save) as temporary:
                model.save(temporary)
    except (FailedTrialError, UserError):
        raise
    except Exception as error:
        if ran_out_of_memory(error):
            raise FailedTrialError(f"out of memory: {_first_line(error)}") from error
        raise
    return {
        "history": history,
        "parameters": sum(math.prod(weight.shape) for weight in model.encoder.trainable_weights),
        "seconds": round(seconds, 2),
        "peak_memory_mb": peak_megabytes(),
    }


def _fit(job, model):
    from keras_tune.training import EpochSeed

    streams = job.streams(job.initial_epoch, job.epochs)
    callbacks = [EpochSeed(job.hypermodel.seed), *(job.callbacks() if job.callbacks else [])]
    if job.history:
        callbacks.append(keras.callbacks.CSVLogger(str(job.history)))
    fitted = model.fit(
        streams.train,
        validation_data=streams.valid,
        epochs=job.epochs,
        initial_epoch=job.initial_epoch,
        steps_per_epoch=streams.steps_per_epoch,
        callbacks=callbacks,
        # The streams shuffle on their own, in an order that the seed decides.
        shuffle=False,
        verbose=0,
    )
    return {name: [float(value) for value in values] for name, values in fitted.history.items()}


def run_isolated(job: Job) -> dict[str, Any]:
    """As `run`, in a new process, whose memory is free again when it ends.

    TensorFlow never frees the memory of a GPU. In a separate process, a crash of the driver or a
    lack of memory ends only the trial, not the search.

    Raises:
        FailedTrialError: As `run`, or the process was killed.
        UserError: As `run`.
        RuntimeError: Any other error in the process.
    """
    # A fork would copy the locks of the threads and the state of the frameworks.
    context = multiprocessing.get_context("spawn")
    # A share of the device for each of several workers, instead of three quarters for the first.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ["KERAS_BACKEND"] = keras.backend.backend()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(job, sender), daemon=True)
    process.start()
    # So that the pipe ends when the child does.
    sender.close()
    try:
        kind, content = receiver.recv()
    except EOFError:
        process.join()
        raise FailedTrialError(_death(process.exitcode)) from None
    finally:
        receiver.close()
    process.join()
    if kind == "done":
        return content
    errors = {"failed": FailedTrialError, "user": UserError, "error": RuntimeError}
    raise errors[kind](content)


def _child(job, sender):
    begin_child_process()
    try:
        message = ("done", run(job))
    except FailedTrialError as error:
        message = ("failed", str(error))
    except UserError as error:
        message = ("user", str(error))
    except Exception as error:
        message = ("error", f"{type(error).__name__}: {_first_line(error)}")
    sender.send(message)
    sender.close()


def _death(exit_code):
    if exit_code is not None and exit_code < 0:
        reason = " (usually because memory ran out)" if exit_code == -9 else ""
        return f"its process was killed by signal {-exit_code}{reason}"
    return f"its process ended with status {exit_code}"


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of any backend means that memory ran out."""
    if any(kind.__name__ in MEMORY_ERRORS for kind in type(error).__mro__):
        return True
    # JAX and XLA have one class for all errors, and name the kind in the message.
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()


def _first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def reset_peak() -> None:
    """Start a new measurement of `peak_megabytes`, as far as the backend and the system can."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
    elif backend == "tensorflow":
        import tensorflow as tf

        for device in tf.config.list_logical_devices("GPU"):
            tf.config.experimental.reset_memory_stats(device.name.removeprefix("/device:"))
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        pass


def peak_megabytes() -> float:
    """The peak of the memory since `reset_peak`, or since the process began if it has no effect.

    In units of 10⁶ bytes. On a GPU it is the memory that the backend has allocated there (on JAX
    since the process began), on a CPU the resident memory of the process.
    """
    return round((_device_bytes() or _resident_bytes()) / 1e6, 1)


def _device_bytes():
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    if backend == "jax":
        import jax

        stats = [device.memory_stats() or {} for device in jax.local_devices()]
        return max(entry.get("peak_bytes_in_use", 0) for entry in stats)
    import tensorflow as tf

    return max(
        (
            tf.config.experimental.get_memory_info(device.name.removeprefix("/device:"))["peak"]
            for device in tf.config.list_logical_devices("GPU")
        ),
        default=0,
    )


def _resident_bytes():
    try:
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        # Windows.
        import psutil

        return psutil.Process().memory_info().peak_wset
    # macOS counts bytes, the others kibibytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
