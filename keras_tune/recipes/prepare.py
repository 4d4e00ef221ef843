"""Prepare audio files as TFRecords for training.

The source is a csv file with a column of audio files, a folder of audio files, or a known data set
as its archives unpack; the output is a folder of shards. A run that was interrupted resumes when it
is started again with the same options; shards of files that have changed since are written again.
"""

import dataclasses
import functools
from typing import Literal

from keras_tune.data.datasets import DATASETS
from keras_tune.recipes._cli import run
from keras_tune.recipes._folder import writes
from keras_tune.types import DEFAULT_SAMPLE_RATE, Count, Probability, SampleRate, Seconds, Workers


@dataclasses.dataclass
class PrepareConfig:
    """Options of a preparation.

    Args:
        dataset: What the source is: a csv file with a row for each clip, a folder of audio files,
            or a known set in the layout of its archives.
        source: The csv file or folder, or its URL in an object store (gs://, s3://; csv and folder
            only).
        output: Folder to write the shards to, or a URL in an object store.
        name: Name of the set. Defaults to the name of the output folder.
        label_columns: csv: columns to keep as labels.
        path_column: csv: column of the audio files. Defaults to one named path, file, filename...
        id_column: csv: column of the clips' ids. Defaults to one named id, track_id or clip_id.
        split_column: csv: column of the splits. Defaults to one named split, if there is one.
        group_column: csv: column, such as the artist, whose values each stay within one split.
        label: folder: name of the label that the sub-folders give. Defaults to label.
        fractions: Shares of train, valid and test where splits are drawn. Defaults to .8, .1, .1.
        split: magnatagatune: clips to use: full, or clean for those with tags. Defaults to full.
        subset: fma: small, medium or large. Defaults to small.
        max_seconds: debian_music: seconds used of each track at most. Defaults to 300.
        changed: debian_music: leave (out) or take files from other versions. Defaults to leave.
        encoding: How clips are stored: 16-bit samples, the same in FLAC, or the source files'
            bytes.
        sample_rate: Samples per second of the clips.
        min_seconds: Clips shorter than this are left out.
        shards: Shards of each split. Defaults to a number that gives files of about 256 MB.
        workers: Processes. Defaults to one for each processor.
        runner: What writes the shards: processes of this machine, or Apache Beam.
        beam_options: Beam's own options, e.g. '["--runner=FlinkRunner"]'. Defaults to none, which
            is the runner in this process.
        strict: Whether files that cannot be used are an error.
    """

    dataset: Literal[DATASETS]
    source: str
    output: str
    name: str | None = None
    label_columns: list[str] | None = None
    path_column: str | None = None
    id_column: str | None = None
    split_column: str | None = None
    group_column: str | None = None
    label: str | None = None
    fractions: list[Probability] | None = None
    split: Literal["full", "clean"] | None = None
    subset: Literal["small", "medium", "large"] | None = None
    max_seconds: Seconds | None = None
    changed: Literal["leave", "take"] | None = None
    encoding: Literal["pcm16", "flac", "source"] = "pcm16"
    sample_rate: SampleRate = DEFAULT_SAMPLE_RATE
    # The encoders' usual window of 59,049 samples at 22,050 Hz.
    min_seconds: Seconds = 2.68
    shards: Count | None = None
    workers: Workers | None = None
    runner: Literal["processes", "beam"] = "processes"
    beam_options: list[str] | None = None
    strict: bool = False


ADAPTER_OPTIONS = (
    "label_columns",
    "path_column",
    "id_column",
    "split_column",
    "group_column",
    "label",
    "fractions",
    "split",
    "subset",
    "max_seconds",
    "changed",
)


@writes("folder")
def main(config):
    """Run the command line; see `PrepareConfig`."""
    from keras_tune.data.datasets import manifest_for, split_report
    from keras_tune.data.preparation import LeftOutError, prepare

    options = {name: getattr(config, name) for name in ADAPTER_OPTIONS}
    options = {name: value for name, value in options.items() if value is not None}
    manifest = manifest_for(config.dataset, config.source, **options)
    print(split_report(manifest))
    try:
        info = prepare(
            manifest,
            config.output,
            name=config.name,
            sample_rate=config.sample_rate,
            encoding=config.encoding,
            shards=config.shards,
            workers=config.workers,
            runner=config.runner,
            beam_options=config.beam_options or (),
            strict=config.strict,
            min_samples=round(config.min_seconds * config.sample_rate),
        )
    except LeftOutError as error:
        print_left_out(error.failed)
        raise
    print_left_out(info.failed)
    size = sum(shard.bytes for shard in info.shards) / 1e6
    counts = ", ".join(f"{count} {split}" for split, count in info.counts.items())
    print(f"{config.output}: {counts} ({size:,.1f} MB in {len(info.shards)} shards)")
    if info.failed:
        prints = ", ".join(f"{name} {digits[:12]}" for name, digits in info.fingerprints.items())
        print(f"fingerprints of what was written: {prints}")


def print_left_out(failed):
    """Print a table of the files that were left out."""
    if not failed:
        return
    width = max(len(entry["path"]) for entry in failed)
    print(f"{len(failed)} {'file' if len(failed) == 1 else 'files'} left out:")
    for entry in failed:
        print(f"  {entry['path']:<{width}}  {entry['reason']}")


cli = functools.partial(run, main, PrepareConfig)

if __name__ == "__main__":
    cli()
