"""Embed a library of many files: time, memory, and what they are spent on.

    python benchmarks/embed_library.py --files 50 200 1000

Files of synthesized music are written once, as Ogg Vorbis; those above a few are links to these, so
that a thousand take no space. For each number of files `keras-tune embed` runs in a process of its
own, with the encoder that comes with the package. Beside it stand decoding alone and the encoder
alone, for a number of the same files, each in seconds of the processor for a file.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

KINDS = 8


def write_files(folder, files, seconds):
    """Write files of music; return their folder."""
    import soundfile

    from keras_tune.data import demo_clips

    folder.mkdir()
    audio, _ = demo_clips("train", min(files, KINDS), seconds=seconds)
    for number in range(files):
        path = folder / f"{number:06d}.ogg"
        if number < KINDS:
            soundfile.write(path, audio[number], 22050, subtype="VORBIS")
        else:
            os.link(folder / f"{number % KINDS:06d}.ogg", path)
    return folder


def command(folder, output, pool):
    """Run `keras-tune embed`; seconds of the clock and of the processor, and its peak in MB."""
    words = [sys.executable, "-m", "keras_tune", "embed", str(folder)]
    words += ["--output", str(output), "--pool", pool]
    started = time.monotonic()
    # Its own process waits for it, since the peak of children is the greatest of all.
    script = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words], check=True, capture_output=True, text=True
    )
    processor, peak = done.stdout.split()
    return time.monotonic() - started, float(processor), float(peak) / 1024


def alone(files):
    """Seconds of the processor for a file: decoding, and the encoder."""
    import numpy as np

    from keras_tune.data import load_audio
    from keras_tune.evaluation import embed_clips
    from keras_tune.models import TUNe

    encoder = TUNe.from_preset("tune_plus_open")
    started = time.process_time()
    audio = [load_audio(file, encoder.sample_rate) for file in files]
    decoding = time.process_time() - started
    records = [{"id": str(n), "audio": clip, "labels": {}} for n, clip in enumerate(audio)]
    warm = [{"id": "0", "audio": np.resize(audio[0], 40 * encoder.input_samples), "labels": {}}]
    embed_clips(encoder, warm)
    started = time.process_time()
    embed_clips(encoder, records)
    return decoding / len(files), (time.process_time() - started) / len(files)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, nargs="+", default=[50, 200, 1000])
    parser.add_argument("--seconds", type=float, default=10, help="length of a file (default 10)")
    parser.add_argument("--pool", default="mean", help="as of keras-tune embed")
    parser.add_argument("--samples", type=int, default=32, help="files decoded and encoded alone")
    options = parser.parse_args()
    print(f"{'files':>8}{'s':>10}{'processor s':>14}{'s a file':>11}{'peak MB':>10}")
    before = None
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for files in options.files:
            music = write_files(folder / str(files), files, options.seconds)
            clock, processor, peak = command(music, folder / f"{files}.npz", options.pool)
            # The start is the same for all numbers of files.
            more = "" if before is None else (processor - before[1]) / (files - before[0])
            before = files, processor
            cell = f"{more:11.3f}" if more != "" else f"{'':11}"
            print(f"{files:8}{clock:10.1f}{processor:14.1f}{cell}{peak:10.0f}", flush=True)
        some = sorted(music.iterdir())[: options.samples]
        decoding, encoding = alone(some)
        print(f"decoding alone {decoding:.3f}, encoder alone {encoding:.3f} processor s a file")


if __name__ == "__main__":
    main()
