"""Splits: those drawn by the clips' names, the same on every machine, and a report of any."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_tune.data.schema import SPLITS, fingerprint
from keras_tune.data.shards import id_hash
from keras_tune.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

# The first digits of a fingerprint distinguish splits; `dataset.json` contains all of them.
DIGITS = 12


def hash_split(keys: Iterable[str], fractions: Sequence[float] = (0.8, 0.1, 0.1)) -> list[str]:
    """Return the split of each key, which follows from its hash.

    A key keeps its split when others are added or removed, and equal keys (clips of one artist)
    share a split. The fractions are exact only on average.

    Args:
        keys: Texts, e.g. ids or artists.
        fractions: Shares of train, valid and test. Defaults to 80, 10 and 10 %.
    """
    edges = np.cumsum(check_fractions(fractions))
    positions = [id_hash(key) / 2**256 for key in keys]
    return [
        SPLITS[int(np.searchsorted(edges[:-1], position, side="right"))] for position in positions
    ]


def stratified_split(
    ids: Sequence[str], strata: Iterable[object], fractions: Sequence[float] = (0.8, 0.1, 0.1)
) -> list[str]:
    """Return the split of each id: all strata are split in the same proportions, by hashes.

    A stratum of three or more has at least one clip in each split whose fraction is not 0.

    Args:
        ids: Unique texts.
        strata: The stratum of each id, e.g. its label.
        fractions: Shares of train, valid and test. Defaults to 80, 10 and 10 %.
    """
    fractions = check_fractions(fractions)
    members = {}
    for position, (clip, stratum) in enumerate(zip(ids, strata, strict=True)):
        members.setdefault(str(stratum), []).append((id_hash(clip), position))
    splits = [""] * len(ids)
    for stratum in members.values():
        held_out = _held_out(len(stratum), fractions)
        names = [
            name for name, count in zip(SPLITS[1:], held_out, strict=True) for _ in range(count)
        ]
        names += ["train"] * (len(stratum) - len(names))
        for name, (_, position) in zip(names, sorted(stratum), strict=True):
            splits[position] = name
    return splits


def check_fractions(fractions: Sequence[float]) -> np.ndarray:
    """Return three fractions as an array; raise a `UserError` unless they sum to 1."""
    shares = np.asarray(fractions, dtype=float)
    if shares.shape != (3,) or (shares < 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise UserError(
            "`fractions` must be three shares that sum to 1: of train, valid and test. "
            f"Received: fractions={list(fractions)}"
        )
    return shares


def sha1_modulo(text: str, modulus: int) -> int:
    """Return the SHA-1 of a text, as an integer, modulo a number."""
    return int(hashlib.sha1(text.encode()).hexdigest(), 16) % modulus


def plain_name(name: str) -> str:
    """Return a name in lower case, with only ASCII letters and single spaces."""
    kept = (sign for sign in name.lower() if sign.isascii() and (sign.isalpha() or sign.isspace()))
    return " ".join("".join(kept).split())


def split_report(manifest: pd.DataFrame) -> str:
    """Describe the splits of a manifest: clips, published clips, fingerprint.

    The fingerprint is a hash over the sorted ids. A warning follows for each count that is not the
    published one, and for each other problem that the adapter found.

    Args:
        manifest: DataFrame as `manifest_for` returns it. Its `attrs` may have `published_counts`,
            a dict from split (or "total" if no split is published) to number of clips, and
            `warnings`, a list of texts.

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


def _held_out(count, fractions):
    """Return how many of `count` clips are valid and test."""
    wanted = [int(fraction * count + 0.5) for fraction in fractions[1:]]
    if count >= 3:
        wanted = [max(n, int(f > 0)) for n, f in zip(wanted, fractions[1:], strict=True)]
    while sum(wanted) > count - (fractions[0] > 0):
        wanted[int(np.argmax(wanted))] -= 1
    return wanted
