"""Judge an encoder by probes on its frozen representations.

Every clip of a labelled set becomes the encoder's outputs over consecutive windows. Probes are
trained on the train split, chosen on valid, and the test split is scored once; or on folds that
share no group. The same is done with an untrained encoder of the same shape and with statistics of
the mel spectrogram, so that the score has something to be compared with. The output folder gets
report.md, report.json, pictures and the embeddings, which a second run on the same encoder uses.
"""

import dataclasses
import pathlib
import sys
import time
from typing import Literal

from keras_tune.errors import UserError
from keras_tune.recipes._cli import run

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
        folds: Cross-validate over all splits with so many folds, instead of the set's own split.
        group: Label whose values (artists) are in one fold only, and are resampled as a whole.
        seeds: Repetitions with other folds, initial weights and order of batches.
        label_fraction: Also train with these shares of the train split's labels: [0.01,0.1,1].
        deformations: Whether to also score deformed test clips: noise, gain, filters, MP3.
        hop: Seconds from one window to the next; by default windows do not overlap.
        resamples: Resamples of the bootstrap.
        cache: Folder to keep embeddings in; by default within the output folder.
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
    from keras_tune.files import write_text
    from keras_tune.recipes._folder import versions, write_config, write_report

    protocols = _protocols(config)
    info = load_info(config.data)
    encoders = _encoders(config, info)
    study = _Study(config, info, encoders, stages="layers" in protocols)
    output = pathlib.Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    write_config(output, config)
    results = {
        protocol: study.layers() if protocol == "layers" else study.judge(protocol)
        for protocol in protocols
    }
    content = study.description() | {"results": results}
    probes = [protocol for protocol in protocols if protocol != "layers"]
    if config.label_fraction:
        content["label_fraction"] = {p: study.label_fractions(p) for p in probes}
    if config.deformations:
        content["deformations"] = {p: study.deformed(p) for p in probes}
    content["pictures"] = study.draw(output, content)
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
    if any(not 0 < fraction <= 1 for fraction in config.label_fraction or ()):
        raise UserError(f"--label_fraction {config.label_fraction}: must be within 0 and 1")
    if config.label_fraction and config.folds:
        raise UserError("--label_fraction: needs the set's own split, not --folds")
    if config.deformations and config.folds:
        raise UserError("--deformations: needs the set's own split, not --folds")
    return asked


def named_encoder(name, sample_rate=22050, seed=0):
    """Load or build what `--encoder` names.

    Args:
        name: A .keras file, the folder of a run, "untrained:PRESET", or "mel".
        sample_rate: Integer, of the set. Defaults to 22,050.
        seed: Integer, of an untrained encoder. Defaults to 0.

    Returns:
        Keras model.

    Raises:
        UserError: There is no such thing.
    """
    from keras_tune.recipes._load import load_encoder

    if name == "mel":
        from keras_tune.evaluation import MelStatistics

        return MelStatistics(sample_rate)
    if name.startswith("untrained:"):
        import keras

        from keras_tune.models import TUNe

        keras.utils.set_random_seed(seed)
        return TUNe.from_preset(name.removeprefix("untrained:"))
    return load_encoder(name)


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


