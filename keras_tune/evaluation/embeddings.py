"""Embeddings of clips: the encoder's outputs for their windows, and the means over windows."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tune.checks import check_encoder, check_finite
from keras_tune.data.audio import to_float
from keras_tune.errors import UserError
from keras_tune.evaluation.encoders import tap_stages, window_length
from keras_tune.files import atomic_path, read_npz
from keras_tune.types import DEFAULT_SAMPLE_RATE

if TYPE_CHECKING:
    import keras

# How the windows of a clip become its vector: their mean, mean and maximum, or not at all.
POOLS = ("mean", "mean_max", "none")


class TooShortError(UserError):
    """No clip is as long as a window; `skipped` has the ids of the clips."""

    def __init__(self, window_samples: int, skipped: Iterable[str] = ()):
        self.skipped = list(skipped)
        super().__init__(
            f"no clip is as long as the encoder's window of {window_samples} samples; "
            "use longer clips, or an encoder with shorter windows"
        )


@dataclasses.dataclass(frozen=True)
class ClipEmbeddings:
    """The embeddings of clips, with the clips' ids and labels.

    Args:
        ids: List of strings.
        vectors: Float32 array (clips, d), the mean over the windows of a clip.
        labels: List of dicts from label name to value.
        skipped: List of the ids of clips that are shorter than a window and have no embedding.
            Defaults to none.
        windows: Float32 array (windows of all clips, d). Defaults to None.
        owners: Integer array (windows of all clips,), the row of the clip to which a window
            belongs. Defaults to None.
        crops: Float32 array (clips, d), the embedding of one random crop of each clip. Defaults to
            None.
        stages: Dict from the name of a stage to a float32 array (clips, width): its output averaged
            over time and windows. Defaults to none.

    Example:

    ```python
    from keras_tune.evaluation import ClipEmbeddings

    labels = [{"genre": "jazz"}, {"genre": "rock"}]
    clips = ClipEmbeddings(["a", "b"], np.zeros((2, 512), "float32"), labels)
    clips.take([1]).target("genre")  # ["rock"]
    ```
    """

    ids: list[str]
    vectors: np.ndarray
    labels: list[dict[str, Any]]
    skipped: list[str] = dataclasses.field(default_factory=list)
    windows: np.ndarray | None = None
    owners: np.ndarray | None = None
    crops: np.ndarray | None = None
    stages: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def target(self, name: str) -> np.ndarray:
        """The values of one label, as an array (clips,)."""
        return np.array([labels[name] for labels in self.labels])

    def take(self, rows: Sequence[int] | np.ndarray) -> ClipEmbeddings:
        """The embeddings of some of the clips, in the order of `rows`, which must be distinct."""
        rows = np.asarray(rows, dtype=int)
        arrays = {name: values[rows] for name, values in self._by_clip().items()}
        if self.windows is not None:
            new_row = np.full(len(self.ids), -1)
            new_row[rows] = np.arange(len(rows))
            owners = new_row[self.owners]
            arrays |= {"windows": self.windows[owners >= 0], "owners": owners[owners >= 0]}
        ids, labels = [self.ids[row] for row in rows], [self.labels[row] for row in rows]
        return self._from_arrays(arrays, ids, labels, skipped=[])

    def mean_over_windows(self, values: np.ndarray) -> np.ndarray:
        """The means of values (windows, k) over the windows of each clip, float64 (clips, k)."""
        sums = np.zeros((len(self.ids), values.shape[1]))
        np.add.at(sums, self.owners, values)
        return sums / np.bincount(self.owners, minlength=len(self.ids))[:, None]

    def of_stage(self, name: str) -> ClipEmbeddings:
        """The same clips, with the output of a stage in place of the representation."""
        return ClipEmbeddings(self.ids, self.stages[name], self.labels, self.skipped)

    @classmethod
    def merge(cls, parts: Iterable[ClipEmbeddings], windows: bool = True) -> ClipEmbeddings:
        """Concatenate several sets of clips without `windows`, which take most of the memory."""
        # One part after the other, since an iterable may read them from files.
        parts = [
            part if windows else dataclasses.replace(part, windows=None, owners=None)
            for part in parts
        ]
        tables = [part._by_clip() for part in parts]
        arrays = {
            name: np.concatenate([table[name] for table in tables])
            for name in tables[0]
            if all(name in table for table in tables)
        }
        if all(part.windows is not None for part in parts):
            starts = np.cumsum([0] + [len(part.ids) for part in parts[:-1]])
            arrays["windows"] = np.concatenate([part.windows for part in parts])
            arrays["owners"] = np.concatenate(
                [part.owners + start for part, start in zip(parts, starts, strict=True)]
            )
        return cls._from_arrays(
            arrays,
            ids=[clip for part in parts for clip in part.ids],
            labels=[labels for part in parts for labels in part.labels],
            skipped=[clip for part in parts for clip in part.skipped],
        )

    def check_finite(self, name: str | pathlib.Path, hint: str = "") -> None:
        """Raise a `UserError` that begins with `name` unless all numbers are finite."""
        pairs = zip(self.ids, self.vectors, strict=True)
        arrays = [(f"the vector of {clip}", vector) for clip, vector in pairs]
        check_finite(name, [*arrays, *self._arrays().items()], hint)

    def save(self, path: str | pathlib.Path) -> None:
        """Write everything to an `.npz` file, in one step."""
        text = json.dumps({"ids": self.ids, "labels": self.labels, "skipped": self.skipped})
        with atomic_path(path) as temporary:
            np.savez(temporary, description=np.array(text), **self._arrays())

    @classmethod
    def load(cls, path: str | pathlib.Path) -> ClipEmbeddings:
        """Read a file written by `save`.

        Raises:
            UserError: The file is damaged or contains something else, or a number is not finite.
        """
        arrays = read_npz(path)
        try:
            description = json.loads(str(arrays.pop("description")))
            found = cls._from_arrays(arrays, **description)
            fits = found._fits()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            fits = False
        if not fits:
            raise UserError(f"{path}: damaged, or not embeddings. Delete it and run again.")
        found.check_finite(path, "; delete the file")
        return found

    def _by_clip(self):
        """The arrays with a row for each clip, by their names in a file."""
        crops = {} if self.crops is None else {"crops": self.crops}
        stages = {f"stage/{name}": values for name, values in self.stages.items()}
        return {"vectors": self.vectors, **crops, **stages}

    def _arrays(self):
        """All arrays, by their names in a file."""
        if self.windows is None:
            return self._by_clip()
        return {**self._by_clip(), "windows": self.windows, "owners": self.owners}

    @classmethod
    def _from_arrays(cls, arrays, ids, labels, skipped):
        """The embeddings whose `_arrays` are given."""
        fields, stages = {}, {}
        for name, values in arrays.items():
            kind, _, stage = name.partition("/")
            if kind == "stage":
                stages[stage] = values
            else:
                fields[name] = values
        return cls(ids=ids, labels=labels, skipped=skipped, stages=stages, **fields)

    def _fits(self):
        """Whether the parts that were read from a file belong together."""
        count = len(self.ids)
        lists = (self.ids, self.labels, self.skipped)
        if not count or not all(isinstance(part, list) for part in lists):
            return False
        rows = list(self._by_clip().values())
        tables = rows if self.windows is None else [*rows, self.windows]
        owners = np.zeros(0, int) if self.owners is None else self.owners
        return (
            all(isinstance(text, str) for text in (*self.ids, *self.skipped))
            and all(isinstance(labels, dict) for labels in self.labels)
            and len(self.labels) == count
            and all(values.ndim == 2 and values.dtype.kind == "f" for values in tables)
            and all(len(values) == count for values in rows)
            and (self.windows is None) == (self.owners is None)
            and owners.dtype.kind == "i"
            and owners.shape == (0 if self.windows is None else len(self.windows),)
            and bool(((owners >= 0) & (owners < count)).all())
        )


def cut_windows(
    audio: np.ndarray, window_samples: int, hop_samples: int | None = None
) -> np.ndarray:
    """Cut a clip into windows. The rest at the end is dropped, as in the papers.

    Args:
        audio: Array (samples,).
        window_samples: Integer, the length of a window.
        hop_samples: Integer, from the start of one window to the next. Defaults to
            `window_samples`: consecutive windows without overlap.

    Returns:
        Array (windows, window_samples), a view of the clip; empty if the clip is shorter than a
        window.

    Source: Vélez Vásquez & Burgoyne (ISMIR 2022), section 4; Castellon et al., jukemir (ISMIR
    2021).

    Example:

    ```python
    from keras_tune.evaluation import cut_windows

    cut_windows(np.arange(10), 4).tolist()  # [[0, 1, 2, 3], [4, 5, 6, 7]]
    ```
    """
    if len(audio) < window_samples:
        return np.empty((0, window_samples), audio.dtype)
    windows = np.lib.stride_tricks.sliding_window_view(audio, window_samples)
    return windows[:: hop_samples or window_samples]


def hop_in_samples(hop: float | None, sample_rate: int = DEFAULT_SAMPLE_RATE) -> int | None:
    """Convert a hop, which must be positive, from seconds to samples; None stays None."""
    if hop is None:
        return None
    if hop <= 0:
        raise ValueError(f"`hop` must be positive. Received: hop={hop}")
    return max(1, round(hop * sample_rate))


def embed_clips(
    encoder: keras.Model,
    records: Iterable[dict[str, Any]],
    window_samples: int | None = None,
    hop_samples: int | None = None,
    batch_size: int = 32,
    progress: Callable[[int], object] | None = None,
    crop_seed: int | None = None,
    stages: Sequence[str] = (),
    deform: Callable[[np.ndarray], np.ndarray] | None = None,
    keep_windows: bool = True,
) -> ClipEmbeddings:
    """Embed clips of any length: encode their windows, and average the outputs of each clip.

    Args:
        encoder: Keras model from (batch, window_samples, 1) to (batch, d). If it has a method
            `finish`, means over windows go through it (see `MelStatistics`).
        records: Iterable of dicts with `id`, `audio` (array (samples,), floats with full scale 1 or
            int16) and `labels`.
        window_samples: Integer, the length of a window. Defaults to the encoder's own, or 59,049
            for an encoder of any length.
        hop_samples: Integer, from one window to the next. Defaults to `window_samples`.
        batch_size: Integer, the number of windows in a batch. Defaults to 32.
        progress: Function called with the number of clips just read, for a progress bar. Defaults
            to None.
        crop_seed: Integer, to also embed one random crop of each clip, which depends on the seed
            and the clip's id. Defaults to None: no crops.
        stages: Names of stages of the encoder to embed in the same pass. Defaults to none.
        deform: Function of a clip (float array (samples,)) that returns the clip to embed in its
            place. Defaults to None.
        keep_windows: Whether the result has the embedding of every window, and not only the means
            over windows, which need much less memory for long clips. Defaults to True.

    Returns:
        `ClipEmbeddings`.

    Raises:
        TooShortError: No clip is as long as a window.
        UserError: The model is not an encoder, has no such stage, or its output is not finite.

    Example:

    ```python
    from keras_tune.evaluation import MelStatistics, embed_clips

    noise = np.random.default_rng(0).normal(0, 0.1, (3, 5000))
    records = [{"id": str(k), "audio": clip, "labels": {}} for k, clip in enumerate(noise)]
    embed_clips(MelStatistics(input_samples=2048), records).vectors.shape  # (3, 256)
    ```
    """
    check_encoder("the encoder", encoder)
    window_samples = window_length(encoder, window_samples)
    model = tap_stages(encoder, stages) if stages else encoder
    # All batches have one shape, so that backends compile only once; the last one is padded, unless
    # nothing is compiled.
    any_batch = getattr(encoder, "any_batch", False)
    batch = np.zeros((batch_size, window_samples, 1), "float32")
    # The row of the clip of each window in the batch, or None for a random crop.
    waiting = []
    outputs, owners, crops = [], [], []
    # The sums over the windows of each clip.
    sums = {name: [] for name in ("representation", *stages)}
    ids, labels, skipped = [], [], []

    def finished(vectors):
        finish = getattr(encoder, "finish", np.asarray)
        return np.asarray(finish(vectors), "float32")

    def flush():
        found = model.predict_on_batch(batch[: len(waiting)] if any_batch else batch)
        found = found if stages else {"representation": found}
        found = {name: np.asarray(values, "float32") for name, values in found.items()}
        for index, row in enumerate(waiting):
            vector = found["representation"][index]
            if row is None:
                crops.append(vector.copy())
                continue
            owners.append(row)
            for name, values in found.items():
                sums[name][row] += values[index].astype("float64")
            if keep_windows:
                outputs.append(vector.copy())
        waiting.clear()

    def put(window, row):
        batch[len(waiting), :, 0] = window
        waiting.append(row)
        if len(waiting) == batch_size:
            flush()

    for record in records:
        audio = to_float(np.asarray(record["audio"]))
        if progress is not None:
            progress(1)
        if len(audio) < window_samples:
            skipped.append(record["id"])
            continue
        audio = audio if deform is None else deform(audio)
        ids.append(record["id"])
        labels.append(record["labels"])
        for values in sums.values():
            values.append(0.0)
        for window in cut_windows(audio, window_samples, hop_samples):
            put(window, len(ids) - 1)
        if crop_seed is not None:
            start = crop_start(record["id"], len(audio) - window_samples, crop_seed)
            put(audio[start : start + window_samples], None)
    if waiting:
        flush()
    if not ids:
        raise TooShortError(window_samples, skipped)
    counts = np.bincount(owners)[:, None]
    means = {name: np.stack(values) / counts for name, values in sums.items()}
    found = ClipEmbeddings(
        ids,
        finished(means.pop("representation")),
        labels,
        skipped,
        windows=finished(np.stack(outputs)) if keep_windows else None,
        owners=np.array(owners) if keep_windows else None,
        crops=finished(np.stack(crops)) if crops else None,
        stages={name: values.astype("float32") for name, values in means.items()},
    )
    found.check_finite("the encoder's output", "; its weights are damaged or too large")
    return found


def crop_start(clip: str, room: int, seed: int) -> int:
    """The start of a clip's random crop: an integer from 0 to `room`, from its id and a seed."""
    digest = hashlib.sha256(f"{seed}/{clip}".encode()).digest()
    return int(np.random.default_rng(int.from_bytes(digest[:8], "big")).integers(0, room + 1))


