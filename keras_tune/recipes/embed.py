"""Embed audio files, or a prepared set, with an encoder.

`keras-tune embed song.mp3` embeds one file with the encoder that comes with the package. Files are
decoded in parallel with the encoding, and resampled to the encoder's sample rate. Finished parts
are kept next to the output until the end, so that a killed run resumes when it is started again
with the same options. Files that have changed since (by size or modification time), and files that
could not be used, are read again.

The output is an .npz file with `ids`, `vectors` (clips, d), `source`, `encoder` (a hash of it) and,
for a prepared set, `split`; with --pool none it has `vectors` (windows, d), `owners` (windows,),
the row in `ids` of a window's clip, and `starts` (windows,) in seconds. A .parquet file has the
ids, splits, starts and vectors as a table, with one row for each vector.
"""

import dataclasses
import functools
import pathlib
from typing import ClassVar, Literal

from keras_tune.errors import UserError
from keras_tune.recipes._cli import run
from keras_tune.recipes._folder import writes
from keras_tune.recipes._options import names_in, names_options
from keras_tune.shipped import onnx_file
from keras_tune.storage import local_output
from keras_tune.types import DEFAULT_ENCODER, BatchSize, Hop, Workers


@dataclasses.dataclass
class EmbedConfig:
    """The clips to embed, and how.

    Args:
        source: An audio file, a folder of them (with all its subfolders), or a prepared set; may be
            given first, without --source.
        encoder: A .keras file, the folder of a pretraining run, tune_plus_open, tune_plus_64_open,
            untrained:PRESET, or mel.
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
        """Whether Keras runs the encoder, and not ONNX Runtime."""
        return bool(self.backend or self.layers) or onnx_file(self.encoder) is None


@names_options()
@writes("file")
def main(config):
    """Run the command line; see `EmbedConfig`."""
    from keras_tune.evaluation import embed_files

    output = local_output(config.output)
    if config.output_is_default:
        _check_same_source(output, config.source)
    written = embed_files(
        config.source,
        output,
        config.encoder,
        hop=config.hop,
        pool=config.pool,
        layers=names_in(config.layers),
        layer_pooling=config.layer_pooling,
        batch_size=config.batch_size,
        workers=config.workers,
        strict=config.strict,
        in_keras=config.needs_keras,
    )
    clips, vectors, lost = (
        f"{count:,} {word}{'s' * (count != 1)}"
        for count, word in (
            (written.clips, "clip"),
            (written.vectors, "vector"),
            (len(written.left_out), "clip"),
        )
    )
    print(f"{output}: {clips}, {vectors}; {lost} left out")


def _check_same_source(output, source):
    """Refuse to replace embeddings of another source, such as those of a.wav by those of a.mp3."""
    from keras_tune.files import read_npz
    from keras_tune.storage import to_path

    path = to_path(source)
    if not output.exists() or not path.exists():
        return
    source = str(path.resolve())
    try:
        there = read_npz(output).get("source")
    except UserError:
        there = None
    if there is None or str(there) != source:
        of = "something else" if there is None else there
        raise UserError(f"{output}: already exists for {of}, not for {source}; give --output")


cli = functools.partial(run, main, EmbedConfig)

if __name__ == "__main__":
    cli()
