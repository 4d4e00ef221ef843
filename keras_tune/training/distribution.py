"""Training on several devices and machines: their set-up, their data, and parts of a step.

With `tf.distribute`, each replica has its part of a batch and its own copy of the code; this module
combines what depends on the whole batch. JAX needs none of this, since its models compute with the
whole batch, wherever its parts are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from typing import Any

import keras
from keras import ops

from keras_tune.data.record_format import pipeline_options
from keras_tune.keras_internals import sublayers
from keras_tune.types import Tensor

# What Keras cannot do with PyTorch today; docs/large_scale.md says the same.
TORCH_SENTENCE = (
    "Keras' PyTorch trainer supports one device: up to version 3.15 it has no "
    "DistributedDataParallel. Use the tensorflow or the jax backend for several devices"
)

# A step between the seeds of the replicas; the golden ratio of 32 bits.
SEED_STEP = 0x9E3779B1


@dataclasses.dataclass
class Devices:
    """How a batch is distributed.

    Args:
        kind: "none", "mirrored" (devices of one machine, TensorFlow), "multi_worker" (machines,
            TensorFlow) or "data_parallel" (devices of one machine or several, JAX). Defaults to
            "none".
        replicas: Integer, devices that share a batch. Defaults to 1.
        processes: Integer, processes that share the work. Defaults to 1.
        process: Integer, the number of this process; the files of process 0 are those of the run.
            Defaults to 0.
        strategy: `tf.distribute.Strategy`. Defaults to None.
    """

    kind: str = "none"
    replicas: int = 1
    processes: int = 1
    process: int = 0
    strategy: Any = None

    @property
    def part(self) -> tuple[int, int]:
        """The part of the data that this process reads; see `keras_tune.data.BatchOptions`."""
        return self.process, self.processes

    def scope(self) -> contextlib.AbstractContextManager:
        """Return the context in which models are built and loaded."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def check(self, config: Any) -> None:
        """Raise a `ValueError` if the settings of a `PretrainConfig` do not suit these devices."""
        for key in ("batch_size", "micro_batch"):
            value = getattr(config, key)
            if value is not None and value % self.replicas:
                raise ValueError(
                    f"`{key}` must be a multiple of the {self.replicas} devices. "
                    f"Received: {key}={value}"
                )
        if self.strategy and config.micro_batch is not None:
            # Its replicas cannot meet within the loop over micro-batches.
            raise ValueError(
                "`micro_batch` needs a single device on TensorFlow; use the JAX backend. "
                f"Received: micro_batch={config.micro_batch}"
            )
        if self.kind != "none":
            for key, off in (("resident", False), ("steps_per_execution", 1), ("keep_best", None)):
                if getattr(config, key) != off:
                    raise ValueError(
                        f"`{key}` must not be set with several devices; use `distribute='none'`. "
                        f"Received: {key}={getattr(config, key)}"
                    )

    def feed(self, stream: Any) -> Any:
        """Distribute this process' part of the batches to its devices.

        Args:
            stream: Batches that were opened with `part`: `tf.data.Dataset`, a stream of
                `keras_tune.data.array_clips`, or None.

        Returns:
            What `fit` takes. With several machines it never ends, since Keras does not know its
            length: give `steps_per_epoch` and `validation_steps`.
        """
        if self.strategy is None or stream is None:
            return stream
        import tensorflow as tf

        dataset = stream if isinstance(stream, tf.data.Dataset) else _as_dataset(tf, stream)
        # Keras averages a first batch over the devices, which have no such sum of int16.
        dataset = dataset.map(
            lambda batch: tf.nest.map_structure(lambda part: _as_float(tf, part), batch),
            tf.data.AUTOTUNE,
        )
        if self.kind == "mirrored":
            # Keras splits the batches of one process itself.
            return dataset
        if self.replicas > self.processes:
            size = tf.nest.flatten(dataset.element_spec)[0].shape[0]
            size = size * self.processes // self.replicas
            dataset = dataset.unbatch().batch(size, drop_remainder=True)
        dataset = dataset.repeat()
        # The stream already is this process' part of the files.
        return self.strategy.distribute_datasets_from_function(lambda context: dataset)


def choose_devices(distribute: str) -> Devices:
    """Set up the devices of a run; call it before anything is computed.

    Args:
        distribute: "none", "mirrored", "multi_worker" (machines are listed in `TF_CONFIG`),
            "data_parallel" (machines in `KERAS_DISTRIBUTION_JOB_ADDRESSES` and related variables,
            see `keras.distribution.initialize`), or "auto" for what is available.

    Returns:
        `Devices`.

    Raises:
        ValueError: The backend cannot do it.
    """
    backend = keras.backend.backend()
    makers = {
        ("tensorflow", "mirrored"): _mirrored,
        ("tensorflow", "multi_worker"): _multi_worker,
        ("jax", "data_parallel"): _data_parallel,
    }
    if distribute == "auto":
        distribute = _available(backend)
    if distribute == "none":
        return Devices()
    if backend == "torch":
        raise ValueError(
            f"`distribute` must be 'none' on PyTorch. {TORCH_SENTENCE}. "
            f"Received: distribute={distribute}"
        )
    if (backend, distribute) not in makers:
        known = ", ".join(kind for owner, kind in makers if owner == backend)
        raise ValueError(
            f"`distribute` must be one of none, auto, {known} with the {backend} backend. "
            f"Received: distribute={distribute}"
        )
    return makers[backend, distribute]()


