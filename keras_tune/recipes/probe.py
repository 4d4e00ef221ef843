"""Judge an encoder by a probe on its frozen representations.

Every clip of a labelled set becomes the mean of the encoder's outputs over consecutive windows. A
logistic regression is trained on the train split, its regularization chosen on valid, and the test
split scored once. The same is done with an untrained encoder of the same shape, so that the score
has something to be compared with.
"""

import dataclasses

from keras_tune.errors import UserError
from keras_tune.recipes._cli import run


@dataclasses.dataclass
class ProbeConfig:
    """What to judge, on what.

    Args:
        encoder: A .keras file, or the folder of a pretraining run.
        data: Folder written by `prepare`, or an .npz file of clips.
        target: The label to predict, a column of classes.
        output: Folder for report.json and config.yaml.
        batch_size: Windows encoded at a time.
        seed: Seed of the untrained encoder and of the bootstrap.
        backend: tensorflow, jax or torch; by default KERAS_BACKEND, or what is installed.
    """

    encoder: str
    data: str
    target: str
    output: str
    batch_size: int = 32
    seed: int = 0
    backend: str | None = None


def main(config):
    """Run the command line; see `ProbeConfig`."""
    import pathlib

    from keras_tune.data import load_info
    from keras_tune.recipes._folder import write_config, write_report
    from keras_tune.recipes._load import load_encoder

    info = load_info(config.data)
    info.label_column(config.target)
    encoder = load_encoder(config.encoder)
    results = probe_both(
        encoder, config.data, config.target, config.batch_size, config.seed, progress=True
    )
    pathlib.Path(config.output).mkdir(parents=True, exist_ok=True)
    write_config(config.output, config)
    write_report(config.output, config, splits=info.fingerprints, **results)
    print(summary(config.target, results))
    print(f"report: {pathlib.Path(config.output) / 'report.json'}")


def probe_both(encoder, data, target, batch_size=32, seed=0, progress=False):
    """Probe an encoder and an untrained one of its shape.

    Args:
        encoder: Keras model from (batch, samples, 1) to (batch, d).
        data: Path of a prepared set or an .npz file, with the splits train, valid and test.
        target: String, the label to predict.
        batch_size: Integer, windows encoded at a time. Defaults to 32.
        seed: Integer, for the untrained encoder and the bootstrap. Defaults to 0.
        progress: Whether to show progress bars. Defaults to False.

    Returns:
        A dict for the report: `pretrained` and `untrained`, each with score, interval and the
        configuration that was chosen on valid; `test_clips` and `skipped`.

    Raises:
        UserError: The set, its splits or the target do not do.
    """
    import time

    from keras_tune.data import load_info
    from keras_tune.evaluation import logistic_probe, untrained_copy

    counts = load_info(data).counts
    missing = [split for split in ("train", "valid", "test") if not counts.get(split)]
    if missing:
        raise UserError(f"{data}: a probe needs the splits train, valid and test; no {missing[0]}")
    results = {"target": target}
    for name, model in (("pretrained", encoder), ("untrained", untrained_copy(encoder, seed))):
        started = time.monotonic()
        embeddings = _embed(model, data, counts, batch_size, name if progress else None)
        outcome = logistic_probe(*embeddings, target, seed=seed)
        results[name] = {
            "accuracy": outcome.score,
            "interval_95": list(outcome.interval),
            "valid_accuracy": outcome.valid_score,
            "chosen_on_valid": outcome.configuration,
            "seconds": round(time.monotonic() - started, 1),
        }
    results["chance"] = outcome.chance
    results["classes"] = outcome.classes
    results["test_clips"] = len(embeddings[2].ids)
    results["skipped"] = [clip for split in embeddings for clip in split.skipped]
    return results


def summary(target, results):
    """The results as lines of text."""
    lines = [f"{target}: test accuracy over {results['test_clips']} clips"]
    for name in ("pretrained", "untrained"):
        low, high = results[name]["interval_95"]
        lines.append(f"  {name:10} {results[name]['accuracy']:.3f}  [{low:.3f}, {high:.3f}]")
    lines.append(f"  {'chance':10} {results['chance']:.3f}")
    if results["skipped"]:
        lines.append(f"  {len(results['skipped'])} clips were shorter than a window and left out")
    return "\n".join(lines)


def _embed(encoder, data, counts, batch_size, name):
    from tqdm import tqdm

    from keras_tune.data import read_records
    from keras_tune.evaluation import embed_clips

    splits = ("train", "valid", "test")
    total = sum(counts[split] for split in splits)
    with tqdm(total=total, desc=f"embedding, {name}", unit="clip", disable=name is None) as bar:
        return [
            embed_clips(
                encoder, read_records(data, split), batch_size=batch_size, progress=bar.update
            )
            for split in splits
        ]


if __name__ == "__main__":
    run(main, ProbeConfig)