def pool_clips(clips: ClipEmbeddings, own: str, pooling: str) -> ClipEmbeddings:
    """Change the pooling of embeddings to means, or to means and standard deviations, over time.

    Mel statistics have means and deviations over the frames, and "mean" keeps only the means. The
    output of an encoder for a window is a mean over time already; "mean_std" adds the deviation
    over the windows of a clip. A single window has no such deviation, so the result has no windows,
    crops or stages.

    Args:
        clips: `ClipEmbeddings`.
        own: The pooling that the embeddings have now; see `default_pooling`.
        pooling: "mean" or "mean_std".

    Returns:
        `ClipEmbeddings`.

    Example:

    ```python
    from keras_tune.evaluation import ClipEmbeddings, pool_clips

    windows, owners = np.array([[1.0], [3.0]]), np.array([0, 0])
    clips = ClipEmbeddings(["song"], np.array([[2.0]]), [{}], windows=windows, owners=owners)
    pool_clips(clips, "mean", "mean_std").vectors  # [[2.0, 1.0]]
    ```
    """
    if pooling == own:
        return clips
    if pooling == "mean":
        half = clips.vectors.shape[1] // 2
        return dataclasses.replace(
            clips,
            vectors=clips.vectors[:, :half],
            windows=None if clips.windows is None else clips.windows[:, :half],
            crops=None if clips.crops is None else clips.crops[:, :half],
        )
    deviations = clips.windows - clips.vectors[clips.owners]
    variances = clips.mean_over_windows(np.square(deviations, dtype="float64"))
    stds = np.sqrt(variances).astype("float32")
    return dataclasses.replace(
        clips,
        vectors=np.concatenate([clips.vectors, stds], axis=1),
        windows=None,
        owners=None,
        crops=None,
    )


def pool_windows(clips: ClipEmbeddings, pool: str) -> np.ndarray:
    """Combine the vectors of a clip's windows into one vector per clip.

    Float32, (clips, d) for "mean", and (clips, 2 · d) for "mean_max".
    """
    if pool == "mean":
        return clips.vectors
    highest = np.full(clips.vectors.shape, -np.inf, "float32")
    np.maximum.at(highest, clips.owners, clips.windows)
    return np.concatenate([clips.vectors, highest], axis=1)
