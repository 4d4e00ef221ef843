"""Preparing a whole set: all the shards of a manifest, and then its `dataset.json`."""

import concurrent.futures
import functools
import hashlib
import json
import math
import multiprocessing
import os
import pathlib
import signal
import sys
import warnings
from collections.abc import Sequence

import pandas as pd

from keras_tune.data.audio import UNKNOWN_FRAMES
from keras_tune.data.schema import (
    FILE_NAME,
    REPORTS,
    DatasetInfo,
    LabelColumn,
    check_names,
    fingerprint,
    merged_by_storage,
)
from keras_tune.data.shards import (
    ShardSettings,
    finished_report,
    part_of,
    rows_of,
    write_shard,
)
from keras_tune.errors import UserError
from keras_tune.files import (
    atomic_path,
    is_utf8,
    name_fault,
    remove_leftovers,
    text_fault,
    write_json,
)
from keras_tune.progress_bar import progress_bar
from keras_tune.storage import AnyPath, begin_child_process, is_url, to_path
from keras_tune.types import DEFAULT_SAMPLE_RATE

# Shards of about this size are read fast from disks and object stores.
SHARD_BYTES = 256 * 2**20
# Several files are read at a time, which is a part of the shuffling.
MIN_SHARDS = 8
# Durations are estimated from this many files per split.
SIZE_SAMPLE = 64


class LeftOutError(UserError):
    """Files were left out of a set, and `strict` does not allow that.

    Args:
        output: The set's folder.
        failed: The files, a dict of `id`, `path` and `reason` each.

    Attributes:
        failed: The same.
    """

    def __init__(self, output, failed):
        self.failed = failed
        super().__init__(
            f"{output}: {describe_failed(failed)} Fix or remove them, or run without `strict`."
        )


