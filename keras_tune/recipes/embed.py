"""Embed audio files, or a prepared set, with an encoder.

`keras-tune embed song.mp3` embeds one file with the encoder that comes with the package.
Files are decoded in parallel with the encoding, and resampled to the encoder's sample rate.
Finished parts are kept next to the output until the end, so that a run that was killed resumes when
it is started again with the same options. Files that have changed since (by size or modification
time), and files that could not be used, are read again.

The output is an .npz file with `ids`, `vectors` (clips, d), `source`, `encoder` (a hash of it) and,
for a prepared set, `split`; with --pool none it has `vectors` (windows, d), `owners` (windows,),
the row in `ids` of a window's clip, and `starts` (windows,) in seconds. A .parquet file has the
ids, splits, starts and vectors as a table, with one row for each vector.
"""

import dataclasses
import pathlib
import sys
from typing import ClassVar, Literal

from keras_tune.errors import UserError
from keras_tune.progress_bar import progress_bar
from keras_tune.recipes._cli import names_options, run
from keras_tune.recipes._folder import writes
from keras_tune.shipped import OnnxEncoder, onnx_file
from keras_tune.types import DEFAULT_ENCODER, BatchSize, Hop, Workers

# The clips of one part, which are lost if a run is killed.
PART = 64
TOO_SHORT = "shorter than a window"


@dataclasses.dataclass
class EmbedConfig:
    """The clips to embed, and how.

    Args:
        source: An audio file, a folder of them (with all its subfolders), or a prepared set; may be
            given first, without --source.
        encoder: A .keras file, the folder of a pretraining run, tune_plus_open, untrained:PRESET,
            or mel.
        output: The .npz or .parquet file to write; by default NAME_embedding.npz in the current
            folder, with the name of the source.
        hop: Seconds from one window to the next; by default windows do not overlap.
        pool: The mean over windows, mean and maximum, or none for one vector for each window.
        layers: Stages to concatenate instead of the representation: tail_7,tail_8,tail_9.
        layer_pooling: How the output of a stage is pooled over the time of a window: mean, or
            mean_std for mean and standard deviation.
        batch_size: Windows encoded at a time.
        workers: Threads that decode; by default one for each processor.
        strict: Whether files that cannot be used are an error.
        backend: tensorflow, jax or torch; by default KERAS_BACKEND, else the first one installed.
    """

    positional: ClassVar[str] = "source"

    source: str
    encoder: str = DEFAULT_ENCODER
    output: str | None = None
    hop: Hop | None = None
    pool: Literal["mean", "mean_max", "none"] = "mean"
    layers: str | None = None
    layer_pooling: Literal["mean", "mean_std"] = "mean"
    batch_size: BatchSize = 32
    workers: Workers | None = None
    strict: bool = False
    backend: str | None = None

    def __post_init__(self):
        self.output_is_default = self.output is None
        if self.output is None:
            name = pathlib.PurePath(self.source).name
            if not pathlib.Path(self.source).is_dir():
                name = pathlib.PurePath(name).stem
            self.output = f"{name.strip('.') or 'music'}_embedding.npz"

    @property
    def needs_keras(self):
        """Whether the encoder is one for Keras, and not one for ONNX Runtime."""
        return bool(self.backend or self.layers) or onnx_file(self.encoder) is None


