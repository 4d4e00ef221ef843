"""Encoders: by name, with stages as outputs, and what embeddings need to know about them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tune.checks import check_encoder
from keras_tune.errors import UserError
from keras_tune.shipped import OnnxEncoder, onnx_file
from keras_tune.types import DEFAULT_SAMPLE_RATE, DEFAULT_WINDOW

if TYPE_CHECKING:
    import keras


def load_encoder(path: str | os.PathLike, sample_rate: int | None = None) -> keras.Model:
    """Load an encoder; from a saved `ContrastiveModel`, return its encoder.

    Args:
        path: A `.keras` file, the folder of a run, or a preset that has trained weights.
        sample_rate: Integer, the sample rate of the data, which the encoder must have. Defaults to
            None: any rate.

    Returns:
        Keras model from (batch, samples, 1) to (batch, d).

    Raises:
        UserError: There is no such file, it contains no encoder, or the encoder has another rate.

    Example:

    ```python
    from keras_tune.evaluation import load_encoder

    encoder = keras_tune.TUNe(1, 1, base_filters=2, tail_filters=[4], input_samples=2187)
    encoder.save("encoder.keras")
    load_encoder("encoder.keras").output_shape  # (None, 4)
    ```
    """
    from keras_tune.models.presets import is_trained
    from keras_tune.models.saved import load_saved_model

    file = pathlib.Path(path)
    if file.is_file() and file.suffix != ".keras" and not is_trained(str(path)):
        raise UserError(f"{path}: not a .keras file; see `keras-tune convert`")
    model = load_saved_model(path)
    # Taggers have an encoder too, but are exported and embedded as they are.
    encoder = model.encoder if hasattr(model, "projector") else model
    check_encoder(path, encoder, sample_rate)
    return encoder


def named_encoder(name: str, sample_rate: int | None = None, seed: int = 0) -> keras.Model:
    """Load or build an encoder by its name.

    Args:
        name: A `.keras` file, the folder of a run, a preset that has trained weights,
            "untrained:PRESET", or "mel" for statistics of the mel spectrogram.
        sample_rate: Integer, the sample rate of the data, which a saved encoder must have. Defaults
            to None: a saved encoder's own, and 22,050 for others.
        seed: Integer, the seed of an untrained encoder. Defaults to 0.

    Returns:
        Keras model from (batch, samples, 1) to (batch, d).

    Raises:
        UserError: There is no such encoder, or it is made for another sample rate.

    Example:

    ```python
    from keras_tune.evaluation import named_encoder

    named_encoder("untrained:tune_plus_32", sample_rate=16000).sample_rate  # 16000
    ```
    """
    if name == "mel":
        from keras_tune.evaluation.baselines import MelStatistics

        return MelStatistics(sample_rate or DEFAULT_SAMPLE_RATE)
    from keras_tune.models import PRESETS, TUNe
    from keras_tune.models.presets import is_trained

    if name in PRESETS and not is_trained(name) and not os.path.exists(name):
        raise UserError(
            f"{name}: is a preset without trained weights; take untrained:{name}, with random "
            "weights, or give a .keras file"
        )
    if name.startswith("untrained:"):
        preset = name.removeprefix("untrained:")
        if preset not in PRESETS:
            raise UserError(f"{name}: no such preset; use one of {', '.join(PRESETS)}")
        rate = sample_rate or DEFAULT_SAMPLE_RATE
        with seeded_weights(seed):
            return TUNe.from_preset(preset, load_weights=False, sample_rate=rate, pooled_stages=0)
    return load_encoder(name, sample_rate)


@contextlib.contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Build models with the weights that they have after `keras.utils.set_random_seed(seed)`.

    Layers draw the seeds of their weights from Python's random generator. It is then set back, so
    that the random numbers of the caller are not those of a model built for comparison.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def fast_encoder(
    name: str, sample_rate: int | None = None, in_keras: bool = False
) -> keras.Model | OnnxEncoder:
    """As `named_encoder`, but in ONNX Runtime if possible, unless `in_keras` is True.

    ONNX Runtime starts many times faster than Keras, which is then not imported.
    """
    file = None if in_keras else onnx_file(name)
    if file is None:
        return named_encoder(name, sample_rate)
    encoder: Any = OnnxEncoder(file)
    check_encoder(name, encoder, sample_rate)
    return encoder


def window_length(encoder: keras.Model, window_samples: int | None = None) -> int:
    """The length of an encoder's windows: the one given, else its own, else 59,049 samples."""
    return window_samples or encoder.input_shape[1] or DEFAULT_WINDOW


