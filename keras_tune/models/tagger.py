"""An encoder with a classification head: waveform in, one logit per label out."""

import keras


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
        name: String. Defaults to "tagger".

    Input shape: that of the encoder, (batch, samples, 1).
    Output shape: (batch, num_labels), float32 logits: a sigmoid makes them probabilities of tags, a
    softmax probabilities of exclusive classes.

    Raises:
        ValueError: Neither `num_labels` nor `labels` is given, or they disagree.

    Example:

    ```python
    encoder = keras_tune.models.TUNe.from_preset("tune_plus")
    tagger = keras_tune.models.Tagger(encoder, labels=["guitar", "slow", "vocal"])
    keras.ops.sigmoid(tagger(np.zeros((1, 59049, 1))))  # probabilities, (1, 3)
    ```
    """

    def __init__(self, encoder, num_labels=None, hidden_units=None, labels=None, name="tagger"):
        labels = None if labels is None else [str(label) for label in labels]
        if num_labels is None:
            num_labels = len(labels or ())
        if num_labels < 1 or (labels is not None and len(labels) != num_labels):
            raise ValueError(
                "`num_labels` must be at least 1 and, where `labels` are given, their number. "
                f"Received: num_labels={num_labels}, labels={labels}"
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

    def get_config(self):
        return {
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "num_labels": self.num_labels,
            "hidden_units": self.hidden_units,
            "labels": None if self.labels is None else list(self.labels),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        encoder = keras.saving.deserialize_keras_object(
            config["encoder"], custom_objects=custom_objects
        )
        return cls(**{**config, "encoder": encoder})
