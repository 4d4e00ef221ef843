"""Supervised contrast: clips with the same label are positives.

NT-Xent draws the two views of one clip together. Here all views of all clips with the anchor's
label (an artist's, say) are positives. Artist labels cost nothing, since files come with them, and
representations trained with them transfer to genres and tags (Park et al., "Representation
Learning of Music Using Artist Labels", ISMIR 2018).
"""

from __future__ import annotations

from keras import ops

from keras_tune.losses.nt_xent import nt_xent_logits
from keras_tune.types import Tensor, TensorLike


def supervised_contrastive(
    z_i: TensorLike, z_j: TensorLike, groups: TensorLike, temperature: float = 0.5
) -> Tensor:
    """Supervised contrastive loss of two batches of projections.

    Args:
        z_i: Tensor (B, d), projections of the first views.
        z_j: Tensor (B, d), projections of the second views, in the same order.
        groups: Integer tensor (B,), the label of each clip.
        temperature: Float, the divisor of the cosine similarities. Defaults to 0.5.

    Returns:
        Float32 tensor (2B,), the loss of each anchor: the mean over its positives of NT-Xent's
        cross-entropy, in which all other views are candidates. It equals NT-Xent where every clip
        has a label of its own.

    Source: Khosla et al., "Supervised Contrastive Learning" (NeurIPS 2020), equation 2.

    Example:

    ```python
    z_i, z_j = np.random.normal(size=(2, 16, 64))
    artists = np.arange(16) // 4
    loss = keras_tune.losses.supervised_contrastive(z_i, z_j, artists)
    ```
    """
    logits, _ = nt_xent_logits(z_i, z_j, temperature)
    equal = ops.tile(ops.equal(groups[:, None], groups[None, :]), (2, 2))
    itself = ops.eye(ops.shape(logits)[0], dtype="bool")
    positives = ops.cast(ops.logical_and(equal, ops.logical_not(itself)), "float32")
    log_probabilities = ops.log_softmax(logits, axis=-1)
    return -ops.sum(positives * log_probabilities, axis=-1) / ops.sum(positives, axis=-1)
