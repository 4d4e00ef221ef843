"""`dataset.json`, the description of a folder of shards.

A prepared set is a folder of TFRecord shards, `NAME-SPLIT-00003-of-00064.tfrecord`, with one
`dataset.json`, which is written last: a folder without it is not complete. Each record contains one
clip; its features are listed in `keras_tune.data.record_format`.

The labels of a record are stored as one float32 vector, with one entry per label column. A category
is stored as the index of its name in the column's sorted values (missing: -1), a number as itself
(missing: NaN).
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Collection, Iterable

import numpy as np

from keras_tune.errors import UserError
from keras_tune.files import LONGEST_NAME, is_utf8, name_fault, text_fault, write_json
from keras_tune.storage import AnyPath, to_path
from keras_tune.types import SAMPLE_RATES
from keras_tune.version import __version__

SCHEMA_VERSION = 1
FILE_NAME = "dataset.json"
# Folder for the reports of finished shards, which tell a resumed run what was left out.
REPORTS = ".prepare"
ENCODINGS = ("pcm16", "flac", "source")
# The splits that a set is usually divided into; others may have any name.
SPLITS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True)
class LabelColumn:
    """One label of the records.

    Args:
        name: The column's name, e.g. "genre".
        kind: "category" or "number".
        values: The names of the categories, sorted. Defaults to none, for a number.

    Example:

    ```python
    from keras_tune.data import LabelColumn

    LabelColumn("genre", "category", ("jazz", "rock")).decode(1.0)  # "rock"
    ```
    """

    name: str
    kind: str
    values: tuple = ()

    def encode(self, value: str | float | None) -> float:
        """Turn a category's name or a number into the float that is stored."""
        if value is None or value != value:
            return math.nan if self.kind == "number" else -1.0
        return float(value if self.kind == "number" else self.values.index(str(value)))

    def decode(self, value: float) -> str | float | None:
        """Turn the float that is stored into the category's name (or None) or a number."""
        if self.kind == "number":
            return float(value)
        return self.values[int(value)] if 0 <= value < len(self.values) else None


