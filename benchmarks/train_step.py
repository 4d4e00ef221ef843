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
"""

import argparse
import importlib.util
import json
import math
import os
import resource
import subprocess
import sys

from timing import best_seconds

MODELS = ("clmr", "tune_vanilla", "tune_tail_5", "tune_plus")
BACKENDS = ("tensorflow", "jax", "torch")


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
    """Measure operations per second of a matrix product, and bytes per second of a copy."""
    if backend == "torch":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if "bfloat16" in precision else torch.float32
        side = 2048 if device == "cpu" else 8192
        a = torch.ones((side, side), dtype=dtype, device=device)
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
        a, big = jnp.ones((side, side), dtype), jnp.ones(2**26 if cpu else 2**30)
        multiply, add = jax.jit(lambda a: a @ a), jax.jit(lambda a: a + 1.0)
        product = best_seconds(lambda: multiply(a).block_until_ready(), 5)
        copy = best_seconds(lambda: add(big).block_until_ready(), 5)
    else:
        import tensorflow as tf

        cpu = not tf.config.list_physical_devices("GPU")
        dtype = tf.bfloat16 if "bfloat16" in precision else tf.float32
        side = 2048 if cpu else 8192
        a, big = tf.ones((side, side), dtype), tf.ones(2**26 if cpu else 2**30)
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


def crops(options):
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.standard_normal((options.clips, 2, options.samples)).astype("float32") * 0.1


def ours(backend, preset, options):
    import keras

    from keras_tune.augment import clmr_chain
    from keras_tune.models import TUNe
    from keras_tune.serving import fold_batch_norm
    from keras_tune.training import ContrastiveModel

    keras.config.set_dtype_policy(options.precision)
    clips = keras.ops.convert_to_tensor(crops(options))
    encoder = TUNe.from_preset(preset, load_weights=False, input_samples=options.samples)

    def step_seconds(augmenter):
        model = ContrastiveModel(encoder, augmenter=augmenter, seed=0)
        model.compile(keras.optimizers.Adam(3e-4))
        return best_seconds(lambda: model.train_on_batch(clips), options.repeats)

    step, with_chain = step_seconds(None), step_seconds(clmr_chain(22050, seed=0))
    peak = peak_bytes(backend)
    views = keras.ops.reshape(clips, (-1, options.samples, 1))
    folded = fold_batch_norm(encoder, options.precision)
    infer = best_seconds(lambda: folded.predict_on_batch(views), options.repeats)
    rate, bandwidth = machine(backend, options.precision)
    size = 4 if options.precision == "float32" else 2
    least = roofline_seconds(layer_work(encoder), 2 * options.clips, rate, bandwidth, size)
    return {
        "step": step,
        "forward": forward_seconds(backend, encoder, views, options) / step,
        "chain": 1 - step / with_chain,
        "infer": infer,
        "roofline": least / step,
        "peak": peak,
        "rate": rate,
        "bandwidth": bandwidth,
        "parameters": sum(math.prod(v.shape) for v in encoder.trainable_variables),
    }


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
    return {"step": step, "infer": best_seconds(infer, options.repeats), "peak": peak}


def measure(contender, preset, options, parameters=0):
    """Run this file for one contender."""
    command = [sys.executable, __file__, "--contender", contender, "--models", preset]
    for key in ("clips", "samples", "repeats", "precision"):
        command += [f"--{key}", str(getattr(options, key))]
    command += ["--parameters", str(parameters)]
    backend = contender if contender in BACKENDS else "torch"
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f"{contender} failed:\n{run.stderr[-2000:]}")
    return json.loads(run.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--backends", nargs="+", default=BACKENDS)
    parser.add_argument("--clips", type=int, default=8, help="clips a batch, two views each")
    parser.add_argument("--samples", type=int, default=59049, help="length of a view")
    parser.add_argument("--repeats", type=int, default=3, help="steps timed; the best counts")
    parser.add_argument("--precision", default="float32", help="float32 or mixed_bfloat16")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--parameters", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
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
    header = ("views/s", "ratio", "forward", "chain", "roofline", "peak GB", "infer/s", "ratio")
    print(f"{'':<28}" + "".join(f"{name:>10}" for name in header))
    for preset in options.models:
        rows = {}
        for backend in options.backends:
            if importlib.util.find_spec(backend):
                rows[backend] = measure(backend, preset, options)
        baseline = None
        if importlib.util.find_spec("torch"):
            parameters = next(iter(rows.values()))["parameters"]
            baseline = measure("plain", preset, options, parameters)
            print(
                f"{preset + ', plain PyTorch':<28}{views / baseline['step']:>10.1f}{1:>10.2f}"
                f"{'':>30}{baseline['peak'] / 1e9:>10.1f}{views / baseline['infer']:>10.1f}"
                f"{1:>10.2f}"
            )
        for backend, row in rows.items():
            ratios = [
                f"{baseline[key] / row[key]:.2f}" if baseline else "" for key in ("step", "infer")
            ]
            print(
                f"{f'{preset}, {backend}':<28}{views / row['step']:>10.1f}{ratios[0]:>10}"
                f"{row['forward']:>10.0%}{row['chain']:>10.0%}{row['roofline']:>10.0%}"
                f"{row['peak'] / 1e9:>10.1f}{views / row['infer']:>10.1f}{ratios[1]:>10}"
            )
    for backend, row in rows.items():
        print(f"{backend}: {row['rate'] / 1e9:.0f} GFLOP/s, {row['bandwidth'] / 1e9:.1f} GB/s")


if __name__ == "__main__":
    main()
