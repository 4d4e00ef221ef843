"""Metrics of the projections that contrastive training is judged by."""

from __future__ import annotations

from keras import ops

from keras_tune.losses.nt_xent import mask_groups, nt_xent_logits
from keras_tune.types import Tensor


def projection_metrics(
    projections: Tensor,
    width: int,
    temperature: float,
    groups: Tensor | None,
    weights: Tensor | None,
) -> dict[str, Tensor]:
    """Compute the metrics of one batch, which `ContrastiveModel` explains.

    Args:
        projections: Tensor (batch, 2, d), not normalized.
        width: Integer, d, which TensorFlow does not know in the shape of what it has gathered from
            several devices.
        temperature: Float, NT-Xent's temperature.
        groups: Integer tensor (batch,), or None.
        weights: Float tensor (batch,), or None.

    Returns:
        A dict of scalar tensors by name.
    """
    all_logits, labels = nt_xent_logits(projections[:, 0], projections[:, 1], temperature)
    logits = mask_groups(all_logits, groups)
    # Comparing with >= instead of argmax: after a collapse all candidates are equal, and then
    # no positive ranks first.
    positive = ops.take_along_axis(logits, labels[:, None], axis=-1)
    others = ops.sum(ops.cast(logits >= positive, "float32"), axis=-1) - 1.0
    first = ops.mean(ops.reshape(ops.cast(others == 0, "float32"), (2, -1)), axis=0)

    unit = ops.normalize(projections, axis=-1, order=2, epsilon=1e-8)
    distances = ops.sum(ops.square(unit[:, 0] - unit[:, 1]), axis=-1)
    # On the unit sphere |a − b|² = 2 − 2 a·b, and the logits are a·b over the temperature.
    potential = ops.exp(4.0 * (all_logits * temperature - 1.0))
    count = ops.cast(ops.shape(logits)[0], "float32")
    return {
        "contrastive_accuracy": _weighted_mean(first, weights),
        "alignment": _weighted_mean(distances, weights),
        "uniformity": ops.log(ops.sum(potential) / (count * (count - 1.0))),
        "embedding_std": ops.mean(ops.std(ops.reshape(unit, (-1, width)), axis=0)) * width**0.5,
    }


def _weighted_mean(values, weights):
    return ops.mean(values if weights is None else values * weights)