def prepare(
    manifest: pd.DataFrame,
    output: AnyPath,
    name: str | None = None,
    sample_rate: int = DEFAULT_SAMPLE_RATE,
    encoding: str = "pcm16",
    shards: int | None = None,
    workers: int | None = None,
    strict: bool = False,
    min_samples: int = 1,
    progress: bool = True,
    runner: str = "processes",
    beam_options: Sequence[str] = (),
) -> DatasetInfo:
    """Write a manifest's clips as shards of TFRecords.

    A run that was killed resumes where it stopped when it is started again with the same arguments;
    complete shards are not written again, unless one of their files has changed (in size or
    modification time) or can be used now; see `write_shard`. The bytes written depend only on the
    manifest and the settings, not on the number of processes. A warning is issued if clips in
    different splits have exactly the same audio.

    Args:
        manifest: DataFrame with the columns `id`, `path`, `split` and any label columns, as
            `keras_tune.data.datasets.manifest_for` builds it. Columns of numbers become numbers,
            others categories. Where `start` and `duration` (seconds) are given, a clip is that part
            of its file.
        output: Folder to write to, or a URL in a store.
        name: The set's name. Defaults to the folder's name.
        sample_rate: Samples per second of the set. Defaults to 22,050.
        encoding: "pcm16" for 16-bit samples, "flac" for the same losslessly compressed, "source"
            for the bytes of the source files. Defaults to "pcm16".
        shards: Number of shards of each split, at most one per clip. Defaults to as many as give
            files of about 256 MB, and at least 8.
        workers: Number of processes. Defaults to one per processor. A script that uses more than
            one needs the usual `if __name__ == "__main__":`.
        strict: Whether to raise an error if files are left out. Defaults to False.
        min_samples: The fewest samples, at `sample_rate`, that a clip may have. Defaults to 1.
        progress: Whether to show a progress bar. Defaults to True.
        runner: "processes" of this machine, or "beam" for Apache Beam, which has no progress bar
            and ignores `workers`. Its workers must see the audio files and the output folder under
            the same paths, and have keras_tune installed. Defaults to "processes".
        beam_options: Beam's own options, as on its command line, e.g. ["--runner=FlinkRunner",
            "--flink_master=localhost:8081"]. Defaults to none: the runner in this process.

    Returns:
        `DatasetInfo`.

    Raises:
        UserError: If the manifest is not valid, the folder contains records of other settings, or
            no clip can be read.
        LeftOutError: With `strict`, if any clip cannot be read. The shards are written, but not
            `dataset.json`, so the set cannot be opened.

    Example:

    ```python
    import pathlib
    import numpy as np
    import soundfile
    from keras_tune.data import manifest_for, prepare

    pathlib.Path("genres/jazz").mkdir(parents=True, exist_ok=True)
    for number in range(10):
        noise = np.random.default_rng(number).normal(0, 0.1, 22050)
        soundfile.write(f"genres/jazz/{number}.wav", noise, 22050)
    manifest = manifest_for("folder", "genres", label="genre")
    info = prepare(manifest, "tfrecords/genres", workers=1, progress=False)
    ```
    """
    if runner not in ("processes", "beam"):
        raise UserError(f"`runner` must be 'processes' or 'beam'. Received: runner={runner}")
    for key, value in (("shards", shards), ("workers", workers)):
        if value is not None and value < 1:
            raise UserError(f"`{key}` must be positive. Received: {key}={value}")
    # An index may repeat itself or be called like a column, and a column may be called by a number.
    manifest = manifest.rename(columns=str).reset_index(drop=True)
    _check_manifest(manifest)
    output = to_path(output)
    given, name = name is not None, output.resolve().name if name is None else name
    wrong = name_fault(name)
    if wrong and given:
        raise UserError(f"`name` {wrong}; choose another. Received: name={name}")
    if wrong:
        raise UserError(f"{output}: the last part of the path {wrong}. Give the set a `name`.")
    texts = {key: manifest[key].astype(str) for key in ("id", "path", "split")}
    # Times may be texts, from a table that was read as such.
    times = {key: manifest[key].astype(float) for key in ("start", "duration") if key in manifest}
    manifest = manifest.assign(**texts, **times)
    labels = label_columns(manifest)
    check_names(manifest["split"], labels, "the manifest")
    settings = ShardSettings(str(output), name, sample_rate, encoding, min_samples, labels)
    if runner == "processes" and not output.is_dir():
        _check_any_file(manifest["path"])
    plan = _agreed_plan(manifest, settings, shards)
    tasks = [(split, shard, of) for split, of in plan.items() for shard in range(of)]
    workers = min(workers or _processors(), len(tasks))
    if runner == "beam":
        reports = _write_on_beam(manifest, tasks, settings, beam_options)
    else:
        reports = _write_in_processes(manifest, tasks, settings, workers, progress)
    failed = tuple(entry for report in reports for entry in report.failed)
    if not any(report.ids for report in reports):
        raise UserError(f"{output}: no clip could be used. {describe_failed(failed)}")
    ids = {split: [] for split in plan}
    for report in reports:
        ids[report.shard.split].extend(report.ids)
    info = DatasetInfo(
        name=name,
        sample_rate=sample_rate,
        encoding=encoding,
        labels=labels,
        shards=tuple(report.shard for report in reports),
        fingerprints={split: fingerprint(of_split) for split, of_split in ids.items()},
        failed=failed,
    )
    if strict and failed:
        # The description of an earlier run without `strict` may not match the shards.
        (output / FILE_NAME).unlink(missing_ok=True)
        raise LeftOutError(output, failed)
    # From a run that was killed while it wrote this file.
    remove_leftovers(output / FILE_NAME)
    info.save(output)
    _warn_of_copies(output, reports)
    return info


def _warn_of_copies(output, reports):
    """Warn if the same audio is in several splits, e.g. of a song that is on two albums."""
    clips = {}
    for report in reports:
        for clip, digest in (report.digests or {}).items():
            clips.setdefault(digest, {}).setdefault(report.shard.split, clip)
    copies = [by_split for by_split in clips.values() if len(by_split) > 1]
    if copies:
        first, second = [f"{clip} ({split})" for split, clip in copies[0].items()][:2]
        subject = "recording is" if len(copies) == 1 else "recordings are"
        warnings.warn(
            f"{output}: {len(copies)} {subject} in several splits, so scores can be too high: "
            f"{first} has the same audio as {second}. Keep one of each, or put copies in one split",
            stacklevel=3,
        )


