"""Decoding audio files to mono float32 at one sample rate, or the reason why that fails.

Files are decoded by libsndfile (wav, aiff, au, flac, ogg vorbis and opus, mp3), their channels are
averaged, and they are resampled by soxr at its high quality setting.
"""

import io

import numpy as np

from keras_tune.data.truncation import truncation
from keras_tune.errors import UserError
from keras_tune.storage import AnyPath, to_path
from keras_tune.types import DEFAULT_SAMPLE_RATE, SAMPLE_RATES

# Samples decoded at a time: what a header says about the length may be wrong.
BLOCK_SAMPLES = 2**20
# libsndfile gives such a number if a file states no length.
UNKNOWN_FRAMES = 2**62
# A file whose peak exceeds this (12 dB over full scale) has another scale. Integers that were
# not scaled lie far above it. Decoders overshoot full scale on loud masters: of 250 Ogg, Opus and
# MP3 files, the highest peak was 1.32.
LARGEST_PEAK = 4.0
# Formats (libsndfile's names) in which seeking is exact to the sample.
EXACT_SEEKING = frozenset("AIFF AU CAF FLAC OGG RF64 W64 WAV WAVEX".split())
# A file whose peak stays below this (-80 dB of full scale, 3 steps of 16-bit PCM) is silent.
SILENCE_PEAK = 1e-4


class AudioError(UserError):
    """An audio file that cannot be used.

    Args:
        path: The file.
        reason: Why it cannot be used, e.g. "silent".

    Attributes:
        path: The file, as text.
        reason: Why it cannot be used.

    Example:

    ```python
    from keras_tune.data import AudioError, load_audio

    try:
        load_audio("missing.wav")
    except AudioError as error:
        print(error.path, error.reason)
    ```
    """

    def __init__(self, path: object, reason: str):
        self.path = str(path)
        self.reason = " ".join(str(reason).split())
        super().__init__(f"{self.path}: {self.reason}")

    def __reduce__(self):
        # Exceptions are rebuilt from the arguments of their base class by default: the message.
        return type(self), (self.path, self.reason)


def load_audio(
    path: AnyPath,
    sample_rate: int = DEFAULT_SAMPLE_RATE,
    min_samples: int = 1,
    start: float = 0.0,
    duration: float | None = None,
) -> np.ndarray:
    """Decode an audio file, or a part of it, to mono at the given sample rate.

    Args:
        path: The file.
        sample_rate: Samples per second of the result. Defaults to 22,050.
        min_samples: The fewest samples (at `sample_rate`) to accept. Defaults to 1.
        start: Where the part begins, in seconds. Defaults to 0.
        duration: Length of the part, in seconds. Defaults to the rest of the file.

    Returns:
        float32 array of shape (samples,), full scale being 1.

    Raises:
        AudioError: If the file is missing, cannot be decoded, is truncated (see `truncation`),
            silent (peak below -80 dB of full scale), out of scale (peak above 4 times full scale),
            shorter than `min_samples`, ends before the part does, or contains values that are not
            finite.

    Example:

    ```python
    import numpy as np
    import soundfile
    from keras_tune.data import load_audio

    time = np.arange(44100) / 44100
    soundfile.write("a4.wav", np.sin(2 * np.pi * 440 * time), 44100)
    audio = load_audio("a4.wav")  # shape (22050,)
    ```
    """
    samples, rate = decode_audio(read_bytes(path), path, start, duration, whole=duration is None)
    return checked(resample(samples, rate, sample_rate), path, sample_rate, min_samples)


def read_bytes(path: AnyPath) -> bytes:
    """Read a whole file, or raise an `AudioError`."""
    path = to_path(path)
    try:
        if not path.is_file():
            raise AudioError(path, "missing")
        return path.read_bytes()
    except OSError as error:
        raise AudioError(path, f"cannot be read ({error.strerror})") from error


