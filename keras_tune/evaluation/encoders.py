"""Encoders by name: saved ones, those that come with the package, and untrained ones."""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING

from keras_tune.checks import check_encoder
from keras_tune.errors import UserError
from keras_tune.types import DEFAULT_SAMPLE_RATE

if TYPE_CHECKING:
    import keras


def load_encoder(path: str | os.PathLike, sample_rate: int | None = None) -> keras.Model:
    """Load an encoder; of a saved `ContrastiveModel`, take the encoder inside.

    Args:
        path: A `.keras` file, the folder of a run, or a preset that has trained weights.
        sample_rate: Integer, of the data, which the encoder must be made for. Defaults to None:
            any.

    Returns:
        Keras model from (batch, samples, 1) to (batch, d).

    Raises:
        UserError: There is no such file, it contains no encoder, or one for another rate.

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
        sample_rate: Integer, of the data, which a saved encoder must be made for. Defaults to None:
            a saved encoder's own, and 22,050 for others.
        seed: Integer, of an untrained encoder. Defaults to 0.

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
    if name.startswith("untrained:"):
        import keras

        from keras_tune.models import TUNe

        keras.utils.set_random_seed(seed)
        preset = name.removeprefix("untrained:")
        rate = sample_rate or DEFAULT_SAMPLE_RATE
        return TUNe.from_preset(preset, load_weights=False, sample_rate=rate, pooled_stages=0)
    return load_encoder(name, sample_rate)
