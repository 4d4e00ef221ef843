"""The short probe at the end of a pretraining run: the encoder and its untrained self."""

import time

from keras_tune.errors import UserError
from keras_tune.recipes._bar import progress_bar


def probe_both(encoder, data, target, batch_size=32, seed=0, progress=False, leave_out=()):
    """Probe an encoder and an untrained one of its shape by logistic regression.

    Args:
        encoder: Keras model from (batch, samples, 1) to (batch, d).
        data: Path of a prepared set or an .npz file, with the splits train, valid and test.
        target: String, the label to predict.
        batch_size: Integer, windows encoded at a time. Defaults to 32.
        seed: Integer, for the untrained encoder. Defaults to 0.
        progress: Whether to show progress bars. Defaults to False.
        leave_out: Names of shards that are not read. Defaults to none.

    Returns:
        A dict for the report: `pretrained` and `untrained`, each with score, interval and the
        configuration that was chosen on valid; `test_clips` and `skipped`.

    Raises:
        UserError: The set, its splits or the target do not do.
    """
    import numpy as np

    from keras_tune.data import load_info, read_records
    from keras_tune.evaluation import ClipEmbeddings, embed_clips, untrained_copy
    from keras_tune.evaluation.judge import Fold, judge
    from keras_tune.evaluation.study import SPLITS
    from keras_tune.evaluation.tasks import make_task

    info = load_info(data, leave_out)
    missing = [split for split in SPLITS if not info.counts.get(split)]
    if missing:
        raise UserError(f"{data}: a probe needs the splits train, valid and test; no {missing[0]}")
    column, _ = info.label_column(target)
    results = {"target": target}
    for name, model in (("pretrained", encoder), ("untrained", untrained_copy(encoder, seed))):
        started = time.monotonic()
        total = sum(info.counts[split] for split in SPLITS)
        with progress_bar(total, f"embedding, {name}", shown=progress) as bar:
            parts = [
                embed_clips(
                    model,
                    read_records(data, split, leave_out),
                    batch_size=batch_size,
                    progress=bar.update,
                )
                for split in SPLITS
            ]
        ends = np.cumsum([0, *(len(part.ids) for part in parts)])
        rows = [np.arange(start, end) for start, end in zip(ends[:-1], ends[1:], strict=True)]
        task = make_task([column], parts[0].labels)
        outcome = judge("logistic", ClipEmbeddings.merge(parts), [Fold(*rows)], task)
        results[name] = outcome.report(outcome.samples())
        results[name]["seconds"] = round(time.monotonic() - started, 1)
    results["metric"] = task.primary
    results["test_clips"] = len(parts[2].ids)
    results["skipped"] = [clip for part in parts for clip in part.skipped]
    if task.loss == "softmax":
        _, targets = task.encode(parts[0].labels)
        most_frequent = np.bincount(targets).argmax()
        results["chance"] = float(np.mean(outcome.runs[0].targets == most_frequent))
        results["classes"] = task.outputs
    return results


def summary(target, results):
    """The results of `probe_both` as lines of text."""
    lines = [f"{target}: test {results['metric']} over {results['test_clips']} clips"]
    for name in ("pretrained", "untrained"):
        low, high = results[name]["interval_95"]
        lines.append(f"  {name:10} {results[name]['score']:.3f}  [{low:.3f}, {high:.3f}]")
    if "chance" in results:
        lines.append(f"  {'chance':10} {results['chance']:.3f}")
    if results["skipped"]:
        lines.append(f"  {len(results['skipped'])} clips were shorter than a window and left out")
    return "\n".join(lines)
