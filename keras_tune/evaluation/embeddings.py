"""Embeddings of clips: the encoder's outputs for their windows, and the means of these."""

import dataclasses
import hashlib
import json

import numpy as np

from keras_tune.checks import check_encoder, check_finite
from keras_tune.errors import UserError
from keras_tune.files import atomic_path, read_npz

DEFAULT_WINDOW = 59049
POOLINGS = ("mean", "mean_std")


class TooShortError(UserError):
    """No clip is as long as a window.

    Args:
        window_samples: Integer, the window.
        skipped: List of the ids of the clips. Defaults to none.

    Attributes:
        skipped: The same.

    Example:

    ```python
    raise TooShortError(59049, ["clips/03.wav"])
    ```
    """

    def __init__(self, window_samples, skipped=()):
        self.skipped = list(skipped)
        super().__init__(
            f"no clip is as long as the encoder's window of {window_samples} samples; "
            "give longer clips or an encoder of shorter windows"
        )


@dataclasses.dataclass(frozen=True)
class ClipEmbeddings:
    """The embeddings of some clips, with what the clips are called and labelled.

    Args:
        ids: List of strings.
        vectors: Float32 array (clips, d), the mean over the windows of a clip.
        labels: List of dicts from label name to value.
        skipped: List of the ids of clips shorter than a window, which have no embedding.
        windows: Float32 array (windows of all clips, d).
        owners: Integer array (windows of all clips,), the row of the clip that a window is of.
        crops: Float32 array (clips, d), the embedding of one random crop of each clip, or None.
        stages: Dict from the name of a stage to a float32 array (clips, width): its output
            averaged over time and windows. Empty if stages were not asked for.
    """

    ids: list
    vectors: np.ndarray
    labels: list
    skipped: list = dataclasses.field(default_factory=list)
    windows: np.ndarray | None = None
    owners: np.ndarray | None = None
    crops: np.ndarray | None = None
    stages: dict = dataclasses.field(default_factory=dict)

    def target(self, name):
        """The values of one label, as an array (clips,)."""
        return np.array([labels[name] for labels in self.labels])

    def take(self, rows):
        """The embeddings of some of the clips, in the order of `rows`, integers without doubles."""
        rows = np.asarray(rows, dtype=int)
        place = np.full(len(self.ids), -1)
        place[rows] = np.arange(len(rows))
        kept = {}
        if self.windows is not None:
            owners = place[self.owners]
            kept = {"windows": self.windows[owners >= 0], "owners": owners[owners >= 0]}
        return ClipEmbeddings(
            ids=[self.ids[row] for row in rows],
            vectors=self.vectors[rows],
            labels=[self.labels[row] for row in rows],
            crops=None if self.crops is None else self.crops[rows],
            stages={name: values[rows] for name, values in self.stages.items()},
            **kept,
        )

    def of_stage(self, name):
        """The same clips with the output of a stage in place of the representation."""
        return ClipEmbeddings(self.ids, self.stages[name], self.labels, self.skipped)

    @classmethod
    def merge(cls, parts):
        """Put several sets of clips one after another."""
        parts = list(parts)
        starts = np.cumsum([0] + [len(part.ids) for part in parts[:-1]])
        kept = {}
        if all(part.windows is not None for part in parts):
            kept["windows"] = np.concatenate([part.windows for part in parts])
            kept["owners"] = np.concatenate(
                [part.owners + start for part, start in zip(parts, starts, strict=True)]
            )
        if all(part.crops is not None for part in parts):
            kept["crops"] = np.concatenate([part.crops for part in parts])
        return cls(
            ids=[clip for part in parts for clip in part.ids],
            vectors=np.concatenate([part.vectors for part in parts]),
            labels=[labels for part in parts for labels in part.labels],
            skipped=[clip for part in parts for clip in part.skipped],
            stages={
                name: np.concatenate([part.stages[name] for part in parts])
                for name in parts[0].stages
            },
            **kept,
        )

    def check_finite(self, name, hint=""):
        """Raise a `UserError` that begins with `name` unless all numbers are finite."""
        for row, vector in enumerate(self.vectors):
            check_finite(name, [(f"the vector of {self.ids[row]}", vector)], hint)
        arrays = {"windows": self.windows, "crops": self.crops, **self.stages}
        check_finite(name, ((k, array) for k, array in arrays.items() if array is not None), hint)

    def save(self, path):
        """Write everything to an `.npz` file, in one step."""
        arrays = {"vectors": self.vectors, "windows": self.windows, "owners": self.owners}
        if self.crops is not None:
            arrays["crops"] = self.crops
        arrays |= {f"stage/{name}": values for name, values in self.stages.items()}
        text = json.dumps({"ids": self.ids, "labels": self.labels, "skipped": self.skipped})
        with atomic_path(path) as temporary:
            np.savez(temporary, description=np.array(text), **arrays)

    @classmethod
    def load(cls, path):
        """Read what `save` has written.

        Raises:
            UserError: The file is damaged or something else, or a number is not finite.
        """
        arrays = read_npz(path)
        try:
            description = json.loads(str(arrays.pop("description")))
            stages = {
                key.removeprefix("stage/"): arrays.pop(key)
                for key in list(arrays)
                if key.startswith("stage/")
            }
            found = cls(**description, **arrays, stages=stages)
            fits = found._fits()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            fits = False
        if not fits:
            raise UserError(f"{path}: damaged, or no embeddings. Delete it and run again.")
        found.check_finite(path, "; delete the file")
        return found

    def _fits(self):
        """Whether the parts, as a file has them, go together."""
        count = len(self.ids)
        lists = (self.ids, self.labels, self.skipped)
        if not count or not all(isinstance(part, list) for part in lists):
            return False
        rows = [self.vectors, *self.stages.values()]
        rows += [] if self.crops is None else [self.crops]
        tables = rows + ([] if self.windows is None else [self.windows])
        owners = np.zeros(0, int) if self.owners is None else self.owners
        return (
            all(isinstance(text, str) for text in (*self.ids, *self.skipped))
            and all(isinstance(labels, dict) for labels in self.labels)
            and len(self.labels) == count
            and all(values.ndim == 2 and values.dtype.kind == "f" for values in tables)
            and all(len(values) == count for values in rows)
            and (self.windows is None) == (self.owners is None)
            and owners.ndim == 1
            and owners.dtype.kind == "i"
            and len(owners) == (0 if self.windows is None else len(self.windows))
            and bool(((owners >= 0) & (owners < count)).all())
        )


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


