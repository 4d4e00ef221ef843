"""Evaluate an encoder with probes on its frozen representations.

Every clip of a labelled set is embedded: the encoder is applied to consecutive windows. Probes are
trained on the train split and chosen on valid, and the test split is scored once. With --folds they
are cross-validated instead. Baselines are evaluated in the same way for comparison: untrained
encoders of the same shape, and statistics of the mel spectrogram. The output folder gets report.md,
report.json, plots, the embeddings, which a second run on the same encoder reuses, and
tagger.keras, the encoder with the probe that was best on valid.
"""

import dataclasses
import functools
import importlib.util
import json
import math
import pathlib
import time
from typing import Literal

from keras_tune.data.schema import SPLITS
from keras_tune.errors import UserError
from keras_tune.progress_bar import progress_bar
from keras_tune.recipes._cli import run
from keras_tune.recipes._folder import versions, write_report, writes
from keras_tune.recipes._options import names_in, names_options
from keras_tune.storage import local_output
from keras_tune.types import (
    DEFAULT_ENCODER,
    BatchSize,
    Count,
    Finite,
    Folds,
    Fraction,
    Hop,
    Repetitions,
    Seed,
)


@dataclasses.dataclass
class ProbeConfig:
    """Which encoder to evaluate, and how.

    Args:
        data: Folder written by `prepare`, or an .npz file of clips.
        target: The label to predict, or several: [a,b,c].
        output: Folder for the report.
        encoder: A .keras file, the folder of a pretraining run, tune_plus_open, tune_plus_64_open,
            untrained:PRESET, or mel.
        protocol: linear, grid, knn, logistic, layers, several of them: [linear,knn], or all.
        task: classification, tagging, key or regression; by default what fits the labels.
        threshold: Smallest number for which a tag is present; makes columns of numbers tags.
        folds: Number of folds for cross-validation, in place of the set's own split.
        fold_splits: Splits whose clips are cross-validated, all by default; [valid,test] excludes
            the clips that pretraining has seen.
        group: Label, such as the artist, whose clips stay in one fold and are resampled together.
        seeds: Repetitions with different folds, initial weights and orders of the batches.
        label_fraction: Also train on these fractions of the train labels: [0.01,0.1,1].
        baselines: What to compare with: untrained, untrained_bn (batch norm estimated on clips of
            train), untrained_level (windows at one level), untrained_bn_level, mel, mel_level,
            several of them, all, or none; by default [untrained,untrained_bn_level,mel,mel_level].
            Each needs a pass over the clips.
        pooling: How windows are pooled to one vector: mean or mean_std (mean and standard deviation
            over time), or both, [mean,mean_std]; by default mean for encoders, mean_std for mel.
        layers: Stages to concatenate instead of the representation: tail_7,tail_8,tail_9. The
            untrained baselines use the same.
        layer_pooling: How the output of a stage is pooled over the time of a window: mean, or
            mean_std for mean and standard deviation.
        deformations: Whether to also score deformed test clips: noise, gain, filters, MP3.
        hop: Seconds from one window to the next; by default windows do not overlap.
        resamples: Resamples of the bootstrap.
        cache: Folder for the embeddings, which several runs may share; by default within the output
            folder.
        batch_size: Windows encoded at a time.
        seed: Seed of the untrained encoder, the crops and the first repetition.
        backend: tensorflow, jax or torch; by default KERAS_BACKEND, else the first one installed.
    """

    data: str
    target: list[str] | str
    output: str
    encoder: str = DEFAULT_ENCODER
    protocol: list[str] | str = "linear"
    task: Literal["classification", "tagging", "key", "regression"] | None = None
    threshold: Finite | None = None
    folds: Folds | None = None
    fold_splits: list[str] | None = None
    group: str | None = None
    seeds: Repetitions = 3
    label_fraction: list[Fraction] | None = None
    baselines: list[str] | str | None = None
    pooling: list[str] | str | None = None
    layers: str | None = None
    layer_pooling: Literal["mean", "mean_std"] = "mean"
    deformations: bool = False
    hop: Hop | None = None
    resamples: Count = 1000
    cache: str | None = None
    batch_size: BatchSize = 32
    seed: Seed = 0
    backend: str | None = None