def merged_by_storage(values: Collection[float] | np.ndarray) -> bool:
    """Whether different whole numbers become equal as float32, in which labels are stored.

    Such numbers are names, for example those of a catalogue, and need a column of categories.
    """
    numbers = np.asarray(values)
    if numbers.dtype.kind not in "iu":
        # Integers stay as they are, since large ones are equal in double precision as well.
        numbers = numbers.astype("float64")
        numbers = numbers[~np.isnan(numbers)]
    numbers = np.unique(numbers)
    if (numbers != np.round(numbers)).any():
        return False
    with np.errstate(over="ignore"):
        return len(np.unique(numbers.astype("float32"))) < len(numbers)


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of records.

    Args:
        file: The file's name within the folder.
        split: The split of its records.
        records: Number of its records.
        bytes: The size of the file.
        shortest: Samples of its shortest record at the set's sample rate, 0 without records.
    """

    file: str
    split: str
    records: int
    bytes: int
    shortest: int


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """The description of a prepared set, stored as `dataset.json`.

    Args:
        name: The set's name.
        sample_rate: Samples per second at which its clips are read.
        encoding: How clips are stored: "pcm16", "flac" or "source".
        labels: `LabelColumn` tuple, in the order of the records' label vector. Defaults to none.
        shards: `Shard` tuple. Defaults to none.
        fingerprints: Dict from split to a hash over its sorted ids. Defaults to an empty one.
        failed: Files left out, a dict of `id`, `path` and `reason` each. Defaults to none.
        schema_version: Version of this description. Defaults to the current one.
        keras_tune_version: Version of the package that wrote the set. Defaults to the current one.

    Example:

    ```python
    from keras_tune.data import DatasetInfo, write_demo

    write_demo("demo", num_clips={"train": 8, "test": 8}, seconds=3.0)
    DatasetInfo.load("demo").counts  # {"test": 8, "train": 8}
    ```
    """

    name: str
    sample_rate: int
    encoding: str
    labels: tuple = ()
    shards: tuple = ()
    fingerprints: dict = dataclasses.field(default_factory=dict)
    failed: tuple = ()
    schema_version: int = SCHEMA_VERSION
    keras_tune_version: str = __version__

    @property
    def counts(self) -> dict[str, int]:
        """Records per split, a dict."""
        counts = {}
        for shard in self.shards:
            counts[shard.split] = counts.get(shard.split, 0) + shard.records
        return counts

    def label_column(self, name: str) -> tuple[LabelColumn, int]:
        """Return the `LabelColumn` of that name and its index in the label vector."""
        for index, column in enumerate(self.labels):
            if column.name == name:
                return column, index
        known = ", ".join(column.name for column in self.labels) or "none"
        raise UserError(f"{self.name} has no label {name!r}. Its labels: {known}.")

    def decode_labels(self, vector: Iterable[float]) -> dict:
        """Turn a label vector into a dict from label to the name of a category or a number."""
        return {
            column.name: column.decode(value)
            for column, value in zip(self.labels, vector, strict=True)
        }

    def split_shards(self, split: str) -> list[Shard]:
        """Return the shards of a split; raise a `UserError` if there is no such split."""
        shards = [shard for shard in self.shards if shard.split == split]
        if not sum(shard.records for shard in shards):
            known = ", ".join(sorted(name for name, count in self.counts.items() if count))
            raise UserError(f"{self.name} has no split {split!r}. Its splits: {known or 'none'}.")
        return shards

    def check_splits(self, path: AnyPath, fix: str = "") -> None:
        """Raise a `UserError` that begins with `path` unless train, valid and test have clips."""
        missing = [split for split in SPLITS if not self.counts.get(split)]
        if missing:
            raise UserError(
                f"{path}: needs the splits train, valid and test; it has no {missing[0]}.{fix}"
            )

    def save(self, path: AnyPath) -> None:
        """Write `dataset.json` into the folder `path`, in one step."""
        content = {"counts": self.counts} | dataclasses.asdict(self)
        write_json(to_path(path) / FILE_NAME, content)

    @classmethod
    def load(
        cls, path: AnyPath, check_shards: bool = True, exclude: Collection[str] = ()
    ) -> "DatasetInfo":
        """Read the `dataset.json` of the folder `path` and check the size of its shards.

        Args:
            path: The folder, or its URL in a store.
            check_shards: Whether a shard that is missing or of the wrong size is an error. Defaults
                to True.
            exclude: Names of shards that are not checked. Defaults to none.

        Raises:
            UserError: If the folder is missing, empty or not complete, the version of its
                description is newer, or a shard is missing or has another size than described.
        """
        path = to_path(path)
        content = _read_description(path)
        try:
            version = content["schema_version"]
            if version > SCHEMA_VERSION:
                raise UserError(
                    f"{path / FILE_NAME}: schema version {version} is newer than {SCHEMA_VERSION}, "
                    "the latest that this keras_tune reads. Update keras_tune."
                )
            del content["counts"]
            content["labels"] = tuple(
                LabelColumn(column["name"], column["kind"], tuple(column["values"]))
                for column in content["labels"]
            )
            content["shards"] = tuple(Shard(**shard) for shard in content["shards"])
            content["failed"] = tuple(content["failed"])
            info = cls(**content)
            info._check_types()
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path / FILE_NAME}: not a valid dataset.json ({error}). Run prepare again."
            ) from error
        check_names([shard.split for shard in info.shards], info.labels, path / FILE_NAME)
        for shard in info.shards:
            # It contains the names of the set and of the split, each of which may be that long.
            wrong = name_fault(shard.file, longest=3 * LONGEST_NAME)
            if wrong:
                raise UserError(
                    f"{path / FILE_NAME}: the shard {shard.file!r} {wrong}. Prepare or download "
                    "the set again."
                )
        for shard in info.shards if check_shards else ():
            wrong = None if shard.file in exclude else shard_fault(path, shard)
            if wrong:
                raise UserError(f"{path / shard.file}: {wrong}. Run prepare again to write it.")
        return info

    def _check_types(self):
        """Raise a `TypeError` that names a value of the wrong type."""
        counts = [(shard.records, shard.bytes, shard.shortest) for shard in self.shards]
        texts = [self.name, self.keras_tune_version]
        texts += [text for shard in self.shards for text in (shard.file, shard.split)]
        texts += [text for label in self.labels for text in (label.name, *label.values)]
        texts += [text for item in self.fingerprints.items() for text in item]
        texts += [entry[key] for entry in self.failed for key in ("id", "path", "reason")]
        for value in texts:
            if not isinstance(value, str):
                raise TypeError(f"{value!r} is not a text")
        for value in (number for numbers in counts for number in numbers):
            if type(value) is not int or not 0 <= value < 2**63:
                raise TypeError(f"{value!r} is not a number of records, bytes or samples")
        low, high = SAMPLE_RATES
        if type(self.sample_rate) is not int or not low <= self.sample_rate <= high:
            raise TypeError(f"a sample rate of {self.sample_rate!r} Hz")
        if self.encoding not in ENCODINGS:
            raise TypeError(f"the encoding {self.encoding!r} is unknown")
        for label in self.labels:
            if label.kind not in ("category", "number"):
                raise TypeError(f"the label {label.name!r} is of the kind {label.kind!r}")


def check_names(splits: Iterable[str], labels: Iterable[LabelColumn], where: object) -> None:
    """Raise a `UserError` unless splits can be part of a file's name and labels have valid names.

    The error begins with `where`, the table or file that they are from.
    """
    for split in dict.fromkeys(splits):
        wrong = name_fault(split)
        if wrong:
            raise UserError(f"{where}: the split {str(split)!r} {wrong}. Rename it.")
    for label in labels:
        wrong = text_fault(label.name)
        if wrong:
            raise UserError(f"{where}: the label {str(label.name)!r} {wrong}. Rename it.")
        # Published tables have tabs and line ends in the names of artists.
        if not all(map(is_utf8, label.values)):
            raise UserError(f"{where}: the label {label.name!r} has a value that is not in UTF-8.")
    names = [label.name for label in labels]
    if len(set(names)) < len(names):
        raise UserError(f"{where}: two labels have the same name. Rename one.")


def fingerprint(ids: Iterable[str]) -> str:
    """Hash a collection of ids, whatever their order, to 64 hexadecimal digits."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def _read_description(path):
    if not path.exists():
        raise UserError(f"{path}: no such folder. Give a folder that `prepare` has written.")
    if not path.is_dir():
        raise UserError(f"{path}: not a folder. Give a folder that `prepare` has written.")
    file = path / FILE_NAME
    if not file.is_file():
        if not any(path.iterdir()):
            raise UserError(f"{path}: the folder is empty. Fill it with `prepare`.")
        if (path / REPORTS).is_dir():
            raise UserError(
                f"{path}: contains no {FILE_NAME}, so its preparation is not finished. Run prepare "
                "again: it resumes where it stopped."
            )
        raise UserError(
            f"{path}: contains no {FILE_NAME}, so it is not a prepared set. Give a folder that "
            "`prepare` has written."
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid JSON ({error}). Run prepare again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: not a valid dataset.json. Run prepare again.")
    return content


def shard_fault(path: AnyPath, shard: Shard) -> str | None:
    """Say what is wrong with a shard of the set in `path` that is missing or of the wrong size."""
    file = to_path(path) / shard.file
    if not file.is_file():
        return "the shard is missing"
    size = file.stat().st_size
    return None if size == shard.bytes else f"the shard has {size} bytes instead of {shard.bytes}"
