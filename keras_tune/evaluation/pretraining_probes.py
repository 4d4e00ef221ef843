"""Probes of an encoder in pretraining: every few epochs (`OnlineProbe`), and at the end."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_tune.data.array_dataset import ArrayDataset
from keras_tune.data.dataset import AudioDataset
from keras_tune.data.schema import SPLITS, LabelColumn
from keras_tune.data.shards import id_hash
from keras_tune.errors import UserError
from keras_tune.evaluation.baselines import estimate_on, make_baselines
from keras_tune.evaluation.embeddings import embed_clips
from keras_tune.evaluation.outcomes import predict_test
from keras_tune.evaluation.protocols import fit_probe, groups_of
from keras_tune.evaluation.study import Study
from keras_tune.evaluation.tasks import make_task
from keras_tune.progress_bar import progress_bar

Part = tuple[Sequence[np.ndarray], Sequence[Any]]

# At the end: cross-validation on clips that pretraining has not seen, and the fewest clips for it.
FOLDS, REPETITIONS, LEAST = 5, 3, 50
# The seed of the untrained encoders, the probes and the folds.
SEED = 0
BASELINES = ("untrained", "untrained_bn_level")
# Width of the names in the summary.
WIDTH = 18


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
            clips: Integer, the number of labelled clips of each split, drawn by their ids.
                Defaults to None: all.
            **options: Other arguments of `OnlineProbe`.

        Returns:
            `OnlineProbe`.

        Raises:
            ValueError: There is no such label, no clip of train or of valid has it, the chosen
                clips of train all have the same value, or it is a number other than 0 or 1.

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
                record
                for record in dataset.records(split)
                if record["labels"][label] is not None
                # A number that is missing is NaN.
                and record["labels"][label] == record["labels"][label]
            )
            if clips is None or not isinstance(dataset, ArrayDataset):
                # Shards have their records in the order of their hashes.
                found = list(itertools.islice(labelled, clips))
            else:
                # A file of arrays may be sorted by this label.
                found = heapq.nsmallest(clips, labelled, lambda record: id_hash(record["id"]))
            if not found:
                raise ValueError(
                    f"`label` must be known for clips of {split} in {dataset.path}. "
                    f"Received: label={label}"
                )
            audio = [record["audio"] for record in found]
            parts.append((audio, [record["labels"][label] for record in found]))
        train, valid = parts
        if len(set(train[1])) < 2:
            raise ValueError(
                f"`label` must have two values or more in the {len(train[1])} clips of train that "
                f"the probe uses; use more clips. Received: label={label}"
            )
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
        names = sorted({str(label) for _, labels in (self.train, self.valid) for label in labels})
        column = LabelColumn("label", "category", tuple(names))
        embedded = [
            embed_clips(
                self._encoder(),
                [
                    {"id": str(number), "audio": clip, "labels": {"label": str(label)}}
                    for number, (clip, label) in enumerate(zip(*part, strict=True))
                ],
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


def final_probe(
    encoder: keras.Model,
    dataset: AudioDataset,
    target: str,
    progress: bool = False,
    group: str | None = None,
) -> dict[str, Any]:
    """Evaluate an encoder and two untrained copies of it with logistic regression.

    One untrained copy is a newly built encoder. For the other, batch normalization is estimated on
    clips of train and windows are scaled to one level, which makes it a much stronger baseline.

    There are two evaluations: on the set's own splits, and by cross-validation over the clips of
    valid and test. The first is the published protocol, but its probe is trained on clips that the
    encoder has seen in pretraining. An encoder that has seen a small set many times memorizes its
    clips: their embeddings are further apart than those of other music, which lowers the score.

    Args:
        encoder: Keras model from (batch, samples, 1) to (batch, d).
        dataset: `keras_tune.data.AudioDataset` with the splits train, valid and test.
        target: String, the label to predict.
        progress: Whether to show progress bars. Defaults to False.
        group: Label whose clips stay in one fold, such as the artist. Defaults to `song` if the
            set has it, else to single clips.

    Returns:
        A dict for the report: `pretrained`, `untrained` and `untrained_bn_level` (see
        `keras_tune.evaluation.make_baselines`), each with score, interval and the configuration
        that was chosen on valid; `encoders`, these names; `test_clips` and `skipped`. `unseen` has
        the same reports over the folds, or is None if there are fewer than 50 clips or too few
        groups.

    Raises:
        UserError: The set lacks a split or the label.

    Example:

    ```python
    from keras_tune.data import open_dataset, save_demo
    from keras_tune.evaluation import final_probe

    save_demo("demo.npz", num_clips={"train": 16, "valid": 8, "test": 8}, seconds=1.0)
    encoder = keras_tune.TUNe(1, 1, base_filters=4, tail_filters=[8], input_samples=2187)
    results = final_probe(encoder, open_dataset("demo.npz"), "instrument")
    results["encoders"]  # ["pretrained", "untrained", "untrained_bn_level"]
    ```
    """
    info = dataset.info
    info.check_splits(dataset.path)
    column, _ = info.label_column(target)
    if group is not None:
        info.label_column(group)
    elif any(label.name == "song" for label in info.labels):
        group = "song"
    encoders = {"pretrained": encoder}
    baselines = make_baselines(encoder, BASELINES, info.sample_rate, SEED)
    for name, baseline in baselines.items():
        encoders[name] = baseline.encoder
        if baseline.needs_clips:
            records = dataset.records("train")
            estimate_on(baseline.encoder, records, info.counts["train"], SEED)
    clips = {name: _embed(name, model, dataset, progress) for name, model in encoders.items()}
    splits = clips["pretrained"]
    task = make_task([column], splits["train"].labels)
    study = Study(clips, task, [SEED], group=group)
    results: dict[str, Any] = {
        "target": target,
        "encoders": list(encoders),
        **study.evaluate("logistic"),
    }
    results["metric"] = task.primary
    results["test_clips"] = len(study.outcomes["logistic", "pretrained"].runs[0].targets)
    results["skipped"] = [clip for part in splits.values() for clip in part.skipped]
    if task.loss == "softmax":
        _, targets = task.encode(splits["train"].labels)
        most_frequent = np.bincount(targets).argmax()
        tested = study.outcomes["logistic", "pretrained"].runs[0].targets
        results["chance"] = float(np.mean(tested == most_frequent))
        results["classes"] = task.outputs
    results["unseen"] = _unseen(clips, task, group, progress)
    return results


def _embed(name, model, dataset, progress):
    """The embeddings of each split."""
    total = sum(dataset.info.counts[split] for split in SPLITS)
    with progress_bar(total, f"embedding, {name}", shown=progress) as bar:
        return {
            split: embed_clips(model, dataset.records(split), progress=bar.update)
            for split in SPLITS
        }


def _unseen(clips, task, group, progress):
    """The scores over folds of valid and test, or None where there are too few clips or groups."""
    parts = {
        name: {split: splits[split] for split in ("valid", "test")}
        for name, splits in clips.items()
    }
    labels = [row for part in parts["pretrained"].values() for row in part.labels]
    rows, _ = task.encode(labels)
    groups = set(groups_of([labels[row] for row in rows], group))
    if len(rows) < LEAST or len(groups) <= FOLDS:
        return None
    # A part of a fold may lack all classes but one.
    with contextlib.suppress(UserError):
        study = Study(
            parts,
            task,
            range(SEED, SEED + REPETITIONS),
            FOLDS,
            group,
            progress=lambda total, title: progress_bar(total, title, "fold", shown=progress),
        )
        about = {"clips": len(rows), "folds": FOLDS, "repetitions": REPETITIONS, "group": group}
        return {**about, **study.evaluate("logistic")}
    return None


def final_probe_summary(target: str, results: dict[str, Any]) -> str:
    """The results of `final_probe` as lines of text.

    Args:
        target: The label.
        results: As `final_probe` returns them.

    Returns:
        String.

    Example:

    ```python
    from keras_tune.data import open_dataset, save_demo
    from keras_tune.evaluation import final_probe, final_probe_summary

    save_demo("demo.npz", num_clips={"train": 16, "valid": 8, "test": 8}, seconds=1.0)
    encoder = keras_tune.TUNe(1, 1, base_filters=4, tail_filters=[8], input_samples=2187)
    results = final_probe(encoder, open_dataset("demo.npz"), "instrument")
    print(final_probe_summary("instrument", results))
    ```
    """
    lines = [
        f"{target}: test {results['metric']} over {results['test_clips']} clips",
        *_scores(results, results["encoders"]),
    ]
    if "chance" in results:
        lines.append(f"  {'chance':{WIDTH}} {results['chance']:.3f}")
    unseen = results["unseen"]
    if unseen:
        lines.append(
            f"{target}: {results['metric']} on {unseen['folds']} folds of the {unseen['clips']} "
            "clips that pretraining has not seen"
        )
        lines += _scores(unseen, results["encoders"])
    if results["skipped"]:
        lines.append(f"{len(results['skipped'])} clips were shorter than a window and were skipped")
    return "\n".join(lines)


def _scores(results, names):
    for name in names:
        low, high = results[name]["interval_95"]
        line = f"  {name:{WIDTH}} {results[name]['score']:.3f}  [{low:.3f}, {high:.3f}]"
        difference = results[name].get("pretrained_minus_this")
        if difference is not None:
            low, high = difference["interval_95"]
            line += f"  pretrained {difference['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
        yield line
