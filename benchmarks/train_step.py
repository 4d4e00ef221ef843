"""Views per second of a training step, by model, backend and precision, beside plain PyTorch.

    python benchmarks/train_step.py --models clmr tune_plus --clips 8

Every contender runs in a process of its own, one after the other, on the same views. A step is
forward, NT-Xent, backward and Adam; augmentation and input are not in it, but for the column
"chain", the share that the published augmentation chain would take of a step that has it. The
column "forward" is the share of the forward pass in training. "roofline" is the least time that a
step can take, the greater of arithmetic and memory traffic layer by layer, at the matrix rate and
the memory bandwidth measured in the same process, over the time it took. "ratio" is to plain
PyTorch in the same precision. Memory is the process's peak on a CPU, the allocator's on a GPU.
"infer" is the encoder alone, without gradients, batch normalization folded away.

With `--resident` a step is one of `fit` on clips that lie in the device's memory, as a real run
makes it: crops are cut on the device, and nothing waits for the host. "forward" and "infer" are
left out then. `gpu.py` makes its table of this.
"""

import argparse
import importlib.util
import json
import math
import os
import resource
import subprocess
import sys

from timing import best_seconds, epoch_seconds

MODELS = ("clmr", "tune_vanilla", "tune_tail_5", "tune_plus")
BACKENDS = ("tensorflow", "jax", "torch")


class FailedError(Exception):
    """A contender ended with an error, or was not done in time."""


def layer_work(encoder):
    """(multiplications and additions, values read and written) of every convolution, a view."""
    import keras

    work = []
    for layer in encoder._flatten_layers():
        if not isinstance(layer, (keras.layers.Conv1D, keras.layers.Conv1DTranspose)):
            continue
        name, weights = layer.path, layer.kernel.shape
        steps = _output_steps(encoder, name)
        transposed = isinstance(layer, keras.layers.Conv1DTranspose)
        inputs, outputs = (weights[2], weights[1]) if transposed else (weights[1], weights[2])
        stride = layer.strides[0]
        input_steps = steps // stride if transposed else steps * stride
        taps = weights[0] // stride if transposed else weights[0]
        work.append((2 * taps * inputs * outputs * steps, inputs * input_steps + outputs * steps))
    return work


def _output_steps(encoder, path):
    """The time steps that a stage's convolution puts out."""
    stage = encoder.get_layer(path.split("/")[-2] if path.count("/") == 1 else path.split("/")[0])
    shape = stage.output.shape
    return shape[1] if stage.data_format == "channels_last" else shape[2]


def roofline_seconds(work, views, rate, bandwidth, size):
    """The least time of a training step: forward, and two products of its size backward."""
    return sum(
        3 * views * max(operations / rate, values * size / bandwidth) for operations, values in work
    )


def machine(backend, precision):
    """Measure operations per second of a matrix product, and bytes per second of a copy.

    The matrix holds random numbers: on a GPU, products of constants take less power and time.
    """
    import numpy as np

    def matrix(side):
        return np.random.default_rng(0).random((side, side), "float32") - 0.5

    if backend == "torch":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if "bfloat16" in precision else torch.float32
        side = 2048 if device == "cpu" else 8192
        a = torch.tensor(matrix(side), dtype=dtype, device=device)
        big = torch.ones(2**26 if device == "cpu" else 2**30, device=device)

        def wait(value):
            return value.flatten()[0].item()

        product = best_seconds(lambda: wait(a @ a), 5)
        copy = best_seconds(lambda: wait(big + 1.0), 5)
    elif backend == "jax":
        import jax
        import jax.numpy as jnp

        cpu = jax.default_backend() == "cpu"
        dtype = jnp.bfloat16 if "bfloat16" in precision else jnp.float32
        side = 2048 if cpu else 8192
        a, big = jnp.asarray(matrix(side), dtype), jnp.ones(2**26 if cpu else 2**30)
        multiply, add = jax.jit(lambda a: a @ a), jax.jit(lambda a: a + 1.0)
        product = best_seconds(lambda: multiply(a).block_until_ready(), 5)
        copy = best_seconds(lambda: add(big).block_until_ready(), 5)
    else:
        import tensorflow as tf

        cpu = not tf.config.list_physical_devices("GPU")
        dtype = tf.bfloat16 if "bfloat16" in precision else tf.float32
        side = 2048 if cpu else 8192
        a, big = tf.constant(matrix(side), dtype), tf.ones(2**26 if cpu else 2**30)
        product = best_seconds(lambda: tf.matmul(a, a)[0, 0].numpy(), 5)
        copy = best_seconds(lambda: (big + 1.0)[0].numpy(), 5)
    return 2 * side**3 / product, 2 * 4 * len(big) / copy


