"""Training on several devices and machines: which there are, and who does what."""

import contextlib
import dataclasses
import json
import os

import keras

from keras_tune.data.tensorflow import pipeline_options
from keras_tune.errors import UserError

# What Keras cannot do with PyTorch today; `PyTorch` in docs/large_scale.md says the same.
TORCH_SENTENCE = (
    "Keras' PyTorch trainer drives one device: up to version 3.15 it has no "
    "DistributedDataParallel; take --backend tensorflow or jax for several devices"
)


@dataclasses.dataclass
class Devices:
    """How a batch is spread.

    Attributes:
        kind: "none", "mirrored" (devices of one machine, TensorFlow), "multi_worker" (machines,
            TensorFlow) or "data_parallel" (devices of one machine or several, JAX).
        replicas: Integer, devices that share a batch.
        processes: Integer, processes that share the work.
        process: Integer, which of them this is; 0 is the one whose files count.
        strategy: `tf.distribute.Strategy`, or None.
    """

    kind: str = "none"
    replicas: int = 1
    processes: int = 1
    process: int = 0
    strategy: object = None

    @property
    def part(self):
        """The part of the data that this process reads; see `keras_tune.data.BatchOptions`."""
        return self.process, self.processes

    def scope(self):
        """The context in which models are built and loaded."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def feed(self, stream):
        """Hand this process' part of the batches to its devices.

        Args:
            stream: Batches that were opened with `part`: `tf.data.Dataset`, a stream of
                `keras_tune.data.array_clips`, or None.

        Returns:
            What `fit` takes. With several machines it never ends, since Keras cannot tell how long
            it is: give `steps_per_epoch` and `validation_steps`.
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
        # The files were dealt to the processes by whoever opened them, and nobody does it again.
        return self.strategy.distribute_datasets_from_function(lambda context: dataset)


def choose_devices(distribute):
    """Set up the devices that a run is spread over; before anything is computed.

    Args:
        distribute: "none", "mirrored", "multi_worker" (machines are named by `TF_CONFIG`),
            "data_parallel" (machines by `KERAS_DISTRIBUTION_JOB_ADDRESSES` and its kin, see
            `keras.distribution.initialize`), or "auto" for what there is.

    Returns:
        `Devices`.

    Raises:
        UserError: The backend cannot do it.

    Example:

    ```python
    devices = choose_devices("auto")
    with devices.scope():
        model = ContrastiveModel(encoder)
    ```
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
        raise UserError(f"--distribute {distribute}: {TORCH_SENTENCE}")
    if (backend, distribute) not in makers:
        other = ", ".join(kind for owner, kind in makers if owner == backend)
        raise UserError(
            f"--distribute {distribute}: not with the backend {backend}, which has {other}"
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

    # Simulated CPUs count as devices, too.
    gpus = tf.config.list_logical_devices("GPU")
    names = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
    strategy = tf.distribute.MirroredStrategy(names)
    return Devices("mirrored", strategy.num_replicas_in_sync, strategy=strategy)


def _multi_worker():
    import tensorflow as tf

    if not os.environ.get("TF_CONFIG"):
        raise UserError(
            "--distribute multi_worker: set TF_CONFIG to the cluster and this process' task in it"
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
    return Devices(
        "data_parallel", jax.device_count(), jax.process_count(), jax.process_index(), None
    )


def _as_float(tf, part):
    """Clips of int16 as float32 of full scale 1; all else as it is."""
    return tf.cast(part, "float32") / 32768 if part.dtype == tf.int16 else part


def _as_dataset(tf, stream):
    """A `PyDataset` of arrays, or of dicts of arrays, as a `tf.data.Dataset`."""
    first = stream[0]

    spec = tf.nest.map_structure(lambda part: tf.TensorSpec(part.shape, part.dtype), first)
    dataset = tf.data.Dataset.from_generator(lambda: stream, output_signature=spec).prefetch(2)
    # Else Keras finds the end by a step too many, which counts in some of the metrics.
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(stream.num_batches))
    return dataset.with_options(pipeline_options(tf))


def synchronize_batch_normalization(model):
    """Let batch normalization take its statistics from the batch of all replicas.

    On JAX it always does. On TensorFlow it is a setting of the layers, which saved files do not
    hold.

    Args:
        model: Keras model.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