@names_options()
@writes("file")
def main(config):
    """Run the command line; see `EmbedConfig`."""
    import hashlib
    import json
    import shutil

    from keras_tune.checks import check_encoder, sample_rate_of
    from keras_tune.evaluation import ClipEmbeddings, embed_clips
    from keras_tune.evaluation.embed_audio import hop_in_samples
    from keras_tune.evaluation.embedding_cache import encoder_fingerprint
    from keras_tune.evaluation.embeddings import window_length
    from keras_tune.recipes._folder import local_path
    from keras_tune.recipes._load import chosen_stages, named_encoder
    from keras_tune.storage import to_path

    output = local_path(config.output)
    if output.suffix not in (".npz", ".parquet"):
        raise UserError(f"--output {output}: give a file that ends in .npz or .parquet")
    if output.suffix == ".parquet":
        _check_parquet()
    source = _Source(to_path(config.source), config.workers)
    if config.output_is_default:
        _check_same_source(output, source.name)
    if config.needs_keras:
        encoder = named_encoder(config.encoder, source.sample_rate)
    else:
        encoder = OnnxEncoder(onnx_file(config.encoder))
        check_encoder(config.encoder, encoder, source.sample_rate)
    source.sample_rate = source.sample_rate or sample_rate_of(encoder)
    model = chosen_stages(encoder, config.layers, config.layer_pooling)
    hop = hop_in_samples(config.hop, source.sample_rate)
    what = [encoder_fingerprint(encoder), config.layers, config.layer_pooling, hop]
    what += [source.sample_rate, str(source.path.resolve())]
    folder = output.with_name(f".{output.name}.parts")

    def encode(records):
        return embed_clips(model, records, hop_samples=hop, batch_size=config.batch_size)

    parts = []
    with progress_bar(len(source), "embedding") as bar:
        for names in source.parts(PART):
            content = json.dumps([what, names, source.stamps(names)])
            key = hashlib.sha256(content.encode()).hexdigest()[:20]
            parts.append(_embed_part(folder / key, source, names, encode, bar.update))
    left_out = [entry for _, entries in parts for entry in entries]
    files = [file for file, _ in parts if file is not None]
    for name, reason in left_out:
        print(f"left out: {name}: {reason}", file=sys.stderr)
    if not files:
        raise UserError(f"--source {config.source}: no clip could be embedded")
    if left_out and config.strict:
        raise UserError(f"--strict: {len(left_out)} of {len(source)} clips could not be embedded")
    read = (ClipEmbeddings.load(file) for file in files)
    clips = ClipEmbeddings.merge(read, windows=config.pool != "mean")
    window = window_length(encoder)
    seconds = (hop or window) / source.sample_rate
    _write(output, clips, config.pool, source, seconds, encoder_fingerprint(model))
    shutil.rmtree(folder)
    vectors = len(clips.windows) if config.pool == "none" else len(clips.ids)
    print(f"{output}: {len(clips.ids)} clips, {vectors} vectors; {len(left_out)} clips left out")


def _check_same_source(output, source):
    """Refuse to replace embeddings of another source, such as those of a.wav by those of a.mp3."""
    if not output.exists():
        return
    from keras_tune.files import read_npz

    try:
        there = read_npz(output).get("source")
    except UserError:
        there = None
    if there is None or str(there) != source:
        of = "something else" if there is None else there
        raise UserError(f"{output}: exists, and is of {of}, not of {source}; give --output")


def _embed_part(stem, source, names, encode, progress):
    """Embed the clips of a part that an earlier run has not embedded.

    Files that could not be used are tried again.

    Returns:
        Path of the file with the embeddings, None if there are none, and the clips left out, a list
        of lists of name and reason.
    """
    import json

    from keras_tune.evaluation import ClipEmbeddings
    from keras_tune.evaluation.embeddings import TooShortError
    from keras_tune.files import write_json

    file, summary = stem.with_suffix(".npz"), stem.with_suffix(".json")
    known, todo, short = None, names, []
    if summary.is_file():
        before = json.loads(summary.read_text(encoding="utf-8"))
        try:
            known = ClipEmbeddings.load(file) if before["embedded"] else None
        except UserError as error:
            print(f"{file}: missing or damaged, so it is written again ({error})", file=sys.stderr)
        else:
            todo = [name for name, reason in before["left_out"] if reason != TOO_SHORT]
            short = [name for name, reason in before["left_out"] if reason == TOO_SHORT]
            progress(before["embedded"] + len(short))
            if not todo:
                return (file if known is not None else None), before["left_out"]
    left_out = []
    try:
        clips = encode(source.records(todo, left_out, progress))
        short += clips.skipped
    except TooShortError as error:
        # No clip of this part is long enough, while those of other parts may be.
        clips = None
        short += error.skipped
    if clips is not None:
        known = clips if known is None else _in_order(names, known, clips)
        known.save(file)
    left_out += [[name, TOO_SHORT] for name in short]
    embedded = 0 if known is None else len(known.ids)
    write_json(summary, {"embedded": embedded, "left_out": left_out})
    return (file if known is not None else None), left_out


def _in_order(names, *parts):
    """The clips of several parts in the order of `names`."""
    from keras_tune.evaluation import ClipEmbeddings

    found = {clip: part.take([row]) for part in parts for row, clip in enumerate(part.ids)}
    return ClipEmbeddings.merge(found[name] for name in names if name in found)


