"""Clips a second of an encoder in Keras and exported, and the time to a first embedding.

    python benchmarks/inference.py --models clmr tune_tail_5 tune_plus

Rows, for each model: Keras' predict; a SavedModel as `model.export` of Keras writes it; the
SavedModel of `keras_tune.serving`, batch normalization folded; its ONNX file in ONNX Runtime. All
get the same clip, cut into windows, and embed it several times; the rows take turns, and of each
the fastest time counts, which other programs on the machine disturb least. `CPU s` is the time that
all processors together spend on a clip, which a busy machine changes little, `speed` its inverse
against Keras' predict. `error` is the largest difference from Keras' embedding. The last columns
are for a new process, from its start to the embedding of a first clip.
"""

import argparse
import functools
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from timing import measure

from keras_tune.evaluation import cut_windows
from keras_tune.models import TUNe
from keras_tune.serving import export_onnx, export_saved_model

FIRST = {
    "Keras predict": """
import keras_tune, keras
encoder = keras.models.load_model(folder / "encoder.keras", compile=False)
encoder.predict(windows, verbose=0)
""",
    "SavedModel": """
import tensorflow as tf
model = tf.saved_model.load(str(folder / "plain"))
model.serve(tf.constant(windows)).numpy()
""",
    "SavedModel, folded": """
import tensorflow as tf
model = tf.saved_model.load(str(folder / "folded"))
model.signatures["serving_default"](waveform=tf.constant(clip))["embedding"].numpy()
""",
    "ONNX Runtime": """
import onnxruntime
session = onnxruntime.InferenceSession(folder / "encoder.onnx")
session.run(["embedding"], {"waveform": clip})
""",
}
PREPARE = """
import os, pathlib, sys
os.environ["KERAS_BACKEND"] = "tensorflow"
import numpy as np
folder = pathlib.Path(sys.argv[1])
clip = np.load(folder / "clip.npy")
count = clip.shape[1] // int(sys.argv[2])
windows = clip[:, : count * int(sys.argv[2])].reshape(count, -1, 1)
"""


def export(encoder, folder, clip, with_onnx):
    """Write the encoder in every format."""
    np.save(folder / "clip.npy", clip)
    encoder.save(folder / "encoder.keras")
    encoder.export(str(folder / "plain"), verbose=False)
    export_saved_model(encoder, folder / "folded")
    if with_onnx:
        export_onnx(encoder, folder / "encoder.onnx")


def runners(encoder, folder, clip, with_onnx):
    """Functions that embed the clip, by name; each gives the embedding."""
    windows = np.ascontiguousarray(cut_windows(clip[0], encoder.input_samples)[..., None])
    plain = tf.saved_model.load(str(folder / "plain"))
    folded = tf.saved_model.load(str(folder / "folded"))
    found = {
        "Keras predict": lambda: encoder.predict(windows, verbose=0).mean(axis=0),
        "SavedModel": lambda: plain.serve(tf.constant(windows)).numpy().mean(axis=0),
        "SavedModel, folded": lambda: folded.signatures["serving_default"](
            waveform=tf.constant(clip)
        )["embedding"].numpy()[0],
    }
    if with_onnx:
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / "encoder.onnx")
        found["ONNX Runtime"] = lambda: session.run(["embedding"], {"waveform": clip})[0][0]
    return found


def start(name, folder, window):
    """Run a process that makes one embedding."""
    command = [sys.executable, "-c", PREPARE + FIRST[name], str(folder), str(window)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def main():
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=["clmr", "tune_tail_5", "tune_plus"])
    parser.add_argument("--seconds", type=float, default=29.0, help="length of a clip")
    parser.add_argument("--repeats", type=int, default=5, help="clips for each figure")
    parser.add_argument("--starts", type=int, default=1, help="processes for each time to start")
    arguments = parser.parse_args()
    with_onnx = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
    noise = np.random.default_rng(0).uniform(-1, 1, (1, round(arguments.seconds * 22050)))
    clip = noise.astype("float32")
    titles = ("clips/s", "CPU s", "speed", "error", "start, s", "CPU s")
    print(f"{'':34}" + "".join(f"{title:>10}" for title in titles))
    for preset in arguments.models:
        keras.utils.set_random_seed(0)
        encoder = TUNe.from_preset(preset, load_weights=False)
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            export(encoder, folder, clip, with_onnx)
            functions = runners(encoder, folder, clip, with_onnx)
            # The first call of each compiles.
            embeddings = {name: function() for name, function in functions.items()}
            seconds = measure(functions, arguments.repeats)
            processes = {
                name: functools.partial(start, name, folder, encoder.input_samples)
                for name in functions
            }
            starts = measure(processes, arguments.starts) if arguments.starts else {}
            for name, (clock, processors) in seconds.items():
                error = np.abs(embeddings[name] - embeddings["Keras predict"]).max()
                begun = starts.get(name, (np.nan, np.nan))
                print(
                    f"{preset + ', ' + name:34}{1 / clock:10.2f}{processors:10.2f}"
                    f"{seconds['Keras predict'][1] / processors:10.2f}{error:10.1e}"
                    f"{begun[0]:10.1f}{begun[1]:10.1f}",
                    flush=True,
                )
    if not with_onnx:
        print("ONNX Runtime is left out: pip install onnx onnxruntime")


if __name__ == "__main__":
    main()
