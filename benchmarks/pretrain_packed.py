"""Pretrain the package's encoder on a machine that is available for minutes at a time.

Such a machine has a GPU, JAX or PyTorch, no TensorFlow and no network, and takes few megabytes. So
music is first packed, where the prepared set lies: clips from as many songs as there are, a short
stretch of each, compressed with Opus.

    python benchmarks/pretrain_packed.py pack tfrecords/open packed --megabytes 64

On the other machine the clips are decoded and kept in the device's memory, and the recipe
`tune_plus_open.yaml` runs for some minutes. There is a checkpoint at the end of every epoch, which
is longer than the recipe's, and when the time is over; the same call again continues. Every call
also saves the encoder as far as it has come.

    python benchmarks/pretrain_packed.py train packed runs/packed --minutes 9 --backend jax

Further options are those of `keras-tune pretrain`, such as `--batch_size 256`, `--epochs 30`, and
with JAX `--steps_per_execution 10`. Most of them must stay the same until the run has ended.
"""

import argparse
import concurrent.futures
import json
import pathlib
import sys
import time

import numpy as np

RECIPE = pathlib.Path(__file__).resolve().parents[1] / "recipes" / "tune_plus_open.yaml"
# What Opus takes; others are resampled to it.
OPUS_RATE = 24000
# The part of the megabytes that clips of valid may take.
VALID = 0.05
DESCRIPTION = "packed.json"


def in_turn(groups, seed):
    """Rows in random order, one of every group before the second of any."""
    rows = np.random.default_rng(seed).permutation(len(groups))
    seen, turns = {}, []
    for row in rows:
        turns.append(seen.get(groups[row], 0))
        seen[groups[row]] = turns[-1] + 1
    return rows[np.argsort(turns, kind="stable")]


def songs(dataset, split):
    """A number for every clip of a split, equal for clips of one song if the set knows songs."""
    labels = dataset.label_vectors(split)
    if "song" not in [column.name for column in dataset.info.labels]:
        return list(range(len(labels)))
    return labels[:, dataset.info.label_column("song")[1]].tolist()


def encode(audio, rate, path, kilobits):
    """Write mono audio as Opus of about so many kbit/s; return its bytes."""
    import soundfile

    from keras_tune.data.audio import resample

    audio = np.clip(resample(audio, rate, OPUS_RATE), -1, 1)
    # libsndfile takes a level from 0 for 256 kbit/s to 1 for 6.
    level = min(max((256 - kilobits) / 250, 0), 1)
    options = {"format": "OGG", "subtype": "OPUS", "compression_level": level}
    soundfile.write(path, audio, OPUS_RATE, **options)
    return path.stat().st_size


def pack_split(dataset, split, limit, folder, options):
    """Encode stretches of clips until they have `limit` bytes; return their descriptions."""
    rate = dataset.info.sample_rate
    samples = round(options.seconds * rate)
    order = in_turn(songs(dataset, split), options.seed)
    random = np.random.default_rng(options.seed)
    # More than will fit, since sizes are known afterwards only; the last ones are removed again.
    clips = order[: int(1.5 * limit / (options.seconds * options.kilobits * 125)) + 1]
    turns = {int(row): turn for turn, row in enumerate(clips)}
    found = {}
    for row, record in enumerate(dataset.records(split)):
        spare = len(record["audio"]) - samples
        if row not in turns or spare < 0:
            continue
        start = random.integers(spare + 1)
        file = f"{split}-{row:05d}.ogg"
        stretch = record["audio"][start : start + samples]
        if np.abs(stretch).max() > 0.001:
            size = encode(stretch, rate, folder / file, options.kilobits)
            about = {key: record[key] for key in ("id", "labels")}
            about |= {"file": file, "split": split}
            found[turns[row]] = about, size + len(json.dumps(about)) + 1
    kept, total = [], 0
    for turn in sorted(found):
        about, size = found[turn]
        if total + size <= limit:
            total += size
            kept.append(about)
        else:
            (folder / about["file"]).unlink()
    return kept, total


