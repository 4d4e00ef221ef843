"""Judge an encoder by probes on its frozen representations.

Every clip of a labelled set becomes the encoder's outputs over consecutive windows. Probes are
trained on the train split, chosen on valid, and the test split is scored once; or on folds that
share no group. The same is done with an untrained encoder of the same shape and with statistics of
the mel spectrogram, so that the score has something to be compared with. The output folder gets
report.md, report.json, pictures, the embeddings, which a second run on the same encoder uses, and
tagger.keras, the encoder with the probe that was best on valid.
"""

import dataclasses
import pathlib
import time
from typing import Literal

from keras_tune.errors import UserError
from keras_tune.recipes._bar import progress_bar
from keras_tune.recipes._cli import run
from keras_tune.recipes._load import named_encoder
from keras_tune.recipes._probe_both import probe_both, summary

__all__ = ["ProbeConfig", "main", "probe_both", "summary"]

SPLITS = ("train", "valid", "test")


@dataclasses.dataclass
class ProbeConfig:
    """What to judge, on what.

    Args:
        encoder: A .keras file, the folder of a pretraining run, untrained:PRESET, or mel.
        data: Folder written by `prepare`, or an .npz file of clips.
        target: The label to predict, or several: [a,b,c].
        output: Folder for the report.
        protocol: linear, grid, knn, logistic, layers, several of them: [linear,knn], or all.
        task: classification, tagging, key or regression; by default what fits the labels.
        threshold: Number from which on a tag is present; makes columns of numbers tags.
        folds: Cross-validate with so many folds, instead of the set's own split.
        fold_splits: Splits whose clips are cut into folds, all by default; [valid,test] leaves out
            what pretraining has seen.
        group: Label whose values (artists) are in one fold only, and are resampled as a whole.
        seeds: Repetitions with other folds, initial weights and order of batches.
        label_fraction: Also train with these shares of the train split's labels: [0.01,0.1,1].
        deformations: Whether to also score deformed test clips: noise, gain, filters, MP3.
        hop: Seconds from one window to the next; by default windows do not overlap.
        resamples: Resamples of the bootstrap.
        cache: Folder to keep embeddings in, for all probes of all encoders; by default within the
            output folder.
        batch_size: Windows encoded at a time.
        seed: Seed of the untrained encoder, the crops and the first repetition.
        backend: tensorflow, jax or torch; by default KERAS_BACKEND, or what is installed.
    """

    encoder: str
    data: str
    target: list[str] | str
    output: str
    protocol: list[str] | str = "linear"
    task: Literal["classification", "tagging", "key", "regression"] | None = None
    threshold: float | None = None
    folds: int | None = None
    fold_splits: list[str] | None = None
    group: str | None = None
    seeds: int = 3
    label_fraction: list[float] | None = None
    deformations: bool = False
    hop: float | None = None
    resamples: int = 1000
    cache: str | None = None
    batch_size: int = 32
    seed: int = 0
    backend: str | None = None


def main(config):
    """Run the command line; see `ProbeConfig`."""
    from keras_tune.data import load_info
    from keras_tune.evaluation.report import report_markdown
    from keras_tune.evaluation.study_pictures import draw_study
    from keras_tune.files import write_text
    from keras_tune.recipes._folder import local_path, versions, write_config, write_report

    protocols = _protocols(config)
    info = load_info(config.data)
    splits = _splits(config, info)
    encoders = _encoders(config, info)
    output = local_path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    write_config(output, config)
    cache = _cache(config, info)
    clips, seconds = _embed(encoders, cache, splits)
    study = _study(config, info, clips)
    results = {
        protocol: study.layers() if protocol == "layers" else study.judge(protocol)
        for protocol in protocols
    }
    content = _description(config, info, encoders, study) | {
        "seconds": seconds,
        "results": results,
    }
    probes = [protocol for protocol in protocols if protocol != "layers"]
    if config.label_fraction:
        fractions = config.label_fraction
        content["label_fraction"] = {p: study.label_fractions(p, fractions) for p in probes}
    if config.deformations and probes:
        deformed = _deformed(encoders, cache)
        content["deformations"] = {p: study.deformed(p, deformed) for p in probes}
    columns = [label.name for label in info.labels]
    history = pathlib.Path(config.encoder) / "history.csv"
    content["pictures"] = draw_study(output, study, content, columns, history)
    content["tagger"] = _save_tagger(output, study, encoders, probes)
    write_report(output, config, **content)
    text = report_markdown(content, versions(), dataclasses.asdict(config))
    write_text(output / "report.md", text)
    print(text.split("\n## Configuration")[0])
    print(f"report: {output / 'report.md'}")


def _protocols(config):
    from keras_tune.evaluation.protocols import PROTOCOLS

    known = (*PROTOCOLS, "layers")
    asked = [config.protocol] if isinstance(config.protocol, str) else config.protocol
    asked = list(known) if asked == ["all"] else list(dict.fromkeys(asked))
    for protocol in asked:
        if protocol not in known:
            raise UserError(f"--protocol {protocol}: unknown; take one of {', '.join(known)}, all")
    for key, low in (("seeds", 1), ("resamples", 1), ("batch_size", 1), ("folds", 2)):
        value = getattr(config, key)
        if value is not None and value < low:
            raise UserError(f"--{key} {value}: must be at least {low}")
    if config.folds and not config.group:
        raise UserError(
            "--folds: give --group too, the label whose clips must stay together (an artist, a "
            "song), or an id of each clip if there is no such thing"
        )
    if config.fold_splits and not config.folds:
        raise UserError("--fold_splits: goes with --folds")
    if any(not 0 < fraction <= 1 for fraction in config.label_fraction or ()):
        raise UserError(f"--label_fraction {config.label_fraction}: must be within 0 and 1")
    if config.label_fraction and config.folds:
        raise UserError("--label_fraction: needs the set's own split, not --folds")
    if config.deformations and config.folds:
        raise UserError("--deformations: needs the set's own split, not --folds")
    return asked