@names_options(columns="target", kind="task")
@writes("folder")
def main(config):
    """Run the command line; see `ProbeConfig`."""
    from keras_tune.data import open_dataset
    from keras_tune.evaluation import EmbeddingCache
    from keras_tune.evaluation.report import draw_study, report_markdown
    from keras_tune.files import write_text
    from keras_tune.training.run_folder import write_config

    protocols = _protocols(config)
    info = open_dataset(config.data).info
    splits = _splits(config, info)
    columns = _columns(config, info)
    encoders = _encoders(config, info)
    rows = _rows(config, protocols, encoders)
    output = local_output(config.output)
    write_config(output, config)
    folder = config.cache or output / "embeddings"
    cache = EmbeddingCache(
        folder, config.data, info, config.hop, config.batch_size, crop_seed=config.seed
    )
    # On these, baselines estimate what they need; pretraining has seen the split train as well.
    seen = ["train"] if info.counts.get("train") else splits
    clips, seconds = _embed(encoders, cache, splits, seen)
    study = _study(config, columns, _pooled(rows, encoders, clips))
    if study.task.threshold is not None:
        config = dataclasses.replace(config, threshold=study.task.threshold)
    results = {
        protocol: study.layers() if protocol == "layers" else study.evaluate(protocol)
        for protocol in protocols
    }
    content = _description(config, info, encoders, rows, study, seen) | {
        "seconds": seconds,
        "results": results,
    }
    probes = [protocol for protocol in protocols if protocol != "layers"]
    if config.label_fraction:
        fractions = config.label_fraction
        content["label_fraction"] = {p: study.label_fractions(p, fractions) for p in probes}
    if config.deformations and probes:
        deformed = _pooled(rows, encoders, _deformed(encoders, cache))
        content["deformations"] = {p: study.deformed(p, deformed) for p in probes}
    labels = [label.name for label in info.labels]
    history = pathlib.Path(config.encoder) / "history.csv"
    _remove_earlier(output)
    content["plots"] = draw_study(output, study, content, labels, history)
    content["tagger"] = _save_tagger(output, study, encoders, rows, probes)
    write_report(output, config, **content)
    text = report_markdown(content, versions(), dataclasses.asdict(config))
    write_text(output / "report.md", text)
    print(text.split("\n## Configuration")[0])
    print(f"report: {output / 'report.md'}")


def _protocols(config):
    from keras_tune.evaluation.protocols import PROTOCOLS

    known = (*PROTOCOLS, "layers")
    if config.layers:
        known = PROTOCOLS
    asked = _list(config.protocol)
    if "layers" in asked and config.layers:
        raise UserError(
            "--layers: cannot be combined with --protocol layers, which probes every stage"
        )
    asked = _known("protocol", asked, known, {"all": known})
    if config.folds and not config.group:
        raise UserError(
            "--folds: also give --group, the label whose clips must stay together (an artist, a "
            "song), or a label that is unique for each clip if there is no such group"
        )
    if config.task == "key" and not importlib.util.find_spec("mir_eval"):
        raise UserError("--task key: needs mir_eval: pip install 'keras_tune[key]'")
    if config.fold_splits and not config.folds:
        raise UserError("--fold_splits: only valid together with --folds")
    for option in ("label_fraction", "deformations"):
        if config.folds and getattr(config, option):
            raise UserError(f"--{option}: needs the set's own split, not --folds")
    return asked


def _encoders(config, info):
    """The encoder to evaluate and its baselines, by name."""
    from keras_tune.evaluation import baselines
    from keras_tune.evaluation.encoders import embedding_model, named_encoder

    encoder = named_encoder(config.encoder, info.sample_rate, config.seed)
    known = baselines.BASELINES
    asked = _list(config.baselines, baselines.DEFAULT_BASELINES)
    asked = _known("baselines", asked, known, {"all": known, "none": ()})
    level, first = getattr(encoder, "level", None), "pretrained"
    if config.encoder == "mel":
        asked, first = [name for name in asked if name.startswith("mel")], "mel"
    elif config.encoder.startswith("untrained:"):
        first = "untrained_level" if level else "untrained"
    found = {first: baselines.Baseline(encoder, level)}
    made = baselines.make_baselines(encoder, asked, info.sample_rate, config.seed)
    for name, one in made.items():
        found.setdefault(name, one)
    for name, one in found.items():
        # Mel statistics as a baseline have no stages.
        if name == first or not name.startswith("mel"):
            model = embedding_model(one.encoder, names_in(config.layers), config.layer_pooling)
            found[name] = dataclasses.replace(one, encoder=model)
    return found


