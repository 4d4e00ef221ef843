"""The short probe at the end of a pretraining run: the encoder and untrained copies of it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tune.data.dataset import AudioDataset
from keras_tune.data.schema import SPLITS
from keras_tune.errors import UserError
from keras_tune.evaluation.baselines import estimate_on, make_baselines
from keras_tune.evaluation.embeddings import embed_clips
from keras_tune.evaluation.protocols import groups_of
from keras_tune.evaluation.study import Study
from keras_tune.evaluation.tasks import make_task
from keras_tune.progress_bar import progress_bar

if TYPE_CHECKING:
    import keras

# Cross-validation on clips that pretraining has not seen, and the fewest clips for it.
FOLDS, REPETITIONS, LEAST = 5, 3, 50
# The seed of the untrained encoders, the probes and the folds.
SEED = 0
BASELINES = ("untrained", "untrained_bn_level")
# Width of the names in the summary.
WIDTH = 18


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
    results["test_clips"] = len(splits["test"].ids)
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
