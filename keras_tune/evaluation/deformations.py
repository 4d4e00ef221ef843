"""Deformations of test clips, to which a representation should be robust.

Source: Plachouras et al., "mir_ref" (2023), for noise, gain and lossy compression. The low-pass
filter and the reverberation are ours.
"""

from __future__ import annotations

import functools
import io
import zlib
from collections.abc import Callable

import numpy as np

from keras_tune.types import DEFAULT_SAMPLE_RATE

# The sample rates in Hz that MP3 has.
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


def deformations(
    sample_rate: int = DEFAULT_SAMPLE_RATE,
) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """The deformations, by name.

    Args:
        sample_rate: Integer, the sample rate of the clips in Hz, above 6,000 (twice the cutoff of
            the low-pass filter). Defaults to 22,050.

    Returns:
        Dict from name to a function of a clip, a float array (samples,), which returns a float32
        array of the same length, the same one each time.
    """
    from keras_tune.augment import Gain, GaussianNoise, LowPass, Reverb

    layers = {
        f"noise_{snr}_db": GaussianNoise(10 ** (-snr / 20), 10 ** (-snr / 20), seed=0)
        for snr in (30, 20, 10, 0)
    }
    layers["gain_-12_db"] = Gain(-12.0, -12.0, seed=0)
    layers["low_pass_3000_hz"] = LowPass(sample_rate, 3000.0, 3000.0, seed=0)
    settings = {
        f"{end}_{name}": 50
        for end in ("min", "max")
        for name in ("reverberance", "damping", "room_size")
    }
    layers["reverb"] = Reverb(sample_rate, **settings, seed=0)
    by_layer = {name: _by_layer(layer) for name, layer in layers.items()}
    return {**by_layer, "mp3": functools.partial(through_mp3, sample_rate=sample_rate)}


def _by_layer(layer):
    def deform(clip):
        import keras

        clip = np.ascontiguousarray(clip, "float32")
        # A clip gets the same noise for every encoder, whatever was deformed before.
        layer.reseed(zlib.crc32(clip.tobytes()))
        deformed = layer(clip[None], training=True)
        return keras.ops.convert_to_numpy(deformed)[0]

    return deform


def through_mp3(clip: np.ndarray, sample_rate: int = DEFAULT_SAMPLE_RATE) -> np.ndarray:
    """Encode a clip as MP3 at a low bit rate and decode it again, with libsndfile.

    Args:
        clip: Float array (samples,).
        sample_rate: Integer, the sample rate of the clip in Hz. For a rate that MP3 does not have,
            the clip is resampled to the next higher one (or to 48,000 Hz) and back. Defaults to
            22,050.

    Returns:
        Float32 array (samples,).
    """
    import soundfile

    from keras_tune.data.audio import resample

    rate = next((rate for rate in MP3_RATES if rate >= sample_rate), MP3_RATES[-1])
    samples = resample(np.clip(clip, -1, 1), sample_rate, rate)
    buffer = io.BytesIO()
    options = {"format": "MP3", "subtype": "MPEG_LAYER_III", "compression_level": 0.9}
    soundfile.write(buffer, samples, rate, **options)
    buffer.seek(0)
    decoded, _ = soundfile.read(buffer, dtype="float32")
    decoded = resample(decoded, rate, sample_rate)
    whole = np.zeros(len(clip), "float32")
    whole[: len(decoded)] = decoded[: len(clip)]
    return whole
