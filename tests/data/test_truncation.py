"""Files cut as an interrupted download leaves them, and whole files."""

import io
import re
import struct

import numpy as np
import pytest
import soundfile

from keras_tune.data import AudioError, load_audio, prepare
from keras_tune.data.datasets import manifest_for
from keras_tune.data.truncation import truncation

pytestmark = pytest.mark.one_backend

RATE = 24000
FORMATS = {
    "wav": ("WAV", "PCM_16", {}),
    "float.wav": ("WAV", "FLOAT", {}),
    "24bit.wav": ("WAVEX", "PCM_24", {}),
    "rf64.wav": ("RF64", "PCM_16", {}),
    "w64": ("W64", "PCM_16", {}),
    "aiff": ("AIFF", "PCM_16", {}),
    "au": ("AU", "PCM_16", {}),
    "flac": ("FLAC", "PCM_16", {}),
    "vorbis.ogg": ("OGG", "VORBIS", {}),
    "opus.ogg": ("OGG", "OPUS", {}),
    "cbr.mp3": ("MP3", "MPEG_LAYER_III", {"bitrate_mode": "CONSTANT", "compression_level": 0.5}),
    "vbr.mp3": ("MP3", "MPEG_LAYER_III", {"bitrate_mode": "VARIABLE"}),
}


def encoded(name, seconds=3.0, channels=2):
    format, subtype, options = FORMATS[name]
    time = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(0).normal(0, 0.05, (len(time), channels))
    samples = 0.3 * np.sin(2 * np.pi * 440 * time)[:, None] + noise
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format=format, subtype=subtype, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("name", FORMATS)
def test_whole_files_pass(name, tmp_path):
    file = tmp_path / name
    for seconds, channels in ((3.0, 2), (0.31, 1)):
        file.write_bytes(encoded(name, seconds, channels))
        assert abs(len(load_audio(file, RATE)) - seconds * RATE) < 0.1 * RATE


@pytest.mark.parametrize("name", FORMATS)
def test_cut_files_are_named(name, tmp_path):
    content, file = encoded(name, 8.0), tmp_path / name
    for share in (0.2, 0.5, 0.77, 0.9, 0.98):
        file.write_bytes(content[: round(share * len(content))])
        with pytest.raises(AudioError) as caught:
            load_audio(file, RATE)
        # FLAC's decoder stops by itself where a frame is cut.
        assert caught.value.reason.startswith(("truncated (", "cannot be decoded ("))
        if not name.startswith("flac"):
            assert caught.value.reason.startswith("truncated (")


def mp3_frames(content):
    """Where the frames of a constant rate begin, found by their sync words alone."""
    places = [place for place in range(len(content)) if content[place : place + 2] == content[:2]]
    length = min(place for place in places[1:] if place + place in places)
    return [place for place in places if place % length == 0]


def test_mp3_without_a_header_of_lengths():
    content = encoded("cbr.mp3")
    # The first frame holds the lengths; behind it comes audio alone.
    bare = content[mp3_frames(content)[1] :]
    assert truncation(bare, "MP3") is None
    assert truncation(bare + b"TAG" + bytes(125), "MP3") is None
    assert truncation(bare + bytes(1000), "MP3") is None
    assert truncation(bare[:-40], "MP3") == "the last frame is cut"
    tag = b"ID3\4\0\0" + bytes([0, 0, 7, 0x68]) + b"\xff\xfb" * 500
    assert truncation(tag + content, "MP3") is None
    assert truncation(tag + bare, "MP3") is None
    assert truncation(tag + content[:-2000], "MP3") is not None
    assert truncation(tag + bare[:-40], "MP3") is not None


def test_mp3_with_the_number_of_frames_alone():
    content = bytearray(encoded("cbr.mp3"))
    place = max(content.find(b"Xing"), content.find(b"Info"))
    (flags,) = struct.unpack_from(">I", content, place + 4)
    assert flags & 3 == 3
    struct.pack_into(">I", content, place + 4, flags & ~2)
    del content[place + 12 : place + 16]
    content[place + 16 : place + 16] = bytes(4)
    assert truncation(bytes(content), "MP3") is None
    starts = mp3_frames(bytes(content))
    # Cut between two frames, where nothing else tells.
    assert "frames" in truncation(bytes(content[: starts[20]]), "MP3")


