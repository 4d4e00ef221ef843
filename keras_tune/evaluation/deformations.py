"""Deformations of test clips, to which a representation should be robust.

Source: Plachouras et al., "mir_ref" (2023), for noise, gain and lossy compression. The low-pass
filter and the reverberation are ours.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np

SAMPLE_RATE = 22050


def deformations() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """The deformations, by name.

    Returns:
        Dict from name to a function of a clip, a float array (samples,) at 22,050 Hz, which returns
        a float32 array of the same length.

    Example:

    ```python
    from keras_tune.evaluation.deformations import deformations

    clip = 0.3 * np.sin(2 * np.pi * 440 * np.arange(22050) / 22050)
    noisy = deformations()["noise_20_db"](clip)
    ```
    """
    from keras_tune.augment import Gain, GaussianNoise, LowPass, Reverb

    layers = {
        f"noise_{snr}_db": GaussianNoise(10 ** (-snr / 20), 10 ** (-snr / 20), seed=0)
        for snr in (30, 20, 10, 0)
    }
    layers["gain_-12_db"] = Gain(-12.0, -12.0, seed=0)
    layers["low_pass_3000_hz"] = LowPass(SAMPLE_RATE, 3000.0, 3000.0, seed=0)
    settings = {
        f"{end}_{name}": 50
        for end in ("min", "max")
        for name in ("reverberance", "damping", "room_size")
    }
    layers["reverb"] = Reverb(SAMPLE_RATE, **settings, seed=0)
    return {**{name: _by_layer(layer) for name, layer in layers.items()}, "mp3": through_mp3}


def _by_layer(layer):
    def deform(clip):
        import keras

        deformed = layer(np.asarray(clip, "float32")[None], training=True)
        return keras.ops.convert_to_numpy(deformed)[0]

    return deform


def through_mp3(clip: np.ndarray, compression: float = 0.9) -> np.ndarray:
    """Encode a clip as MP3 and decode it again, with libsndfile.

    Args:
        clip: Float array (samples,).
        compression: Float from 0 (the highest bit rate) to 1 (the lowest). Defaults to 0.9.

    Returns:
        Float32 array (samples,).

    Example:

    ```python
    from keras_tune.evaluation.deformations import through_mp3

    clip = 0.3 * np.sin(2 * np.pi * 440 * np.arange(22050) / 22050)
    through_mp3(clip).shape  # (22050,)
    ```
    """
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(
        buffer,
        np.clip(clip, -1, 1),
        SAMPLE_RATE,
        format="MP3",
        subtype="MPEG_LAYER_III",
        compression_level=compression,
    )
    buffer.seek(0)
    decoded, _ = soundfile.read(buffer, dtype="float32")
    whole = np.zeros(len(clip), "float32")
    whole[: len(decoded)] = decoded[: len(clip)]
    return whole
