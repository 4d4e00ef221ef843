"""Embeddings of prepared sets, kept in files so that each encoder reads a set only once."""

from __future__ import annotations

import hashlib
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_tune.checks import check_finite
from keras_tune.errors import UserError
from keras_tune.evaluation.embeddings import ClipEmbeddings, embed_clips, hop_in_samples
from keras_tune.evaluation.encoders import encoder_fingerprint
from keras_tune.files import atomic_path, read_npz
from keras_tune.storage import to_path

if TYPE_CHECKING:
    import keras

    from keras_tune.data import DatasetInfo


class EmbeddingCache:
    """The embeddings of the splits of a set, read from files, which are written on first use.

    The name of a file is a hash of the encoder's weights, the windows and the set. The time at
    which the set was written is part of it, since labels are stored with the embeddings. All stages
    that the encoder names are embedded in the same pass.

    Args:
        folder: Folder for the files, created if it is missing.
        data: Folder written by `prepare`, or an `.npz` file of clips.
        info: `DatasetInfo` of the set.
        hop: Float, seconds from one window to the next. Defaults to None: windows do not overlap.
        batch_size: Integer, the number of windows encoded at a time. Defaults to 32.
        crop_seed: Integer, the seed of the random crop of each clip. Defaults to 0.

    Example:

    ```python
    from keras_tune.evaluation import EmbeddingCache, MelStatistics

    noise = np.random.default_rng(0).normal(0, 0.1, (4, 5000)).astype("float32")
    np.savez("clips.npz", audio=noise, split=["train", "train", "valid", "test"])
    info = keras_tune.data.open_dataset("clips.npz").info
    cache = EmbeddingCache("embeddings", "clips.npz", info)
    encoder = MelStatistics(input_samples=2048)
    cache.embed(encoder, "train").vectors.shape  # (2, 256), and a file in the folder
    ```
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        data: str | pathlib.Path,
        info: DatasetInfo,
        hop: float | None = None,
        batch_size: int = 32,
        crop_seed: int = 0,
    ):
        self.folder, self.data, self.info = pathlib.Path(folder), to_path(data), info
        self.hop_samples = hop_in_samples(hop, info.sample_rate)
        self.batch_size, self.crop_seed = batch_size, crop_seed
        written = self.data if self.data.is_file() else self.data / "dataset.json"
        self.identity = [
            self.hop_samples,
            crop_seed,
            sorted(info.fingerprints.items()),
            written.stat().st_mtime_ns,
        ]

    def embed(
        self, encoder: keras.Model, split: str, progress: Callable[[int], object] | None = None
    ) -> ClipEmbeddings:
        """Get the embeddings of a split.

        Args:
            encoder: Keras model from (batch, samples, 1) to (batch, d).
            split: String.
            progress: Function called with the number of clips just finished. Defaults to None.

        Returns:
            `ClipEmbeddings`.
        """
        file = self.folder / f"{self._key(encoder)}-{split}.npz"
        if file.is_file():
            try:
                found = ClipEmbeddings.load(file)
            except UserError as error:
                print(f"{file}: damaged, so it is written again ({error})", file=sys.stderr)
            else:
                if progress is not None:
                    progress(self.info.counts[split])
                return found
        stages = tuple(getattr(encoder, "stage_names", ()))
        found = self.embed_uncached(encoder, split, progress, stages)
        found.save(file)
        return found

    def estimate(self, encoder: keras.Model, splits: Sequence[str]) -> None:
        """Estimate what an untrained encoder takes from clips of the set, in place.

        The statistics are kept in a file as well. Read from there they are the same to the last
        bit, so the encoder's fingerprint and the names of its embedding files stay the same.

        Args:
            encoder: Keras model, see `keras_tune.evaluation.baselines`.
            splits: List of splits. One random crop of each of their clips is used.
        """
        import keras

        from keras_tune.data import read_records
        from keras_tune.evaluation.baselines import estimate_on, estimated_variables

        file = self.folder / f"{self._key(encoder, list(splits))}-estimated.npz"
        variables = estimated_variables(encoder)
        if file.is_file():
            try:
                found = read_npz(file)
                check_finite(file, found.items())
                for number, variable in enumerate(variables):
                    variable.assign(found[str(number)])
                return
            except (UserError, KeyError, ValueError) as error:
                print(f"{file}: damaged, so it is written again ({error})", file=sys.stderr)
        records = (record for split in splits for record in read_records(self.data, split))
        count = sum(self.info.counts[split] for split in splits)
        estimate_on(encoder, records, count, self.crop_seed)
        values = [keras.ops.convert_to_numpy(variable) for variable in variables]
        with atomic_path(file) as temporary:
            np.savez(temporary, **{str(number): value for number, value in enumerate(values)})

    def _key(self, encoder, *more):
        """Sixteen hexadecimal digits that stand for everything that changes the vectors."""
        what = json.dumps([encoder_fingerprint(encoder), self.identity, *more])
        return hashlib.sha256(what.encode()).hexdigest()[:16]

    def embed_uncached(
        self,
        encoder: keras.Model,
        split: str,
        progress: Callable[[int], object] | None = None,
        stages: Sequence[str] = (),
        deform: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> ClipEmbeddings:
        """Compute the embeddings of a split without using the files; see `embed_clips`."""
        from keras_tune.data import read_records

        return embed_clips(
            encoder,
            read_records(self.data, split),
            hop_samples=self.hop_samples,
            batch_size=self.batch_size,
            progress=progress,
            crop_seed=self.crop_seed,
            stages=stages,
            deform=deform,
        )
