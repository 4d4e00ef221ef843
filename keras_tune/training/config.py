"""The configurations of pretraining and finetuning, for the library and for the command line.

This module imports no framework, since the help of the command line imports it.
"""

import dataclasses
from typing import ClassVar, Literal

from keras_tune.types import (
    DEFAULT_ENCODER,
    DEFAULT_WINDOW,
    AugmentConfig,
    BatchSize,
    ContrastBatchSize,
    Count,
    CountFromZero,
    Decay,
    Depth,
    Finite,
    Fraction,
    NotNegative,
    Positive,
    Precision,
    Samples,
    Seed,
    Width,
    check_values,
)


@dataclasses.dataclass
class ModelConfig:
    """The encoder.

    Args:
        preset: A variant: tune_plus, tune_tail_5, clmr, …
        decoder_depth: Expansive stages, 0 for CLMR's SampleCNN; by default those of the preset.
        contraction_depth: Contractive stages; by default those of the preset.
        base_filters: Width of the first stage; by default that of the preset.
        tail_filters: Widths of the tail blocks, the last of which is the size of the
            representation; by default those of the preset.
        extra_links: Links from the decoder to the tail; by default those of the preset.
        input_samples: Length of a view in samples.
        level: RMS level to which the encoder scales every waveform, for example 0.1; by default as
            in the preset; the published presets do not change levels.
        load_weights: Whether to start from the trained weights of the preset (tune_plus_open,
            tune_plus_64_open).

    Example:

    ```python
    keras_tune.training.ModelConfig("tune_plus", base_filters=22, input_samples=19683)
    ```
    """

    preset: str = "tune_plus"
    decoder_depth: Depth | None = None
    contraction_depth: Depth | None = None
    base_filters: Width | None = None
    tail_filters: list[Width] | None = None
    extra_links: bool | None = None
    input_samples: Samples = DEFAULT_WINDOW
    level: Fraction | None = None
    load_weights: bool = False


