"""The batches of a pretraining run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from keras_tune.data.audio import to_float
from keras_tune.data.dataset import AudioDataset
from keras_tune.data.resident_clips import ResidentClips
from keras_tune.errors import UserError
from keras_tune.training.config import PretrainConfig
from keras_tune.training.distribution import Devices


@dataclasses.dataclass
class Streams:
    """The batches of a run from some epoch on, and their number.

    Args:
        train: Batches of pairs of crops, shuffled.
        valid: Batches of pairs of crops in the order of the files, or None.
        steps_per_epoch: Batches of an epoch of `train`.
        train_clips: Clips of the split train.
        valid_steps: Batches of `valid`, or None.
        valid_clips: Clips in `valid`: all clips of the split that are long enough; 0 without
            `valid`.
        find_chance: Function without arguments that computes `chance`.

    Example:

    ```python
    from keras_tune.data import open_dataset, save_demo
    from keras_tune.training import PretrainConfig, PretrainingData

    save_demo("demo.npz", num_clips={"train": 8, "valid": 4}, seconds=3.0)
    streams = PretrainingData(open_dataset("demo.npz"), PretrainConfig(batch_size=4)).streams()
    streams.steps_per_epoch, round(streams.chance, 2)  # (2, 0.14)
    ```
    """

    train: Any
    valid: Any
    steps_per_epoch: int
    train_clips: int
    valid_steps: int | None
    valid_clips: int
    find_chance: Callable[[], float]

    @property
    def chance(self) -> float | None:
        """Contrastive accuracy on valid of a guess among all candidates, or None without valid."""
        return None if self.valid is None else self.find_chance()


class PretrainingData:
    """The data of a pretraining run.

    Args:
        dataset: `keras_tune.data.AudioDataset`.
        config: `PretrainConfig`.
        devices: `keras_tune.training.distribution.Devices` that share the work. Defaults to one
            device.

    Attributes:
        dataset, config, devices: The same.
        resident: `keras_tune.data.ResidentClips` of the split train, once `streams` has loaded
            them because `config.resident` asks for it; None before.

    Raises:
        UserError: The dataset has no split train.

    Example:

    ```python
    from keras_tune.data import open_dataset, save_demo
    from keras_tune.training import PretrainConfig, PretrainingData

    save_demo("demo.npz", num_clips={"train": 8, "valid": 4}, seconds=3.0)
    data = PretrainingData(open_dataset("demo.npz"), PretrainConfig(batch_size=4))
    batch = next(data.streams().train.as_numpy_iterator())
    batch["audio"].shape  # (4, 2, 59049)
    ```
    """

    def __init__(
        self, dataset: AudioDataset, config: PretrainConfig, devices: Devices | None = None
    ):
        if not dataset.info.counts.get("train"):
            left = " left" if dataset.exclude else ""
            raise UserError(f"{dataset.path}: has no clips in the split train{left}")
        self.dataset = dataset
        self.config = config
        self.devices = devices or Devices()
        self.resident: ResidentClips | None = None

    def streams(self, initial_epoch: int = 0, initial_step: int = 0) -> Streams:
        """Open the batches of the run from some step on.

        Args:
            initial_epoch: Integer, the epoch at which `train` begins. Defaults to 0.
            initial_step: Integer, the batches of that epoch that are skipped. Defaults to 0.

        Returns:
            `Streams`.

        Raises:
            ValueError: Clips are too short or too few, or there is no label `mask_group`.

        Example:

        ```python
        from keras_tune.data import open_dataset, save_demo
        from keras_tune.training import PretrainConfig, PretrainingData

        save_demo("demo.npz", num_clips={"train": 8, "valid": 4}, seconds=3.0)
        data = PretrainingData(open_dataset("demo.npz"), PretrainConfig(batch_size=4, epochs=3))
        len(data.streams(initial_epoch=1, initial_step=1).train)  # 3
        ```
        """
        config, devices = self.config, self.devices
        self._check_group()
        if config.resident and self.resident is None:
            self.resident = self.dataset.resident(
                "train", config.model.input_samples, config.group_by
            )
        epochs = max(config.epochs, initial_epoch + 1)
        train = self._batches(
            "train",
            devices.part,
            **self._train_options(),
            initial_epoch=initial_epoch,
            initial_step=initial_step,
            epochs=epochs,
        )
        batches = len(train)
        valid_clips = self._count_valid()
        batch_size = min(config.batch_size, valid_clips)
        # Every device must get as many clips as the others.
        batch_size -= batch_size % devices.replicas
        # All batches have one size, so that each anchor has as many candidates, and nothing is
        # compiled for another shape. The last one is filled up with clips of weight zero.
        options = {
            "clip_samples": config.model.input_samples,
            "crops": 2,
            "batch_size": batch_size,
            "shuffle": False,
            "fill_remainder": True,
            "group_by": config.group_by,
        }
        valid = self._batches("valid", devices.part, **options) if batch_size > 1 else None

        def find_chance():
            if config.mask_group is None and devices.processes == 1:
                return 1 / (2 * batch_size - 1)
            return self._chance({**options, "crops": 1})

        return Streams(
            train=devices.feed(train),
            valid=devices.feed(valid),
            steps_per_epoch=(batches + initial_step) // (epochs - initial_epoch),
            train_clips=self.dataset.info.counts["train"],
            valid_steps=len(valid) if valid is not None else None,
            valid_clips=valid_clips if valid is not None else 0,
            find_chance=find_chance,
        )

    def batch_ids(self, epoch: int, step: int) -> list[str]:
        """The ids of the clips in one batch of the run, which follow from the seed.

        Args:
            epoch: Integer, the epoch, from 0.
            step: Integer, the step within it, from 0.

        Returns:
            List of strings; with several processes, each gets the ids of its own part.

        Example:

        ```python
        from keras_tune.data import open_dataset, save_demo
        from keras_tune.training import PretrainConfig, PretrainingData

        save_demo("demo.npz", num_clips={"train": 8}, seconds=3.0)
        data = PretrainingData(open_dataset("demo.npz"), PretrainConfig(batch_size=4))
        data.batch_ids(epoch=0, step=1)  # four ids, such as "train-0003"
        ```
        """
        options = {**self._train_options(), "initial_epoch": epoch, "initial_step": step}
        stream = self._batches("train", self.devices.part, **options, ids=True)
        batch = next(stream.as_numpy_iterator())
        return [name.decode() if isinstance(name, bytes) else str(name) for name in batch["id"]]

    def clean_batches(self, count: int) -> Iterator[np.ndarray]:
        """Random windows of train without augmentation, in batches of at most 32.

        Args:
            count: Integer, the number of windows, rounded down to whole batches (at least one). If
                the split has fewer clips, some give several windows.

        Yields:
            Float32 arrays (batch, samples, 1).

        Example:

        ```python
        from keras_tune.data import open_dataset, save_demo
        from keras_tune.training import PretrainConfig, PretrainingData

        save_demo("demo.npz", num_clips={"train": 8}, seconds=3.0)
        data = PretrainingData(open_dataset("demo.npz"), PretrainConfig())
        [batch.shape for batch in data.clean_batches(16)]  # [(8, 59049, 1), (8, 59049, 1)]
        ```
        """
        size = min(32, self.dataset.info.counts["train"])
        steps = max(1, count // size)
        options = {**self._train_options(), "batch_size": size, "steps_per_epoch": steps}
        for batch in self.dataset.batches("train", **options):
            yield to_float(np.asarray(batch["audio"]))[:, 0, :, None]

    def _check_group(self):
        group = self.config.mask_group
        known = [column.name for column in self.dataset.info.labels]
        if group is not None and group not in known:
            raise ValueError(
                f"`mask_group` must be a label of {self.dataset.path}, which has "
                f"{', '.join(known) or 'none'}. Received: mask_group={group}"
            )

    def _count_valid(self):
        """How many clips of valid are long enough."""
        count = self.dataset.info.counts.get("valid", 0)
        if not count:
            return 0
        samples = self.config.model.input_samples
        long_enough = self.dataset.count("valid", samples)
        if not long_enough:
            raise ValueError(
                f"`input_samples` must be smaller, since all {count} clips of valid in "
                f"{self.dataset.path} are shorter. Received: input_samples={samples}"
            )
        return long_enough

    def _chance(self, options):
        """The mean over anchors of a guess among the candidates that groups and batches leave."""
        processes = self.devices.processes
        parts = [self._batches("valid", (k, processes), **options) for k in range(processes)]
        chance, weight = 0.0, 0.0
        for batches in zip(*(part.as_numpy_iterator() for part in parts), strict=True):
            groups, weights = (
                np.concatenate([batch[key] for batch in batches]) for key in ("group", "weight")
            )
            others = (groups[:, None] != groups).sum(axis=1)
            chance += (weights / (1 + 2 * others)).sum()
            weight += weights.sum()
        return float(chance / weight)

    def _train_options(self):
        config = self.config
        return {
            "clip_samples": config.model.input_samples,
            "crops": 2,
            "batch_size": config.batch_size,
            "seed": config.seed,
            "steps_per_epoch": config.steps_per_epoch,
            "group_by": config.group_by,
        }

    def _batches(self, split, part, **options):
        """The batches of a split, or the part of them that a process reads."""
        if split == "train" and self.resident is not None:
            # It cuts what it was loaded for.
            del options["clip_samples"], options["group_by"]
            return self.resident.stream(part=part, **options)
        return self.dataset.batches(split, part=part, **options)