def test_mp3_with_the_header_of_another_encoder():
    """A VBRI header, at its fixed place in the first frame."""
    content = encoded("cbr.mp3")
    frames = mp3_frames(content)
    head = content[:36] + struct.pack(">4s3HII", b"VBRI", 1, 0, 75, len(content), len(frames))
    content = head + bytes(frames[1] - len(head)) + content[frames[1] :]
    assert truncation(content, "MP3") is None
    assert "bytes of audio" in truncation(content[:-2000], "MP3")


def pages(content):
    places = [0]
    while (place := content.find(b"OggS", places[-1] + 1)) > 0:
        places.append(place)
    return [*places, len(content)]


def test_ogg_cut_between_pages_and_chained_streams():
    content = encoded("vorbis.ogg")
    for end in pages(content)[3:-1]:
        assert truncation(content[:end], "OGG") == "the last page is missing"
    assert truncation(content + content, "OGG") is None
    assert truncation(content + b"TAG" + bytes(125), "OGG") is None
    other = bytearray(encoded("vorbis.ogg", seconds=1))
    for place in pages(other)[:-1]:
        other[place + 14 : place + 18] = b"abcd"
    assert truncation(content + bytes(other), "OGG") is None
    cut = bytes(other[: pages(other)[-2]])
    assert truncation(content + cut, "OGG") == "the last page is missing"


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0])
def test_a_wav_file_from_a_pipe_does_not_know_its_length(length):
    content = bytearray(encoded("wav"))
    place = content.find(b"data") + 4
    struct.pack_into("<I", content, place, length)
    struct.pack_into("<I", content, 4, 0xFFFFFFFF)
    assert truncation(bytes(content), "WAV") is None


def test_a_part_of_a_file_that_is_cut_behind_it_is_whole(tmp_path):
    (tmp_path / "a.wav").write_bytes(encoded("wav")[: 2 * 2 * 2 * RATE])
    assert len(load_audio(tmp_path / "a.wav", RATE, start=0.5, duration=1.0)) == RATE
    with pytest.raises(AudioError, match="truncated"):
        load_audio(tmp_path / "a.wav", RATE)


def test_a_set_names_what_is_cut_or_out_of_scale(tmp_path):
    pytest.importorskip("tensorflow")
    folder = tmp_path / "audio"
    folder.mkdir()
    for name in ("wav", "vorbis.ogg", "cbr.mp3"):
        content = encoded(name, 1.0)
        (folder / f"whole.{name}").write_bytes(content)
        (folder / f"cut.{name}").write_bytes(content[: len(content) // 2])
    tone = 32768 * 0.9 * np.sin(np.arange(RATE) / 9)
    soundfile.write(folder / "integers.wav", tone, RATE, subtype="FLOAT")
    soundfile.write(folder / "hot.wav", 3.5 * np.sin(np.arange(RATE) / 9), RATE, subtype="FLOAT")
    manifest = manifest_for("folder", folder, fractions=[1, 0, 0])
    options = {"workers": 1, "progress": False, "shards": 1}
    info = prepare(manifest, tmp_path / "set", **options)
    left_out = {entry["path"].rsplit("/", 1)[1]: entry["reason"] for entry in info.failed}
    names = {"cut.wav", "cut.vorbis.ogg", "cut.cbr.mp3", "integers.wav"}
    assert set(left_out) == names
    peak = re.match(r"out of scale \(peak (\d+);", left_out.pop("integers.wav"))
    assert float(peak[1]) == pytest.approx(32768 * 0.9, rel=0.05)
    assert all(reason.startswith("truncated (") for reason in left_out.values())
    assert info.counts["train"] == 4
    with pytest.raises(ValueError, match="out of scale|truncated"):
        prepare(manifest, tmp_path / "strict", strict=True, **options)