def label_columns(manifest):
    """List the `LabelColumn` of each label in a manifest."""
    columns = []
    for name in manifest.columns:
        if name in ("id", "path", "split", "start", "duration"):
            continue
        numbers = pd.api.types.is_numeric_dtype(manifest[name])
        if numbers and not merged_by_storage(manifest[name].dropna().to_numpy()):
            columns.append(LabelColumn(name, "number"))
        else:
            # As `LabelColumn.encode` has them; `astype` would write dates in another way.
            values = sorted({str(value) for value in manifest[name].dropna()})
            columns.append(LabelColumn(name, "category", tuple(values)))
    return tuple(columns)


def describe_failed(failed):
    """Say in one sentence how many files were left out, naming the first."""
    first = failed[0]
    others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return f"Left out: {first['path']}: {first['reason']}{others}."


def _processors():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _check_manifest(manifest):
    missing = {"id", "path", "split"} - set(manifest.columns)
    if missing:
        raise UserError(f"the manifest has no column {', '.join(sorted(missing))}.")
    if not len(manifest):
        raise UserError("the manifest lists no clip.")
    for column in ("id", "path", "split"):
        if manifest[column].isna().any():
            raise UserError(f"the manifest's column {column} has empty cells. Fill them in.")
        for text in map(str, manifest[column]):
            # From a file whose name is in another encoding, which pandas does not support.
            if not is_utf8(text):
                raise UserError(f"the manifest's {column} {text!a} is not in UTF-8. Rename it.")
    ids = manifest["id"].astype(str)
    doubles = ids[ids.duplicated()]
    if len(doubles):
        raise UserError(
            f"{len(doubles)} ids occur more than once, among them {doubles.iloc[0]!r}. The ids of "
            "the manifest must be unique."
        )
    for text in ids:
        wrong = text_fault(text)
        if wrong:
            raise UserError(f"the manifest's id {text!r} {wrong}. Rename it.")
    for column in manifest.columns[manifest.columns != "id"]:
        values = manifest[column]
        if column in ("start", "duration"):
            numbers = values.dropna()
            try:
                fit = (numbers.astype(float).between(0, 1e9)).all()
            except (TypeError, ValueError):
                fit = False
            if not fit:
                raise UserError(
                    f"the manifest's column {column} must contain times in seconds. Fix it, or "
                    "rename the column."
                )
        elif values.dtype.kind == "f" and (values.abs() == math.inf).any():
            raise UserError(
                f"the manifest's column {column} contains infinity, which is not a label. Fix it."
            )


def _check_any_file(paths):
    """Raise an error if no file of a manifest exists, as when it is of another folder."""
    if not any(is_url(path) or os.path.exists(path) for path in paths):
        raise UserError(
            f"none of the {len(paths)} files exists; the first is {paths.iloc[0]}. "
            "Check the source folder."
        )


def _agreed_plan(manifest, settings, shards):
    """Return the number of shards of each split, as chosen by the folder's first run."""
    output = to_path(settings.output)
    file = output / REPORTS / "settings.json"
    wanted = {
        "name": settings.name,
        "sample_rate": settings.sample_rate,
        "encoding": settings.encoding,
        "min_samples": settings.min_samples,
        "manifest": _manifest_hash(manifest),
    }
    if not file.is_file():
        if output.is_dir() and any(path.suffix == ".tfrecord" for path in output.iterdir()):
            raise UserError(
                "`output` already contains TFRecords with unknown settings; choose another "
                f"folder. Received: output={output}"
            )
        counts = manifest["split"].value_counts().sort_index()
        plan = {
            split: max(1, min(count, shards or _default_shards(manifest, split, settings)))
            for split, count in counts.items()
        }
        write_json(file, wanted | {"asked": shards, "shards": plan})
        return plan
    there = _read_settings(file, {*wanted, "asked", "shards"})
    if shards is not None:
        wanted["asked"] = shards
    for key, value in wanted.items():
        if there[key] != value:
            difference = {
                "manifest": "another source, or other labels or splits",
                "asked": f"another number of shards ({there[key] or 'the default'}, not {value})",
            }.get(key, f"another {key} ({there[key]}, not {value})")
            raise UserError(
                f"`output` was prepared from {difference}; choose another folder, or "
                f"delete this one. Received: output={output}"
            )
    return there["shards"]


