"""Several representations of the same clips, judged on the same folds."""

import contextlib
import math
import time

import numpy as np

from keras_tune.errors import UserError
from keras_tune.evaluation.embeddings import ClipEmbeddings
from keras_tune.evaluation.metrics import percentiles
from keras_tune.evaluation.outcomes import Fold, evaluate, group_folds, predict_test
from keras_tune.evaluation.protocols import groups_of

SPLITS = ("train", "valid", "test")


class Study:
    """A representation, its baselines, and the folds on which they are compared.

    Args:
        clips: Dict from the name of a representation to a dict from split to `ClipEmbeddings`; the
            representation to judge comes first. All have the same clips in the same order.
        task: `Task`.
        seeds: List of integers, a repetition each.
        folds: Integer, to cross-validate over the clips of all splits, or None to keep to the
            splits. Defaults to None.
        group: Label whose values are in one fold only and are resampled as a whole. Defaults to
            None; needed for `folds`.
        resamples: Integer, resamples of the bootstrap. Defaults to 1,000.
        progress: Function of (total, title) that gives a context manager, whose value has a method
            `update` that takes the number of folds just done. Defaults to None.

    Attributes:
        clips: Dict from representation to `ClipEmbeddings` of all splits.
        rows: Dict from split to its rows of them.
        folds: List of `Fold`.
        cross_validated: Whether they were cut here rather than given.
        outcomes: Dict from (protocol, representation) to `Outcome`.

    Raises:
        UserError: No clip has the labels.
        ValueError: There are not more groups than folds.

    Example:

    ```python
    study = Study({"mine": {"train": a, "valid": b, "test": c}}, task, seeds=[0])
    study.evaluate("logistic")["mine"]["score"]
    ```
    """

    def __init__(self, clips, task, seeds, folds=None, group=None, resamples=1000, progress=None):
        self.task, self.group, self.resamples = task, group, resamples
        self.progress = progress or (lambda total, title: contextlib.nullcontext(_Silent()))
        self.seeds = list(seeds)
        splits = next(iter(clips.values()))
        ends = np.cumsum([0, *(len(part.ids) for part in splits.values())])
        self.rows = {
            split: np.arange(start, end)
            for split, start, end in zip(splits, ends[:-1], ends[1:], strict=True)
        }
        self.clips = {name: ClipEmbeddings.merge(parts.values()) for name, parts in clips.items()}
        self.labels = next(iter(self.clips.values())).labels
        self.cross_validated = folds is not None
        self.folds = self._cross_validation(folds) if folds else self._given_splits()
        self.outcomes = {}

    def _given_splits(self):
        return [Fold(*(self.rows[split] for split in SPLITS), seed) for seed in self.seeds]

    def _cross_validation(self, folds):
        rows, targets = self.task.encode(self.labels)
        if not len(rows):
            raise UserError(f"no clip has {self.task.labels_in_words()}")
        strata = self.task.strata(targets)
        groups = groups_of([self.labels[row] for row in rows], self.group)
        return [
            Fold(*(rows[part] for part in parts), seed)
            for seed in self.seeds
            for parts in group_folds(strata, groups, folds, seed)
        ]

    def evaluate(self, protocol):
        """The reports of the representations under one protocol, by name."""
        return self._reports(protocol, protocol, self.suitable(protocol))

    def suitable(self, protocol):
        """The representations that a protocol can evaluate: `linear` needs single windows."""
        return {
            name: clips
            for name, clips in self.clips.items()
            if protocol != "linear" or clips.crops is not None
        }

    def layers(self):
        """The reports of every stage, under logistic regression: by representation, then stage."""
        found = {}
        for name, clips in self.clips.items():
            if clips.stages:
                stages = {stage: clips.of_stage(stage) for stage in clips.stages}
                found[name] = self._reports("logistic", f"layers, {name}", stages)
        if not found:
            raise UserError("the encoder has no named stages, so its layers cannot be evaluated")
        return found

    def _reports(self, protocol, title, representations):
        reports, samples = {}, {}
        with self.progress(len(self.folds) * len(representations), title) as bar:
            for name, clips in representations.items():
                started = time.monotonic()
                outcome = evaluate(protocol, clips, self.folds, self.task, self.group, bar.update)
                samples[name] = outcome.samples(self.resamples)
                reports[name] = outcome.report(samples[name])
                reports[name]["seconds"] = round(time.monotonic() - started, 1)
                self.outcomes[title, name] = outcome
        first = next(iter(reports))
        for name in reports:
            if name in self.clips and name != first:
                metric = self.task.primary
                gains = samples[first][metric] - samples[name][metric]
                reports[name][f"{first}_minus_this"] = {
                    "difference": reports[first]["score"] - reports[name]["score"],
                    "interval_95": list(percentiles(gains)),
                }
        return reports

    def label_fractions(self, protocol, fractions):
        """Scores with shares of the labels of train: by representation, share and seed.

        Of each class a share is kept, and at least one clip; each seed draws it anew.
        """
        representations = self.suitable(protocol)
        found = {name: {} for name in representations}
        train, valid, test = (self.rows[split] for split in SPLITS)
        labelled, targets = self.task.encode([self.labels[row] for row in train])
        strata = self.task.strata(targets)
        with self.progress(
            len(fractions) * len(representations) * len(self.seeds),
            f"shares of the labels, {protocol}",
        ) as bar:
            for fraction in fractions:
                folds = []
                for seed in self.seeds:
                    generator = np.random.default_rng([seed, 2])
                    kept = []
                    for stratum in np.unique(strata):
                        members = generator.permutation(labelled[strata == stratum])
                        kept.extend(members[: max(1, round(fraction * len(members)))])
                    folds.append(Fold(train[np.sort(kept)], valid, test, seed))
                for name, clips in representations.items():
                    scores = []
                    for fold in folds:
                        outcome = evaluate(protocol, clips, [fold], self.task, self.group)
                        scores.append(outcome.scores()[self.task.primary])
                        bar.update(1)
                    found[name][str(fraction)] = scores
        return found

    def deformed(self, protocol, clips):
        """Scores on deformed test clips, by representation and deformation.

        The probes are those that `judge` has trained and chosen on the clips as they are.

        Args:
            protocol: String, judged before.
            clips: Dict from representation to a dict from deformation to `ClipEmbeddings`.
        """
        found = {}
        for name in self.suitable(protocol):
            changes = clips[name]
            outcome = self.outcomes[protocol, name]
            found[name] = {"none": outcome.scores()[self.task.primary]}
            for change, test in changes.items():
                scores = []
                for run in outcome.runs:
                    done = predict_test(run.probe, test, self.task, self.group)
                    scored = self.task.scores(done.targets, done.predictions)
                    scores.append(scored[self.task.primary])
                found[name][change] = sum(scores) / len(scores)
        return found