def window_length(encoder, window_samples=None):
    """The length of an encoder's windows: the one given, or its own, or 59,049 samples."""
    return window_samples or encoder.input_shape[1] or DEFAULT_WINDOW


def embed_clips(
    encoder,
    records,
    window_samples=None,
    hop_samples=None,
    batch_size=32,
    progress=None,
    crop_seed=None,
    stages=(),
    deform=None,
):
    """Embed clips of any length: encode their windows in batches across clips, and average.

    Args:
        encoder: Keras model from (batch, window_samples, 1) to (batch, d). If it has a method
            `finish`, means over windows go through it (see `MelStatistics`).
        records: Iterable of dicts with `id`, `audio` (float array (samples,)) and `labels`, as
            `keras_tune.data.read_records` gives.
        window_samples: Integer, the length of a window. Defaults to the encoder's own, and 59,049
            for an encoder of any length.
        hop_samples: Integer, from one window to the next. Defaults to `window_samples`.
        batch_size: Integer, windows a batch. Defaults to 32.
        progress: Function of the number of clips just read, for a progress bar. Defaults to None.
        crop_seed: Integer, to also embed one random crop of each clip, drawn from it and the clip's
            id. Defaults to None: no crops.
        stages: Names of stages of the encoder to tap in the same pass. Defaults to none.
        deform: Function of a clip (float array (samples,)) that gives what to embed in its place.
            Defaults to None.

    Returns:
        `ClipEmbeddings`.

    Raises:
        TooShortError: No clip is as long as a window.
        UserError: The model is no encoder, it has no such stage, or its output is not finite.

    Example:

    ```python
    test = embed_clips(encoder, keras_tune.data.read_records("tfrecords/emotify", "test"))
    test.vectors.shape  # (78, 512)
    ```
    """
    check_encoder("the encoder", encoder)
    window_samples = window_length(encoder, window_samples)
    model = tap_stages(encoder, stages) if stages else encoder
    finish = getattr(encoder, "finish", lambda vectors: vectors)
    # Every batch has the same shape, so that compiled backends compile once; the last is padded.
    batch = np.zeros((batch_size, window_samples, 1), "float32")
    # For each window of the batch the row of its clip, or the complement of it for a random crop.
    waiting = []
    outputs, owners, crops = [], [], {}
    sums = {name: [] for name in stages}
    ids, labels, counts, skipped = [], [], [], []

    def flush():
        found = model.predict_on_batch(batch)
        vectors = np.asarray(found["representation"] if stages else found, "float32")
        for place, row in enumerate(waiting):
            if row < 0:
                crops[~row] = vectors[place].copy()
                continue
            outputs.append(vectors[place].copy())
            owners.append(row)
            for name in stages:
                sums[name][row] += np.asarray(found[name][place], "float64")
        waiting.clear()

    def put(window, row):
        batch[len(waiting), :, 0] = window
        waiting.append(row)
        if len(waiting) == batch_size:
            flush()

    for record in records:
        audio = np.asarray(record["audio"])
        if progress is not None:
            progress(1)
        if len(audio) < window_samples:
            skipped.append(record["id"])
            continue
        audio = audio if deform is None else deform(audio)
        windows = cut_windows(audio, window_samples, hop_samples)
        ids.append(record["id"])
        labels.append(record["labels"])
        counts.append(len(windows))
        for name in stages:
            sums[name].append(0.0)
        for window in windows:
            put(window, len(ids) - 1)
        if crop_seed is not None:
            start = crop_start(record["id"], len(audio) - window_samples, crop_seed)
            put(audio[start : start + window_samples], ~(len(ids) - 1))
    if waiting:
        flush()
    if not ids:
        raise TooShortError(window_samples, skipped)
    outputs, owners = np.stack(outputs), np.array(owners)
    means = np.zeros((len(ids), outputs.shape[1]))
    np.add.at(means, owners, outputs)
    means /= np.array(counts)[:, None]
    found = ClipEmbeddings(
        ids,
        np.asarray(finish(means), "float32"),
        labels,
        skipped,
        windows=np.asarray(finish(outputs), "float32"),
        owners=owners,
        crops=None
        if crop_seed is None
        else np.asarray(finish(np.stack([crops[row] for row in range(len(ids))])), "float32"),
        stages={
            name: (np.stack(values) / np.array(counts)[:, None]).astype("float32")
            for name, values in sums.items()
        },
    )
    found.check_finite("the encoder's output", "; its weights are damaged, or too large")
    return found


