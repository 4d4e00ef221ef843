"""Disk size and read speed of each encoding of records, side by side.

    python benchmarks/input.py --source path/to/tracks.csv --clips 60

prepares the same clips in each encoding, reads crops of them at random as training does, and prints
what that takes next to the first row: 16-bit samples of which only the crops are decoded. The last
rows are what one would do without records: decode whole files, or seek in them. Without `--source`,
the clips are a minute each of the demo corpus, kept as FLAC files. Files lie in the page cache, so
the speeds are those of decoding, not of a disk.
"""

import argparse
import itertools
import pathlib
import tempfile
import time

import numpy as np
import soundfile

from keras_tune.data import demo_clips, load_audio, manifest_for, open_dataset, prepare

SAMPLE_RATE = 22050


def demo_files(folder, clips):
    """Write clips of the demo corpus as FLAC files."""
    audio, table = demo_clips(num_clips=clips, seconds=60.0)
    for name, clip in zip(table["id"], audio, strict=True):
        soundfile.write(folder / f"{name}.flac", clip, SAMPLE_RATE)
    return manifest_for("folder", folder)


def speed(clips, seconds):
    """Take from the endless iterator `clips` for about `seconds`; return clips a second."""
    # What is prefetched at the start must not count.
    for _ in range(20):
        next(clips)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        next(clips)
        count += 1
    return count / (time.perf_counter() - start)


def stream(path, **options):
    """Iterate over a prepared set for ever."""
    return iter(open_dataset(path).batches(repeat=True, batch_size=None, **options))


def decoded(files):
    """Decode the files, one by one, for ever."""
    for file in itertools.cycle(files):
        yield load_audio(file, SAMPLE_RATE)


def sought(files, clip_samples, crops):
    """Seek in the files and read crops, one file after the other, for ever."""
    random = np.random.default_rng(0)
    for path in itertools.cycle(files):
        with soundfile.SoundFile(path) as file:
            starts = random.integers(file.frames - clip_samples, size=crops)
            for start in starts:
                file.seek(int(start))
                file.read(clip_samples, dtype="int16")
        yield


def rows(manifest, folder, clip_samples, crops, seconds):
    """Yield name, bytes and clips a second of each way to read the clips."""
    for encoding in ("pcm16", "flac", "source"):
        path = folder / encoding
        info = prepare(manifest, path, encoding=encoding, sample_rate=SAMPLE_RATE, progress=False)
        size = sum(shard.bytes for shard in info.shards)
        clips = stream(path, clip_samples=clip_samples, crops=crops)
        yield encoding, size, speed(clips, seconds)
    path = folder / "pcm16"
    size = sum(file.stat().st_size for file in path.glob("*.tfrecord"))
    yield "pcm16, whole clips decoded", size, speed(stream(path), seconds)
    files = list(manifest["path"])
    size = sum(pathlib.Path(file).stat().st_size for file in files)
    yield "files, whole clips decoded", size, speed(decoded(files), seconds)
    yield "files, seeking", size, speed(sought(files, clip_samples, crops), seconds)


def main():
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--source", help="csv file, as `prepare --dataset csv` takes it")
    parser.add_argument("--clips", type=int, default=60, help="clips to read (default 60)")
    parser.add_argument("--clip_samples", type=int, default=59049, help="samples of a crop")
    parser.add_argument("--crops", type=int, default=2, help="crops of a clip (default 2)")
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each row")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if arguments.source:
            manifest = manifest_for("csv", arguments.source)
        else:
            (folder / "files").mkdir()
            manifest = demo_files(folder / "files", arguments.clips)
        manifest = manifest[: arguments.clips].assign(split="train")
        print(f"{'':28}{'MB':>9}{'size':>7}{'clips/s':>9}{'speed':>7}")
        first = None
        for name, size, rate in rows(
            manifest, folder, arguments.clip_samples, arguments.crops, arguments.seconds
        ):
            first = first or (size, rate)
            ratios = size / first[0], rate / first[1]
            print(
                f"{name:28}{size / 1e6:9.1f}{ratios[0]:7.2f}{rate:9.1f}{ratios[1]:7.2f}", flush=True
            )


if __name__ == "__main__":
    main()