def _rows(config, protocols, encoders):
    """The rows of the report: pairs of an encoder's name and a pooling, by the row's name."""
    from keras_tune.evaluation.encoders import default_pooling
    from keras_tune.models.stage_encoder import LAYER_POOLINGS

    asked = _list(config.pooling)
    for pooling in asked:
        if pooling not in LAYER_POOLINGS:
            raise UserError(
                f"--pooling {pooling}: unknown; use {' or '.join(LAYER_POOLINGS)}, or both"
            )
    if "linear" in protocols and config.encoder != "mel" and asked and "mean" not in asked:
        raise UserError(
            "--pooling mean_std: --protocol linear uses single windows, which have no deviation "
            "over windows; use --pooling [mean,mean_std], or grid, knn or logistic"
        )
    rows = {}
    for name, one in encoders.items():
        own = default_pooling(one.encoder)
        # The default pooling comes first, and its row has the name of the encoder alone.
        for pooling in sorted(asked or [own], key=lambda pooling, own=own: pooling != own):
            rows[name if pooling == own else f"{name}_{pooling}"] = (name, pooling)
    return rows


def _pooled(rows, encoders, clips):
    """Embeddings by row, from those by encoder."""
    from keras_tune.evaluation.embeddings import pool_clips
    from keras_tune.evaluation.encoders import default_pooling

    return {
        row: {
            part: pool_clips(found, default_pooling(encoders[name].encoder), pooling)
            for part, found in clips[name].items()
        }
        for row, (name, pooling) in rows.items()
    }


def _list(value, default=()):
    """An option that may be one value, several, or not given."""
    if value is None:
        return list(default)
    return [value] if isinstance(value, str) else list(dict.fromkeys(value))


def _known(option, asked, known, groups):
    """The names that were asked for; a word that stands alone may mean a group of them."""
    if len(asked) == 1 and asked[0] in groups:
        return list(groups[asked[0]])
    for name in asked:
        if name not in known:
            raise UserError(
                f"--{option} {name}: unknown; use one of {', '.join([*known, *groups])}"
            )
    return asked


def _splits(config, info):
    """The splits to embed: train, valid and test, or with folds all that have clips."""
    if config.folds:
        filled = [split for split, count in info.counts.items() if count]
        for split in config.fold_splits or ():
            if split not in filled:
                raise UserError(
                    f"--fold_splits {split}: {config.data} has clips in {', '.join(filled)}"
                )
        return [split for split in filled if split in (config.fold_splits or filled)]
    info.check_splits(config.data, " Use --folds and --group to cross-validate instead.")
    return list(SPLITS)


def _columns(config, info):
    """The targets' `LabelColumn`s, checked before anything is embedded."""
    from keras_tune.evaluation.tasks import check_different

    if config.group:
        info.label_column(config.group)
    target = [config.target] if isinstance(config.target, str) else config.target
    columns = [info.label_column(name)[0] for name in target]
    check_different(columns)
    return columns


def _embed(encoders, cache, splits, seen):
    """Embeddings by encoder and split, and the seconds they took."""
    clips, seconds = {}, {}
    for name, one in encoders.items():
        started = time.monotonic()
        if one.needs_clips:
            cache.estimate(one.encoder, seen)
        total = sum(cache.info.counts[split] for split in splits)
        with progress_bar(total, f"embedding, {name}") as bar:
            clips[name] = {split: cache.embed(one.encoder, split, bar.update) for split in splits}
        seconds[f"embedding, {name}"] = round(time.monotonic() - started, 1)
    return clips, seconds