def tap_stages(encoder, stages):
    """A model that gives the outputs of stages, averaged over time, beside the representation.

    Args:
        encoder: `TUNe`.
        stages: Names of its stages; see `encoder.stage_names`.

    Returns:
        Keras model from waveforms (batch, samples, 1) to a dict: `representation` (batch, d) and,
        under the name of each stage, (batch, width).

    Raises:
        UserError: The encoder has no such stage.

    Example:

    ```python
    model = tap_stages(encoder, ["bottleneck", "tail_9"])
    model.predict(windows)["bottleneck"].shape  # (windows, 176)
    ```
    """
    import keras

    known = getattr(encoder, "stage_names", ())
    for name in stages:
        if name not in known:
            raise UserError(
                f"the encoder has no stage {name!r}; its stages: {', '.join(known) or 'none'}"
            )
    outputs = {"representation": encoder.output}
    for name in stages:
        average = keras.layers.GlobalAveragePooling1D(
            data_format=encoder.data_format, dtype="float32", name=f"{name}_mean"
        )
        outputs[name] = average(encoder.get_layer(name).output)
    return keras.Model(encoder.input, outputs)


def crop_start(clip, room, seed):
    """Where a clip's random crop starts: an integer 0…`room`, drawn from its id and a seed."""
    digest = hashlib.sha256(f"{seed}/{clip}".encode()).digest()
    return int(np.random.default_rng(int.from_bytes(digest[:8], "big")).integers(0, room + 1))


def default_pooling(encoder):
    """The pooling that an encoder's embeddings have without anything done to them.

    Args:
        encoder: Keras model.

    Returns:
        "mean_std" for `MelStatistics`, else "mean".

    Example:

    ```python
    default_pooling(keras_tune.evaluation.MelStatistics())  # "mean_std"
    ```
    """
    return getattr(encoder, "default_pooling", "mean")


def pool_clips(clips, own, pooling):
    """Clips whose vectors are means, or means and deviations, over time.

    Mel statistics hold means and deviations over the frames: "mean" leaves the first. Of an
    encoder, whose output for a window is a mean over time already, "mean_std" puts the deviation
    over the windows of a clip beside their mean; a single window has no such deviation, so that
    windows and crops are gone, and stages, which are kept as means, are gone too.

    Args:
        clips: `ClipEmbeddings`.
        own: The pooling that the embeddings have, see `default_pooling`.
        pooling: "mean" or "mean_std".

    Returns:
        `ClipEmbeddings`.

    Example:

    ```python
    pool_clips(clips, "mean", "mean_std").vectors.shape  # (78, 1024)
    ```
    """
    if pooling == own:
        return clips
    if pooling == "mean":
        half = clips.vectors.shape[1] // 2
        return dataclasses.replace(
            clips,
            vectors=clips.vectors[:, :half],
            windows=clips.windows[:, :half],
            crops=None if clips.crops is None else clips.crops[:, :half],
        )
    squares = np.zeros(clips.vectors.shape)
    deviations = clips.windows - clips.vectors[clips.owners]
    np.add.at(squares, clips.owners, np.square(deviations, dtype="float64"))
    counts = np.bincount(clips.owners, minlength=len(clips.ids))
    spread = np.sqrt(squares / counts[:, None]).astype("float32")
    return dataclasses.replace(
        clips,
        vectors=np.concatenate([clips.vectors, spread], axis=1),
        windows=None,
        owners=None,
        crops=None,
        stages={},
    )
