"""Embeddings of prepared sets, kept in files, so that each encoder reads a set once."""

import hashlib
import json
import pathlib

from keras_tune.data.paths import to_path
from keras_tune.evaluation.embeddings import ClipEmbeddings, embed_clips
from keras_tune.evaluation.fingerprints import encoder_fingerprint


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
        what = json.dumps([encoder_fingerprint(encoder), self.identity])
        key = hashlib.sha256(what.encode()).hexdigest()[:16]
        file = self.folder / f"{key}-{split}.npz"
        if file.is_file():
            found = ClipEmbeddings.load(file)
            if progress is not None:
                progress(self.info.counts[split])
            return found
        stages = tuple(getattr(encoder, "stage_names", ()))
        found = self.embed_anew(encoder, split, progress, stages)
        found.save(file)
        return found

    def embed_anew(self, encoder, split, progress=None, stages=(), deform=None):
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