def peak_bytes(backend):
    if backend in ("torch", "plain"):
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
    elif backend == "jax":
        import jax

        statistics = jax.devices()[0].memory_stats()
        if statistics:
            return statistics["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_name(backend):
    """What a backend computes on, such as "NVIDIA H200", or "cpu"."""
    if backend == "jax":
        import jax

        return jax.devices()[0].device_kind
    if backend == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    import tensorflow as tf

    for device in tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_device_details(device)["device_name"]
    return "cpu"


def crops(options):
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.standard_normal((options.clips, 2, options.samples)).astype("float32") * 0.1


def ours(backend, preset, options):
    import keras

    from keras_tune.augment import clmr_chain
    from keras_tune.machine import keep_freed_memory
    from keras_tune.models import TUNe
    from keras_tune.serving import fold_batch_norm
    from keras_tune.training import ContrastiveModel

    # As in a run.
    keep_freed_memory(backend)
    keras.config.set_dtype_policy(options.precision)
    encoder = TUNe.from_preset(preset, load_weights=False, input_samples=options.samples)
    if options.resident:
        clips = resident(options)
    else:
        clips = keras.ops.convert_to_tensor(crops(options))

    def step_seconds(augmenter):
        model = ContrastiveModel(encoder, augmenter=augmenter, seed=0)
        # PyTorch makes one step at a time.
        together = options.steps if options.resident and backend != "torch" else 1
        model.compile(keras.optimizers.Adam(3e-4), steps_per_execution=together)
        if not options.resident:
            return best_seconds(lambda: model.train_on_batch(clips), options.repeats)
        model.read_from(clips)
        epochs = {"epochs": options.repeats + 1, "steps_per_epoch": options.steps}
        stream = clips.stream(crops=2, batch_size=options.clips, seed=0, **epochs)
        return epoch_seconds(model, stream, **epochs) / options.steps

    step, with_chain = step_seconds(None), step_seconds(clmr_chain(22050, seed=0))
    peak = peak_bytes(backend)
    rate, bandwidth = machine(backend, options.precision)
    size = 4 if options.precision == "float32" else 2
    least = roofline_seconds(layer_work(encoder), 2 * options.clips, rate, bandwidth, size)
    found = {
        "step": step,
        "with_chain": with_chain,
        "chain": 1 - step / with_chain,
        "roofline": least / step,
        "peak": peak,
        "rate": rate,
        "bandwidth": bandwidth,
        "device": device_name(backend),
        "parameters": sum(math.prod(v.shape) for v in encoder.trainable_variables),
    }
    if options.resident:
        return found
    views = keras.ops.reshape(clips, (-1, options.samples, 1))
    folded = fold_batch_norm(encoder, options.precision)
    infer = best_seconds(lambda: folded.predict_on_batch(views), options.repeats)
    forward = forward_seconds(backend, encoder, views, options) / step
    return {**found, "infer": infer, "forward": forward}


def resident(options):
    """Noise on the device, clips of four windows."""
    import numpy as np

    from keras_tune.data import ResidentClips

    shape = options.clips, 4 * options.samples
    audio = np.random.default_rng(0).integers(-3000, 3000, shape, "int16")
    return ResidentClips(audio, clip_samples=options.samples)


def forward_seconds(backend, encoder, views, options):
    """The forward pass in training, compiled as the training step is."""
    if backend == "tensorflow":
        import tensorflow as tf

        # As in a step, tensors are kept for the gradient.
        @tf.function(autograph=False)
        def forward(views):
            return tf.reduce_sum(encoder(views, training=True))

        return best_seconds(lambda: forward(views).numpy(), options.repeats)
    if backend == "jax":
        import jax

        state = [v.value for v in encoder.non_trainable_variables]
        weights = [v.value for v in encoder.trainable_variables]
        forward = jax.jit(lambda w, s, x: encoder.stateless_call(w, s, x, training=True)[0].sum())
        call = lambda: forward(weights, state, views).block_until_ready()  # noqa: E731
        return best_seconds(call, options.repeats)
    call = lambda: encoder(views, training=True).sum().item()  # noqa: E731
    return best_seconds(call, options.repeats)


def plain(preset, options):
    import plain_pytorch
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = plain_pytorch.build(preset, options.parameters)
    autocast = options.precision == "mixed_bfloat16"
    training = plain_pytorch.TrainingStep(encoder, autocast, device)
    views = torch.tensor(crops(options).reshape(-1, 1, options.samples), device=device)
    step = best_seconds(lambda: training(views).item(), options.repeats)
    peak = peak_bytes("plain")

    def infer():
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=autocast):
            return encoder(views).sum().item()

    encoder.eval()
    found = {"step": step, "peak": peak, "device": device_name("torch")}
    return {**found, "infer": best_seconds(infer, options.repeats)}


