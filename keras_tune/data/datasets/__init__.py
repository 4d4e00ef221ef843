"""Manifests: the clips of a set, with one adapter per file.

A manifest is a DataFrame with one row per clip and the columns `id`, `path`, `split` and one for
each label. `keras_tune.data.prepare` turns it into shards. Some columns mean the same in all sets:

- `start` and `duration` (seconds, always both): the clip is that part of its file.
- `song`: clips with the same value are of one song, so that their predictions can be combined and
  intervals resampled over songs. Without it, each clip is a song.
- `artist`: clips that the folds of a small set should keep together.

Each adapter reads the layout of a set's unpacked archives, offline. Its header states the citation,
the licence, where to get the set, the layout, and the source of the split. mirdata is not used for
this: its indexes are not part of its package but downloaded on first use, they expect the layout of
mirdata's own downloads and contain no splits for these tasks, and of the sets here it has only
three (GTZAN, the later Zenodo edition of GiantSteps key, and McGill Billboard).
"""

import inspect
from typing import TYPE_CHECKING, Any

import lazy_loader

from keras_tune.errors import UserError
from keras_tune.storage import AnyPath

if TYPE_CHECKING:
    import pandas as pd

# The names of the adapters. The adapter NAME is the function NAME_manifest in the module NAME.
DATASETS = (
    "csv",
    "folder",
    "debian_music",
    "emomusic",
    "fma",
    "giantsteps_key",
    "gtzan",
    "magnatagatune",
    "mcgill_billboard",
)

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={name: [f"{name}_manifest"] for name in DATASETS} | {"splits": ["split_report"]},
)


def manifest_for(dataset: str, source: AnyPath, **options: Any) -> "pd.DataFrame":
    """Build the manifest of a set.

    Args:
        dataset: Name of the adapter, one of `DATASETS`: "csv", "folder", "magnatagatune", …
        source: Path of the set: the table, or the folder.
        **options: Other arguments of the adapter; see `csv_manifest`, `folder_manifest` and so on.

    Returns:
        DataFrame with the columns id, path, split and the labels. `split_report` compares
        the numbers of clips with those published.

    Raises:
        UserError: If there is no such adapter, it has no such option, or the source is wrong.

    Example:

    ```python
    import pathlib
    import numpy as np
    import soundfile
    from keras_tune.data import manifest_for

    pathlib.Path("genres/jazz").mkdir(parents=True, exist_ok=True)
    for number in range(10):
        noise = np.random.default_rng(number).normal(0, 0.1, 22050)
        soundfile.write(f"genres/jazz/{number}.wav", noise, 22050)
    manifest = manifest_for("folder", "genres", label="genre")
    ```
    """
    if dataset not in DATASETS:
        raise UserError(
            f"`dataset` must be one of {', '.join(DATASETS)}. Received: dataset={dataset}"
        )
    adapter = __getattr__(f"{dataset}_manifest")
    unknown = sorted(set(options) - set(inspect.signature(adapter).parameters))
    if unknown:
        name = unknown[0]
        raise UserError(
            f"`{name}` is not an option of the dataset {dataset!r}. "
            f"Received: {name}={options[name]}"
        )
    return adapter(source, **options)