def _study(config, columns, clips):
    from keras_tune.evaluation.study import Study
    from keras_tune.evaluation.tasks import make_task

    # One split may have no labels, or by chance only some of the values.
    labels = [row for part in next(iter(clips.values())).values() for row in part.labels]
    task = make_task(columns, labels, config.task, config.threshold)
    return Study(
        clips,
        task,
        range(config.seed, config.seed + config.seeds),
        config.folds,
        config.group,
        config.resamples,
        lambda total, title: progress_bar(total, title, "fold"),
    )


def _deformed(encoders, cache):
    """Embeddings of deformed test clips, by encoder and deformation."""
    from keras_tune.evaluation.study import deformations

    changes = deformations(cache.info.sample_rate)
    total = cache.info.counts["test"] * len(changes) * len(encoders)
    with progress_bar(total, "embedding, deformed") as bar:
        return {
            name: {
                change: cache.embed_uncached(one.encoder, "test", bar.update, deform=deform)
                for change, deform in changes.items()
            }
            for name, one in encoders.items()
        }


def _description(config, info, encoders, rows, study, seen):
    """The content of the report besides the scores."""
    from keras_tune.evaluation.encoders import encoder_fingerprint
    from keras_tune.evaluation.outcomes import folds_fingerprint

    clips = next(iter(study.clips.values()))
    return {
        "task": study.task.kind,
        "target": config.target,
        "outputs": study.task.outputs,
        "metric": study.task.primary,
        "threshold": study.task.threshold,
        "combines_songs": study.task.combines_songs
        and any(label.name == "song" for label in info.labels),
        "clips": {split: len(rows) for split, rows in study.rows.items()},
        "skipped": clips.skipped,
        "splits": info.fingerprints,
        "folds": {
            "number": config.folds,
            "group": config.group,
            "fingerprint": folds_fingerprint(clips.ids, study.folds),
        },
        "encoders": {name: encoder_fingerprint(one.encoder) for name, one in encoders.items()},
        "representations": {
            row: {
                "encoder": name,
                "pooling": pooling,
                "level": encoders[name].level,
                "batch_norm": _batch_norm(name, encoders[name], seen),
                "width": study.clips[row].vectors.shape[1],
            }
            for row, (name, pooling) in rows.items()
        },
    }


def _batch_norm(name, encoder, seen):
    """The origin of the statistics of an encoder's batch normalization; None if it has none."""
    from keras_tune.evaluation.baselines import batch_norm_variables

    if not batch_norm_variables(encoder.encoder):
        return None
    if encoder.needs_clips:
        return f"estimated on {', '.join(seen)}"
    return "as trained" if name == "pretrained" else "as built"


def _remove_earlier(output):
    """Remove what an earlier run wrote beside its report, since this one may not replace it."""
    try:
        earlier = json.loads((output / "report.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return
    files = [*earlier.get("plots", []), *(["tagger.keras"] if earlier.get("tagger") else [])]
    for file in files:
        (output / file).unlink(missing_ok=True)


def _save_tagger(output, study, encoders, rows, protocols):
    """Write the encoder with its best probe as `tagger.keras`; returns its description, or None.

    A tagger scores windows or means over windows, so there is none for probes on deviations.
    """
    from keras_tune.evaluation.outcomes import defined
    from keras_tune.evaluation.study import best_head
    from keras_tune.models import Tagger
    from keras_tune.models.saved import save_model

    row, (name, pooling) = next(iter(rows.items()))
    found = None if pooling != "mean" else best_head(study, row, protocols)
    if found is None or name == "mel":
        return None
    protocol, probe = found
    tagger = Tagger.from_probe(
        encoders[name].encoder,
        probe.head.weights,
        study.task.outputs,
        study.task.loss,
        probe.head.mean,
        probe.head.deviation,
        probe.head.pooling,
    )
    save_model(tagger, output / "tagger.keras")
    score = probe.cross_fitted_score
    return {
        "protocol": protocol,
        "valid_score": defined(probe.valid_score),
        "candidates": len(probe.alternatives),
        "cross_fitted_score": score if math.isfinite(score) else None,
        **probe.configuration,
    }


cli = functools.partial(run, main, ProbeConfig)

if __name__ == "__main__":
    cli()
