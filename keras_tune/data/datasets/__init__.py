"""Manifests: the clips of a set, one adapter a file.

A manifest is a DataFrame with a row a clip and the columns `id`, `path`, `split` and one for each
label. `keras_tune.data.prepare` turns it into shards.
"""

import inspect

import lazy_loader

from keras_tune.errors import UserError

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"csv": ["csv_manifest"], "folder": ["folder_manifest"]},
)

DATASETS = ("csv", "folder")


def manifest_for(dataset, source, **options):
    """Build the manifest of a set.

    Args:
        dataset: Name of the adapter: "csv" or "folder".
        source: Where the set lies: the table, or the folder.
        **options: What else the adapter takes, see `csv_manifest` and `folder_manifest`.

    Returns:
        DataFrame with the columns id, path, split and the labels.

    Raises:
        UserError: If there is no such adapter, it does not take an option, or the source is wrong.

    Example:

    ```python
    manifest = manifest_for("csv", "emotify/tracks.csv", label_columns=["genre"])
    ```
    """
    if dataset not in DATASETS:
        raise UserError(f"dataset {dataset!r} is unknown. Give one of: {', '.join(DATASETS)}.")
    adapter = __getattr__(f"{dataset}_manifest")
    unknown = sorted(set(options) - set(inspect.signature(adapter).parameters))
    if unknown:
        raise UserError(f"dataset {dataset!r} takes no option {unknown[0]!r}.")
    return adapter(source, **options)
