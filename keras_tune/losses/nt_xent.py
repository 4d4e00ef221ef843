"""NT-Xent: the normalized, temperature-scaled cross-entropy of SimCLR.

Two views of each of B clips give 2B projections. Each is an anchor in turn: the other view of its
clip is the positive, the 2(B − 1) views of the other clips are the negatives, and the loss is the
cross-entropy of picking the positive by cosine similarity.
"""

import keras
from keras import ops


def nt_xent_logits(z_i, z_j, temperature=0.5):
    """The similarities of every anchor to its 2B − 1 candidates, and where the positive is.

    Args:
        z_i: Tensor (B, d), projections of the first views.
        z_j: Tensor (B, d), projections of the second views, in the same order.
        temperature: Float, the divisor of the cosine similarities. Defaults to 0.5.

    Returns:
        A pair: logits, float32 (2B, 2B), the anchor's similarity to itself at −1e9, so that it
        counts for nothing; and labels, int32 (2B,), the column of each anchor's positive.

    Example:

    ```python
    logits, labels = nt_xent_logits(np.eye(3, 8), np.eye(3, 8))
    labels  # [3, 4, 5, 0, 1, 2]
    ```
    """
    # Half precision would lose what distinguishes close candidates.
    z = ops.concatenate([ops.cast(z_i, "float32"), ops.cast(z_j, "float32")], axis=0)
    z = ops.normalize(z, axis=-1, order=2, epsilon=1e-8)
    count = ops.shape(z)[0]
    logits = ops.matmul(z, ops.transpose(z)) / temperature
    logits = ops.where(ops.eye(count, dtype="bool"), ops.cast(-1e9, "float32"), logits)
    labels = (ops.arange(count, dtype="int32") + count // 2) % count
    return logits, labels


def nt_xent(z_i, z_j, temperature=0.5):
    """NT-Xent of two batches of projections.

    Args:
        z_i: Tensor (B, d), projections of the first views.
        z_j: Tensor (B, d), projections of the second views, in the same order.
        temperature: Float, the divisor of the cosine similarities. Defaults to 0.5.

    Returns:
        Float32 tensor (2B,), the loss of each anchor; its mean is the loss of the batch.

    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations"
    (ICML 2020), equation 1.

    Example:

    ```python
    loss = ops.mean(keras_tune.losses.nt_xent(z_i, z_j, temperature=0.5))
    ```
    """
    logits, labels = nt_xent_logits(z_i, z_j, temperature)
    return ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)


@keras.saving.register_keras_serializable(package="keras_tune")
class NTXent(keras.losses.Loss):
    """NT-Xent as a Keras loss: `loss(z_i, z_j)`, symmetric in its two arguments.

    Args:
        temperature: Float, the divisor of the cosine similarities. Defaults to 0.5.
        reduction: As in any Keras loss; "mean_with_sample_weight" and the like do not apply, since
            there is one value for each of 2B anchors. Defaults to "mean".
        name: String. Defaults to "nt_xent".

    Raises:
        ValueError: A temperature that is not positive.

    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations"
    (ICML 2020), equation 1.

    Example:

    ```python
    loss = keras_tune.losses.NTXent(temperature=0.5)(z_i, z_j)
    ```
    """

    def __init__(self, temperature=0.5, reduction="mean", name="nt_xent"):
        super().__init__(name=name, reduction=reduction, dtype="float32")
        if temperature <= 0:
            raise ValueError(f"`temperature` must be positive. Received: temperature={temperature}")
        self.temperature = temperature

    def call(self, y_true, y_pred):
        return nt_xent(y_true, y_pred, self.temperature)

    def get_config(self):
        return {
            "temperature": self.temperature,
            "reduction": self.reduction,
            "name": self.name,
        }
