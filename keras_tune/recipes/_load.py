"""Loading what `--encoder` and `--model` name."""

import pathlib

from keras_tune.errors import UserError
from keras_tune.types import DEFAULT_SAMPLE_RATE


def load_encoder(path, sample_rate=None):
    """Load an encoder; of a saved `ContrastiveModel`, take the encoder inside.

    Args:
        path: A `.keras` file, the folder of a run, or a preset that has trained weights.
        sample_rate: Integer, of the data, which the encoder must be made for. Defaults to None:
            any.

    Returns:
        Keras model from (batch, samples, 1) to (batch, d).

    Raises:
        UserError: There is no such file, it contains no encoder, or one for another rate.
    """
    from keras_tune.checks import check_encoder
    from keras_tune.models.presets import is_trained
    from keras_tune.models.saved import load_saved_model
    from keras_tune.training import ContrastiveModel

    file = pathlib.Path(path)
    if file.is_file() and file.suffix != ".keras" and not is_trained(str(path)):
        raise UserError(f"{path}: not a .keras file; see `keras-tune convert`")
    model = load_saved_model(path)
    encoder = model.encoder if isinstance(model, ContrastiveModel) else model
    check_encoder(path, encoder, sample_rate)
    return encoder


def named_encoder(name, sample_rate=None, seed=0):
    """Load or build what `--encoder` names.

    Args:
        name: A .keras file, the folder of a run, a preset that has trained weights,
            "untrained:PRESET", or "mel".
        sample_rate: Integer, of the set, which a saved encoder must be made for. Defaults to None:
            a saved encoder's own, and 22,050 for others.
        seed: Integer, of an untrained encoder. Defaults to 0.

    Returns:
        Keras model.

    Raises:
        UserError: There is no such thing, it is no encoder, or one for another sample rate.
    """
    if name == "mel":
        from keras_tune.evaluation import MelStatistics

        return MelStatistics(sample_rate or DEFAULT_SAMPLE_RATE)
    if name.startswith("untrained:"):
        import keras

        from keras_tune.models import TUNe

        keras.utils.set_random_seed(seed)
        preset = name.removeprefix("untrained:")
        rate = sample_rate or DEFAULT_SAMPLE_RATE
        return TUNe.from_preset(preset, load_weights=False, sample_rate=rate, pooled_stages=0)
    return load_encoder(name, sample_rate)


def chosen_stages(encoder, layers, layer_pooling):
    """Make a model of the stages that `--layers` and `--layer_pooling` name.

    Args:
        encoder: Keras model.
        layers: String, names of stages with commas in between, or None.
        layer_pooling: "mean" or "mean_std", over the time of each stage.

    Returns:
        Keras model; the encoder itself without `layers`.

    Raises:
        UserError: The encoder has no such stage, or there is a pooling without stages.
    """
    from keras_tune.evaluation import embedding_model

    names = [name.strip() for name in (layers or "").split(",") if name.strip()]
    if layer_pooling != "mean" and not names:
        raise UserError(f"--layer_pooling {layer_pooling}: only valid together with --layers")
    return embedding_model(encoder, names, layer_pooling)
