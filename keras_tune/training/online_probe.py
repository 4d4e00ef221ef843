"""How good the representation is while it is being trained: a probe every few epochs."""

import math

import keras
import numpy as np


class OnlineProbe(keras.callbacks.Callback):
    """Probe the encoder on a small labelled subset and put `val_probe` into the history.

    Two small sets of labelled clips are embedded; a probe is trained on one and scored on the
    other. The score is there in every epoch's logs, so that checkpoints, searches and `CSVLogger`
    can follow it. Put this callback before those that shall see it.

    Args:
        train: Pair of clips (clips, samples), int16 or float of full scale 1, and labels (clips,),
            names or numbers of classes. A few hundred clips do.
        valid: Likewise. Never the test split of what is judged later.
        every: Integer, epochs from one look to the next; the first epoch is looked at, too.
            Defaults to 5.
        probe: "knn" or "logistic". Defaults to "knn", which takes no time.
        batch_size: Integer, windows encoded at a time. Defaults to 32.
        between: What stands for the score in epochs without a look: "last" for that of the last
            look, "nan" for NaN. Defaults to "last".

    Raises:
        ValueError: There is no such probe, or clips and labels do not go together.

    Example:

    ```python
    online = OnlineProbe((clips, genres), (valid_clips, valid_genres), every=5)
    model.fit(dataset, epochs=100, callbacks=[online, keras.callbacks.CSVLogger("history.csv")])
    ```
    """

    def __init__(self, train, valid, every=5, probe="knn", batch_size=32, between="last"):
        super().__init__()
        if between not in ("last", "nan"):
            raise ValueError(f"`between` must be 'last' or 'nan'. Received: between={between}")
        if probe not in ("knn", "logistic"):
            raise ValueError(f"`probe` must be 'knn' or 'logistic'. Received: probe={probe}")
        if every < 1:
            raise ValueError(f"`every` must be at least 1. Received: every={every}")
        for name, (clips, labels) in (("train", train), ("valid", valid)):
            if len(clips) != len(labels) or not len(clips):
                raise ValueError(
                    f"`{name}` must hold as many labels as clips. "
                    f"Received: {len(clips)} clips, {len(labels)} labels"
                )
        self.train, self.valid = train, valid
        self.every, self.probe, self.batch_size = every, probe, batch_size
        self.between = between
        self.last = None

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0 or (epoch + 1) % self.every == 0:
            self.last = self.score()
        elif self.between == "nan":
            self.last = math.nan
        elif self.last is None:
            self.last = self.score()
        if logs is not None:
            logs["val_probe"] = self.last

    def score(self):
        """Embed both sets as the encoder is now, and score the probe: accuracy, a float."""
        from keras_tune.data.schema import LabelColumn
        from keras_tune.evaluation.embeddings import embed_clips
        from keras_tune.evaluation.outcomes import predict_test
        from keras_tune.evaluation.protocols import fit_probe
        from keras_tune.evaluation.tasks import make_task

        names = sorted({str(label) for _, labels in (self.train, self.valid) for label in labels})
        column = LabelColumn("label", "category", tuple(names))
        embedded = [
            embed_clips(
                self._encoder(),
                _records(*part),
                window_samples=getattr(self.model, "crop_samples", None),
                batch_size=self.batch_size,
            )
            for part in (self.train, self.valid)
        ]
        task = make_task([column], [])
        # The number of neighbours, or the regularization, is chosen on half of each class.
        found = embedded[0].target("label")
        number = np.sum(np.tril(found[:, None] == found), axis=1)
        halves = [np.flatnonzero(number % 2 == odd) for odd in (1, 0)]
        probe = fit_probe(self.probe, *(embedded[0].take(rows) for rows in halves), task)
        run = predict_test(probe, embedded[1], task)
        return task.scores(run.targets, run.predictions)[task.primary]

    def _encoder(self):
        # An own model around the same weights: `fit` has its compiled functions to itself.
        if not hasattr(self, "_around"):
            encoder = getattr(self.model, "encoder", self.model)
            self._around = keras.Model(encoder.input, encoder.output)
        return self._around


def _records(clips, labels):
    from keras_tune.data.audio import to_float

    for number, (clip, label) in enumerate(zip(clips, labels, strict=True)):
        yield {
            "id": str(number),
            "audio": to_float(np.asarray(clip)),
            "labels": {"label": str(label)},
        }
