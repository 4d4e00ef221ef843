"""Comparing a manifest with the published numbers of its set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_tune.data.schema import SPLITS, fingerprint

if TYPE_CHECKING:
    import pandas as pd

# The first digits of a fingerprint distinguish splits; `dataset.json` contains all of them.
DIGITS = 12


def with_published_counts(manifest: pd.DataFrame, **counts: int) -> pd.DataFrame:
    """Store the published number of clips in each split in a manifest, and return it.

    Args:
        manifest: DataFrame with the column split.
        **counts: Clips in `train`, `valid` and `test`, or in `total` if no split is published.

    Returns:
        The manifest, with the counts in its `attrs`.

    Example:

    ```python
    import pandas as pd
    from keras_tune.data.datasets.published import with_published_counts

    manifest = pd.DataFrame({"id": ["a", "b"], "split": ["train", "test"]})
    manifest = with_published_counts(manifest, train=443, valid=197, test=290)
    ```
    """
    manifest.attrs["published_counts"] = counts
    return manifest


def split_report(manifest: pd.DataFrame) -> str:
    """Describe the splits of a manifest: clips, published clips, fingerprint.

    The fingerprint is a hash over the sorted ids. A warning follows for each count that is not the
    published one, and for each other problem that the adapter found.

    Args:
        manifest: DataFrame as `manifest_for` returns it.

    Returns:
        Text of a few lines.

    Example:

    ```python
    import pandas as pd
    from keras_tune.data.datasets import split_report

    manifest = pd.DataFrame({"id": ["a", "b"], "split": ["train", "test"]})
    print(split_report(manifest))
    ```
    """
    published = manifest.attrs.get("published_counts", {})
    ids = {split: list(rows["id"].astype(str)) for split, rows in manifest.groupby("split")}
    names = [split for split in SPLITS if split in ids or split in published]
    names += sorted(set(ids) - set(names))
    counts = {split: len(ids.get(split, ())) for split in names}
    rows = [("split", "clips", "published", "fingerprint")]
    rows += [
        (
            split,
            f"{counts[split]:,}",
            f"{published[split]:,}" if split in published else "-",
            fingerprint(ids.get(split, ()))[:DIGITS],
        )
        for split in names
    ]
    counts["total"] = len(manifest)
    lines = [f"{name:<8}{count:>9}{of:>11}  {digits}" for name, count, of, digits in rows]
    lines += [
        f"warning: {counts[name]:,} clips in {name} instead of the {count:,} published"
        for name, count in published.items()
        if counts[name] != count
    ]
    lines += [f"warning: {text}" for text in manifest.attrs.get("warnings", ())]
    return "\n".join(lines)