class _Silent:
    """A progress bar that shows nothing."""

    def update(self, count):
        pass


def best_head(study, name, protocols):
    """The probe that did best on valid, among those that are a linear map or a small network.

    Scores of test have no say in it. Protocols choose among 2, 6 or 216 candidates, and the best of
    216 scores on valid is too high by more than the best of 2: protocols are compared by
    `cross_fitted_score`, on halves of valid that did not choose. Where the study cross-validates
    there is no such probe: each was trained for one fold.

    Args:
        study: `Study`, whose protocols were judged.
        name: String, the representation.
        protocols: List of the protocols to look at.

    Returns:
        Pair of the protocol and a `FittedProbe` with a `head`, or None.

    Example:

    ```python
    protocol, probe = best_head(study, "pretrained", ["grid", "logistic"])
    ```
    """
    if study.cross_validated:
        return None
    candidates = [
        (protocol, run.probe)
        for protocol in protocols
        for run in study.outcomes[protocol, name].runs
        if run.probe.head is not None
    ]
    return max(candidates, key=_merit, default=None)


def _merit(candidate):
    """What is compared; where valid is too small for it, the score on all of valid decides."""
    _, probe = candidate
    score = probe.cross_fitted_score
    return (score if math.isfinite(score) else -math.inf, probe.valid_score)