def _read_settings(file, keys):
    try:
        there = json.loads(file.read_text(encoding="utf-8"))
        counts = there["shards"].values()
        if keys <= set(there) and all(type(of) is int and of > 0 for of in counts):
            return there
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise UserError(f"{file}: damaged. Choose another `output`, or delete this folder.")


def _manifest_hash(manifest):
    # Without the folders: audio files that were moved are still the same source.
    rows = manifest.assign(path=[pathlib.PurePath(path).name for path in manifest["path"]])
    rows = rows.sort_values("id")
    return hashlib.sha256(rows.to_csv(index=False).encode()).hexdigest()


def _default_shards(manifest, split, settings):
    import soundfile

    rows = rows_of(manifest, split, 0, 1)
    sizes = []
    for row in rows[:SIZE_SAMPLE]:
        try:
            path = to_path(row["path"])
            if settings.encoding == "source":
                sizes.append(path.stat().st_size)
            else:
                seconds = part_of(row).get("duration")
                if seconds is None:
                    with path.open("rb") as content:
                        info = soundfile.info(content)
                    if info.frames >= UNKNOWN_FRAMES:
                        continue
                    seconds = info.duration
                sizes.append(seconds * settings.sample_rate * 2)
        except (OSError, RuntimeError, UserError):
            continue  # write_shard reports it
    size = sum(sizes) / max(1, len(sizes)) * len(rows)
    return max(MIN_SHARDS, math.ceil(size / SHARD_BYTES))


def _write_in_processes(manifest, tasks, settings, workers, progress):
    """Write all shards and return their reports in the order of `tasks`."""
    reports = {}
    with progress_bar(len(manifest), "preparing", shown=progress) as bar:

        def done(task, report):
            reports[task] = report
            bar.update(len(report.ids) + len(report.failed))

        if workers == 1:
            for task in tasks:
                done(task, write_shard(manifest, *task, settings))
            return [reports[task] for task in tasks]
        workers = worker_count(workers)
        # TensorFlow does not work after a fork, so workers are new processes.
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(
            workers, context, initializer=_start_worker, initargs=(manifest, settings)
        ) as pool:
            futures = {pool.submit(_write_one, task): task for task in tasks}
            try:
                for future in concurrent.futures.as_completed(futures):
                    done(futures[future], future.result())
            except concurrent.futures.process.BrokenProcessPool as error:
                raise UserError(
                    f"{settings.output}: a worker process died (out of memory?). Run again, with "
                    "fewer `workers`: it resumes where it stopped."
                ) from error
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return [reports[task] for task in tasks]


def worker_count(workers):
    """Return a number of processes, at most as many as the system lets Python wait for."""
    return min(workers, 61) if sys.platform == "win32" else workers


_worker = {}


def _start_worker(manifest, settings):
    _worker.update(manifest=manifest, settings=settings)
    # If the main process is killed, this one would wait for tasks forever.
    begin_child_process()
    # Ctrl-C reaches all processes of a terminal, but only the main process handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write_one(task):
    return write_shard(_worker["manifest"], *task, _worker["settings"])


def _write_on_beam(manifest, tasks, settings, options):
    """Write all shards on a Beam runner and return their reports in the order of `tasks`."""
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(
            "`runner` needs Apache Beam: pip install 'keras_tune[beam]'. Received: runner=beam"
        ) from error
    # One file for all workers, because a manifest is too large for a pipeline's description.
    file = to_path(settings.output) / REPORTS / "manifest.pickle"
    with atomic_path(file) as temporary:
        manifest.to_pickle(temporary)
    try:
        with apache_beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
            _ = (
                pipeline
                | "shards" >> apache_beam.Create(tasks)
                | "distribute" >> apache_beam.Reshuffle()
                | "write" >> apache_beam.Map(_write_one_on_beam, str(file), settings)
            )
    except Exception as error:
        # Every runner has its own exceptions, which contain those of the workers as text.
        raise UserError(
            f"{settings.output}: the pipeline failed ({error}). Run again: it resumes where it "
            "stopped."
        ) from error
    file.unlink()
    return [finished_report(*task, settings) for task in tasks]


def _write_one_on_beam(task, manifest_file, settings):
    write_shard(_read_manifest(manifest_file), *task, settings)


@functools.lru_cache(maxsize=1)
def _read_manifest(file):
    with to_path(file).open("rb") as content:
        return pd.read_pickle(content)