def default_pooling(encoder: keras.Model) -> str:
    """The default pooling over time of embeddings: "mean" but for `MelStatistics`."""
    return getattr(encoder, "default_pooling", "mean")


def embedding_model(
    encoder: keras.Model, layers: Sequence[str] = (), layer_pooling: str = "mean"
) -> keras.Model:
    """Make a model that outputs stages of an encoder, pooled over time and concatenated.

    Args:
        encoder: Keras model.
        layers: Names of its stages. Defaults to none: the encoder is returned as it is.
        layer_pooling: "mean", or "mean_std" for the mean and the standard deviation over time of
            each stage. Defaults to "mean".

    Returns:
        Keras model from (batch, samples, 1) to (batch, d), a `keras_tune.models.StageEncoder` if
        there are layers.

    Raises:
        ValueError: There is no such pooling, or it is "mean_std" without layers.
        UserError: The encoder has no such stage.

    Example:

    ```python
    from keras_tune.evaluation import embedding_model

    encoder = keras_tune.TUNe(1, 1, base_filters=2, tail_filters=[4], input_samples=2187)
    embedding_model(encoder, ["expand_1", "tail_1"]).output_shape  # (None, 6)
    embedding_model(encoder, ["tail_1"], layer_pooling="mean_std").output_shape  # (None, 8)
    ```
    """
    if not layers:
        if layer_pooling != "mean":
            raise ValueError(
                f"`layer_pooling` needs `layers`. Received: layer_pooling={layer_pooling}"
            )
        return encoder
    from keras_tune.models import StageEncoder

    return StageEncoder(encoder, layers, layer_pooling)


def tap_stages(encoder: keras.Model, stages: Sequence[str]) -> keras.Model:
    """Make a model that outputs stages, averaged over time, beside the representation.

    Args:
        encoder: `TUNe`.
        stages: Names of its stages; see `encoder.stage_names`.

    Returns:
        Keras model from waveforms (batch, samples, 1) to a dict with `representation` (batch, d)
        and, under the name of each stage, its output (batch, width).

    Raises:
        UserError: The encoder has no such stage.

    Example:

    ```python
    from keras_tune.evaluation import tap_stages

    encoder = keras_tune.TUNe(1, 1, base_filters=2, tail_filters=[4], input_samples=2187)
    outputs = tap_stages(encoder, ["bottleneck"])(np.zeros((3, 2187, 1)))
    outputs["representation"].shape  # (3, 4)
    ```
    """
    import keras

    from keras_tune.models.stage_encoder import check_stages

    check_stages(encoder, stages)
    outputs = {"representation": encoder.output}
    for name in stages:
        average = keras.layers.GlobalAveragePooling1D(
            data_format=encoder.data_format, dtype="float32", name=f"{name}_mean"
        )
        outputs[name] = average(encoder.get_layer(name).output)
    return keras.Model(encoder.input, outputs)


def encoder_fingerprint(encoder: keras.Model) -> str:
    """Hash an encoder's configuration and weights to 64 hexadecimal digits.

    They are the same on every backend and machine.
    """
    if isinstance(encoder, OnnxEncoder):
        return encoder.fingerprint
    digest = hashlib.sha256()
    config = encoder.get_config()
    # What is trainable changes no output.
    for key in ("name", "trainable", "layers_trainable"):
        config.pop(key, None)
    digest.update(
        json.dumps([type(encoder).__name__, config], sort_keys=True, default=str).encode()
    )
    for weights in encoder.get_weights():
        digest.update(str(weights.shape).encode())
        digest.update(np.ascontiguousarray(weights, "<f4").tobytes())
    return digest.hexdigest()