class _Study:
    """The embeddings of a set by several encoders, and what is done with them."""

    def __init__(self, config, info, encoders, stages=False):
        import numpy as np

        from keras_tune.evaluation import ClipEmbeddings
        from keras_tune.evaluation.fingerprints import encoder_fingerprint
        from keras_tune.evaluation.tasks import make_task

        self.config, self.info, self.encoders = config, info, encoders
        target = [config.target] if isinstance(config.target, str) else config.target
        columns = [info.label_column(name)[0] for name in target]
        if config.group:
            info.label_column(config.group)
        counts = {split: count for split, count in info.counts.items() if count}
        if not config.folds:
            missing = [split for split in SPLITS if not counts.get(split)]
            if missing:
                raise UserError(
                    f"{config.data}: a probe needs the splits train, valid and test; no "
                    f"{missing[0]}. Give --folds and --group to do without."
                )
            counts = {split: counts[split] for split in SPLITS}
        self.counts = counts
        self.fingerprints = {n: encoder_fingerprint(e) for n, e in encoders.items()}
        self.seconds = {}
        self.outcomes = {}
        clips = {}
        for name, encoder in encoders.items():
            tapped = tuple(getattr(encoder, "stage_names", ())) if stages else ()
            clips[name] = self.embed(name, encoder, tapped)
        first = next(iter(clips.values()))
        sizes = [len(part.ids) for part in first.values()]
        ends = np.cumsum([0, *sizes])
        self.rows = {
            split: np.arange(start, end)
            for split, start, end in zip(counts, ends[:-1], ends[1:], strict=True)
        }
        self.clips = {name: ClipEmbeddings.merge(parts.values()) for name, parts in clips.items()}
        labels = first["train"].labels if "train" in first else next(iter(first.values())).labels
        self.task = make_task(columns, labels, config.task, config.threshold)
        self.folds = self._folds(next(iter(self.clips.values())))

    def embed(self, name, encoder, stages):
        """The clips of every split, from the cache where it has them: a dict by split."""
        import hashlib

        from keras_tune.evaluation import ClipEmbeddings

        config = self.config
        folder = pathlib.Path(config.cache or pathlib.Path(config.output) / "embeddings")
        windowing = (
            f"hop {config.hop} crop {config.seed} splits {sorted(self.info.fingerprints.items())}"
        )
        key = hashlib.sha256((self.fingerprints[name] + windowing).encode()).hexdigest()[:16]
        found = {}
        started = time.monotonic()
        with _bar(sum(self.counts.values()), f"embedding, {name}") as bar:
            for split, count in self.counts.items():
                file = folder / f"{key}-{split}.npz"
                if file.is_file():
                    found[split] = ClipEmbeddings.load(file)
                    if set(stages) <= set(found[split].stages):
                        bar.update(count)
                        continue
                found[split] = self.embed_split(encoder, split, bar, stages)
                found[split].save(file)
        self.seconds[f"embedding, {name}"] = round(time.monotonic() - started, 1)
        return found

    def embed_split(self, encoder, split, bar, stages=(), deform=None):
        """Embed the clips of one split."""
        from keras_tune.data import read_records
        from keras_tune.evaluation import embed_clips

        hop = self.config.hop
        return embed_clips(
            encoder,
            read_records(self.config.data, split),
            hop_samples=None if hop is None else max(1, round(hop * self.info.sample_rate)),
            batch_size=self.config.batch_size,
            progress=bar.update,
            crop_seed=self.config.seed,
            stages=stages,
            deform=deform,
        )

    def _folds(self, clips):
        from keras_tune.evaluation.folds import group_folds
        from keras_tune.evaluation.judge import Fold
        from keras_tune.evaluation.protocols import groups_of

        seeds = range(self.config.seed, self.config.seed + self.config.seeds)
        if not self.config.folds:
            return [Fold(*(self.rows[split] for split in SPLITS), seed) for seed in seeds]
        rows, targets = self.task.encode(clips.labels)
        if not len(rows):
            raise UserError(f"--target {self.config.target}: no clip has this label")
        strata = self.task.strata(targets)
        groups = groups_of([clips.labels[row] for row in rows], self.config.group)
        return [
            Fold(*(rows[part] for part in parts), seed)
            for seed in seeds
            for parts in group_folds(strata, groups, self.config.folds, seed)
        ]

    def judge(self, protocol):
        """The reports of all representations under one protocol, by name."""
        return self._reports(protocol, protocol, self.clips)

    def layers(self):
        """The reports of every stage, under logistic regression: by encoder, then by stage."""
        found = {}
        for name, clips in self.clips.items():
            if clips.stages:
                stages = {stage: clips.of_stage(stage) for stage in clips.stages}
                found[name] = self._reports("logistic", f"layers, {name}", stages)
        if not found:
            raise UserError("--protocol layers: the encoder has no named stages")
        return found

    def _reports(self, protocol, title, representations):
        from keras_tune.evaluation.bootstrap import percentiles
        from keras_tune.evaluation.judge import judge

        reports, samples = {}, {}
        with _bar(len(self.folds) * len(representations), title, "fold") as bar:
            for name, clips in representations.items():
                started = time.monotonic()
                outcome = judge(
                    protocol, clips, self.folds, self.task, self.config.group, bar.update
                )
                samples[name] = outcome.samples(self.config.resamples)
                reports[name] = outcome.report(samples[name])
                reports[name]["seconds"] = round(time.monotonic() - started, 1)
                self.outcomes[title, name] = outcome
        first = next(iter(reports))
        for name in reports:
            if name in self.encoders and name != first:
                metric = self.task.primary
                gains = samples[first][metric] - samples[name][metric]
                reports[name][f"{first}_minus_this"] = {
                    "difference": reports[first]["score"] - reports[name]["score"],
                    "interval_95": list(percentiles(gains)),
                }
        return reports

    def label_fractions(self, protocol):
        """Scores with shares of the labels of train: by representation, share and seed."""
        import numpy as np

        from keras_tune.evaluation.judge import Fold, judge

        found = {name: {} for name in self.clips}
        train, valid, test = (self.rows[split] for split in SPLITS)
        labelled, targets = self.task.encode(
            [next(iter(self.clips.values())).labels[row] for row in train]
        )
        strata = self.task.strata(targets)
        for fraction in self.config.label_fraction:
            folds = []
            for seed in range(self.config.seed, self.config.seed + self.config.seeds):
                generator = np.random.default_rng([seed, 2])
                kept = []
                # A share of each class, and of each at least one clip.
                for stratum in np.unique(strata):
                    members = generator.permutation(labelled[strata == stratum])
                    kept.extend(members[: max(1, round(fraction * len(members)))])
                folds.append(Fold(train[np.sort(kept)], valid, test, seed))
            for name, clips in self.clips.items():
                found[name][str(fraction)] = [
                    judge(protocol, clips, [fold], self.task, self.config.group).scores()[
                        self.task.primary
                    ]
                    for fold in folds
                ]
        return found

    def deformed(self, protocol):
        """Scores on deformed test clips: by representation and deformation."""
        from keras_tune.evaluation.deformations import deformations
        from keras_tune.evaluation.judge import predict_test

        if not hasattr(self, "deformed_clips"):
            self.deformed_clips = {}
            changes = deformations()
            total = self.counts["test"] * len(changes) * len(self.encoders)
            with _bar(total, "embedding, deformed") as bar:
                for name, encoder in self.encoders.items():
                    for change, deform in changes.items():
                        self.deformed_clips[name, change] = self.embed_split(
                            encoder, "test", bar, deform=deform
                        )
        found = {}
        for name in self.encoders:
            probes = [run.probe for run in self.outcomes[protocol, name].runs]
            found[name] = {"none": self.outcomes[protocol, name].scores()[self.task.primary]}
            for (owner, change), clips in self.deformed_clips.items():
                if owner == name:
                    scores = []
                    for probe in probes:
                        done = predict_test(probe, clips, self.task, self.config.group)
                        scores.append(
                            self.task.scores(done.targets, done.predictions)[self.task.primary]
                        )
                    found[name][change] = sum(scores) / len(scores)
        return found

    def description(self):
        """What the report says besides the scores."""
        from keras_tune.evaluation.fingerprints import folds_fingerprint

        clips = next(iter(self.clips.values()))
        return {
            "task": self.task.kind,
            "target": self.config.target,
            "outputs": self.task.outputs,
            "metric": self.task.primary,
            "clips": {split: len(rows) for split, rows in self.rows.items()},
            "skipped": clips.skipped,
            "splits": self.info.fingerprints,
            "folds": {
                "number": self.config.folds,
                "group": self.config.group,
                "fingerprint": folds_fingerprint(clips.ids, self.folds),
            },
            "encoders": self.fingerprints,
            "seconds": self.seconds,
        }

    def draw(self, output, content):
        """Draw the pictures next to the report; returns their names."""
        import numpy as np

        from keras_tune.evaluation import pictures
        from keras_tune.evaluation.projector import write_projector

        drawn = []

        def draw(name, function, *arguments, **options):
            function(output / name, *arguments, **options)
            drawn.append(name)

        results = {k: v for k, v in content["results"].items() if k != "layers"}
        if results:
            draw("scores.png", pictures.draw_scores, results, self.task.primary)
        if "layers" in content["results"]:
            draw(
                "layers.png", pictures.draw_layers, content["results"]["layers"], self.task.primary
            )
        for protocol in results:
            outcomes = {name: self.outcomes[protocol, name] for name in self.clips}
            if self.task.kind == "tagging":
                tags = {name: _per_tag(outcome) for name, outcome in outcomes.items()}
                draw(f"tags_{protocol}.png", pictures.draw_tags, tags, protocol)
            elif self.task.loss == "softmax":
                for name, outcome in outcomes.items():
                    truth = np.concatenate([run.targets for run in outcome.runs])
                    named = np.concatenate([run.predictions.argmax(-1) for run in outcome.runs])
                    draw(
                        f"confusion_{protocol}_{name}.png",
                        pictures.draw_confusion,
                        truth,
                        named,
                        self.task.outputs,
                        f"{protocol}, {name}",
                    )
        for name, clips in self.clips.items():
            column = self.task.columns[0].name
            rows = [r for r, labels in enumerate(clips.labels) if labels.get(column) is not None]
            # Beyond some thousand dots a map takes minutes and shows no more.
            rows = rows[:: -(-len(rows) // 3000)]
            if len(rows) >= 5:
                shown = [clips.labels[row][column] for row in rows]
                draw(f"map_{name}.png", pictures.draw_map, clips.vectors[rows], shown, name)
            columns = [label.name for label in self.info.labels]
            write_projector(output / "projector" / name, clips, columns)
        for protocol, curves in content.get("label_fraction", {}).items():
            numbers = {
                name: {float(fraction): scores for fraction, scores in curve.items()}
                for name, curve in curves.items()
            }
            draw(
                f"label_fraction_{protocol}.png",
                pictures.draw_curve,
                numbers,
                self.task.primary,
                "share of the labels",
                log=True,
            )
        history = pathlib.Path(self.config.encoder) / "history.csv"
        if history.is_file():
            import pandas as pd

            draw("training.png", pictures.draw_history, pd.read_csv(history))
        return drawn


def _per_tag(outcome):
    """The scores of each tag, averaged over the runs that could score it."""
    found = {}
    for one in outcome.runs:
        for tag, scores in outcome.task.per_tag(one.targets, one.predictions).items():
            found.setdefault(tag, []).append(scores)
    return {
        tag: {metric: sum(s[metric] for s in runs) / len(runs) for metric in runs[0]}
        for tag, runs in found.items()
    }


def _bar(total, title, unit="clip", shown=None):
    from tqdm import tqdm

    return tqdm(
        total=total,
        desc=title,
        unit=unit,
        disable=not (sys.stderr.isatty() if shown is None else shown),
    )


def probe_both(encoder, data, target, batch_size=32, seed=0, progress=False):
    """Probe an encoder and an untrained one of its shape by logistic regression.

    Args:
        encoder: Keras model from (batch, samples, 1) to (batch, d).
        data: Path of a prepared set or an .npz file, with the splits train, valid and test.
        target: String, the label to predict.
        batch_size: Integer, windows encoded at a time. Defaults to 32.
        seed: Integer, for the untrained encoder. Defaults to 0.
        progress: Whether to show progress bars. Defaults to False.

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
    from keras_tune.evaluation.tasks import make_task

    info = load_info(data)
    missing = [split for split in SPLITS if not info.counts.get(split)]
    if missing:
        raise UserError(f"{data}: a probe needs the splits train, valid and test; no {missing[0]}")
    column, _ = info.label_column(target)
    results = {"target": target}
    for name, model in (("pretrained", encoder), ("untrained", untrained_copy(encoder, seed))):
        started = time.monotonic()
        total = sum(info.counts[split] for split in SPLITS)
        with _bar(total, f"embedding, {name}", shown=progress) as bar:
            parts = [
                embed_clips(
                    model, read_records(data, split), batch_size=batch_size, progress=bar.update
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


if __name__ == "__main__":
    run(main, ProbeConfig)
