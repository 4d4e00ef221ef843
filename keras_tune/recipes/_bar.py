"""The progress bar of a command line."""

import sys


def progress_bar(total, title, unit="clip", shown=None):
    """A tqdm bar on standard error, for a terminal only unless `shown` says otherwise.

    Args:
        total: Integer, the number of units.
        title: String.
        unit: String. Defaults to "clip".
        shown: Whether to show it. Defaults to None: if standard error is a terminal.

    Returns:
        A tqdm bar, a context manager.
    """
    from tqdm import tqdm

    shown = sys.stderr.isatty() if shown is None else shown
    return tqdm(total=total, desc=title, unit=unit, disable=not shown)