def decode_audio(
    content: bytes,
    path: object = "audio",
    start: float = 0.0,
    duration: float | None = None,
    whole: bool = False,
) -> tuple[np.ndarray, int]:
    """Decode the bytes of an audio file, or a part of it, to mono at their own sample rate.

    Args:
        content: The bytes of the file.
        path: The file's name, for the error. Defaults to "audio".
        start: Where the part begins, in seconds. Defaults to 0.
        duration: Length of the part, in seconds. Defaults to the rest of the file.
        whole: Whether a file that ends too early is an error. Defaults to False.

    Returns:
        Pair of a float32 array of shape (samples,) and the sample rate in Hz.

    Raises:
        AudioError: If the bytes cannot be decoded, end before the part does, or with `whole` are
            truncated.
    """
    import soundfile

    if not content:
        raise AudioError(path, "cannot be decoded (the file is empty)")
    file = None
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            rate = file.samplerate
            if not SAMPLE_RATES[0] <= rate <= SAMPLE_RATES[1]:
                raise AudioError(path, f"unsupported sample rate: {rate} Hz")
            first = round(start * rate)
            stop = -1 if duration is None else first + round(duration * rate)
            # In other formats, such as MP3, seeking is not exact: they are read from the beginning.
            sought = first if file.format in EXACT_SEEKING and first <= file.frames else 0
            if sought:
                file.seek(sought)
            samples = _read_mono(file, stop if stop < 0 else stop - sought)
            end = sought + len(samples)
            missing = truncation(content, file.format, file.frames, end) if whole else None
    except AudioError:
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        # The library's own message names the buffer instead of the file.
        reason = getattr(error, "error_string", None) or str(error)
        if file is not None and file.frames >= UNKNOWN_FRAMES:
            reason = "it states no length, as if written to a pipe; convert it"
        raise AudioError(path, f"cannot be decoded ({reason.rstrip('.')})") from error
    if missing:
        raise AudioError(path, f"truncated ({missing}, {end / rate:.2f} s decoded)")
    if end < stop:
        raise AudioError(
            path, f"ends at {end / rate:.2f} s, before the requested {stop / rate:.2f} s"
        )
    return samples[first - sought :], rate


def _read_mono(file, count):
    """Read `count` frames, or all for -1, and average their channels."""
    blocks, size, left = [], max(1, BLOCK_SAMPLES // file.channels), count
    while left:
        asked = size if left < 0 else min(size, left)
        block = file.read(asked, dtype="float32", always_2d=True)
        blocks.append(block.mean(axis=1, dtype="float32"))
        left -= len(block) if left > 0 else 0
        if len(block) < asked:
            break
    return np.concatenate([np.zeros(0, "float32"), *blocks])


def resample(samples: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Resample `samples` of shape (samples,) from `rate` to `target` Hz with soxr."""
    import soxr

    if rate == target or not len(samples):
        return samples
    return soxr.resample(samples, rate, target).astype("float32", copy=False)


def checked(
    samples: np.ndarray, path: object, sample_rate: int, min_samples: int = 1
) -> np.ndarray:
    """Return `samples`, or raise an `AudioError` if they cannot be used."""
    if len(samples) < max(1, min_samples):
        raise AudioError(
            path,
            f"too short ({len(samples) / sample_rate:.2f} s of {min_samples / sample_rate:.2f} s)",
        )
    if not np.isfinite(samples).all():
        raise AudioError(path, "contains NaN or infinity")
    if np.abs(samples).max() < SILENCE_PEAK:
        raise AudioError(path, "silent")
    reason = out_of_scale(samples)
    if reason:
        raise AudioError(path, reason)
    return samples


def out_of_scale(samples: np.ndarray) -> str | None:
    """Say what is wrong with finite float samples whose full scale is not 1, None if it is."""
    peak = max(-float(samples.min(initial=0)), float(samples.max(initial=0)))
    if peak <= LARGEST_PEAK:
        return None
    return f"out of scale (peak {peak:.6g}; full scale is 1, so divide integers by their range)"


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Round float samples to 16-bit PCM; what exceeds full scale is clipped."""
    return np.clip(np.round(samples * 32768.0), -32768, 32767).astype("int16")


def to_flac(pcm: np.ndarray, sample_rate: int) -> bytes:
    """Compress 16-bit PCM of shape (samples,) to the bytes of a FLAC file."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def to_float(samples: np.ndarray) -> np.ndarray:
    """Turn 16-bit PCM into float32 with full scale 1; float samples pass unchanged.

    Raises:
        ValueError: They are other integers, whose full scale is not known.
    """
    if samples.dtype == np.int16:
        return samples.astype("float32") / np.float32(32768)
    if samples.dtype.kind != "f":
        raise ValueError(f"`samples` must be int16 or floats. Received: {samples.dtype}")
    return samples.astype("float32", copy=False)
