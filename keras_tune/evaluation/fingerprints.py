"""What tells encoders and divisions of clips apart in a report."""

import hashlib
import json

import numpy as np


def encoder_fingerprint(encoder):
    """Hash an encoder's configuration and weights to 64 hexadecimal digits.

    Args:
        encoder: Keras model.

    Returns:
        String, the same on every backend and machine.

    Example:

    ```python
    encoder_fingerprint(encoder)[:12]
    ```
    """
    digest = hashlib.sha256()
    config = encoder.get_config()
    # What is trainable changes no output.
    for key in ("name", "trainable", "layers_trainable"):
        config.pop(key, None)
    digest.update(
        json.dumps([type(encoder).__name__, config], sort_keys=True, default=str).encode()
    )
    for weights in encoder.get_weights():
        digest.update(str(weights.shape).encode())
        digest.update(np.ascontiguousarray(weights, "<f4").tobytes())
    return digest.hexdigest()


def folds_fingerprint(ids, folds):
    """Hash which clips are trained on, chosen on and tested on, in all folds.

    Args:
        ids: List of strings, the clips' ids.
        folds: List of `Fold`.

    Returns:
        String of 64 hexadecimal digits.

    Example:

    ```python
    folds_fingerprint(clips.ids, folds)
    ```
    """
    digest = hashlib.sha256()
    for fold in folds:
        for rows in (fold.train, fold.valid, fold.test):
            digest.update(json.dumps(sorted(ids[row] for row in rows)).encode())
    return digest.hexdigest()