def measure(contender, preset, options, parameters=0, limit=None):
    """Run this file for one contender, for at most `limit` seconds."""
    command = [sys.executable, __file__, "--contender", contender, "--models", preset]
    for key in ("clips", "samples", "repeats", "precision", "steps"):
        command += [f"--{key}", str(getattr(options, key))]
    command += ["--resident"] * options.resident
    command += ["--parameters", str(parameters)]
    backend = contender if contender in BACKENDS else "torch"
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    texts = {"capture_output": True, "text": True, "check": False}
    try:
        run = subprocess.run(command, env=environment, timeout=limit, **texts)
    except subprocess.TimeoutExpired:
        raise FailedError(f"not done after {limit:.0f} s") from None
    if run.returncode:
        raise FailedError(run.stderr[-2000:].strip() or f"status {run.returncode}")
    return json.loads(run.stdout.strip().splitlines()[-1])


# Each with how it is written; the numbers that a row has.
COLUMNS = {
    "views/s": ".1f",
    "ratio": ".2f",
    "forward": ".0%",
    "chain": ".0%",
    "roofline": ".0%",
    "peak GB": ".1f",
    "infer/s": ".1f",
    "infer ratio": ".2f",
}


def columns(row, views, baseline=None):
    """The numbers of a row of the table, by column; those that were not measured are missing."""
    found = {name: row[name] for name in ("forward", "chain", "roofline") if name in row}
    found["peak GB"] = row["peak"] / 1e9
    for key, speed, ratio in (("step", "views/s", "ratio"), ("infer", "infer/s", "infer ratio")):
        if key in row:
            found[speed] = views / row[key]
        if key in row and baseline:
            found[ratio] = baseline[key] / row[key]
    return found


def print_row(name, row, views, baseline):
    found = columns(row, views, baseline)
    cells = [format(found[key], form) if key in found else "" for key, form in COLUMNS.items()]
    print(f"{name:<28}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


def options_of(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--backends", nargs="+", default=BACKENDS)
    parser.add_argument("--clips", type=int, default=8, help="clips a batch, two views each")
    parser.add_argument("--samples", type=int, default=59049, help="length of a view")
    parser.add_argument("--repeats", type=int, default=3, help="steps timed; the best counts")
    parser.add_argument("--precision", default="float32", help="float32 or mixed_bfloat16")
    parser.add_argument("--resident", action="store_true", help="fit, clips on the device")
    parser.add_argument("--steps", type=int, default=20, help="steps timed at once by --resident")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--parameters", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main():
    options = options_of()
    if options.contender:
        (preset,) = options.models
        if options.contender == "plain":
            found = plain(preset, options)
        else:
            found = ours(options.contender, preset, options)
        print(json.dumps(found))
        return

    views = 2 * options.clips
    print(f"{views} views of {options.samples} samples, {options.precision}")
    print(f"{'':<28}" + "".join(f"{name:>12}" for name in COLUMNS))
    for preset in options.models:
        rows = {}
        for backend in options.backends:
            if importlib.util.find_spec(backend):
                rows[backend] = measure(backend, preset, options)
        baseline = None
        if importlib.util.find_spec("torch"):
            parameters = next(iter(rows.values()))["parameters"]
            baseline = measure("plain", preset, options, parameters)
            print_row(f"{preset}, plain PyTorch", baseline, views, baseline)
        for backend, row in rows.items():
            print_row(f"{preset}, {backend}", row, views, baseline)
    for backend, row in rows.items():
        print(f"{backend}: {row['rate'] / 1e9:.0f} GFLOP/s, {row['bandwidth'] / 1e9:.1f} GB/s")


if __name__ == "__main__":
    try:
        main()
    except FailedError as error:
        sys.exit(str(error))
