"""One vector for a whole clip: the mean of the encoder's outputs over consecutive windows."""

import dataclasses

import numpy as np

from keras_tune.errors import UserError


@dataclasses.dataclass(frozen=True)
class ClipEmbeddings:
    """The embeddings of the clips of one split, with what the clips are called and labelled.

    Args:
        ids: List of strings.
        vectors: Float32 array (clips, d).
        labels: List of dicts from label name to value.
        skipped: List of the ids of clips shorter than a window, which have no embedding.
    """

    ids: list
    vectors: np.ndarray
    labels: list
    skipped: list

    def target(self, name):
        """The values of one label, as an array (clips,)."""
        return np.array([labels[name] for labels in self.labels])


def cut_windows(audio, window_samples, hop_samples=None):
    """Cut a clip into windows; what is left over at the end is dropped, as the papers do.

    Args:
        audio: Array (samples,).
        window_samples: Integer, the length of a window.
        hop_samples: Integer, from the start of one window to the next. Defaults to
            `window_samples`: consecutive windows without overlap.

    Returns:
        Array (windows, window_samples), a view where it can be one; no windows if the clip is
        shorter than one.

    Source: Vélez Vásquez & Burgoyne (ISMIR 2022), section 4; Castellon et al., jukemir (ISMIR
    2021).

    Example:

    ```python
    cut_windows(np.arange(10), 4).tolist()  # [[0, 1, 2, 3], [4, 5, 6, 7]]
    ```
    """
    if len(audio) < window_samples:
        return np.empty((0, window_samples), audio.dtype)
    windows = np.lib.stride_tricks.sliding_window_view(audio, window_samples)
    return windows[:: hop_samples or window_samples]


def embed_clips(
    encoder, records, window_samples=None, hop_samples=None, batch_size=32, progress=None
):
    """Embed clips of any length: encode their windows in batches across clips, and average.

    Args:
        encoder: Keras model from (batch, window_samples, 1) to (batch, d).
        records: Iterable of dicts with `id`, `audio` (float array (samples,)) and `labels`, as
            `keras_tune.data.read_records` gives.
        window_samples: Integer, the length of a window. Defaults to the encoder's own, and 59,049
            for an encoder of any length.
        hop_samples: Integer, from one window to the next. Defaults to `window_samples`.
        batch_size: Integer, windows a batch. Defaults to 32.
        progress: Function of the number of clips just read, for a progress bar. Defaults to None.

    Returns:
        `ClipEmbeddings`.

    Raises:
        UserError: No clip is as long as a window.

    Example:

    ```python
    test = embed_clips(encoder, keras_tune.data.read_records("tfrecords/emotify", "test"))
    test.vectors.shape  # (78, 512)
    ```
    """
    window_samples = window_samples or encoder.input_shape[1] or 59049
    sums, counts, ids, labels, skipped = [], [], [], [], []
    # Every batch has the same shape, so that compiled backends compile once; the last is padded.
    batch = np.zeros((batch_size, window_samples, 1), "float32")
    owners = []

    def flush():
        outputs = np.asarray(encoder.predict_on_batch(batch), "float32")[: len(owners)]
        for owner, output in zip(owners, outputs, strict=True):
            sums[owner] += output.astype("float64")
            counts[owner] += 1
        owners.clear()

    for record in records:
        windows = cut_windows(np.asarray(record["audio"]), window_samples, hop_samples)
        if progress is not None:
            progress(1)
        if not len(windows):
            skipped.append(record["id"])
            continue
        ids.append(record["id"])
        labels.append(record["labels"])
        sums.append(0.0)
        counts.append(0)
        for window in windows:
            batch[len(owners), :, 0] = window
            owners.append(len(ids) - 1)
            if len(owners) == batch_size:
                flush()
    if owners:
        flush()
    if not ids:
        raise UserError(
            f"no clip is as long as the encoder's window of {window_samples} samples; "
            "give longer clips or an encoder of shorter windows"
        )
    vectors = np.stack([s / c for s, c in zip(sums, counts, strict=True)]).astype("float32")
    return ClipEmbeddings(ids, vectors, labels, skipped)
