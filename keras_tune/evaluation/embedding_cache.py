"""Embeddings of prepared sets, kept in files, so that each encoder reads a set once."""

import hashlib
import json
import pathlib
import sys

import numpy as np

from keras_tune.data.paths import to_path
from keras_tune.errors import UserError
from keras_tune.evaluation.embeddings import ClipEmbeddings, embed_clips
from keras_tune.files import atomic_path


class EmbeddingCache:
    """The embeddings of a set's splits, from files where they are there, and into files if not.

    A file's name is a hash over the encoder's weights, the windows and the set: the time at which
    it was written counts too, since labels are kept with the embeddings. All stages that the
    encoder names are tapped in the same pass.

    Args:
        folder: Folder for the files, made if it is missing.
        data: Folder that `prepare` has written, or an `.npz` file of clips.
        info: Its `DatasetInfo`.
        hop: Float, seconds from one window to the next. Defaults to None: windows do not overlap.
        batch_size: Integer, windows encoded at a time. Defaults to 32.
        crop_seed: Integer, for the random crop of each clip. Defaults to 0.

    Example:

    ```python
    cache = EmbeddingCache("embeddings", "tfrecords/emotify", load_info("tfrecords/emotify"))
    cache.embed(encoder, "test").vectors.shape  # (78, 512)
    ```
    """

    def __init__(self, folder, data, info, hop=None, batch_size=32, crop_seed=0):
        self.folder, self.data, self.info = pathlib.Path(folder), to_path(data), info
        self.hop_samples = None if hop is None else max(1, round(hop * info.sample_rate))
        self.batch_size, self.crop_seed = batch_size, crop_seed
        written = self.data if self.data.is_file() else self.data / "dataset.json"
        self.identity = [
            self.hop_samples,
            crop_seed,
            sorted(info.fingerprints.items()),
            written.stat().st_mtime_ns,
        ]

    def embed(self, encoder, split, progress=None):
        """The embeddings of a split.

        Args:
            encoder: Keras model from (batch, samples, 1) to (batch, d).
            split: String.
            progress: Function of the number of clips just done. Defaults to None.

        Returns:
            `ClipEmbeddings`.
        """
        file = self.folder / f"{self._key(encoder)}-{split}.npz"
        if file.is_file():
            try:
                found = ClipEmbeddings.load(file)
            except UserError as error:
                print(f"{file}: damaged; it is written anew ({error})", file=sys.stderr)
            else:
                if progress is not None:
                    progress(self.info.counts[split])
                return found
        stages = tuple(getattr(encoder, "stage_names", ()))
        found = self.embed_uncached(encoder, split, progress, stages)
        found.save(file)
        return found

    def estimate_batch_norm(self, encoder, splits):
        """Estimate an encoder's batch normalization on clips of a set, in place.

        The statistics are kept in a file like the embeddings: found again, they are the same to the
        last bit, and so are the encoder's fingerprint and the name of its embeddings' file.

        Args:
            encoder: Keras model, see `keras_tune.evaluation.baselines`.
            splits: List of strings, the splits of whose clips a random crop each is taken.
        """
        import keras

        from keras_tune.data import read_records
        from keras_tune.evaluation.baselines import batch_norm_variables, estimate_batch_norm_on

        file = self.folder / f"{self._key(encoder, list(splits))}-batch_norm.npz"
        variables = batch_norm_variables(encoder)
        if file.is_file():
            with np.load(file) as found:
                for number, variable in enumerate(variables):
                    variable.assign(found[str(number)])
            return
        records = (record for split in splits for record in read_records(self.data, split))
        count = sum(self.info.counts[split] for split in splits)
        estimate_batch_norm_on(encoder, records, count, self.crop_seed)
        values = [keras.ops.convert_to_numpy(variable) for variable in variables]
        with atomic_path(file) as temporary:
            np.savez(temporary, **{str(number): value for number, value in enumerate(values)})

    def _key(self, encoder, *more):
        """Sixteen hexadecimal digits for what changes vectors."""
        what = json.dumps([encoder_fingerprint(encoder), self.identity, *more])
        return hashlib.sha256(what.encode()).hexdigest()[:16]

    def embed_uncached(self, encoder, split, progress=None, stages=(), deform=None):
        """The embeddings of a split, or of deformed clips of it, past the files."""
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


def encoder_fingerprint(encoder):
    """Hash an encoder's configuration and weights to 64 hexadecimal digits.

    Args:
        encoder: Keras model.

    Returns:
        String, the same on every backend and machine.

    Example:

    ```python
    encoder_fingerprint(encoder)[:12]
    ```
    """
    digest = hashlib.sha256()
    config = {key: value for key, value in encoder.get_config().items() if key != "name"}
    digest.update(
        json.dumps([type(encoder).__name__, config], sort_keys=True, default=str).encode()
    )
    for weights in encoder.get_weights():
        digest.update(str(weights.shape).encode())
        digest.update(np.ascontiguousarray(weights, "<f4").tobytes())
    return digest.hexdigest()
