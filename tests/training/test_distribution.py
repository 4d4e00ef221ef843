"""Several devices give what one gives with the same global batch."""

import json
import os
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_tune.data import array_clips
from keras_tune.training.distribution import Devices, choose_devices

# Trains five steps on one device or two, validates, and saves the weights.
SCRIPT = """
import os, sys
kind, folder, tests, count, micro_batch = sys.argv[1:6]
sys.path.insert(0, tests)
import keras
if kind == "mirrored" and int(count) > 1:
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from keras_tune.training.distribution import choose_devices, synchronize_batch_normalization
devices = choose_devices(kind)
assert devices.replicas == int(count) or kind == "none", devices
import numpy as np
from seeded import seed_weights
from keras_tune.data import array_clips
from keras_tune.models import TUNe
from keras_tune.training import ContrastiveModel

clips = np.random.default_rng(0).normal(0, 0.3, (40, 243)).astype("float32")
with devices.scope():
    encoder = TUNe(
        contraction_depth=1, decoder_depth=1, base_filters=3, tail_filters=[6, 8], input_samples=81
    )
    model = seed_weights(
        ContrastiveModel(encoder, projection_dim=8, micro_batch=int(micro_batch) or None)
    )
    if devices.strategy:
        synchronize_batch_normalization(model)
    model.compile(keras.optimizers.SGD(0.05), jit_compile=False)
options = {"clip_samples": 81, "crops": 2, "batch_size": 8, "part": devices.part}
# Of clips of a group, and of clips that weigh nothing, some lie on each of the devices.
stream = array_clips(clips, seed=1, groups=np.arange(40) // 8, **options)
valid = array_clips(
    clips[:12], shuffle=False, fill_remainder=True, groups=np.arange(12) // 2, **options
)
history = model.fit(
    devices.feed(stream),
    validation_data=devices.feed(valid),
    validation_steps=2,
    epochs=1,
    steps_per_epoch=5,
    shuffle=False,
    verbose=0,
)
if kind == "mirrored":
    from keras_tune.training.distribution import draw_states

    # Each replica draws crops and augmentations of its own.
    model.reseed(3)
    copies = devices.strategy.experimental_local_results(draw_states(model)[0]._value)
    assert len({tuple(copy.numpy()) for copy in copies}) == 2
keras.distribution.set_distribution(None)
metrics = {name: values[0] for name, values in history.history.items()}
np.savez(
    f"{folder}/{kind}_{devices.process}_{count}_{micro_batch}.npz",
    *[np.asarray(keras.ops.convert_to_numpy(w)) for w in model.weights],
    **{"metric_" + k: v for k, v in metrics.items()},
)
"""


def start(folder, kind, count, micro_batch=0, **environment):
    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    command = [sys.executable, "-c", SCRIPT, kind, folder, tests, count, micro_batch]
    return subprocess.Popen(
        list(map(str, command)),
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes):
    for process in processes:
        output, _ = process.communicate()
        assert process.returncode == 0, output


def load(folder, name):
    with np.load(folder / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if keras.backend.backend() == "torch":
        pytest.skip("Keras has one device with PyTorch")
    folder = tmp_path_factory.mktemp("weights")
    finish(start(folder, "none", 1))
    return folder


def assert_same(folder, name, other="none_0_1_0"):
    found, expected = load(folder, name), load(folder, other)
    assert set(found) == set(expected)
    for key, value in sorted(expected.items()):
        np.testing.assert_allclose(found[key], value, atol=1e-4, rtol=1e-4, err_msg=key)


@pytest.mark.slow
def test_two_devices(folder):
    kind = {"tensorflow": "mirrored", "jax": "data_parallel"}[keras.backend.backend()]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    # XLA has a thread for each processor, and a device that waits for the other occupies one: with
    # two processors, any other work could keep the second device from ever arriving.
    finish(start(folder, kind, 2, XLA_FLAGS=flags, NPROC="8"))
    assert_same(folder, f"{kind}_0_2_0")


@pytest.mark.slow
def test_two_processes(folder):
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            ports.append(free.getsockname()[1])
    if keras.backend.backend() == "tensorflow":
        cluster = {"worker": [f"localhost:{port}" for port in ports]}
        kind = "multi_worker"
        environments = [
            {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": k}})}
            for k in range(2)
        ]
    else:
        kind = "data_parallel"
        environments = [
            {
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"localhost:{ports[0]}",
                "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
                "KERAS_DISTRIBUTION_PROCESS_ID": str(k),
            }
            for k in range(2)
        ]
    finish(*[start(folder, kind, 2, **environment) for environment in environments])
    for process in range(2):
        assert_same(folder, f"{kind}_{process}_2_0")


@pytest.mark.parametrize(
    "length",
    [
        {"repeat": True},
        {"epochs": 3},
        {"batch_size": 4, "drop_remainder": False},
        {"batch_size": 4, "part": (1, 2)},
    ],
)
def test_arrays_give_the_same_batches_to_several_devices(length):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("about tf.distribute")
    import tensorflow as tf

    audio = np.random.default_rng(0).normal(0, 0.1, (6, 300)).astype("float32")
    stream = array_clips(audio, **{"clip_samples": 243, "batch_size": 2, "seed": 1, **length})
    fed = Devices("mirrored", strategy=tf.distribute.get_strategy()).feed(stream)
    endless = "repeat" in length
    assert fed.cardinality().numpy() == (tf.data.INFINITE_CARDINALITY if endless else len(stream))
    count = 9 if endless else len(stream)
    batches = list(fed.take(count + 1 - endless))
    assert len(batches) == count
    for index, batch in enumerate(batches):
        np.testing.assert_array_equal(batch["audio"], stream[index]["audio"])


def test_pytorch_says_what_it_cannot_do():
    if keras.backend.backend() != "torch":
        pytest.skip("about PyTorch")
    for kind in ("mirrored", "multi_worker", "data_parallel"):
        with pytest.raises(ValueError, match="PyTorch trainer supports one device"):
            choose_devices(kind)
    assert choose_devices("auto").replicas == 1


def test_what_belongs_to_another_backend():
    backend = keras.backend.backend()
    if backend == "torch":
        pytest.skip("PyTorch has its own sentence")
    other = "data_parallel" if backend == "tensorflow" else "mirrored"
    with pytest.raises(
        ValueError, match=f"with the {backend} backend. Received: distribute={other}"
    ):
        choose_devices(other)
