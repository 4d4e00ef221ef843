"""An encoder with a classification head: waveform in, one logit per label out."""

import keras
import numpy as np

from keras_tune.checks import check_encoder, check_finite

ACTIVATIONS = ("sigmoid", "softmax")
POOLINGS = ("embeddings", "scores")


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
        pooling: What is averaged over the windows of a longer clip: "embeddings", the mean of which
            the head scores, or "scores". Use what the head was trained for. Defaults to
            "embeddings".
        name: String. Defaults to "tagger".

    Input shape: that of the encoder, (batch, samples, 1).
    Output shape: (batch, num_labels), float32 logits.

    Raises:
        ValueError: Neither `num_labels` nor `labels` is given, or they disagree, there is no such
            activation, or the encoder does not map (batch, samples, 1) to (batch, d).

    Example:

    ```python
    encoder = keras_tune.models.TUNe.from_preset("tune_plus", load_weights=False)
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
        pooling="embeddings",
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
        check_encoder("`encoder`", encoder)
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"`activation` must be one of {ACTIVATIONS}. Received: activation={activation}"
            )
        if pooling not in POOLINGS:
            raise ValueError(f"`pooling` must be one of {POOLINGS}. Received: pooling={pooling}")
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
        self.pooling = pooling

    @classmethod
    def from_probe(
        cls,
        encoder,
        weights,
        labels,
        activation="sigmoid",
        mean=None,
        deviation=None,
        pooling="embeddings",
        name="tagger",
    ):
        """Build a tagger from a probe that was trained on the encoder's representations.

        A standardization of the representations is folded into the first layer.

        Args:
            encoder: Keras model from (batch, samples, 1) to (batch, d).
            weights: List of arrays, kernel (d, labels) and bias of a linear probe, or kernel and
                bias of a hidden layer with ReLU and of the one behind it.
            labels: List of strings, the names of the outputs.
            activation: "sigmoid" or "softmax".
            mean: Array (d,), what the probe subtracts from a representation. Defaults to 0.
            deviation: Array (d,), what it then divides by. Defaults to 1.
            pooling: "embeddings" for a probe on the mean over windows, "scores" for one on single
                windows whose scores are averaged.
            name: String. Defaults to "tagger".

        Returns:
            `Tagger`; its scores are those of the probe.

        Raises:
            ValueError: The weights fit neither each other nor the encoder and the labels.

        Example:

        ```python
        encoder = keras_tune.models.TUNe.from_preset("tune_plus_32", load_weights=False)
        kernel, bias = np.random.normal(size=(32, 2)), np.zeros(2)
        tagger = keras_tune.models.Tagger.from_probe(
            encoder, [kernel, bias], ["calm", "tense"], "softmax"
        )
        tagger.save("tagger.keras")
        ```
        """
        layers = [np.asarray(values, "float64") for values in weights]
        width = encoder.output_shape[-1]
        hidden = layers[0].shape[-1] if len(layers) == 4 else None
        sizes = [width, hidden, len(labels)] if hidden else [width, len(labels)]
        expected = [
            shape
            for rows, columns in zip(sizes[:-1], sizes[1:], strict=True)
            for shape in ((rows, columns), (columns,))
        ]
        # Some keep a bias as a row.
        layers[1::2] = [values.reshape(-1) for values in layers[1::2]]
        shapes = [values.shape for values in layers]
        if shapes != expected:
            raise ValueError(
                f"`weights` must have the shapes {expected}, from the encoder's output to the "
                f"labels. Received: weights of the shapes {shapes}"
            )
        scale = 1 / np.broadcast_to(np.asarray(1 if deviation is None else deviation), width)
        shift = np.broadcast_to(np.asarray(0 if mean is None else mean), width)
        layers[1] = layers[1] - (shift * scale) @ layers[0]
        layers[0] = scale[:, None] * layers[0]
        tagger = cls(
            encoder,
            hidden_units=hidden,
            labels=labels,
            activation=activation,
            pooling=pooling,
            name=name,
        )
        tagger.head.set_weights(layers)
        return tagger

    @property
    def sample_rate(self):
        """The encoder's sample rate in Hz, or None where it does not tell."""
        return getattr(self.encoder, "sample_rate", None)

    def predict_tags(self, path, sample_rate=None, batch_size=32):
        """Score an audio file.

        The file is cut into consecutive windows, a remainder is dropped. The encoder's outputs for
        them are averaged and the head scores the mean, or the other way round; see `pooling`.

        Args:
            path: File in any format that `keras_tune.data.load_audio` takes.
            sample_rate: Integer, in Hz. Defaults to the encoder's own, and 22,050 for one that does
                not tell.
            batch_size: Integer, windows encoded at a time. Defaults to 32.

        Returns:
            A dict from label (its number as a string, where the tagger has no labels) to score
            within 0 and 1, the highest first.

        Raises:
            AudioError: The file cannot be decoded, is truncated, silent, out of scale, not finite,
                or shorter than a window.
            UserError: The encoder is made for another sample rate, or a score is not finite.

        Example:

        ```python
        best, *others = tagger.predict_tags("song.mp3")
        ```
        """
        from keras_tune.data.audio import load_audio
        from keras_tune.evaluation.embeddings import embed_clips, window_length

        window = window_length(self.encoder)
        check_encoder("the tagger's encoder", self.encoder, sample_rate)
        audio = load_audio(path, sample_rate or self.sample_rate or 22050, min_samples=window)
        record = {"id": str(path), "audio": audio, "labels": {}}
        clips = embed_clips(self.encoder, [record], window_samples=window, batch_size=batch_size)
        vectors = clips.vectors if self.pooling == "embeddings" else clips.windows
        scores = getattr(keras.ops, self.activation)(self.head(vectors, training=False))
        scores = keras.ops.convert_to_numpy(scores).mean(axis=0)
        check_finite(path, [("the tagger's score", scores)], "; its weights are damaged")
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
            "pooling": self.pooling,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        encoder = keras.saving.deserialize_keras_object(
            config["encoder"], custom_objects=custom_objects
        )
        return cls(**{**config, "encoder": encoder})