def _encoders(config, info):
    """The encoder to judge and its yardsticks, by name."""
    from keras_tune.evaluation import MelStatistics, untrained_copy

    encoder = named_encoder(config.encoder, info.sample_rate, config.seed)
    mel = MelStatistics(info.sample_rate, input_samples=encoder.input_shape[1] or 59049)
    if config.encoder == "mel":
        return {"mel": mel}
    if config.encoder.startswith("untrained:"):
        return {"untrained": encoder, "mel": mel}
    return {
        "pretrained": encoder,
        "untrained": untrained_copy(encoder, config.seed),
        "mel": mel,
    }


def _splits(config, info):
    """The splits to embed: train, valid and test, or with folds whatever there is."""
    if config.folds:
        filled = [split for split, count in info.counts.items() if count]
        for split in config.fold_splits or ():
            if split not in filled:
                raise UserError(
                    f"--fold_splits {split}: {config.data} has clips in {', '.join(filled)}"
                )
        return [split for split in filled if split in (config.fold_splits or filled)]
    missing = [split for split in SPLITS if not info.counts.get(split)]
    if missing:
        raise UserError(
            f"{config.data}: a probe needs the splits train, valid and test; no "
            f"{missing[0]}. Give --folds and --group to do without."
        )
    return list(SPLITS)


def _columns(config, info):
    """The targets' `LabelColumn`s; looked at before anything is embedded."""
    target = [config.target] if isinstance(config.target, str) else config.target
    if config.group:
        info.label_column(config.group)
    return [info.label_column(name)[0] for name in target]


def _cache(config, info):
    from keras_tune.evaluation.embedding_cache import EmbeddingCache

    _columns(config, info)
    folder = config.cache or pathlib.Path(config.output) / "embeddings"
    return EmbeddingCache(
        folder, config.data, info, config.hop, config.batch_size, crop_seed=config.seed
    )


def _embed(encoders, cache, splits):
    """Embeddings by encoder and split, and the seconds they took."""
    clips, seconds = {}, {}
    for name, encoder in encoders.items():
        started = time.monotonic()
        total = sum(cache.info.counts[split] for split in splits)
        with progress_bar(total, f"embedding, {name}") as bar:
            clips[name] = {split: cache.embed(encoder, split, bar.update) for split in splits}
        seconds[f"embedding, {name}"] = round(time.monotonic() - started, 1)
    return clips, seconds


def _study(config, info, clips):
    from keras_tune.evaluation.study import Study
    from keras_tune.evaluation.tasks import make_task

    splits = next(iter(clips.values()))
    labels = splits["train"].labels if "train" in splits else next(iter(splits.values())).labels
    task = make_task(_columns(config, info), labels, config.task, config.threshold)
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
    from keras_tune.evaluation.deformations import deformations

    changes = deformations()
    total = cache.info.counts["test"] * len(changes) * len(encoders)
    with progress_bar(total, "embedding, deformed") as bar:
        return {
            name: {
                change: cache.embed_anew(encoder, "test", bar.update, deform=deform)
                for change, deform in changes.items()
            }
            for name, encoder in encoders.items()
        }


def _description(config, info, encoders, study):
    """What the report says besides the scores."""
    from keras_tune.evaluation.fingerprints import encoder_fingerprint, folds_fingerprint

    clips = next(iter(study.clips.values()))
    return {
        "task": study.task.kind,
        "target": config.target,
        "outputs": study.task.outputs,
        "metric": study.task.primary,
        "clips": {split: len(rows) for split, rows in study.rows.items()},
        "skipped": clips.skipped,
        "splits": info.fingerprints,
        "folds": {
            "number": config.folds,
            "group": config.group,
            "fingerprint": folds_fingerprint(clips.ids, study.folds),
        },
        "encoders": {name: encoder_fingerprint(model) for name, model in encoders.items()},
    }


def _save_tagger(output, study, encoders, protocols):
    """Write the encoder with its best probe as `tagger.keras`; returns what it holds, or None."""
    from keras_tune.evaluation.winner import winning_head
    from keras_tune.files import atomic_path
    from keras_tune.models import Tagger

    name = next(iter(encoders))
    found = None if name == "mel" else winning_head(study, name, protocols)
    if found is None:
        return None
    protocol, probe = found
    tagger = Tagger.from_probe(
        encoders[name],
        probe.head.weights,
        study.task.outputs,
        study.task.loss,
        probe.head.mean,
        probe.head.deviation,
        probe.head.pooling,
    )
    with atomic_path(output / "tagger.keras") as temporary:
        tagger.save(temporary)
    return {"protocol": protocol, "valid_score": probe.valid_score, **probe.configuration}


if __name__ == "__main__":
    run(main, ProbeConfig)
