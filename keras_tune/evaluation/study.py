"""Several representations of the same clips, evaluated on the same folds and on deformed clips."""

from __future__ import annotations

import functools
import io
import math
import time
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tune.data.schema import SPLITS
from keras_tune.errors import UserError
from keras_tune.evaluation.embeddings import ClipEmbeddings
from keras_tune.evaluation.outcomes import (
    Fold,
    Outcome,
    evaluate,
    group_folds,
    interval_95,
    predict_test,
)
from keras_tune.evaluation.protocols import groups_of
from keras_tune.progress_bar import progress_bar
from keras_tune.types import DEFAULT_SAMPLE_RATE

if TYPE_CHECKING:
    from keras_tune.evaluation.protocols import FittedProbe
    from keras_tune.evaluation.tasks import Task

# The sample rates in Hz that MP3 has.
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


class Study:
    """Compares a representation with its baselines, on the same folds.

    Args:
        clips: Dict from the name of a representation to a dict from split to `ClipEmbeddings`. The
            representation to evaluate comes first. All have the same clips in the same order.
        task: `Task`.
        seeds: List of integers, one for each repetition.
        folds: Integer, the number of folds for cross-validation over the clips of all splits, or
            None to use the splits. Defaults to None.
        group: Label whose values are each in one fold only and are resampled as a whole. Defaults
            to None; needed for `folds`.
        resamples: Integer, the resamples of the bootstrap. Defaults to 1,000.
        progress: Function of (total, title) that returns a context manager, whose value has a
            method `update` for the number of folds just finished. Defaults to None.

    Attributes:
        clips: Dict from representation to the `ClipEmbeddings` of all splits.
        rows: Dict from split to its rows in these.
        folds: List of `Fold`.
        cross_validated: Whether the folds come from cross-validation.
        outcomes: Dict from (protocol, representation) to `Outcome`.

    Raises:
        UserError: No clip has the labels.
        ValueError: There are not more groups than folds, or only one group beside a fold.

    Example:

    ```python
    from keras_tune.data import LabelColumn
    from keras_tune.evaluation import ClipEmbeddings, Study, make_task

    generator = np.random.default_rng(0)
    labels = [{"genre": ("jazz", "rock")[k % 2]} for k in range(60)]
    vectors = generator.normal(size=(60, 8)) + np.arange(60)[:, None] % 2
    clips = ClipEmbeddings([str(k) for k in range(60)], vectors, labels)
    task = make_task([LabelColumn("genre", "category", ("jazz", "rock"))], labels)
    splits = {"train": range(30), "valid": range(30, 45), "test": range(45, 60)}
    splits = {split: clips.take(rows) for split, rows in splits.items()}
    study = Study({"mine": splits}, task, seeds=[0], resamples=100)
    study.evaluate("logistic")["mine"]["score"]
    ```
    """

    def __init__(
        self,
        clips: dict[str, dict[str, ClipEmbeddings]],
        task: Task,
        seeds: Sequence[int],
        folds: int | None = None,
        group: str | None = None,
        resamples: int = 1000,
        progress: Callable[[int, str], Any] | None = None,
    ):
        self.task, self.group, self.resamples = task, group, resamples
        self.progress = progress or functools.partial(progress_bar, shown=False)
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
        if folds:
            self.folds = self._cross_validation(folds)
        else:
            train, valid, test = (self.rows[split] for split in SPLITS)
            self.folds = [Fold(train, valid, test, seed) for seed in self.seeds]
        self.outcomes = {}

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

    def evaluate(self, protocol: str) -> dict[str, dict[str, Any]]:
        """Evaluate all representations with one protocol; returns their reports by name."""
        return self._reports(protocol, protocol, self.suitable(protocol))

    def suitable(self, protocol: str) -> dict[str, ClipEmbeddings]:
        """The representations that a protocol can evaluate; `linear` needs single windows."""
        return {
            name: clips
            for name, clips in self.clips.items()
            if protocol != "linear" or clips.crops is not None
        }

    def layers(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Evaluate all stages with logistic regression; reports by representation and stage.

        Raises:
            UserError: No representation has stages.
        """
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
                    "interval_95": interval_95(gains),
                }
        return reports

    def label_fractions(
        self, protocol: str, fractions: Sequence[float]
    ) -> dict[str, dict[str, list[float]]]:
        """Evaluate with fractions of the train labels; scores by representation and fraction.

        The fraction is kept of each class, and at least one clip. Each seed makes its own draw.
        """
        representations = self.suitable(protocol)
        found = {name: {} for name in representations}
        train, valid, test = (self.rows[split] for split in SPLITS)
        labelled, targets = self.task.encode([self.labels[row] for row in train])
        strata = self.task.strata(targets)
        with self.progress(
            len(fractions) * len(representations) * len(self.seeds),
            f"fractions of the labels, {protocol}",
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

    def deformed(
        self, protocol: str, clips: dict[str, dict[str, ClipEmbeddings]]
    ) -> dict[str, dict[str, float]]:
        """Score deformed test clips; scores by representation and deformation.

        The probes are those that `evaluate` has trained on the clips without deformation.

        Args:
            protocol: String, a protocol that was evaluated before.
            clips: Dict from representation to a dict from deformation to `ClipEmbeddings`.
        """
        found = {}
        for name in self.suitable(protocol):
            outcome = self.outcomes[protocol, name]
            found[name] = {"none": outcome.scores()[self.task.primary]}
            for change, test in clips[name].items():
                runs = [predict_test(r.probe, test, self.task, self.group) for r in outcome.runs]
                found[name][change] = Outcome(self.task, runs).scores()[self.task.primary]
        return found


def best_head(study: Study, name: str, protocols: Sequence[str]) -> tuple[str, FittedProbe] | None:
    """The protocol and `FittedProbe` that are best on valid, of the probes made of dense layers.

    Scores on test are not used. Protocols choose among 2, 6 or 216 candidates, and the best of 216
    scores on valid is more inflated than the best of 2. So protocols are compared by
    `cross_fitted_score`, on halves of valid that were not used to choose. After cross-validation
    there is no such probe, since each was trained for one fold: the result is None.
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
    """The score to compare; if valid is too small for it, the score on all of valid decides."""
    _, probe = candidate
    score = probe.cross_fitted_score
    return (score if math.isfinite(score) else -math.inf, probe.valid_score)


def deformations(
    sample_rate: int = DEFAULT_SAMPLE_RATE,
) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Deformations of test clips, to which a representation should be robust, by name.

    Each is a function of a clip, a float array (samples,), that returns a float32 array of the same
    length, the same one each time. The sample rate must be above 6,000 Hz, twice the cutoff of the
    low-pass filter.

    Source: Plachouras et al., "mir_ref" (2023), for noise, gain and lossy compression. The low-pass
    filter and the reverberation are ours.
    """
    from keras_tune.augment import Gain, GaussianNoise, LowPass, Reverb

    layers = {
        f"noise_{snr}_db": GaussianNoise(10 ** (-snr / 20), 10 ** (-snr / 20), seed=0)
        for snr in (30, 20, 10, 0)
    }
    layers["gain_-12_db"] = Gain(-12.0, -12.0, seed=0)
    layers["low_pass_3000_hz"] = LowPass(sample_rate, 3000.0, 3000.0, seed=0)
    settings = {
        f"{end}_{name}": 50
        for end in ("min", "max")
        for name in ("reverberance", "damping", "room_size")
    }
    layers["reverb"] = Reverb(sample_rate, **settings, seed=0)
    by_layer = {name: _by_layer(layer) for name, layer in layers.items()}
    return {**by_layer, "mp3": functools.partial(_through_mp3, sample_rate=sample_rate)}


def _by_layer(layer):
    def deform(clip):
        import keras

        clip = np.ascontiguousarray(clip, "float32")
        # A clip gets the same noise for every encoder, whatever was deformed before.
        layer.reseed(zlib.crc32(clip.tobytes()))
        deformed = layer(clip[None], training=True)
        return keras.ops.convert_to_numpy(deformed)[0]

    return deform


def _through_mp3(clip, sample_rate):
    """Encode a clip as MP3 at a low bit rate and decode it again, with libsndfile.

    For a sample rate that MP3 does not have, the clip is resampled to the next higher one (or to
    48,000 Hz) and back.
    """
    import soundfile

    from keras_tune.data.audio import resample

    rate = next((rate for rate in MP3_RATES if rate >= sample_rate), MP3_RATES[-1])
    samples = resample(np.clip(clip, -1, 1), sample_rate, rate)
    buffer = io.BytesIO()
    options = {"format": "MP3", "subtype": "MPEG_LAYER_III", "compression_level": 0.9}
    soundfile.write(buffer, samples, rate, **options)
    buffer.seek(0)
    decoded, _ = soundfile.read(buffer, dtype="float32")
    decoded = resample(decoded, rate, sample_rate)
    whole = np.zeros(len(clip), "float32")
    whole[: len(decoded)] = decoded[: len(clip)]
    return whole
