"""Bars on terminals, lines in log files."""

import re
import sys

import pytest

from keras_tune import progress_bar as module
from keras_tune.progress_bar import progress_bar

pytestmark = pytest.mark.one_backend


def test_a_log_file_gets_lines_with_the_time_left(monkeypatch, capsys):
    monkeypatch.setattr(module, "INTERVAL", 1e-9)
    with progress_bar(4, "embedding") as bar:
        for _ in range(4):
            bar.update(1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 4 and "\r" not in "".join(lines)
    for line in lines:
        assert re.fullmatch(r"embedding: \d of 4 clips, about [\d:?]+ left", line), line


def test_short_work_leaves_no_line(capsys):
    with progress_bar(2, "embedding") as bar:
        bar.update(2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("shown", [True, False])
def test_a_terminal_gets_a_bar(monkeypatch, capsys, shown):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bar(2, "embedding", shown=shown) as bar:
        bar.update(2)
    written = capsys.readouterr().err
    assert ("\rembedding: 100%" in written) == shown