@dataclasses.dataclass
class PretrainConfig:
    """The pretraining run.

    Args:
        data: Folder written by `prepare`, or an .npz file of clips; by default the demo corpus,
            which is synthesized into the output folder.
        output: Folder of the run.
        model: The encoder.
        augment: The augmentations.
        epochs: Number of epochs, including those before the run was resumed.
        steps_per_epoch: Batches of an epoch; by default one pass over the train split.
        batch_size: Clips of a batch; each gives two views.
        micro_batch: Clips encoded at a time, if a batch does not fit into memory; the loss is still
            that of the whole batch.
        optimizer: lars is for batches of thousands of clips; adamw is Adam with weight decay.
        learning_rate: Highest learning rate, after the warm-up.
        base_learning_rate: Learning rate for a batch of 256 clips, which is scaled in proportion to
            the batch size; replaces learning_rate.
        weight_decay: Weight decay of lars and adamw; biases and batch normalization have none.
        ema: Momentum, for example 0.999, of a moving average of the weights for the saved
            encoder; by default it has the last weights. The scores of the epochs are those of the
            weights, not of their average.
        warmup_epochs: Epochs over which the learning rate rises linearly from zero.
        schedule: Learning rate after the warm-up; cosine decreases to zero at the last epoch.
        temperature: Temperature of NT-Xent.
        mask_group: Label, such as the artist: clips with the same value are not negatives of each
            other. By default only copies of the same clip are excluded.
        projection_dim: Size of the projections.
        projection_layers: Hidden layers of the projection head.
        projection_batch_norm: Whether the projection head has batch normalization.
        variance_weight: Weight of VICReg's variance term on the projections.
        covariance_weight: Weight of VICReg's covariance term on the projections.
        acoustic_weight: Weight of the task to predict acoustic features of the clean crop.
        group_weight: Weight of a supervised contrastive term, in which clips with the same value of
            the label mask_group are positives.
        batch_norm_clips: Clips of train, without augmentation, on which the batch normalization of
            the saved encoder is estimated again; 0 keeps the averages from training, which describe
            augmented views.
        pooled_stages: Number of last stages whose mean and standard deviation a PCA combines into
            the saved encoder's representation; 0 for the mean of the last stage; by default as in
            the preset, 0 for the published ones.
        pooled_dim: Size of the representation with pooled_stages.
        acoustic_features: Whether that PCA also includes acoustic features of the waveform; by
            default as in the preset, false for the published ones.
        pca_clips: Clips of train, without augmentation, on which that PCA is computed.
        keep_best: Column of the history, such as val_contrastive_accuracy or val_probe; the encoder
            of the epoch with its best value is saved as best_encoder.keras.
        separate_views: Whether batch normalization sees first and second views separately.
        seed: Seed of weights, order, crops and augmentations.
        precision: float32, mixed_bfloat16, mixed_float16, or auto for mixed_bfloat16 where it is
            faster on the GPU or the processor, else float32.
        jit_compile: Whether to compile with XLA; by default if that is fast on the backend.
        steps_per_execution: Steps between two checks of the loss and of stop signals; must divide
            the steps of an epoch.
        resident: Whether the clips of train are kept in the memory of the device and cropped there.
        distribute: Several devices: mirrored (TensorFlow, one machine), multi_worker (TensorFlow,
            machines in TF_CONFIG), data_parallel (JAX), or auto for what is available.
        sync_batch_norm: Whether batch normalization uses the statistics of all devices; with JAX it
            always does.
        deterministic: Whether repeated runs give bit-identical results; uses slower algorithms.
        on_corrupt: What to do about damaged shards: raise an error, or read all shards first and
            skip the damaged ones.
        resume: Whether to resume the run in the output folder.

    Example:

    ```python
    from keras_tune.training import ModelConfig, PretrainConfig

    config = PretrainConfig("clips.npz", "runs/mine", ModelConfig(preset="clmr"), epochs=10)
    config.batch_size  # 48
    ```
    """

    # What may differ between a run and its continuation.
    free_on_resume: ClassVar[tuple[str, ...]] = (
        "epochs",
        "output",
        "resume",
        "jit_compile",
        "distribute",
        "deterministic",
        "on_corrupt",
        "keep_best",
        "pooled_stages",
        "pooled_dim",
        "acoustic_features",
        "pca_clips",
    )

    data: str | None = None
    output: str = "runs/pretrain"
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    epochs: Count = 100
    steps_per_epoch: Count | None = None
    batch_size: ContrastBatchSize = 48
    micro_batch: BatchSize | None = None
    optimizer: Literal["adam", "adamw", "lars"] = "adam"
    learning_rate: Positive = 3e-4
    base_learning_rate: Positive | None = None
    weight_decay: NotNegative = 1e-6
    ema: Decay | None = None
    warmup_epochs: NotNegative = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    temperature: Positive = 0.5
    mask_group: str | None = None
    projection_dim: Width = 64
    projection_layers: Depth = 1
    projection_batch_norm: bool = False
    variance_weight: NotNegative = 0.0
    covariance_weight: NotNegative = 0.0
    acoustic_weight: NotNegative = 0.0
    group_weight: NotNegative = 0.0
    batch_norm_clips: CountFromZero = 0
    pooled_stages: CountFromZero | None = None
    pooled_dim: Width = 512
    acoustic_features: bool | None = None
    pca_clips: Count = 4096
    keep_best: str | None = None
    separate_views: bool = False
    seed: Seed = 42
    precision: Precision = "auto"
    jit_compile: bool | None = None
    steps_per_execution: Count = 1
    resident: bool = False
    distribute: Literal["auto", "none", "mirrored", "multi_worker", "data_parallel"] = "none"
    sync_batch_norm: bool = True
    deterministic: bool = False
    on_corrupt: Literal["raise", "skip"] = "raise"
    resume: bool = False

    def check(self) -> None:
        """Raise an error unless the values are valid and compatible.

        Raises:
            ValueError: A value is out of its range, the micro-batch does not divide the batch, or
                `group_weight` is set without a `mask_group`.

        Example:

        ```python
        keras_tune.training.PretrainConfig(batch_size=64, micro_batch=16).check()
        ```
        """
        check_values(self)
        if self.micro_batch is not None and self.batch_size % self.micro_batch:
            raise ValueError(
                f"`micro_batch` must divide the `batch_size` of {self.batch_size}. "
                f"Received: micro_batch={self.micro_batch}"
            )
        if self.group_weight and self.mask_group is None:
            raise ValueError(
                "`group_weight` must be 0 without a `mask_group`, the label that groups clips. "
                f"Received: group_weight={self.group_weight}"
            )

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate after the warm-up."""
        if self.base_learning_rate is None:
            return self.learning_rate
        return self.base_learning_rate * self.batch_size / 256

    @property
    def group_by(self) -> str:
        """What groups clips that are not negatives of one another: a label, or "id" for copies."""
        return self.mask_group or "id"


@dataclasses.dataclass
class FinetuneConfig:
    """What to train, on what.

    Args:
        data: Folder written by `prepare`, or an .npz file of clips.
        target: The label to predict, or several: [a,b,c].
        output: Folder of the run.
        encoder: A .keras file, the folder of a pretraining run, tune_plus_open,
            tune_plus_64_open, or untrained:PRESET.
        task: classification, tagging, key or regression; by default what fits the labels.
        threshold: Smallest number for which a tag is present; makes columns of numbers tags.
        frozen: Whether the encoder is frozen throughout.
        frozen_epochs: Epochs at the beginning in which the encoder is frozen, or fewer if the head
            alone stops because of `patience`.
        hidden_units: Width of a hidden layer of the head; by default the head is linear.
        epochs: Largest number of epochs.
        patience: Epochs without a lower loss on valid after which training stops.
        batch_size: Clips of a batch.
        learning_rate: Learning rate of Adam.
        seed: Seed of head, order and crops.
        resamples: Resamples of the bootstrap.
        resume: Whether to resume the run in the output folder.
        jit_compile: Whether to compile with XLA; by default if that is fast on the backend.

    Example:

    ```python
    keras_tune.training.FinetuneConfig("tfrecords/mine", "genre", "runs/genre", epochs=20)
    ```
    """

    # What may differ between a run and its continuation.
    free_on_resume: ClassVar[tuple[str, ...]] = (
        "epochs",
        "output",
        "resume",
        "jit_compile",
        "resamples",
    )

    data: str
    target: list[str] | str
    output: str
    encoder: str = DEFAULT_ENCODER
    task: Literal["classification", "tagging", "key", "regression"] | None = None
    threshold: Finite | None = None
    frozen: bool = False
    frozen_epochs: CountFromZero = 0
    hidden_units: Width | None = None
    epochs: Count = 100
    patience: Count = 10
    batch_size: BatchSize = 48
    learning_rate: Positive = 3e-4
    seed: Seed = 42
    resamples: Count = 1000
    resume: bool = False
    jit_compile: bool | None = None

    def check(self) -> None:
        """Raise an error unless the values are valid.

        Raises:
            ValueError: A value is out of its range, or the encoder has no weights to train.

        Example:

        ```python
        keras_tune.training.FinetuneConfig("clips.npz", "genre", "runs/genre").check()
        ```
        """
        check_values(self)
        if self.encoder == "mel":
            raise ValueError("`encoder` has no weights to train. Received: encoder=mel")
