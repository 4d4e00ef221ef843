"""NT-Xent: the normalized, temperature-scaled cross-entropy of SimCLR.

Two views of each of B clips give 2B projections. Each is an anchor in turn: the other view of its
clip is the positive, the 2(B − 1) views of the other clips are the negatives, and the loss is the
cross-entropy of picking the positive by cosine similarity.

Clips may belong to groups: copies of one clip, for instance, or clips of one track or artist. Views
of another clip of the same group are then neither positives nor negatives of an anchor, and are not
part of its denominator.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tune.types import Tensor, TensorLike

# Small enough that its exponential is zero.
MASKED = -1e9


def nt_xent_logits(
    z_i: TensorLike, z_j: TensorLike, temperature: float = 0.5, groups: TensorLike | None = None
) -> tuple[Tensor, Tensor]:
    """The similarities of every anchor to its 2B − 1 candidates, and the index of the positive.

    Args:
        z_i: Tensor (B, d), projections of the first views.
        z_j: Tensor (B, d), projections of the second views, in the same order.
        temperature: Float, the divisor of the cosine similarities. Defaults to 0.5.
        groups: Integer tensor (B,), the group of each clip, or None. Defaults to None, each clip in
            a group of its own.

    Returns:
        A pair: logits, float32 (2B, 2B), with −1e9 for the similarity of an anchor to itself and to
        other clips of its group, whose exponential is then 0; and labels, int32 (2B,), the column
        of the positive of each anchor.

    Example:

    ```python
    logits, labels = keras_tune.losses.nt_xent_logits(np.eye(3, 8), np.eye(3, 8))
    labels  # [3, 4, 5, 0, 1, 2]
    ```
    """
    # Half precision cannot tell similar candidates apart.
    z = ops.concatenate([ops.cast(z_i, "float32"), ops.cast(z_j, "float32")], axis=0)
    z = ops.normalize(z, axis=-1, order=2, epsilon=1e-8)
    count = ops.shape(z)[0]
    logits = ops.matmul(z, ops.transpose(z)) / temperature
    logits = ops.where(ops.eye(count, dtype="bool"), ops.cast(MASKED, "float32"), logits)
    labels = (ops.arange(count, dtype="int32") + count // 2) % count
    return mask_groups(logits, groups), labels


def mask_groups(logits: TensorLike, groups: TensorLike | None = None) -> Tensor:
    """Set the logits (2B, 2B) of pairs of different clips of the same group to −1e9."""
    if groups is None:
        return logits
    count = ops.shape(groups)[0]
    equal = ops.equal(groups[:, None], groups[None, :])
    masked = ops.logical_and(equal, ops.logical_not(ops.eye(count, dtype="bool")))
    return ops.where(ops.tile(masked, (2, 2)), ops.cast(MASKED, logits.dtype), logits)


def nt_xent(
    z_i: TensorLike, z_j: TensorLike, temperature: float = 0.5, groups: TensorLike | None = None
) -> Tensor:
    """NT-Xent of two batches of projections.

    Args:
        z_i: Tensor (B, d), projections of the first views.
        z_j: Tensor (B, d), projections of the second views, in the same order.
        temperature: Float, the divisor of the cosine similarities. Defaults to 0.5.
        groups: Integer tensor (B,), the group of each clip, or None. Other clips of an anchor's
            group are not among its negatives; an anchor without any negative has a loss of 0.
            Defaults to None, each clip in a group of its own.

    Returns:
        Float32 tensor (2B,), the loss of each anchor; its mean is the loss of the batch.

    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations"
    (ICML 2020), equation 1.

    Example:

    ```python
    z_i, z_j = np.random.normal(size=(2, 16, 64))
    loss = ops.mean(keras_tune.losses.nt_xent(z_i, z_j, temperature=0.5))
    ```
    """
    logits, labels = nt_xent_logits(z_i, z_j, temperature, groups)
    return ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)


@keras.saving.register_keras_serializable(package="keras_tune")
class NTXent(keras.losses.Loss):
    """NT-Xent as a Keras loss: `loss(z_i, z_j)`, symmetric in its two arguments.

    With groups (see `nt_xent`) it is `loss(z_i, z_j, groups=groups)`. Sample weights are of shape
    (2B,), one for each anchor.

    Args:
        temperature: Float, the divisor of the cosine similarities. Defaults to 0.5.
        reduction: As in any Keras loss, over the values of the 2B anchors. Defaults to "mean".
        name: String. Defaults to "nt_xent".

    Raises:
        ValueError: A temperature that is not positive.

    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations"
    (ICML 2020), equation 1.

    Example:

    ```python
    z_i, z_j = np.random.normal(size=(2, 16, 64))
    loss = keras_tune.losses.NTXent(temperature=0.5)(z_i, z_j)
    ```
    """

    def __init__(
        self, temperature: float = 0.5, reduction: str | None = "mean", name: str = "nt_xent"
    ):
        super().__init__(name=name, reduction=reduction, dtype="float32")
        if temperature <= 0:
            raise ValueError(f"`temperature` must be positive. Received: temperature={temperature}")
        self.temperature = temperature

    def __call__(
        self,
        y_true: TensorLike,
        y_pred: TensorLike,
        sample_weight: TensorLike | None = None,
        groups: TensorLike | None = None,
    ) -> Tensor:
        if groups is not None:
            # Keras casts the inputs of a loss to float32, which can represent every index in a
            # batch, but not every integer.
            equal = ops.equal(groups[:, None], groups[None, :])
            y_true = (y_true, ops.argmax(ops.cast(equal, "int32"), axis=1))
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Any, y_pred: Tensor) -> Tensor:
        z_i, groups = y_true if isinstance(y_true, (tuple, list)) else (y_true, None)
        return nt_xent(z_i, y_pred, self.temperature, groups)

    def get_config(self) -> dict[str, Any]:
        return {
            "temperature": self.temperature,
            "reduction": self.reduction,
            "name": self.name,
        }
