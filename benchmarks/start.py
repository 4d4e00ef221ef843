"""Cost of a first embedding in ONNX Runtime and in Keras: a new process, from its start to its end.

    python benchmarks/start.py

Seconds of the processor, of all threads of the process, which other programs on the machine change
less than those of the clock in parentheses. The ways take turns, and the least of each counts.
"""

import argparse
import functools
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import soundfile
from timing import measure

SHORT = "import keras_tune; keras_tune.embed('short.wav'{})"
KERAS = ", keras_tune.TUNe.from_preset('tune_plus_open')"
# For each row, the process in ONNX Runtime and the one in Keras.
COMMANDS = {
    "`keras-tune embed`, 4 minutes": {
        "onnx": ["-m", "keras_tune", "embed", "song.wav"],
        "keras": ["-m", "keras_tune", "embed", "song.wav", "--backend=tensorflow"],
    },
    "`keras_tune.embed`, 30 s": {
        "onnx": ["-c", SHORT.format("")],
        "keras": ["-c", SHORT.format(KERAS)],
    },
}


def main():
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5, help="processes of each kind")
    repeats = parser.parse_args().repeats
    noise = np.random.default_rng(0).normal(0, 0.1, (240 * 44100, 2))
    print("| | ONNX Runtime | Keras | ratio |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        soundfile.write(folder / "song.wav", noise, 44100)
        soundfile.write(folder / "short.wav", noise[: 30 * 22050, 0], 22050)
        for title, ways in COMMANDS.items():
            # Errors of a process end this one; what it prints does not matter.
            start = functools.partial(subprocess.run, check=True, cwd=folder, capture_output=True)
            ways = {way: functools.partial(start, [sys.executable, *ways[way]]) for way in ways}
            found = measure(ways, repeats)
            (clock, taken), (keras_clock, keras_taken) = found["onnx"], found["keras"]
            print(
                f"| {title} | {taken:.2f} s ({clock:.2f} s) | {keras_taken:.1f} s "
                f"({keras_clock:.1f} s) | {keras_taken / taken:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