def _available(backend):
    if backend == "tensorflow":
        import tensorflow as tf

        cluster = json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {})
        if sum(len(cluster.get(job, ())) for job in ("chief", "worker")) > 1:
            return "multi_worker"
        return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "none"
    if backend == "jax":
        several = int(os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES", 1)) > 1
        return "data_parallel" if several or len(keras.distribution.list_devices()) > 1 else "none"
    return "none"


def _mirrored():
    import tensorflow as tf

    # Simulated CPUs also count as devices.
    gpus = tf.config.list_logical_devices("GPU")
    names = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
    strategy = tf.distribute.MirroredStrategy(names)
    return Devices("mirrored", strategy.num_replicas_in_sync, strategy=strategy)


def _multi_worker():
    import tensorflow as tf

    if not os.environ.get("TF_CONFIG"):
        raise ValueError(
            "`distribute` needs the environment variable TF_CONFIG, with the cluster and this "
            "process' task in it. Received: distribute=multi_worker"
        )
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    resolver = strategy.cluster_resolver
    workers = resolver.cluster_spec().as_dict()
    chiefs = len(workers.get("chief", ()))
    number = resolver.task_id + (chiefs if resolver.task_type == "worker" else 0)
    return Devices(
        "multi_worker",
        strategy.num_replicas_in_sync,
        chiefs + len(workers.get("worker", ())),
        number,
        strategy,
    )


def _data_parallel():
    if int(os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES", 1)) > 1:
        keras.distribution.initialize()
    import jax

    # Every process reads its own part of the data.
    parallel = keras.distribution.DataParallel(auto_shard_dataset=False)
    keras.distribution.set_distribution(parallel)
    return Devices("data_parallel", jax.device_count(), jax.process_count(), jax.process_index())


def _as_float(tf, part):
    """Clips of int16 as float32 of full scale 1; all else as it is."""
    return tf.cast(part, "float32") / 32768 if part.dtype == tf.int16 else part


def _as_dataset(tf, stream):
    """A `PyDataset` of arrays, or of dicts of arrays, as a `tf.data.Dataset`."""

    def describe(part):
        rows = None if stream.options.smaller_last else part.shape[0]
        return tf.TensorSpec((rows, *part.shape[1:]), part.dtype)

    spec = tf.nest.map_structure(describe, stream[0])
    dataset = tf.data.Dataset.from_generator(lambda: stream, output_signature=spec).prefetch(2)
    # Otherwise Keras finds the end by one step too many, which some metrics would include.
    endless = stream.num_batches is None
    length = tf.data.INFINITE_CARDINALITY if endless else stream.num_batches
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(length))
    return dataset.with_options(pipeline_options(tf))


def synchronize_batch_normalization(model: keras.Model) -> None:
    """Let the batch normalization of a model use the statistics of the batch of all replicas.

    On JAX it always does. On TensorFlow it is a setting of the layers that is not saved.
    """
    for layer in sublayers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True


def replica_count() -> int:
    """The number of replicas that run the current code; 1 outside of `tf.distribute`."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def gather(tensor: Tensor) -> Tensor:
    """Concatenate the rows of all replicas, with their gradients.

    Every replica then computes the same with them. Gradients are summed over replicas, so a loss
    must be divided by their `replica_count`, as `keras.losses.Loss` does.
    """
    if replica_count() == 1:
        return tensor
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    # None while Keras builds the model symbolically.
    if context is None:
        return tensor
    # Data is not on a device yet, and machines need one to gather to.
    return context.all_gather(tf.identity(tensor), axis=0)


def as_reported(logs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the result of a training step the shape that Keras can reduce over machines.

    With `MultiWorkerMirroredStrategy` Keras reduces metrics along their first axis, so they get
    one.
    """
    if keras.backend.backend() != "tensorflow":
        return logs
    import tensorflow as tf

    if not isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
        return logs
    return {name: ops.reshape(value, (1,)) for name, value in logs.items()}


def draw_states(model: keras.Model) -> list[keras.Variable]:
    """Return the variables with the state of a model's random generators."""
    # They are the variables that Keras does not count as weights.
    weights = {id(weight) for weight in model.non_trainable_weights}
    return [v for v in model.non_trainable_variables if id(v) not in weights]


def spread_seeds(model: keras.Model) -> None:
    """Let each replica draw its own random numbers, by changing its copy of `draw_states`."""
    if keras.backend.backend() != "tensorflow":
        return
    strategy = model.distribute_strategy
    if strategy.num_replicas_in_sync == 1:
        return
    import tensorflow as tf

    states = draw_states(model)

    def shift():
        context = tf.distribute.get_replica_context()
        number = ops.cast(context.replica_id_in_sync_group, states[0].dtype)
        step = ops.cast(SEED_STEP & 0x7FFFFFFF, states[0].dtype)
        for state in states:
            state.assign(state + ops.stack([number * step, ops.zeros_like(number)]))

    strategy.run(shift)
