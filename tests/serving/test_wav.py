import io

import numpy as np
import pytest
import soundfile
import soxr

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

NOISE = np.random.default_rng(1).uniform(-1, 1, (501, 2))


@pytest.fixture(scope="module")
def load():
    """`load_wav` at 22,050 Hz as it is within an exported graph."""
    from keras_tune.serving.saved_model import load_wav

    return tf.function(
        lambda content: load_wav(content, 22050), input_signature=[tf.TensorSpec((), tf.string)]
    )


def wav_bytes(samples, rate=22050, subtype="PCM_16", form="WAV"):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form, subtype=subtype)
    return buffer.getvalue()


def read(content):
    return soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)[0].mean(axis=1)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
def test_samples_are_those_of_libsndfile(load, subtype, form):
    for channels in (1, 2):
        content = wav_bytes(NOISE[:, :channels], subtype=subtype, form=form)
        np.testing.assert_allclose(load(content), read(content), rtol=0, atol=1e-7)


def test_chunks_around_the_samples_are_passed_over(load):
    content = wav_bytes(NOISE)
    # A chunk of three bytes and the one that fills it up to four, and one that comes last.
    note = b"note" + (3).to_bytes(4, "little") + b"\xff\xfe\xfd\x00"
    longer = content[:12] + note + content[12:] + note
    np.testing.assert_array_equal(load(longer), load(content))


@pytest.mark.parametrize("rate", [8000, 44100, 22051])
def test_resampling_is_that_of_soxr(load, rate):
    time = np.arange(round(1.37 * rate)) / rate
    tones = sum(np.sin(2 * np.pi * f * time + f) for f in (220.0, 1234.5, 3300.0)) / 4
    content = wav_bytes(tones * np.hanning(len(time)), rate)
    found = load(content).numpy()
    expected = soxr.resample(read(content), rate, 22050)
    assert abs(len(found) - len(expected)) <= 1
    samples = min(len(found), len(expected))
    np.testing.assert_allclose(found[:samples], expected[:samples], atol=2e-4)


def test_resampling_does_not_alias(load):
    time = np.arange(44100) / 44100
    content = wav_bytes(0.5 * np.hanning(44100) * np.sin(2 * np.pi * 15000 * time), 44100)
    assert np.abs(load(content)).max() < 1e-4


def changed(place, octets):
    content = wav_bytes(NOISE)
    return content[:place] + octets + content[place + len(octets) :]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "not a WAV file"),
        (b"RIFF", "not a WAV file"),
        (b"\xff\xfb\x90" + bytes(4000), "not a WAV file"),
        (wav_bytes(NOISE)[:12], "no format chunk"),
        (wav_bytes(NOISE)[:36], "contains no samples"),
        (wav_bytes(NOISE)[:1000], "cut off"),
        (wav_bytes(NOISE[:0]), "contains no samples"),
        (wav_bytes(NOISE, subtype="ULAW"), "must be PCM or floats"),
        (changed(12, b"\xff\xfe\xfd\xfc"), "no format chunk"),
        (changed(36, b"\xff\xfe\xfd\xfc"), "contains no samples"),
        (changed(16, b"\xff\xff\xff\xff"), "contains no samples"),
        (changed(40, b"\xff\xff\xff\xff"), "cut off"),
        (changed(22, b"\x00\x00"), "no channels"),
        (changed(24, bytes(4)), "sample rate"),
        (changed(24, b"\xff\xff\xff\xff"), "sample rate"),
        (changed(34, b"\x0c\x00"), "must be PCM or floats"),
        (wav_bytes(np.zeros(1)) + bytes(2**26), "bytes at most"),
        (wav_bytes(np.zeros(1_000_000, "int16"), 1000), "too long"),
    ],
)
def test_bad_files_are_errors_in_words(load, content, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        load(content)


def test_damaged_headers_never_crash(load):
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        content = bytearray(wav_bytes(NOISE[:50]))
        for place in generator.integers(0, 44, generator.integers(1, 6)):
            content[place] = generator.integers(256)
        try:
            assert load(bytes(content)).dtype == tf.float32
        except tf.errors.InvalidArgumentError as error:
            refused += bool(str(error))
    assert refused > 100
