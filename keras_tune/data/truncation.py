"""Audio files that end too early, after an interrupted download or copy.

Decoders return such files as shorter clips, without an error. Most formats state how long the file
should be:

| format | what is compared |
|---|---|
| WAV, RF64, AIFF, AU | the length of the samples in the header, and the bytes in the file |
| W64 | the size of the file in its header, and the bytes in the file |
| FLAC | the number of samples in the header, and those that were decoded |
| Ogg (Vorbis, Opus) | each stream must have its last page, which is marked, and no page is cut |
| MP3 | the bytes or frames in a Xing, Info or VBRI header; without one, the last frame is whole |

An MP3 file without such a header that ends between two frames cannot be recognized, nor can a WAV
file that was written to a pipe, whose header does not contain the length.

Sources: Microsoft, "Multiple Channel Audio Data and WAVE Files"; EBU Tech 3306 (RF64); Apple,
"Audio Interchange File Format" 1.3; RFC 3533 (Ogg); ISO/IEC 11172-3 (frames of MP3); K. Windszus,
"MPEG Audio Frame Header" (Xing, VBRI).
"""

import struct

# Fewer missing bytes are accepted: some programs count a header or a tag of 128 bytes as audio, and
# only a few milliseconds can be lost.
SLACK_BYTES = 256
# Lengths that programs write into a header before they know the real one: all bits set, or the
# largest signed numbers, minus some alignment.
UNKNOWN_LENGTH = 0x7FFF0000

# Bit rates in kbit/s by (version 1, layer) and (versions 2 and 2.5, layer); sample rates in Hz.
BITRATES = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
SAMPLE_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def truncation(content, format, frames=None, decoded=None):
    """Say what is missing at the end of an audio file, None if there is no sign that anything is.

    Args:
        content: The bytes of the file.
        format: Its format by libsndfile's names: "WAV", "FLAC", "OGG", "MP3" and others.
        frames: Integer, the frames that the header of a FLAC file announces. Defaults to None.
        decoded: Integer, the frames that were decoded. Defaults to None.
    """
    if format == "FLAC" and frames is not None and decoded < frames:
        return f"{decoded:,} of {frames:,} samples"
    check = _CHECKS.get(format)
    try:
        return check(content) if check else None
    except struct.error:
        # The header itself is cut, so nothing is decoded from the file.
        return None


def _compare(there, declared):
    unknown = UNKNOWN_LENGTH <= declared < 2**32 or declared >= 2**63
    if unknown or there + SLACK_BYTES > declared:
        return None
    return f"{max(0, there):,} of {declared:,} bytes of audio"


def _wave64(content):
    return _compare(len(content), *struct.unpack_from("<Q", content, 16))


def _au(content):
    big = content[:4] == b".snd"
    start, size = struct.unpack_from(">2I" if big else "<2I", content, 4)
    return _compare(len(content) - start, size)


def _chunks(content):
    """WAV and AIFF: chunks of a name, a length and that many bytes, padded to an even number."""
    order = "<" if content[:4] in (b"RIFF", b"RF64") else ">"
    # In RF64 the lengths that do not fit are in the first chunk: file, data, samples.
    long_size = None
    offset = 12
    while offset + 8 <= len(content):
        name, size = struct.unpack_from(order + "4sI", content, offset)
        if name == b"ds64":
            (long_size,) = struct.unpack_from("<Q", content, offset + 16)
        if name in (b"data", b"SSND"):
            if content[:4] == b"RF64" and size == 2**32 - 1 and long_size is not None:
                size = long_size
            return _compare(len(content) - offset - 8, size)
        offset += 8 + size + size % 2
    return None


def _pages(content):
    """Ogg: each logical stream has a page that is marked as its last."""
    ended, offset = {}, 0
    while content[offset : offset + 4] == b"OggS":
        header = content[offset : offset + 27]
        if len(header) < 27:
            return "the last page is cut"
        lengths = content[offset + 27 : offset + 27 + header[26]]
        stream = header[14:18]
        ended[stream] = ended.get(stream, False) or bool(header[5] & 4)
        offset += 27 + header[26] + sum(lengths)
        if offset > len(content) or len(lengths) < header[26]:
            return "the last page is cut"
        if content[offset : offset + 4] != b"OggS":
            # Bytes between pages, or a tag at the end.
            offset = content.find(b"OggS", offset)
            if offset < 0:
                break
    return None if all(ended.values()) else "the last page is missing"


def _frames(content):
    """MP3: the length in the first frame, or else whether the last frame is complete."""
    offset = _behind_tags(content)
    first = _frame_length(content, offset)
    while first is None or (
        offset + first + 4 <= len(content) and _frame_length(content, offset + first) is None
    ):
        # Two frames in a row are unlikely to be a coincidence.
        offset = content.find(b"\xff", offset + 1)
        if offset < 0:
            return None
        first = _frame_length(content, offset)
    declared = _declared(content, offset, first)
    if declared is not None and declared[0]:
        return _compare(len(content) - offset, declared[0])
    found, cut = _walk(content, offset)
    if declared is None:
        return "the last frame is cut" if cut else None
    # The frame with the header itself may be counted or not.
    return f"{found:,} of {declared[1]:,} frames" if found < declared[1] else None


def _behind_tags(content):
    """Return where the audio begins: after ID3v2 tags, whose lengths have seven bits per byte."""
    offset = 0
    while content[offset : offset + 3] == b"ID3" and len(content) >= offset + 10:
        flags, length = content[offset + 5], content[offset + 6 : offset + 10]
        size = sum(
            (byte & 127) << shift for byte, shift in zip(length, (21, 14, 7, 0), strict=True)
        )
        offset += 10 + size + (10 if flags & 16 else 0)
    return offset


def _frame_length(content, offset):
    """The length in bytes of the frame that begins at an offset, None if none does."""
    header = content[offset : offset + 4]
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bitrate, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    kilobits = BITRATES[1 if version == 3 else 2, layer][bitrate - 1]
    rate = SAMPLE_RATES[version][rate]
    if layer == 1:
        return (12_000 * kilobits // rate + padding) * 4
    return (72_000 if layer == 3 and version != 3 else 144_000) * kilobits // rate + padding


def _declared(content, offset, length):
    """Bytes and frames by the header in the first frame, 0 for what it leaves out; or None."""
    frame = content[offset : offset + length]
    if frame[36:40] == b"VBRI":
        return struct.unpack_from(">2I", frame, 46)
    mono, old = frame[3] >> 6 == 3, frame[1] >> 3 & 3 != 3
    start = 4 + {(False, False): 32, (True, True): 9}.get((mono, old), 17)
    if frame[start : start + 4] not in (b"Xing", b"Info"):
        return None
    (flags,) = struct.unpack_from(">I", frame, start + 4)
    frames = struct.unpack_from(">I", frame, start + 8)[0] if flags & 1 else 0
    size = struct.unpack_from(">I", frame, start + 8 + 4 * (flags & 1))[0] if flags & 2 else 0
    return size, frames


def _walk(content, offset):
    """The number of frames, and whether the last of them is cut."""
    count = 0
    while True:
        length = _frame_length(content, offset)
        if length is None:
            # Too few bytes for a header, but they begin like one.
            return count, offset < len(content) < offset + 4 and content[offset] == 0xFF
        if offset + length > len(content):
            return count, True
        count += 1
        offset += length


_CHECKS = {
    "AIFF": _chunks,
    "AU": _au,
    "MP3": _frames,
    "OGG": _pages,
    "RF64": _chunks,
    "W64": _wave64,
    "WAV": _chunks,
    "WAVEX": _chunks,
}
