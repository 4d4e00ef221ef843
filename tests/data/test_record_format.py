"""Compressed records; tensorflow-io decodes them where it is installed, libsndfile elsewhere."""

import importlib.util

import numpy as np
import pandas as pd
import pytest
import soundfile

from keras_tune.data import load_audio, prepare, read_clips, read_records
from keras_tune.data.audio import to_float
from keras_tune.data.record_format import GRAPH_DECODERS, Record, tensorflow_io

pytestmark = pytest.mark.one_backend

tf = pytest.importorskip("tensorflow")

# Encoding in the records: file suffix, soundfile subtype, sample rate, channels.
FILES = {
    "flac": ("flac", "PCM_16", 22050, 2),
    "flac24": ("flac", "PCM_24", 44100, 1),
    "mp3": ("mp3", "MPEG_LAYER_III", 22050, 1),
    "opus": ("opus", "OPUS", 48000, 1),
    "vorbis": ("ogg", "VORBIS", 44100, 2),
    "wav": ("wav", "PCM_16", 22050, 2),
    "wav24": ("wav", "PCM_24", 22050, 1),
    "wav_float": ("wav", "FLOAT", 44100, 2),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One file of each encoding, and one of mp3 at 44.1 kHz stereo."""
    folder = tmp_path_factory.mktemp("files")
    random = np.random.default_rng(0)
    rows = []
    for encoding, spec in [*FILES.items(), ("mp3", ("mp3", "MPEG_LAYER_III", 44100, 2))]:
        suffix, subtype, rate, channels = spec
        time = np.arange(rate) / rate
        tones = [np.sin(2 * np.pi * f * time) for f in random.uniform(100, 4000, 3 * channels)]
        samples = 0.2 * np.stack(tones).reshape(3, channels, -1).sum(0).T
        samples += random.normal(0, 0.01, samples.shape)
        path = folder / f"{len(rows)}-{encoding}.{suffix}"
        container = {"ogg": "OGG", "opus": "OGG"}.get(suffix, suffix.upper())
        soundfile.write(path, samples, rate, format=container, subtype=subtype)
        rows.append((path.stem, str(path), "train"))
    return pd.DataFrame(rows, columns=["id", "path", "split"])


@pytest.fixture(scope="module")
def prepared(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    info = prepare(files, folder, encoding="source", shards=1, workers=1, progress=False)
    assert not info.failed
    return folder


def test_source_records_keep_the_bytes(files, prepared):
    (shard,) = prepared.glob("*.tfrecord")
    contents = dict(zip(files["id"], files["path"], strict=True))
    for serialized in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
        record = Record.parse(serialized, tf)
        info = soundfile.info(contents[record.id])
        assert record.audio == open(contents[record.id], "rb").read()
        assert record.id.endswith(f"-{record.encoding}")
        assert (record.sample_rate, record.num_samples) == (info.samplerate, info.frames)


def test_stream_has_the_samples_of_load_audio(files, prepared):
    stream = read_clips(prepared, batch_size=None, shuffle=False)
    clips = [record["audio"] for record in stream.as_numpy_iterator()]
    paths = dict(zip(files["id"], files["path"], strict=True))
    ids = [record["id"] for record in read_records(prepared, "train")]
    assert len(clips) == len(ids) == len(FILES) + 1
    for name, clip in zip(ids, clips, strict=True):
        audio = load_audio(paths[name])
        assert clip.shape == audio.shape
        np.testing.assert_allclose(to_float(clip), audio, atol=1e-4, rtol=0, err_msg=name)


def test_records_have_the_samples_of_load_audio(files, prepared):
    paths = dict(zip(files["id"], files["path"], strict=True))
    for record in read_records(prepared, "train"):
        np.testing.assert_array_equal(record["audio"], load_audio(paths[record["id"]]))


def test_flac_is_lossless(files, tmp_path):
    for encoding in ("pcm16", "flac"):
        prepare(files, tmp_path / encoding, encoding=encoding, workers=1, progress=False)
    clips, same = (
        {
            record["audio"].tobytes()
            for record in read_clips(tmp_path / encoding, batch_size=None).as_numpy_iterator()
        }
        for encoding in ("pcm16", "flac")
    )
    assert clips == same


def test_tensorflow_io_is_used_where_it_loads():
    """It is built for TensorFlow up to 2.17."""
    installed = importlib.util.find_spec("tensorflow_io") is not None
    works = installed and tuple(map(int, tf.__version__.split(".")[:2])) <= (2, 17)
    assert (tensorflow_io() is not None) == works


@pytest.mark.skipif(tensorflow_io() is None, reason="tensorflow-io is not installed")
def test_decoding_happens_in_the_graph(files, monkeypatch):
    """With libsndfile out of reach, what tensorflow-io knows is decoded nevertheless."""
    from keras_tune.data import record_format

    def unreachable(*args, **kwargs):
        raise AssertionError("libsndfile was asked")

    monkeypatch.setattr(record_format, "_decoded", unreachable)
    for name, path in zip(files["id"], files["path"], strict=True):
        encoding = name.split("-")[1]
        if encoding not in GRAPH_DECODERS:
            continue
        rate = soundfile.info(path).samplerate
        clip = record_format.decode_clip(
            tf,
            tf.constant(open(path, "rb").read()),
            tf.constant(encoding),
            tf.constant(rate, "int64"),
            22050,
        )
        np.testing.assert_allclose(to_float(clip.numpy()), load_audio(path), atol=1e-4, rtol=0)


def test_what_cannot_be_kept_is_named(tmp_path):
    time = np.arange(22050) / 22050
    soundfile.write(tmp_path / "a.aiff", np.sin(2000 * time), 22050)
    soundfile.write(tmp_path / "b.flac", np.sin(2000 * time), 22050)
    manifest = pd.DataFrame(
        {"id": ["a", "b"], "path": [str(tmp_path / "a.aiff"), str(tmp_path / "b.flac")]}
    ).assign(split="train")
    info = prepare(manifest, tmp_path / "out", encoding="source", workers=1, progress=False)
    assert [entry["id"] for entry in info.failed] == ["a"]
    assert "encoding source cannot store AIFF PCM_16" in info.failed[0]["reason"]
