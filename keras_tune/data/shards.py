"""Writing one shard of records: the unit of work of a preparation.

A shard depends only on the manifest and the settings, so it does not matter which process writes
it, how many there are, or how often the work was interrupted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keras_tune.data.audio import (
    AudioError,
    checked,
    decode_audio,
    read_bytes,
    resample,
    to_flac,
    to_int16,
)
from keras_tune.data.record_format import Record
from keras_tune.data.schema import ENCODINGS, REPORTS, Shard
from keras_tune.errors import UserError
from keras_tune.files import atomic_path, remove_leftovers, write_json
from keras_tune.storage import file_stamp, import_tensorflow, to_path
from keras_tune.types import DEFAULT_SAMPLE_RATE, SAMPLE_RATES

if TYPE_CHECKING:
    import pandas as pd

# What `encoding="source"` supports, by libsndfile's names of format and subtype.
SOURCE_ENCODINGS = {
    ("FLAC", "PCM_16"): "flac",
    ("FLAC", "PCM_24"): "flac24",
    ("MP3", "MPEG_LAYER_III"): "mp3",
    ("OGG", "OPUS"): "opus",
    ("OGG", "VORBIS"): "vorbis",
    ("WAV", "FLOAT"): "wav_float",
    ("WAV", "PCM_16"): "wav",
    ("WAV", "PCM_24"): "wav24",
}

# 64 bits. In a set of a million recordings, two share them by chance with a probability of 3e-8.
DIGEST_DIGITS = 16


@dataclasses.dataclass(frozen=True)
class ShardSettings:
    """How the shards of a set are written.

    Args:
        output: The set's folder, or its URL in a store.
        name: The set's name, the first part of the shards' file names.
        sample_rate: Samples per second of the set. Defaults to 22,050.
        encoding: "pcm16", "flac" or "source". Defaults to "pcm16".
        min_samples: The fewest samples, at `sample_rate`, that a clip may have. Defaults to 1.
        labels: `LabelColumn` tuple. Defaults to none.

    Raises:
        UserError: If shards cannot have such a sample rate or encoding.

    Example:

    ```python
    from keras_tune.data import ShardSettings

    ShardSettings("tfrecords/mine", "mine", sample_rate=16000).encoding  # "pcm16"
    ```
    """

    output: str
    name: str
    sample_rate: int = DEFAULT_SAMPLE_RATE
    encoding: str = "pcm16"
    min_samples: int = 1
    labels: tuple = ()

    def __post_init__(self):
        low, high = SAMPLE_RATES
        if not low <= self.sample_rate <= high:
            raise UserError(
                f"`sample_rate` must lie between {low:,} and {high:,}. "
                f"Received: sample_rate={self.sample_rate}"
            )
        if self.encoding not in ENCODINGS:
            raise UserError(
                "`encoding` must be 'pcm16', 'flac' or 'source'. "
                f"Received: encoding={self.encoding}"
            )


@dataclasses.dataclass(frozen=True)
class ShardReport:
    """The result of writing a shard.

    Args:
        shard: The `Shard` written.
        ids: The ids of its records, in order.
        failed: Files left out, a dict of `id`, `path` and `reason` each.
        stamps: Dict from the id of a clip to its file's size and modification time (see
            `file_stamp`), None if the file was missing. Defaults to None, as in reports of an
            earlier version.
        digests: Dict from the id of a record to a hash of its audio as stored, which tells copies.
            Defaults to None, as in reports of an earlier version.
    """

    shard: Shard
    ids: tuple
    failed: tuple
    stamps: dict | None = None
    digests: dict | None = None


def write_shard(
    manifest: pd.DataFrame, split: str, shard: int, of: int, settings: ShardSettings
) -> ShardReport:
    """Write one shard of a split, unless it exists already and was made from the same files.

    The records of a split are distributed to its shards in the order of a hash of their ids, so
    that each shard is a random sample of the split, however the manifest is sorted. The file gets
    its name only once it is complete. Files that cannot be used are left out and reported.

    A finished shard is written again if one of its files has changed since, in size or modification
    time, or if a file that was left out would not be left out again for the same reason. Files that
    have been removed since are ignored. The reports of earlier versions contain no sizes and times:
    for these, a file counts as changed if it is newer than the report.

    Args:
        manifest: DataFrame with the columns `id`, `path`, `split` and one for each label. If it
            has both `start` and `duration`, a row with these (in seconds) is that part of its file,
            and a row without them is the whole file.
        split: The split of the shard.
        shard: Number of the shard, from 0.
        of: Number of shards of the split.
        settings: `ShardSettings`.

    Returns:
        `ShardReport`.

    Raises:
        UserError: If TensorFlow is not installed, or the shard cannot be written.

    Example:

    ```python
    import pathlib
    import numpy as np
    import soundfile
    from keras_tune.data import ShardSettings, manifest_for, write_shard

    pathlib.Path("genres/jazz").mkdir(parents=True, exist_ok=True)
    for number in range(10):
        noise = np.random.default_rng(number).normal(0, 0.1, 22050)
        soundfile.write(f"genres/jazz/{number}.wav", noise, 22050)
    manifest = manifest_for("folder", "genres", label="genre")
    settings = ShardSettings(output="tfrecords/genres", name="genres")
    for shard in range(2):
        write_shard(manifest, "train", shard, 2, settings)
    ```
    """
    file, report_file = _files(split, shard, of, settings)
    rows = rows_of(manifest, split, shard, of)
    report = finished_report(split, shard, of, settings)
    if report is not None and _is_current(report, report_file, rows, settings):
        return report
    tf = import_tensorflow()
    remove_leftovers(file)
    try:
        with atomic_path(file) as temporary:
            # Before the files are read, so that a change in between is noticed.
            stamps = {str(row["id"]): file_stamp(to_path(row["path"])) for row in rows}
            digests, failed, shortest = _write_records(tf, temporary, rows, settings)
            size = temporary.stat().st_size
    except tf.errors.OpError as error:
        # TensorFlow reports a full disk with its own error.
        raise UserError(
            f"{file}: cannot be written ({error.message}). Fix that and run prepare again: it "
            "resumes where it stopped."
        ) from error
    description = Shard(file.name, split, len(digests), size, shortest or 0)
    report = ShardReport(description, tuple(digests), tuple(failed), stamps, digests)
    write_json(report_file, dataclasses.asdict(report))
    return report


def _write_records(tf, path, rows, settings):
    """Write the rows that can be used.

    Returns a dict from their ids to hashes of their audio, the others, and the fewest samples.
    """
    digests, failed, shortest = {}, [], None
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in rows:
            try:
                record, samples = _record(row, settings)
            except AudioError as error:
                failed.append({"id": row["id"], "path": row["path"], "reason": error.reason})
                continue
            writer.write(record.serialize(tf))
            digests[record.id] = hashlib.sha256(record.audio).hexdigest()[:DIGEST_DIGITS]
            shortest = samples if shortest is None else min(shortest, samples)
    return digests, failed, shortest


def id_hash(text: object) -> int:
    """Hash a text to an integer of 256 bits, the same on every machine."""
    return int.from_bytes(hashlib.sha256(str(text).encode()).digest(), "big")


def finished_report(split: str, shard: int, of: int, settings: ShardSettings) -> ShardReport | None:
    """Return the `ShardReport` of a shard, None if it has not been written."""
    file, report_file = _files(split, shard, of, settings)
    if not (file.is_file() and report_file.is_file()):
        return None
    try:
        content = json.loads(report_file.read_text(encoding="utf-8"))
        ids, failed = tuple(content["ids"]), tuple(content["failed"])
        later = {key: content.get(key) for key in ("stamps", "digests")}
        report = ShardReport(Shard(**content["shard"]), ids, failed, **later)
        whole = (file.name, split, len(ids), file.stat().st_size)
        found = report.shard
        if (found.file, found.split, found.records, found.bytes) != whole:
            return None
        if report.digests is not None and dict(report.digests).keys() != set(ids):
            return None
    except (ValueError, KeyError, TypeError, RecursionError):
        # Damaged.
        return None
    return report


def _is_current(report, report_file, rows, settings):
    """Whether a finished shard is the same as one that would be written now."""
    reasons = {entry["id"]: entry["reason"] for entry in report.failed}
    written = None if report.stamps is not None else report_file.stat().st_mtime_ns
    for row in rows:
        stamp = file_stamp(to_path(row["path"]))
        if stamp is None:
            # The disk may be offline now; the shard must not be rewritten without its clips.
            continue
        if row["id"] in reasons:
            if _reason(row, settings) != reasons[row["id"]]:
                return False
        elif written is not None:
            if stamp[1] > written:
                return False
        elif report.stamps.get(str(row["id"])) != stamp:
            return False
    return True


def _reason(row, settings):
    """Why a file cannot be used, None if it can."""
    try:
        _record(row, settings)
    except AudioError as error:
        return error.reason
    return None


def _files(split, shard, of, settings):
    """Return the paths of a shard and its report."""
    output = to_path(settings.output)
    stem = f"{settings.name}-{split}-{shard:05d}-of-{of:05d}"
    return output / f"{stem}.tfrecord", output / REPORTS / f"{stem}.json"


def rows_of(manifest: pd.DataFrame, split: str, shard: int, of: int) -> list[dict]:
    """Return the rows of a shard, as dicts, in the order of a hash of their ids."""
    rows = manifest[manifest["split"] == split]
    hashes = [id_hash(clip) for clip in rows["id"]]
    # By position: a manifest that was put together of several may have an index with repetitions.
    order = sorted(range(len(rows)), key=hashes.__getitem__)
    return rows.iloc[order[shard::of]].to_dict("records")


def _record(row, settings):
    path = row["path"]
    part = part_of(row)
    content = read_bytes(path)
    samples, rate = decode_audio(content, path, **part, whole=not part)
    resampled = resample(samples, rate, settings.sample_rate)
    checked(resampled, path, settings.sample_rate, settings.min_samples)
    if settings.encoding == "source":
        if part:
            raise AudioError(
                path, "encoding source cannot store a part of a file; use pcm16 or flac"
            )
        audio, encoding, count = content, _source_encoding(content, path), len(samples)
    else:
        pcm = to_int16(resampled)
        encoding, rate, count = settings.encoding, settings.sample_rate, len(pcm)
        audio = to_flac(pcm, rate) if encoding == "flac" else pcm.astype("<i2").tobytes()
    labels = tuple(column.encode(row[column.name]) for column in settings.labels)
    record = Record(str(row["id"]), audio, encoding, rate, count, labels, row["split"])
    return record, len(resampled)


def part_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the start and duration of a row as a dict, empty for the whole file."""
    part = {name: row[name] for name in ("start", "duration") if name in row}
    # A missing value of a column of numbers is NaN, which does not equal itself.
    whole = len(part) < 2 or any(value is None or value != value for value in part.values())
    return {} if whole else part


def _source_encoding(content, path):
    import soundfile

    info = soundfile.info(io.BytesIO(content))
    try:
        return SOURCE_ENCODINGS[info.format, info.subtype]
    except KeyError:
        raise AudioError(
            path, f"encoding source cannot store {info.format} {info.subtype}; use pcm16 or flac"
        ) from None
