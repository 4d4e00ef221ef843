"""The model that pretrains an encoder: two views of every clip, NT-Xent between their projections.

It changes Keras' own training as little as possible: `call` makes views and projections,
`compute_loss` computes NT-Xent, `compute_metrics` the metrics, and `train_step` only takes the
audio from a batch before it calls Keras' step. So loss scaling, gradient accumulation, mixed
precision, `jit_compile` and callbacks work as in any Keras model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from keras_tune.augment.augmentation import Augmentation, derive_seed
from keras_tune.augment.random_crop import RandomCrop
from keras_tune.checks import sample_rate_of
from keras_tune.layers.acoustic_features import AcousticFeatures
from keras_tune.losses.nt_xent import NTXent
from keras_tune.losses.supervised_contrastive import supervised_contrastive
from keras_tune.losses.vicreg import covariance_loss, variance_loss
from keras_tune.training import distribution, gradient_cache
from keras_tune.training.projection_metrics import projection_metrics
from keras_tune.types import Tensor, TensorLike

if TYPE_CHECKING:
    from keras_tune.data.resident_clips import ResidentClips


@keras.saving.register_keras_serializable(package="keras_tune")
class ContrastiveModel(keras.Model):
    """An encoder and its projection head, trained with a contrastive loss.

    Args:
        encoder: Keras model from (batch, samples, 1) to (batch, d), a `TUNe` for instance.
        projection_dim: Integer, the size of the projections. The head is Dense(d) → ReLU →
            Dense(projection_dim), both without bias. Defaults to 64.
        projection_layers: Integer, the hidden layers Dense(d) → ReLU of the head. Defaults to 1.
        projection_batch_norm: Whether there is batch normalization before each of their ReLUs, as
            in SimCLR. Defaults to False, as in CLMR and TUNe.
        variance_weight: Float, the weight of VICReg's variance term on the projections, added to
            the loss; see `keras_tune.losses.variance_loss`. Defaults to 0.
        covariance_weight: Float, the weight of VICReg's covariance term. Defaults to 0.
        acoustic_weight: Float, the weight of an auxiliary task, added to the loss: a linear layer
            on the representation of a view predicts `keras_tune.layers.AcousticFeatures` of its
            crop before augmentation. Features are standardized over the batch; the loss is the mean
            squared error. Defaults to 0: no such task.
        group_weight: Float, the weight of a supervised contrastive term, added to the loss, in
            which views of all clips of the same "group" are positives; see
            `keras_tune.losses.supervised_contrastive`. Defaults to 0.
        temperature: Float, NT-Xent's temperature. Defaults to 0.5.
        augmenter: `keras_tune.augment.Augmentation`, for example a `Compose`, which changes each
            view when `training=True`, or None. Defaults to None.
        crop_samples: Integer, the length of a view. Defaults to the encoder's `input_samples`.
        separate_views: Whether the first and the second views go through the encoder in two passes,
            as in the published code, so that batch normalization sees each by itself, or in one
            pass of twice the size. Defaults to False.
        micro_batch: Integer, the clips encoded at a time in training, which must divide the batch
            size, or None for the whole batch. Loss and gradients are still those of the whole
            batch, except that batch normalization uses one micro-batch at a time; see
            `keras_tune.training.gradient_cache`. Defaults to None.
        seed: Integer for reproducible crops, or None. Defaults to None.
        name: String. Defaults to "contrastive_model".
        **kwargs: `dtype` and the other arguments of a Keras model.

    Input: a batch as `keras_tune.data.AudioDataset.batches` gives it, a dict with the keys

    - "audio": float or int16 PCM, (batch, samples), of which two independent crops are cut on the
      device, or (batch, 2, samples), two crops of each clip;
    - "group" (optional): integers of up to 32 bits (batch,); clips with the same number are not
      negatives of one another (copies of a clip, or clips of one track or artist);
    - "weight" (optional): float (batch,), the weights of the clips in the loss, the accuracy and
      the alignment, like sample weights in Keras.

    Other keys are ignored. An array alone, as in `fit(clips)`, means the "audio". After
    `read_from`, training takes the batches of `ResidentClips.stream`. In evaluation, views are
    crops at fixed positions, without augmentation.
    Output: the projections, float32 (batch, 2, projection_dim).

    Metrics besides `loss`, all on the normalized projections: `contrastive_accuracy`, the fraction
    of anchors whose positive ranks first among the 2B − 1 candidates, without those of the same
    group; `alignment`, the mean squared distance of positives, and `uniformity`, the logarithm of
    the mean Gaussian potential of all pairs (Wang & Isola, ICML 2020; lower is better for both);
    `embedding_std`, the standard deviation of the components times the square root of their number:
    near 1 if the projections fill the sphere, 0 if they collapse. Like the loss, they are means
    over batches, in which a batch counts in proportion to its clips.

    Raises:
        ValueError: The encoder takes any length and `crop_samples` is not given, or the micro-batch
            is not positive.

    Source: Chen et al., SimCLR (ICML 2020); Spijkervet & Burgoyne, CLMR (ISMIR 2021).

    Example:

    ```python
    encoder = keras_tune.TUNe.from_preset("tune_plus_32", load_weights=False, input_samples=19683)
    model = keras_tune.training.ContrastiveModel(encoder)
    model.compile(optimizer=keras.optimizers.Adam(3e-4))
    clips = np.random.normal(0, 0.1, (8, 22050)).astype("float32")
    model.fit(clips, batch_size=4, epochs=1, verbose=0)
    encoder.save("encoder.keras")
    ```
    """

    def __init__(
        self,
        encoder: keras.Model,
        projection_dim: int = 64,
        temperature: float = 0.5,
        augmenter: Augmentation | None = None,
        projection_layers: int = 1,
        projection_batch_norm: bool = False,
        variance_weight: float = 0.0,
        covariance_weight: float = 0.0,
        acoustic_weight: float = 0.0,
        group_weight: float = 0.0,
        crop_samples: int | None = None,
        separate_views: bool = False,
        micro_batch: int | None = None,
        seed: int | None = None,
        name: str = "contrastive_model",
        **kwargs: Any,
    ):
        # Audio must reach the augmentations in full precision; the encoder casts it itself.
        super().__init__(name=name, autocast=False, **kwargs)
        crop_samples = crop_samples or encoder.input_shape[1]
        if crop_samples is None:
            raise ValueError(
                "`crop_samples` must be given for an encoder of any length. "
                f"Received: crop_samples={crop_samples}"
            )
        if micro_batch is not None and micro_batch < 1:
            raise ValueError(
                f"`micro_batch` must be positive or None. Received: micro_batch={micro_batch}"
            )
        if micro_batch is not None and acoustic_weight:
            raise ValueError(
                "`acoustic_weight` cannot be used with `micro_batch`. "
                f"Received: acoustic_weight={acoustic_weight}, micro_batch={micro_batch}"
            )
        self.encoder = encoder
        self.projection_dim = projection_dim
        self.projection_layers = projection_layers
        self.projection_batch_norm = projection_batch_norm
        self.variance_weight = variance_weight
        self.covariance_weight = covariance_weight
        self.acoustic_weight = acoustic_weight
        self.group_weight = group_weight
        self.temperature = temperature
        self.augmenter = augmenter
        self.crop_samples = crop_samples
        self.separate_views = separate_views
        self.micro_batch = micro_batch
        self.seed = seed
        self.crop = RandomCrop(crop_samples, seed=seed, name="crop")
        width = encoder.output_shape[-1]
        self.projector = _projector(width, projection_dim, projection_layers, projection_batch_norm)
        self.projector.build((None, width))
        if acoustic_weight:
            self.acoustic_features = AcousticFeatures(sample_rate_of(encoder))
            self.acoustic_scaling = keras.layers.BatchNormalization(
                center=False, scale=False, dtype="float32", name="acoustic_scaling"
            )
            self.acoustic_scaling.build((None, self.acoustic_features.width))
            self.acoustic_head = keras.layers.Dense(
                self.acoustic_features.width, dtype="float32", name="acoustic_head"
            )
            self.acoustic_head.build((None, width))
        self.nt_xent = NTXent(temperature)
        self.resident: ResidentClips | None = None
        self.contrastive_metrics = [
            keras.metrics.Mean(name=metric)
            for metric in ("contrastive_accuracy", "alignment", "uniformity", "embedding_std")
        ]
        self.build()

    def build(self, input_shape: Any = None) -> None:
        # Encoder and projector were built with their own shapes; no weight depends on the clips'.
        self.built = True

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras calls this on TensorFlow only. Under a strategy it averages a first batch over the
        # machines to learn its shape, which fails if the batch is a dict. Everything except the
        # optimizer is built already.
        if self.optimizer is not None and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def reseed(self, seed: int, *path: int) -> None:
        """Set the state of all random draws of crops and augmentations.

        Args:
            seed: Non-negative integer.
            *path: Further non-negative integers, for example the number of the epoch.

        Example:

        ```python
        encoder = keras_tune.TUNe.from_preset("tune_plus_32", load_weights=False)
        model = keras_tune.training.ContrastiveModel(encoder)
        model.reseed(42, 3)  # as at the beginning of epoch 3 of a run with seed 42
        ```
        """
        self.crop.reseed(derive_seed(seed, *path, 0))
        if self.augmenter is not None:
            self.augmenter.reseed(derive_seed(seed, *path, 1))
        distribution.spread_seeds(self)

    def read_from(self, clips: ResidentClips) -> None:
        """Let training cut its crops from clips in the memory of the device.

        The clips are not part of the model, and are not saved with it.

        Args:
            clips: `keras_tune.data.ResidentClips`, whose `stream` is then the input of `fit`.

        Example:

        ```python
        from keras_tune.data import open_dataset, save_demo

        save_demo("demo.npz", num_clips={"train": 8}, seconds=1.0)
        clips = open_dataset("demo.npz").resident("train", clip_samples=2187)
        encoder = keras_tune.TUNe(1, 1, base_filters=2, tail_filters=[4], input_samples=2187)
        model = keras_tune.training.ContrastiveModel(encoder)
        model.compile("adam")
        model.read_from(clips)
        model.fit(clips.stream(crops=2, batch_size=4, seed=1), shuffle=False, verbose=0)
        ```
        """
        self.resident = clips
        # The function that TensorFlow has compiled reads the previous clips.
        self.train_function = None

    def _clips(self, batch):
        """The clips of a batch, cut on the device if it is a batch of resident clips."""
        if self.resident is not None and isinstance(batch, dict) and "block" in batch:
            return self.resident.crops(batch)
        return _audio_of(batch)

    def _batch(self, data):
        """The parts of a batch that are used: the clips, with groups and weights if it has any."""
        batch, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        if not isinstance(batch, dict):
            return batch
        clips = self._clips(batch)
        more = {key: batch[key] for key in ("group", "weight") if key in batch}
        return {"audio": clips, **more} if more else clips

    def make_views(
        self, clips: TensorLike | Mapping[str, TensorLike], training: bool = False
    ) -> Tensor:
        """Cut two crops of every clip and augment each.

        Args:
            clips: Tensor (batch, samples) or (batch, 2, samples), or a dict with such a tensor
                under "audio".
            training: Whether crops are random and augmented. Defaults to False.

        Returns:
            Float32 tensor (2·batch, crop_samples): rows 2k and 2k + 1 are the views of clip k.

        Example:

        ```python
        encoder = keras_tune.TUNe.from_preset(
            "tune_plus_32", load_weights=False, input_samples=19683
        )
        model = keras_tune.training.ContrastiveModel(encoder)
        model.make_views(np.zeros((4, 22050), "float32"), training=True).shape  # (8, 19683)
        ```
        """
        return self._augmented(self._crops(clips, training), training)

    def _crops(self, clips, training):
        """The two crops of every clip, (2·batch, crop_samples)."""
        # To build the model, Keras on JAX calls it with batches as they are.
        clips = self._clips(clips)
        if len(clips.shape) == 2:
            clips = ops.repeat(clips, 2, axis=0)
        elif len(clips.shape) == 3 and clips.shape[1] == 2:
            clips = ops.reshape(clips, (-1, clips.shape[2]))
        else:
            raise ValueError(
                "`clips` must have the shape (batch, samples) or (batch, 2, samples). "
                f"Received: shape={tuple(clips.shape)}"
            )
        return self.crop(clips, training=training)

    def _augmented(self, crops, training):
        views = crops if self.augmenter is None else self.augmenter(crops, training=training)
        # Augmentations are not learned, and gradients through them would double their cost.
        return ops.stop_gradient(views)

    def project(self, views: TensorLike, training: bool = False) -> Tensor:
        """Encode views and project them.

        Args:
            views: Float32 tensor (n, crop_samples).
            training: Whether batch normalization uses the statistics of the batch. Defaults to
                False.

        Returns:
            Float32 tensor (n, projection_dim).

        Example:

        ```python
        encoder = keras_tune.TUNe.from_preset(
            "tune_plus_32", load_weights=False, input_samples=19683
        )
        model = keras_tune.training.ContrastiveModel(encoder)
        model.project(ops.zeros((4, 19683))).shape  # (4, 64)
        ```
        """
        return self._projected(self.encoder(views[..., None], training=training), training)

    def _projected(self, representations, training):
        return ops.cast(self.projector(representations, training=training), "float32")

    def call(self, clips: TensorLike | Mapping[str, TensorLike], training: bool = False) -> Tensor:
        if not (training and self.acoustic_weight):
            return self.project_pairs(self.make_views(clips, training=training), training=training)
        crops = self._crops(clips, training)
        views = self._augmented(crops, training)
        representations = self._represented(views, training)
        features = ops.stop_gradient(self.acoustic_features(crops))
        features = self.acoustic_scaling(features, training=training)
        error = self.acoustic_head(ops.cast(representations, "float32")) - features
        self.add_loss(self.acoustic_weight * ops.mean(ops.square(error)))
        return self._pairs(representations, training)

    def _represented(self, views, training):
        """The representations of views; (2·n, crop_samples) to (2·n, d), in the same order."""
        if not self.separate_views:
            return self.encoder(views[..., None], training=training)
        both = [self.encoder(views[k::2][..., None], training=training) for k in (0, 1)]
        return ops.reshape(ops.stack(both, axis=1), (-1, both[0].shape[-1]))

    def _pairs(self, representations, training):
        """Project the representations of views; (2·n, d) to (n, 2, projection_dim)."""
        if self.separate_views and self.projection_batch_norm:
            both = [self._projected(representations[k::2], training) for k in (0, 1)]
            return ops.stack(both, axis=1)
        projections = self._projected(representations, training)
        return ops.reshape(projections, (-1, 2, self.projection_dim))

    def project_pairs(self, views: TensorLike, training: bool = False) -> Tensor:
        """Project the views that `make_views` returns, in pairs.

        Args:
            views: Float32 tensor (2·n, crop_samples).
            training: Whether batch normalization uses the statistics of the batch. Defaults to
                False.

        Returns:
            Float32 tensor (n, 2, projection_dim).

        Example:

        ```python
        encoder = keras_tune.TUNe.from_preset(
            "tune_plus_32", load_weights=False, input_samples=19683
        )
        model = keras_tune.training.ContrastiveModel(encoder)
        views = model.make_views(np.zeros((4, 22050), "float32"))
        model.project_pairs(views).shape  # (4, 2, 64)
        ```
        """
        return self._pairs(self._represented(views, training), training)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Tensor = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        # The negatives come from all devices, and each computes the loss of the whole batch. The
        # sum over devices is minimized: Keras divides its own losses by their number, others not.
        pairs = distribution.gather(y_pred)
        groups, weights = _groups_and_weights(x)
        # Both views of a clip are anchors.
        weights = None if weights is None else ops.tile(weights, 2)
        replicas = distribution.replica_count()
        loss = self.nt_xent(pairs[:, 0], pairs[:, 1], weights, groups)
        for weight, term in (
            (self.variance_weight, variance_loss),
            (self.covariance_weight, covariance_loss),
        ):
            if weight:
                both = sum(term(pairs[:, view]) for view in (0, 1))
                loss = loss + weight * both / replicas
        if self.group_weight and groups is not None:
            term = supervised_contrastive(pairs[:, 0], pairs[:, 1], groups, self.temperature)
            term = term if weights is None else term * weights
            loss = loss + self.group_weight * ops.mean(term) / replicas
        return loss + sum(self.losses) / replicas if self.losses else loss

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Tensor, sample_weight: Any = None
    ) -> dict[str, Tensor]:
        y_pred = distribution.gather(y_pred)
        groups, weights = _groups_and_weights(x)
        values = projection_metrics(y_pred, self.projection_dim, self.temperature, groups, weights)
        for metric in self.contrastive_metrics:
            # As in the mean of the loss, a smaller last batch counts for less.
            metric.update_state(values[metric.name], sample_weight=ops.shape(y_pred)[0])
        return self.get_metrics_result()

    def track_loss(self, loss: Tensor, clips: TensorLike | Mapping[str, TensorLike]) -> None:
        """Add the loss of a batch, as `compute_loss` returns it, to the mean that is reported."""
        loss = loss * distribution.replica_count()
        self._loss_tracker.update_state(loss, sample_weight=ops.shape(_audio_of(clips))[0])

    def train_step(self, *args: Any) -> Any:
        # JAX's step also takes and returns the state, as its first argument.
        *state, data = args
        clips = self._batch(data)
        if self.micro_batch is not None:
            return distribution.as_reported(gradient_cache.train_step(self, *state, clips))
        return distribution.as_reported(super().train_step(*state, (clips,)))

    def test_step(self, *args: Any) -> Any:
        *state, data = args
        return distribution.as_reported(super().test_step(*state, (self._batch(data),)))

    def predict_step(self, *args: Any) -> Any:
        *state, data = args
        return super().predict_step(*state, (_audio_of(self._batch(data)),))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "projection_dim": self.projection_dim,
            "temperature": self.temperature,
            "projection_layers": self.projection_layers,
            "projection_batch_norm": self.projection_batch_norm,
            "variance_weight": self.variance_weight,
            "covariance_weight": self.covariance_weight,
            "acoustic_weight": self.acoustic_weight,
            "group_weight": self.group_weight,
            "augmenter": keras.saving.serialize_keras_object(self.augmenter),
            "crop_samples": self.crop_samples,
            "separate_views": self.separate_views,
            "micro_batch": self.micro_batch,
            "seed": self.seed,
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> ContrastiveModel:
        config = dict(config)
        for key in ("encoder", "augmenter"):
            config[key] = keras.saving.deserialize_keras_object(
                config[key], custom_objects=custom_objects
            )
        return cls(**config)


def _projector(width, projection_dim, layers, batch_norm):
    """The projection head. The names of its layers are in saved files."""
    hidden = []
    for index in range(layers):
        name = "hidden" if index == 0 else f"hidden_{index + 1}"
        activation = None if batch_norm else "relu"
        hidden.append(keras.layers.Dense(width, use_bias=False, activation=activation, name=name))
        if batch_norm:
            hidden.append(keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_norm"))
            hidden.append(keras.layers.ReLU(name=f"{name}_relu"))
    output = keras.layers.Dense(projection_dim, use_bias=False, name="output")
    return keras.Sequential([*hidden, output], name="projector")


def _groups_and_weights(clips):
    """The groups and the weights of the clips of all devices, None for what is not given."""
    if not isinstance(clips, dict):
        return None, None
    groups, weights = clips.get("group"), clips.get("weight")
    if groups is not None:
        groups = distribution.gather(groups)
    if weights is not None:
        weights = distribution.gather(ops.cast(weights, "float32"))
    return groups, weights


def _audio_of(batch):
    """The tensor of clips of a batch, which is such a tensor or a dict."""
    if not isinstance(batch, dict):
        return batch
    if "audio" not in batch:
        raise ValueError(f"A batch must have the key 'audio'. Received: keys {sorted(batch)}")
    return batch["audio"]
