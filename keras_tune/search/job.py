"""One training of a search, in this process or in one of its own."""

import atexit
import collections.abc
import dataclasses
import gc
import math
import multiprocessing
import os
import pathlib
import threading
import time

import keras
from keras_tuner.errors import FailedTrialError

from keras_tune.errors import UserError
from keras_tune.storage import leave


@dataclasses.dataclass
class Job:
    """What it takes to train one configuration; picklable, for a process of its own.

    Args:
        hypermodel: `TUNeHyperModel`.
        hyperparameters: `keras_tuner.HyperParameters`.
        streams: Function of (initial_epoch, epochs) that gives an object with `train`, `valid` and
            `steps_per_epoch`. For `isolated`, defined at the top of a module.
        epochs: Integer, the epoch before which training ends.
        callbacks: Function without arguments that gives a list of Keras callbacks. Defaults to
            none.
        initial_epoch: Integer, the epoch at which training begins. Defaults to 0.
        warm_start: Path of the `.keras` file to go on from. Defaults to None.
        history: Path of the `.csv` for the metrics of every epoch. Defaults to None.
        save: Path for the trained model with its optimizer. Defaults to None.
    """

    hypermodel: object
    hyperparameters: object
    streams: collections.abc.Callable
    epochs: int
    callbacks: collections.abc.Callable | None = None
    initial_epoch: int = 0
    warm_start: pathlib.Path | None = None
    history: pathlib.Path | None = None
    save: pathlib.Path | None = None


def run(job):
    """Train a configuration.

    Args:
        job: `Job`.

    Returns:
        A dict with `history` (lists by metric), `parameters`, `seconds` and `peak_memory_mb`.

    Raises:
        FailedTrialError: The configuration fits neither view nor budget, or memory ran out.
        UserError: The data or the settings that all trials share are wrong.
    """
    from keras_tune.files import atomic_path
    from keras_tune.search.memory import peak_megabytes, reset_peak
    from keras_tune.training import load_to_continue

    keras.utils.clear_session()
    gc.collect()
    reset_peak()
    try:
        if job.warm_start:
            job.hypermodel.prepare()
            model = load_to_continue(job.warm_start, job.hypermodel.jit_compile)
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
        # The streams shuffle for themselves, in an order that the seed decides.
        shuffle=False,
        verbose=0,
    )
    return {name: [float(value) for value in values] for name, values in fitted.history.items()}


def run_isolated(job):
    """Train a configuration in a new process, whose memory comes back when it ends.

    TensorFlow never gives memory of a GPU back, and a crash of a driver or the system's killer of
    processes takes one trial along, not the search.

    Args:
        job: `Job`.

    Returns:
        As `run`.

    Raises:
        FailedTrialError: As `run`, or the process was killed.
        UserError: As `run`.
        RuntimeError: Anything else went wrong there.

    Example:

    ```python
    outcome = run_isolated(Job(hypermodel, hyperparameters, streams, epochs=10))
    ```
    """
    # Fork would copy the threads' locks and the frameworks' state.
    context = multiprocessing.get_context("spawn")
    # A share of the device for each of several workers, instead of three quarters for the first.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ["KERAS_BACKEND"] = keras.backend.backend()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(job, sender), daemon=True)
    process.start()
    # So that the end of the child is the end of the pipe.
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
    atexit.register(leave, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
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


def _end_with_parent():
    """Leave no training behind when the search is killed."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _death(exit_code):
    if exit_code is not None and exit_code < 0:
        reason = " (the system does that when memory runs out)" if exit_code == -9 else ""
        return f"its process was killed by signal {-exit_code}{reason}"
    return f"its process ended with status {exit_code}"


_MEMORY_ERRORS = ("MemoryError", "OutOfMemoryError", "ResourceExhaustedError")


def ran_out_of_memory(error):
    """Whether an exception of any backend says that memory ran out.

    Args:
        error: An exception.

    Returns:
        Boolean.
    """
    if any(kind.__name__ in _MEMORY_ERRORS for kind in type(error).__mro__):
        return True
    # JAX and XLA have one class for everything, and say which of it in the message.
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()


def _first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
