"""A logistic or k-NN probe every few epochs of pretraining."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_tune.data.dataset import AudioDataset

Part = tuple[Sequence[np.ndarray], Sequence[Any]]


class OnlineProbe(keras.callbacks.Callback):
    """Probe the encoder on a small labelled subset and put `val_probe` into the history.

    Two small sets of labelled clips are embedded; a probe is trained on one and scored on the
    other. The score is in the logs of every epoch, so that checkpoints, searches and `CSVLogger`
    can use it. Put this callback before those that need the score.

    Args:
        train: Pair of clips (clips, samples), int16 or float with full scale 1, and labels
            (clips,), names or numbers of classes. A few hundred clips are enough.
        valid: The same for scoring. Never use the test split of a later evaluation.
        every: Integer, the epochs between two evaluations; the first epoch is also evaluated.
            Defaults to 5.
        probe: "knn" or "logistic". Defaults to "knn", which is very fast.
        batch_size: Integer, windows encoded at a time. Defaults to 32.
        between: The score in epochs without an evaluation: "last" for the last score, "nan" for
            NaN. Defaults to "last".

    Raises:
        ValueError: There is no such probe, or the numbers of clips and labels differ.

    Example:

    ```python
    from keras_tune.evaluation import OnlineProbe
    from keras_tune.training import ContrastiveModel

    generator = np.random.default_rng(0)
    clips = generator.normal(0, 0.1, (8, 3000)).astype("float32")
    labels = ["calm", "tense"] * 4
    encoder = keras_tune.TUNe(1, 1, base_filters=2, tail_filters=[4], input_samples=2187)
    model = ContrastiveModel(encoder)
    model.compile("adam")
    probe = OnlineProbe((clips, labels), (clips[:4], labels[:4]))
    history = model.fit(clips, batch_size=4, epochs=1, callbacks=[probe], verbose=0)
    history.history["val_probe"]
    ```
    """

    def __init__(
        self,
        train: Part,
        valid: Part,
        every: int = 5,
        probe: str = "knn",
        batch_size: int = 32,
        between: str = "last",
    ):
        super().__init__()
        if between not in ("last", "nan"):
            raise ValueError(f"`between` must be 'last' or 'nan'. Received: between={between}")
        if probe not in ("knn", "logistic"):
            raise ValueError(f"`probe` must be 'knn' or 'logistic'. Received: probe={probe}")
        if every < 1:
            raise ValueError(f"`every` must be at least 1. Received: every={every}")
        for name, (clips, labels) in (("train", train), ("valid", valid)):
            if len(clips) != len(labels) or not len(clips):
                raise ValueError(
                    f"`{name}` must have as many labels as clips, and at least one. "
                    f"Received: {len(clips)} clips, {len(labels)} labels"
                )
        self.train, self.valid = train, valid
        self.every, self.probe, self.batch_size = every, probe, batch_size
        self.between = between
        self.last: float | None = None
        self._encoder_of_fit: Any = None

    @classmethod
    def from_dataset(
        cls, dataset: AudioDataset, label: str, clips: int | None = None, **options: Any
    ) -> OnlineProbe:
        """Make the callback for a label of a dataset.

        Args:
            dataset: `keras_tune.data.AudioDataset` with the splits train and valid.
            label: String, the label to probe.
            clips: Integer, the number of labelled clips of each split; the first ones are used.
                Defaults to None: all.
            **options: Other arguments of `OnlineProbe`.

        Returns:
            `OnlineProbe`.

        Raises:
            ValueError: There is no such label, no clip of train or of valid has it, or it is a
                number other than 0 or 1.

        Example:

        ```python
        from keras_tune.data import open_dataset, save_demo
        from keras_tune.evaluation import OnlineProbe

        save_demo("demo.npz", num_clips={"train": 8, "valid": 8}, seconds=1.0)
        probe = OnlineProbe.from_dataset(open_dataset("demo.npz"), "instrument", every=1)
        probe.train[1]  # ["bell", "bowed", ...]
        ```
        """
        known = [column.name for column in dataset.info.labels]
        if label not in known:
            raise ValueError(
                f"`label` must be a label of {dataset.path}, which has "
                f"{', '.join(known) or 'none'}. Received: label={label}"
            )
        column, place = dataset.info.label_column(label)
        if column.kind == "number":
            values = {float(vector[place]) for vector in dataset.label_vectors("train")}
            values = {value for value in values if not math.isnan(value)}
            if not values <= {0, 1}:
                raise ValueError(
                    f"`label` must be a category, or a number that is 0 or 1. Received: {label}, "
                    f"which has {len(values)} values"
                )
        parts = []
        for split in ("train", "valid"):
            labelled = (
                (record["audio"], record["labels"][label])
                for record in dataset.records(split)
                if record["labels"][label] is not None
                # A number that is missing is NaN.
                and record["labels"][label] == record["labels"][label]
            )
            found = list(itertools.islice(labelled, clips))
            if not found:
                raise ValueError(
                    f"`label` must be known for clips of {split} in {dataset.path}. "
                    f"Received: label={label}"
                )
            parts.append(([audio for audio, _ in found], [name for _, name in found]))
        train, valid = parts
        return cls(train, valid, **options)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if epoch == 0 or (epoch + 1) % self.every == 0:
            self.last = self.score()
        elif self.between == "nan":
            self.last = math.nan
        elif self.last is None:
            self.last = self.score()
        if logs is not None:
            logs["val_probe"] = self.last

    def score(self) -> float:
        """Embed both sets with the current weights, and return the accuracy of the probe."""
        from keras_tune.data.schema import LabelColumn
        from keras_tune.evaluation.embeddings import embed_clips
        from keras_tune.evaluation.outcomes import predict_test
        from keras_tune.evaluation.protocols import fit_probe
        from keras_tune.evaluation.tasks import make_task

        names = sorted({str(label) for _, labels in (self.train, self.valid) for label in labels})
        column = LabelColumn("label", "category", tuple(names))
        embedded = [
            embed_clips(
                self._encoder(),
                _records(*part),
                window_samples=getattr(self.model, "crop_samples", None),
                batch_size=self.batch_size,
            )
            for part in (self.train, self.valid)
        ]
        task = make_task([column], [])
        # The number of neighbours, or the regularization, is chosen on half of each class.
        found = embedded[0].target("label")
        number = np.sum(np.tril(found[:, None] == found), axis=1)
        fitted, chosen = (embedded[0].take(np.flatnonzero(number % 2 == odd)) for odd in (1, 0))
        probe = fit_probe(self.probe, fitted, chosen, task)
        run = predict_test(probe, embedded[1], task)
        return task.scores(run.targets, run.predictions)[task.primary]

    def _encoder(self):
        encoder = getattr(self.model, "encoder", self.model)
        if self._encoder_of_fit is not encoder:
            self._encoder_of_fit = encoder
            # A model of its own around the same weights, since `fit` holds the compiled functions.
            self._around = keras.Model(encoder.input, encoder.output)
        return self._around


def _records(clips, labels):
    from keras_tune.data.audio import to_float

    for number, (clip, label) in enumerate(zip(clips, labels, strict=True)):
        yield {
            "id": str(number),
            "audio": to_float(np.asarray(clip)),
            "labels": {"label": str(label)},
        }
