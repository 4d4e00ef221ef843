"""Views per second of the published augmentation chain: ours against audiomentations.

    python benchmarks/augment.py --audiomentations path/to/python

Each contender runs in a process of its own, one after the other, on the same waveforms. Ours is
compiled the way the backend trains (XLA on TensorFlow and JAX, eager on torch). audiomentations
works on one waveform at a time on one core, as in a data loader's worker; a second figure is that
of as many such workers as there are cores. It has no echo and no Freeverb: the echo is a Lambda in
NumPy, and the reverberation a convolution with impulse responses made by our own layer.
"""

import argparse
import functools
import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile

import numpy as np
from timing import best_seconds

SAMPLE_RATE = 22050
SAMPLES = 59049


def waveforms(count):
    """Noise with the spectrum of music, roughly: falling by 3 dB an octave."""
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft(rng.normal(size=(count, SAMPLES)))
    spectrum /= np.sqrt(1.0 + np.arange(spectrum.shape[1]))
    noise = np.fft.irfft(spectrum, SAMPLES)
    return (0.5 * noise / np.abs(noise).max(axis=1, keepdims=True)).astype("float32")


def ours(batch, repeats):
    import keras

    from keras_tune.augment import clmr_chain

    chain = clmr_chain(SAMPLE_RATE, seed=1)
    chain.build((batch, SAMPLES))
    views = keras.ops.convert_to_tensor(waveforms(batch))
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        augment = tf.function(lambda x: chain(x, training=True), jit_compile=True)
        call = lambda: augment(views).numpy()  # noqa: E731
    elif backend == "jax":
        import jax

        step = jax.jit(lambda state, x: chain.stateless_call([], state, x, training=True))
        state = [[variable.value for variable in chain.non_trainable_variables]]

        def call():
            output, state[0] = step(state[0], views)
            output.block_until_ready()
    else:
        call = lambda: chain(views, training=True)  # noqa: E731
    return batch / best_seconds(call, repeats)


def write_impulse_responses(folder, count=20):
    import keras
    import soundfile

    from keras_tune.augment import Reverb

    impulses = np.zeros((count, SAMPLES), dtype="float32")
    impulses[:, 0] = 1.0
    responses = keras.ops.convert_to_numpy(Reverb(SAMPLE_RATE, seed=1)(impulses, training=True))
    for index, response in enumerate(responses):
        soundfile.write(os.path.join(folder, f"{index}.wav"), response, SAMPLE_RATE, "FLOAT")


def echo(samples, sample_rate):
    delay = int(np.random.choice([0.2, 0.25, 0.3, 0.35, 0.4, 0.45]) * sample_rate)
    delayed = np.concatenate([np.zeros(delay, dtype="float32"), samples[:-delay]])
    return (samples + 0.5 * delayed) / 2


@functools.cache
def audiomentations_chain(responses):
    import audiomentations as am

    return am.Compose(
        [
            am.PolarityInversion(p=0.8),
            am.AddGaussianSNR(min_snr_db=40.0, max_snr_db=80.0, p=0.01),
            am.Gain(min_gain_db=-20.0, max_gain_db=-1.0, p=0.3),
            am.OneOf(
                [
                    am.HighPassFilter(200, 1200, min_rolloff=12, max_rolloff=12, p=1.0),
                    am.LowPassFilter(2200, 4000, min_rolloff=12, max_rolloff=12, p=1.0),
                ],
                p=0.8,
            ),
            am.Lambda(transform=echo, p=0.3),
            am.PitchShift(min_semitones=-7, max_semitones=7, p=0.6),
            am.ApplyImpulseResponse(responses, p=0.6, leave_length_unchanged=True),
        ]
    )


def augment_one(responses, waveform):
    return audiomentations_chain(responses)(waveform, SAMPLE_RATE)


def audiomentations(batch, repeats, responses, workers):
    views = list(waveforms(batch))
    function = functools.partial(augment_one, responses)
    if workers == 1:
        return batch / best_seconds(lambda: [function(view) for view in views], repeats)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return batch / best_seconds(lambda: pool.map(function, views, chunksize=4), repeats)


def measure(contender, arguments, python=sys.executable, **environment):
    """Run this file for one contender and read its views per second."""
    command = [python, __file__, "--contender", contender, *arguments]
    run = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if run.returncode:
        sys.exit(f"{contender} failed:\n{run.stderr[-2000:]}")
    return json.loads(run.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=96, help="views a batch")
    parser.add_argument("--repeats", type=int, default=5, help="batches timed; the best counts")
    parser.add_argument(
        "--audiomentations",
        default=sys.executable,
        help="Python interpreter that has audiomentations; by default this one",
    )
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--responses", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender == "audiomentations":
        cores = len(os.sched_getaffinity(0))
        rates = [
            audiomentations(options.batch, options.repeats, options.responses, workers)
            for workers in (1, cores)
        ]
        print(json.dumps(rates))
        return
    if options.contender == "responses":
        write_impulse_responses(options.responses)
        print("0")
        return
    if options.contender:
        print(json.dumps(ours(options.batch, options.repeats)))
        return

    common = ["--batch", str(options.batch), "--repeats", str(options.repeats)]
    rates = {}
    for backend in ("tensorflow", "jax", "torch"):
        if importlib.util.find_spec(backend):
            rates[backend] = measure(backend, common, KERAS_BACKEND=backend)
    with tempfile.TemporaryDirectory() as folder:
        where = ["--responses", folder]
        measure("responses", [*common, *where], KERAS_BACKEND=next(iter(rates)))
        single, parallel = measure("audiomentations", [*common, *where], options.audiomentations)
    cores = len(os.sched_getaffinity(0))
    print(f"{options.batch} views of {SAMPLES} samples, {cores} cores")
    print(f"{'':<34}{'views/s':>9}{'ratio to 1':>12}{f'to {cores} workers':>14}")
    print(f"{'audiomentations, 1 worker':<34}{single:>9.1f}")
    print(f"{f'audiomentations, {cores} workers':<34}{parallel:>9.1f}")
    for backend, rate in rates.items():
        name = f"keras_tune on {backend}"
        print(f"{name:<34}{rate:>9.1f}{rate / single:>12.1f}{rate / parallel:>14.1f}")


if __name__ == "__main__":
    main()
