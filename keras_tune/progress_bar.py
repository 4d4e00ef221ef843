"""Progress bars on terminals, and lines with the time left in log files."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

# Seconds between two lines in a log file. Shorter work gives no line.
INTERVAL = 60.0


def progress_bar(total: int, title: str, unit: str = "clip", shown: bool = True) -> tqdm:
    """Make a tqdm bar on standard error; where that is no terminal, it prints a line a minute.

    Args:
        total: Integer, the number of units.
        title: String, what is done.
        unit: String. Defaults to "clip".
        shown: Whether to show anything. Defaults to True.

    Returns:
        A tqdm bar, a context manager.
    """
    from tqdm import tqdm

    if not shown or sys.stderr.isatty():
        return tqdm(total=total, desc=title, unit=unit, disable=not shown)
    return tqdm(
        total=total,
        desc=title,
        unit=unit,
        file=_Lines(sys.stderr),
        delay=INTERVAL,
        mininterval=INTERVAL,
        maxinterval=INTERVAL,
        bar_format="{desc}: {n_fmt} of {total_fmt} {unit}s, about {remaining} left",
    )


class _Lines:
    """A text stream on which every state of a bar is a line of its own."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            print(text, file=self.stream, flush=True)

    def flush(self) -> None:
        self.stream.flush()