class _Source:
    """The clips to embed: a file, a folder of files, or a prepared set."""

    def __init__(self, path, workers):
        import os

        from keras_tune.data import open_dataset
        from keras_tune.data.dataset import is_dataset
        from keras_tune.files import text_fault

        self.path = path
        # The source as a whole, whose parts are below `path`.
        self.name = str(path.resolve())
        self.workers = workers or os.cpu_count()
        self.dataset = self.info = None
        # Files are resampled to the encoder's rate; a set has a rate of its own.
        self.sample_rate = None
        if is_dataset(path):
            self.dataset = open_dataset(path)
            self.info = self.dataset.info
            self.sample_rate = self.info.sample_rate
        elif path.is_dir():
            from keras_tune.data.datasets.folder import SUFFIXES, audio_files

            self.names = sorted(file.as_posix() for file in audio_files(path))
            if not self.names:
                raise UserError(
                    f"--source {path}: contains no audio files ({', '.join(sorted(SUFFIXES))})"
                )
        elif path.is_file():
            wrong = text_fault(path.name)
            if wrong:
                raise UserError(f"--source {str(path)!a}: the file's name {wrong}; rename it")
            self.names, self.path = [path.name], path.parent
        else:
            raise UserError(f"--source {path}: no such file or folder")

    def __len__(self):
        return len(self.names) if self.info is None else sum(self.info.counts.values())

    def parts(self, size):
        """The names of the clips in lists of at most `size`.

        Of a prepared set, a list of a split and the name of its shard for each shard; of an .npz
        file, a list of a split.
        """
        if self.info is not None and self.info.encoding == "arrays":
            yield from ([split] for split, count in self.info.counts.items() if count)
        elif self.info is not None:
            yield from ([shard.split, shard.file] for shard in self.info.shards if shard.records)
        else:
            for start in range(0, len(self.names), size):
                yield self.names[start : start + size]

    def stamps(self, names):
        """Size and time of change of the files of a part, None for one that is missing."""
        from keras_tune.storage import file_stamp

        if self.info is None:
            return [file_stamp(self.path / name) for name in names]
        return [file_stamp(self.path / names[1] if len(names) > 1 else self.path)]

    def records(self, names, left_out, progress):
        """Decode the clips of a part, a few of them in advance."""
        import collections
        import concurrent.futures

        from keras_tune.data import AudioError, load_audio

        if self.info is not None:
            split, *shards = names
            for record in self.dataset.records(split, shards or None):
                progress(1)
                yield {**record, "labels": {"split": split}}
            return
        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            waiting = collections.deque()
            upcoming = iter(names)

            def ask():
                name = next(upcoming, None)
                if name is not None:
                    waiting.append(
                        (name, pool.submit(load_audio, self.path / name, self.sample_rate))
                    )

            for _ in range(2 * self.workers):
                ask()
            while waiting:
                name, future = waiting.popleft()
                ask()
                progress(1)
                try:
                    yield {"id": name, "audio": future.result(), "labels": {}}
                except AudioError as error:
                    left_out.append([name, error.reason])


def _write(output, clips, pool, source, hop_seconds, encoder):
    import numpy as np

    from keras_tune.evaluation.embed_audio import pool_windows
    from keras_tune.files import atomic_path

    ids = np.array(clips.ids)
    columns = {}
    about = {"source": np.array(source.name), "encoder": np.array(encoder)}
    if source.info is not None:
        columns["split"] = np.array([labels["split"] for labels in clips.labels])
    if pool == "none":
        vectors = clips.windows
        counts = np.bincount(clips.owners, minlength=len(ids))
        within = np.concatenate([np.arange(count) for count in counts])
        windows = {"owners": clips.owners, "starts": within * hop_seconds}
    else:
        vectors, windows = pool_windows(clips, pool), {}
    if output.suffix == ".npz":
        with atomic_path(output) as temporary:
            np.savez(temporary, ids=ids, vectors=vectors, **columns, **windows, **about)
        return
    import pandas as pd

    rows = windows.get("owners", np.arange(len(ids)))
    table = {"id": ids[rows], **{name: values[rows] for name, values in columns.items()}}
    if windows:
        table["start"] = windows["starts"]
    frame = pd.DataFrame(table)
    numbers = pd.DataFrame(vectors, columns=[f"e{k}" for k in range(vectors.shape[1])])
    with atomic_path(output) as temporary:
        pd.concat([frame, numbers], axis=1).to_parquet(temporary, index=False)


def _check_parquet():
    import importlib.util

    if not any(importlib.util.find_spec(name) for name in ("pyarrow", "fastparquet")):
        raise UserError(
            "--output: .parquet needs pyarrow: pip install 'keras_tune[parquet]', or give .npz"
        )


def cli(argv=None):
    """Parse a list of strings, by default the command line's, and run `main`."""
    run(main, EmbedConfig, argv)


if __name__ == "__main__":
    cli()