def pack(options):
    """Write the packed clips."""
    from keras_tune.data import open_dataset
    from keras_tune.files import write_text

    dataset, folder = open_dataset(options.data), options.output
    if folder.is_dir() and any(folder.iterdir()):
        sys.exit(f"{folder}: is not empty; give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    # A little is left for the description.
    limit = int(options.megabytes * 1e6) - 4096
    valid = int(VALID * limit) if dataset.info.counts.get("valid") else 0
    clips, total = [], 0
    for split, part in (("valid", valid), ("train", limit - valid)):
        if part:
            kept, size = pack_split(dataset, split, part, folder, options)
            clips, total = clips + kept, total + size
            print(f"{split}: {len(kept)} clips, {size / 1e6:.1f} MB", flush=True)
    rate = dataset.info.sample_rate
    about = {"sample_rate": rate, "seconds": options.seconds, "clips": clips}
    # Last, so that a folder with a description is complete.
    write_text(folder / DESCRIPTION, json.dumps(about))
    hours = len(clips) * options.seconds / 3600
    print(
        f"{folder}: {len(clips)} clips, {hours:.2f} h, "
        f"{sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.1f} MB, "
        f"{total * 8 / 1000 / max(1, len(clips)) / options.seconds:.1f} kbit/s"
    )


def unpack(folder, output):
    """Decode the packed clips into an `.npz` file, which `keras_tune.data.open_dataset` opens."""
    from keras_tune.data import load_audio
    from keras_tune.data.audio import to_int16
    from keras_tune.files import atomic_path

    if not (folder / DESCRIPTION).is_file():
        sys.exit(f"{folder}: holds no packed clips; make them with `pack`")
    about = json.loads((folder / DESCRIPTION).read_text())
    rate, clips = about["sample_rate"], about["clips"]
    audio = np.zeros((len(clips), round(about["seconds"] * rate)), "int16")

    def decode(row):
        samples = to_int16(load_audio(folder / clips[row]["file"], rate))[: audio.shape[1]]
        # Resampling may take a sample from the end.
        audio[row, : len(samples)] = samples

    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(decode, range(len(clips))))
    labels = {}
    for name, value in clips[0]["labels"].items():
        values = [clip["labels"][name] for clip in clips]
        if any(isinstance(value, str) for value in values):
            # Missing ones are empty.
            values = [value or "" for value in values]
        labels[name] = np.array(values)
    columns = {"ids": [clip["id"] for clip in clips], "split": [clip["split"] for clip in clips]}
    with atomic_path(output) as temporary:
        np.savez(temporary, audio=audio, sample_rate=rate, **columns, **labels)


def train(options, further):
    """Run the recipe until the time is over, and save the encoder."""
    deadline = time.monotonic() + 60 * options.minutes
    from keras_tune.recipes._cli import run
    from keras_tune.recipes.pretrain import PretrainConfig

    data = options.output / "packed.npz"
    if not data.exists():
        unpack(options.packed, data)
    steps = options.steps_per_epoch
    arguments = ["--config", str(RECIPE), "--data", str(data), "--output", str(options.output)]
    arguments += ["--resident", "true", "--steps_per_epoch", str(steps)]
    # As many steps as in the recipe, whose epochs have 100.
    arguments += ["--warmup_epochs", str(100 / steps), "--epochs", str(max(1, 15000 // steps))]
    if (options.output / "model.keras").exists():
        arguments += ["--resume", "true"]

    def until_deadline(config):
        fit(config, deadline - options.reserve)

    run(until_deadline, PretrainConfig, arguments + further)


def fit(config, deadline):
    """Train until the deadline, with the state saved, and save the encoder as it is."""
    from keras_tune.training import PretrainingRun, StoppedError

    pretraining = PretrainingRun(config)
    try:
        pretraining.build()
    except ValueError as error:
        sys.exit(str(error))
    started, before = time.monotonic(), _steps(pretraining)
    try:
        pretraining.fit(should_stop=lambda: time.monotonic() > deadline)
        print("the run has ended")
    except StoppedError as error:
        print(f"stopped: {error}; call it again to go on")
    seconds, steps = time.monotonic() - started, _steps(pretraining) - before
    speed = 2 * pretraining.config.batch_size * steps / seconds
    print(f"{steps} steps in {seconds:.0f} s, {speed:.0f} views/s with compilation and checkpoints")
    pretraining.save_encoder()


def _steps(pretraining):
    return int(np.asarray(pretraining.model.optimizer.iterations))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="compress music out of a prepared set")
    packing.add_argument("data", help="prepared set, or .npz file of clips")
    packing.add_argument("output", type=pathlib.Path, help="folder to write")
    packing.add_argument("--megabytes", type=float, default=64, help="what the folder may take")
    packing.add_argument("--seconds", type=float, default=10, help="length of a stretch")
    packing.add_argument("--kilobits", type=float, default=24, help="kbit/s of Opus (default 24)")
    packing.add_argument("--seed", type=int, default=0)
    training = commands.add_parser("train", help="pretrain on packed music")
    training.add_argument("packed", type=pathlib.Path, help="the folder")
    training.add_argument("output", type=pathlib.Path, help="folder of the run")
    training.add_argument("--minutes", type=float, default=9, help="when to be done (default 9)")
    training.add_argument("--reserve", type=float, default=30, help="seconds of it for saving")
    training.add_argument("--steps_per_epoch", type=int, default=1000, help="default 1,000")
    options, further = parser.parse_known_args(argv)
    if options.command == "train":
        return train(options, further)
    if further:
        parser.error(f"unrecognized arguments: {' '.join(further)}")
    return pack(options)


if __name__ == "__main__":
    main()
