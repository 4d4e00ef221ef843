"""An encoder with a classification head: waveform in, one logit per label out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_tune.checks import check_encoder, check_finite
from keras_tune.types import DEFAULT_WINDOW

ACTIVATIONS = ("sigmoid", "softmax", "linear")
SCORE_POOLINGS = ("embeddings", "scores")


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
        activation: What turns logits into scores: "sigmoid" for tags, any number of which may
            apply, "softmax" for classes, exactly one of which applies, or "linear" for values, such
            as a tempo. The outputs of the model are logits in any case. Defaults to "sigmoid".
        pooling: What is averaged over the windows of a longer clip: "embeddings", whose mean the
            head scores, or "scores". Use the one that the head was trained for. Defaults to
            "embeddings".
        scale: List of floats, one for each label, by which logits are multiplied to give values, if
            the activation is "linear". Defaults to 1 for all.
        offset: List of floats, what is then added. Defaults to 0 for all.
        name: String. Defaults to "tagger".

    Input shape: that of the encoder, (batch, samples, 1).
    Output shape: (batch, num_labels), float32 logits.

    Raises:
        ValueError: Neither `num_labels` nor `labels` is given, or they disagree, a label is given
            twice, the activation is unknown, scales or offsets do not fit it or the labels, or the
            encoder does not map (batch, samples, 1) to (batch, d).

    Example:

    ```python
    encoder = keras_tune.TUNe.from_preset("tune_plus", load_weights=False)
    tagger = keras_tune.models.Tagger(encoder, labels=["guitar", "slow", "vocal"])
    keras.ops.sigmoid(tagger(np.zeros((1, 59049, 1))))  # probabilities, (1, 3)
    audio = keras_tune.data.load_audio("song.mp3", tagger.sample_rate)
    tagger.predict_tags(audio)  # {"vocal": 0.71, "slow": 0.4, "guitar": 0.02}
    ```
    """

    def __init__(
        self,
        encoder: keras.Model,
        num_labels: int | None = None,
        hidden_units: int | None = None,
        labels: Sequence[str] | None = None,
        activation: str = "sigmoid",
        pooling: str = "embeddings",
        scale: Sequence[float] | None = None,
        offset: Sequence[float] | None = None,
        name: str = "tagger",
    ):
        labels = None if labels is None else [str(label) for label in labels]
        if num_labels is None:
            num_labels = len(labels or ())
        if num_labels < 1 or (labels is not None and len(labels) != num_labels):
            raise ValueError(
                "`num_labels` must be at least 1 and, if `labels` are given, the number of them. "
                f"Received: num_labels={num_labels}, labels={labels}"
            )
        if labels is not None and len(set(labels)) < len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise ValueError(f"`labels` must differ. Received: {twice!r} more than once")
        check_encoder("`encoder`", encoder)
        for key, value, known in (
            ("activation", activation, ACTIVATIONS),
            ("pooling", pooling, SCORE_POOLINGS),
        ):
            if value not in known:
                raise ValueError(f"`{key}` must be one of {known}. Received: {key}={value}")
        for key, values in (("scale", scale), ("offset", offset)):
            if values is not None and (activation != "linear" or len(values) != num_labels):
                raise ValueError(
                    f"`{key}` must be a number for each label, and None unless the activation is "
                    f"'linear'. Received: {key}={values}, activation={activation}"
                )
        layers = [keras.layers.Dense(num_labels, dtype="float32", name="logits")]
        if hidden_units:
            hidden = keras.layers.Dense(hidden_units, "relu", dtype="float32", name="hidden")
            layers.insert(0, hidden)
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
        self.scale = None if scale is None else [float(value) for value in scale]
        self.offset = None if offset is None else [float(value) for value in offset]

    @classmethod
    def from_probe(
        cls,
        encoder: keras.Model,
        weights: Sequence[np.ndarray],
        labels: Sequence[str],
        activation: str = "sigmoid",
        mean: np.ndarray | None = None,
        deviation: np.ndarray | None = None,
        pooling: str = "embeddings",
        name: str = "tagger",
    ) -> Tagger:
        """Build a tagger from a probe that was trained on the encoder's representations.

        A standardization of the representations is folded into the first layer.

        Args:
            encoder: Keras model from (batch, samples, 1) to (batch, d).
            weights: List of arrays, kernel (d, labels) and bias of a linear probe, or kernel and
                bias of a hidden layer with ReLU and of the one behind it.
            labels: List of strings, the names of the outputs.
            activation: "sigmoid" or "softmax". Defaults to "sigmoid".
            mean: Array (d,), what the probe subtracts from a representation. Defaults to 0.
            deviation: Array (d,), what it then divides by. Defaults to 1.
            pooling: "embeddings" for a probe on the mean over windows, "scores" for one on single
                windows whose scores are averaged. Defaults to "embeddings".
            name: String. Defaults to "tagger".

        Returns:
            `Tagger`; its scores are those of the probe.

        Raises:
            ValueError: The shapes of the weights do not fit each other, the encoder or the labels.

        Example:

        ```python
        encoder = keras_tune.TUNe.from_preset("tune_plus_32", load_weights=False)
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

    def head_weights(self) -> list[np.ndarray]:
        """The weights of the head, with scale and offset within those of the last layer."""
        *hidden, kernel, bias = self.head.get_weights()
        if self.scale is None and self.offset is None:
            return [*hidden, kernel, bias]
        scale = np.asarray(1 if self.scale is None else self.scale, "float32")
        offset = np.asarray(0 if self.offset is None else self.offset, "float32")
        return [*hidden, kernel * scale, bias * scale + offset]

    @property
    def sample_rate(self) -> int | None:
        """The encoder's sample rate in Hz; None for an encoder without this attribute."""
        return getattr(self.encoder, "sample_rate", None)

    def predict_tags(
        self, audio: np.ndarray, sample_rate: int | None = None, batch_size: int = 32
    ) -> dict[str, float]:
        """Score a clip.

        The clip is cut into consecutive windows; what remains at the end is dropped. With the
        pooling "embeddings" the head scores the mean of the encoder's outputs, with "scores" it
        scores every window and the scores are averaged.

        Args:
            audio: Float array (samples,), mono, with full scale 1, at the sample rate of the
                encoder. `keras_tune.data.load_audio` decodes a file, and refuses one that is
                silent, truncated or out of scale.
            sample_rate: Integer, the sample rate of `audio` in Hz, to be compared with that of the
                encoder. Defaults to None: not compared.
            batch_size: Integer, windows encoded at a time. Defaults to 32.

        Returns:
            A dict from label (its number as a string if the tagger has no labels) to score, the
            highest first. Scores are between 0 and 1, or values if the activation is "linear".

        Raises:
            ValueError: The array is not mono, not float, not finite or shorter than a window.
            UserError: The encoder is made for another sample rate, or a score is not finite.

        Example:

        ```python
        encoder = keras_tune.TUNe.from_preset("tune_plus_32", load_weights=False)
        tagger = keras_tune.models.Tagger(encoder, labels=["calm", "tense"])
        best, *others = tagger.predict_tags(np.random.normal(0, 0.1, 2 * 59049))
        ```
        """
        check_encoder("the tagger's encoder", self.encoder, sample_rate)
        audio = np.asarray(audio)
        window = self.encoder.input_shape[1] or DEFAULT_WINDOW
        if audio.ndim != 1 or audio.dtype.kind != "f":
            raise ValueError(
                "`audio` must be a mono array (samples,) of floats; decode a file with "
                "`keras_tune.data.load_audio`. "
                f"Received: audio of the shape {audio.shape} and the type {audio.dtype}"
            )
        if len(audio) < window:
            raise ValueError(
                f"`audio` must have at least {window} samples, the length of a window. "
                f"Received: audio of the shape {audio.shape}"
            )
        if not np.isfinite(audio).all():
            raise ValueError("`audio` must be finite. Received: audio with NaN or infinity")
        outputs = self._encode(audio, window, batch_size)
        damaged = "; its weights are damaged or too large"
        check_finite("the tagger's encoder", [("an output", outputs)], damaged)
        # Encoders such as mel statistics have a last step that applies to means over windows.
        finish = getattr(self.encoder, "finish", lambda vectors: vectors)
        if self.pooling == "embeddings":
            outputs = outputs.mean(axis=0, keepdims=True, dtype="float64")
        logits = self.head(np.asarray(finish(outputs), "float32"), training=False)
        scores = keras.ops.convert_to_numpy(keras.activations.get(self.activation)(logits))
        scores = scores.mean(axis=0)
        scores = scores * (1 if self.scale is None else np.array(self.scale))
        scores = scores + (0 if self.offset is None else np.array(self.offset))
        check_finite("the tagger", [("a score", scores)], damaged)
        labels = self.labels or [str(number) for number in range(self.num_labels)]
        order = np.argsort(-scores, kind="stable")
        return {labels[index]: float(scores[index]) for index in order}

    def _encode(self, audio, window, batch_size):
        """The encoder's outputs for the windows of a clip, (windows, d)."""
        count = len(audio) // window
        # All batches have one shape, so that backends compile only once; the last one is padded.
        rows = np.zeros((-(-count // batch_size) * batch_size, window, 1), "float32")
        rows[:count, :, 0] = audio[: count * window].reshape(count, window)
        outputs = [
            self.encoder.predict_on_batch(rows[start : start + batch_size])
            for start in range(0, len(rows), batch_size)
        ]
        return np.concatenate([np.asarray(part, "float32") for part in outputs])[:count]

    def get_config(self) -> dict[str, Any]:
        return {
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "num_labels": self.num_labels,
            "hidden_units": self.hidden_units,
            "labels": None if self.labels is None else list(self.labels),
            "activation": self.activation,
            "pooling": self.pooling,
            "scale": None if self.scale is None else list(self.scale),
            "offset": None if self.offset is None else list(self.offset),
            "name": self.name,
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> Tagger:
        encoder = keras.saving.deserialize_keras_object(
            config["encoder"], custom_objects=custom_objects
        )
        return cls(**{**config, "encoder": encoder})
