"""From a configuration to a compiled model, and from a trained model to its saved encoder."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_tune.augment.clmr_chain import clmr_chain
from keras_tune.models.estimation import estimate_batch_norm, estimate_pca, with_pooled_stages
from keras_tune.models.saved import save_model
from keras_tune.models.tune import TUNe
from keras_tune.training.config import PretrainConfig
from keras_tune.training.contrastive_model import ContrastiveModel
from keras_tune.training.optimizers import LARS, AdamW
from keras_tune.types import DEFAULT_SAMPLE_RATE


def build_model(
    config: PretrainConfig, sample_rate: int = DEFAULT_SAMPLE_RATE, steps_per_epoch: int = 1
) -> ContrastiveModel:
    """Build and compile the model of a pretraining run, with the global dtype policy.

    Args:
        config: `PretrainConfig`.
        sample_rate: Integer, the sample rate of the clips in Hz. Defaults to 22,050.
        steps_per_epoch: Integer, for the schedule of the learning rate. Defaults to 1.

    Returns:
        A compiled `ContrastiveModel`.

    Raises:
        UserError: `load_weights` is set for a preset without trained weights.
        ValueError: The settings of the encoder or of the augmentations are incompatible.

    Example:

    ```python
    from keras_tune.training import ModelConfig, PretrainConfig, build_model

    small = ModelConfig(preset="tune_plus_32", base_filters=2, input_samples=19683)
    model = build_model(PretrainConfig(model=small))
    clips = np.random.normal(0, 0.1, (8, 22050)).astype("float32")
    model.evaluate(clips, batch_size=4)
    ```
    """
    settings = {k: v for k, v in dataclasses.asdict(config.model).items() if v is not None}
    # Contrastive training uses the last stage; the pooling of the others is computed at the end.
    settings |= {"sample_rate": sample_rate, "pooled_stages": 0}
    encoder = TUNe.from_preset(settings.pop("preset"), **settings)
    model = ContrastiveModel(
        encoder,
        projection_dim=config.projection_dim,
        temperature=config.temperature,
        projection_layers=config.projection_layers,
        projection_batch_norm=config.projection_batch_norm,
        variance_weight=config.variance_weight,
        covariance_weight=config.covariance_weight,
        acoustic_weight=config.acoustic_weight,
        group_weight=config.group_weight,
        augmenter=clmr_chain(sample_rate, config.seed, **dataclasses.asdict(config.augment)),
        separate_views=config.separate_views,
        micro_batch=config.micro_batch,
        seed=config.seed,
    )
    model.compile(
        build_optimizer(config, steps_per_epoch),
        jit_compile="auto" if config.jit_compile is None else config.jit_compile,
        steps_per_execution=config.steps_per_execution,
    )
    return model


def build_optimizer(config: PretrainConfig, steps_per_epoch: int = 1) -> keras.optimizers.Optimizer:
    """Build the optimizer of a pretraining run, with its schedule and moving average.

    Args:
        config: `PretrainConfig`.
        steps_per_epoch: Integer, for the warm-up and the decay. Defaults to 1.

    Returns:
        Keras optimizer.

    Example:

    ```python
    from keras_tune.training import PretrainConfig, build_optimizer

    config = PretrainConfig(optimizer="lars", base_learning_rate=0.3, batch_size=4096)
    float(build_optimizer(config).learning_rate)  # 4.8
    ```
    """
    average: dict[str, Any] = (
        {} if config.ema is None else {"use_ema": True, "ema_momentum": config.ema}
    )
    rate = config.peak_learning_rate
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if warmup or config.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else rate,
            decay_steps=max(1, config.epochs * steps_per_epoch - warmup),
            # The last rate, as a fraction of the highest.
            alpha=0.0 if config.schedule == "cosine" else 1.0,
            warmup_target=rate if warmup else None,
            warmup_steps=warmup,
        )
    if config.optimizer == "lars":
        return LARS(rate, weight_decay=config.weight_decay, **average)
    if config.optimizer == "adamw":
        return AdamW(rate, weight_decay=config.weight_decay, **average)
    return keras.optimizers.Adam(rate, **average)


def save_encoder(
    model: ContrastiveModel,
    path: str | os.PathLike,
    batches: Iterable[np.ndarray] | None = None,
    pca_batches: Iterable[np.ndarray] | None = None,
    pooled_stages: int = 0,
    pooled_dim: int = 512,
    acoustic_features: bool = False,
) -> keras.Model:
    """Save the encoder of a contrastive model on its own, in float32 whatever it was trained in.

    If the optimizer keeps a moving average of the weights, the encoder gets the average.

    Args:
        model: `ContrastiveModel`.
        path: The `.keras` file to write.
        batches: Iterable of float arrays (batch, samples, 1), on which the statistics of batch
            normalization are estimated. Defaults to None: the averages of training.
        pca_batches: The same, on which the linear map from pooled stages to the representation is
            computed; see `keras_tune.models.estimate_pca`; needed with `pooled_stages`. Defaults to
            None.
        pooled_stages: Integer, the number of last stages that the representation is made of.
            Defaults to 0: it is the mean of the last stage.
        pooled_dim: Integer, the size of the representation with `pooled_stages`. Defaults to 512.
        acoustic_features: Whether that linear map takes acoustic features as well (see `TUNe`).
            Defaults to False.

    Returns:
        The saved encoder.

    Raises:
        UserError: A weight is not finite.
        ValueError: There are fewer stages than `pooled_stages`, or no `pca_batches` for them.

    Example:

    ```python
    from keras_tune.models import TUNe
    from keras_tune.training import ContrastiveModel, save_encoder

    encoder = TUNe.from_preset("tune_plus_32", load_weights=False, input_samples=19683)
    save_encoder(ContrastiveModel(encoder), "encoder.keras")
    ```
    """
    if pooled_stages and pca_batches is None:
        raise ValueError("`pca_batches` must be given with `pooled_stages`. Received: None")
    encoder = TUNe.from_config({**model.encoder.get_config(), "dtype": "float32"})
    with _averaged(model):
        encoder.set_weights(model.encoder.get_weights())
    if batches is not None:
        estimate_batch_norm(encoder, batches)
    if pooled_stages:
        encoder = with_pooled_stages(encoder, pooled_stages, pooled_dim, acoustic_features)
        estimate_pca(encoder, pca_batches or ())
    save_model(encoder, path)
    return encoder


@contextlib.contextmanager
def _averaged(model: ContrastiveModel) -> Iterator[None]:
    """Replace the weights by their moving averages, if the optimizer has them."""
    optimizer: Any = getattr(model, "optimizer", None)
    # In float16 it is within another one, which scales the loss.
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not getattr(optimizer, "use_ema", False):
        yield
        return
    variables = model.trainable_variables
    before = [variable.numpy() for variable in variables]
    # Keras' optimizers put their averages into the variables, but do not return them.
    optimizer.finalize_variable_values(variables)
    yield
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
