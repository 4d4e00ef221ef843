"""Loading saved models for a command line: one-line errors instead of Keras' own."""

import pathlib

from keras_tune.errors import UserError


def load_model(path):
    """Load a `.keras` file, or the `encoder.keras` of a run folder.

    Args:
        path: The file or the folder.

    Returns:
        The Keras model.

    Raises:
        UserError: There is no such file, or it holds no model.
    """
    import keras

    path = pathlib.Path(path)
    if path.is_dir():
        path = path / "encoder.keras"
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a .keras file or the folder of a finished run")
    if path.suffix != ".keras":
        raise UserError(f"{path}: not a .keras file; see `python -m keras_tune.recipes.convert`")
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever its parts raise on a damaged file.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(f"{path}: cannot be loaded ({type(error).__name__}: {reason})") from error


def load_encoder(path):
    """Load an encoder; of a saved `ContrastiveModel`, take the encoder inside."""
    from keras_tune.training import ContrastiveModel

    model = load_model(path)
    return model.encoder if isinstance(model, ContrastiveModel) else model


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
    if name == "mel":
        from keras_tune.evaluation import MelStatistics

        return MelStatistics(sample_rate)
    if name.startswith("untrained:"):
        import keras

        from keras_tune.models import TUNe

        keras.utils.set_random_seed(seed)
        return TUNe.from_preset(name.removeprefix("untrained:"))
    return load_encoder(name)
