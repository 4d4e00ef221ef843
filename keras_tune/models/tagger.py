"""An encoder with a classification head: waveform in, one logit per label out."""

import keras
import numpy as np

from keras_tune.errors import UserError

ACTIVATIONS = ("sigmoid", "softmax")


@keras.saving.register_keras_serializable(package="keras_tune")
class Tagger(keras.Model):
    """An encoder and, on its representation, a linear head or one with a hidden layer.

    Args:
        encoder: Keras model from (batch, samples, 1) to (batch, d), a `TUNe` for instance.
        num_labels: Integer, the number of logits. Defaults to the number of `labels`.
        hidden_units: Integer, the width of a hidden layer with ReLU in front of the logits, or None
            for a linear head. Defaults to None.
        labels: List of strings, the labels' names in the order of the logits, or None. Defaults to
            None.
        activation: What makes logits scores: "sigmoid" for tags, any number of which may apply, or
            "softmax" for classes, one of which does. The model's outputs are logits in either case.
            Defaults to "sigmoid".
        name: String. Defaults to "tagger".

    Input shape: that of the encoder, (batch, samples, 1).
    Output shape: (batch, num_labels), float32 logits.

    Raises:
        ValueError: Neither `num_labels` nor `labels` is given, or they disagree, or there is no
            such activation.

    Example:

    ```python
    encoder = keras_tune.models.TUNe.from_preset("tune_plus")
    tagger = keras_tune.models.Tagger(encoder, labels=["guitar", "slow", "vocal"])
    keras.ops.sigmoid(tagger(np.zeros((1, 59049, 1))))  # probabilities, (1, 3)
    tagger.predict_tags("song.mp3")  # {"vocal": 0.71, "slow": 0.4, "guitar": 0.02}
    ```
    """

    def __init__(
        self,
        encoder,
        num_labels=None,
        hidden_units=None,
        labels=None,
        activation="sigmoid",
        name="tagger",
    ):
        labels = None if labels is None else [str(label) for label in labels]
        if num_labels is None:
            num_labels = len(labels or ())
        if num_labels < 1 or (labels is not None and len(labels) != num_labels):
            raise ValueError(
                "`num_labels` must be at least 1 and, where `labels` are given, their number. "
                f"Received: num_labels={num_labels}, labels={labels}"
            )
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"`activation` must be one of {ACTIVATIONS}. Received: activation={activation}"
            )
        layers = [keras.layers.Dense(num_labels, dtype="float32", name="logits")]
        if hidden_units:
            layers.insert(
                0,
                keras.layers.Dense(hidden_units, activation="relu", dtype="float32", name="hidden"),
            )
        head = keras.Sequential(layers, name="head")
        waveform = keras.Input(encoder.input_shape[1:], name="waveform")
        super().__init__(inputs=waveform, outputs=head(encoder(waveform)), name=name)
        self.encoder = encoder
        self.head = head
        self.num_labels = num_labels
        self.hidden_units = hidden_units
        self.labels = labels
        self.activation = activation

    def predict_tags(self, path, sample_rate=22050, batch_size=32):
        """Score an audio file.

        The file is cut into consecutive windows, the encoder's outputs for them are averaged, and
        the head scores the mean, as probes on clips are trained. A remainder is dropped.

        Args:
            path: File in any format that `keras_tune.data.load_audio` takes.
            sample_rate: Integer, the encoder's, in Hz. Defaults to 22,050.
            batch_size: Integer, windows encoded at a time. Defaults to 32.

        Returns:
            A dict from label (its number as a string, where the tagger has no labels) to score
            within 0 and 1, the highest first.

        Raises:
            AudioError: The file cannot be decoded, is silent, not finite, or shorter than a window.

        Example:

        ```python
        best, *others = tagger.predict_tags("song.mp3")
        ```
        """
        from keras_tune.data.audio import load_audio
        from keras_tune.evaluation.embeddings import embed_clips, window_length

        window = window_length(self.encoder)
        audio = load_audio(path, sample_rate, min_samples=window)
        record = {"id": str(path), "audio": audio, "labels": {}}
        clips = embed_clips(self.encoder, [record], window_samples=window, batch_size=batch_size)
        logits = self.head(clips.vectors, training=False)
        scores = getattr(keras.ops, self.activation)(logits)
        scores = keras.ops.convert_to_numpy(scores)[0]
        if not np.isfinite(scores).all():
            raise UserError(f"{path}: the tagger's scores are not finite; its weights are damaged")
        labels = self.labels or [str(number) for number in range(self.num_labels)]
        order = np.argsort(-scores, kind="stable")
        return {labels[place]: float(scores[place]) for place in order}

    def get_config(self):
        return {
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "num_labels": self.num_labels,
            "hidden_units": self.hidden_units,
            "labels": None if self.labels is None else list(self.labels),
            "activation": self.activation,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        encoder = keras.saving.deserialize_keras_object(
            config["encoder"], custom_objects=custom_objects
        )
        return cls(**{**config, "encoder": encoder})
