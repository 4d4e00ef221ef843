"""How the windows of a clip become one vector."""

import dataclasses

import numpy as np

POOLINGS = ("mean", "mean_std")


def own_pooling(encoder):
    """The pooling that an encoder's embeddings have without anything done to them.

    Args:
        encoder: Keras model.

    Returns:
        "mean_std" for `MelStatistics`, else "mean".

    Example:

    ```python
    own_pooling(keras_tune.evaluation.MelStatistics())  # "mean_std"
    ```
    """
    return getattr(encoder, "own_pooling", "mean")


def pool_clips(clips, own, pooling):
    """Clips whose vectors are means, or means and deviations, over time.

    Mel statistics hold means and deviations over the frames: "mean" leaves the first. Of an
    encoder, whose output for a window is a mean over time already, "mean_std" puts the deviation
    over the windows of a clip beside their mean; a single window has no such deviation, so that
    windows and crops are gone, and stages, which are kept as means, are gone too.

    Args:
        clips: `ClipEmbeddings`.
        own: The pooling that the embeddings have, see `own_pooling`.
        pooling: "mean" or "mean_std".

    Returns:
        `ClipEmbeddings`.

    Example:

    ```python
    pool_clips(clips, "mean", "mean_std").vectors.shape  # (78, 1024)
    ```
    """
    if pooling == own:
        return clips
    if pooling == "mean":
        half = clips.vectors.shape[1] // 2
        return dataclasses.replace(
            clips,
            vectors=clips.vectors[:, :half],
            windows=clips.windows[:, :half],
            crops=None if clips.crops is None else clips.crops[:, :half],
        )
    squares = np.zeros(clips.vectors.shape)
    deviations = clips.windows - clips.vectors[clips.owners]
    np.add.at(squares, clips.owners, np.square(deviations, dtype="float64"))
    counts = np.bincount(clips.owners, minlength=len(clips.ids))
    spread = np.sqrt(squares / counts[:, None]).astype("float32")
    return dataclasses.replace(
        clips,
        vectors=np.concatenate([clips.vectors, spread], axis=1),
        windows=None,
        owners=None,
        crops=None,
        stages={},
    )
