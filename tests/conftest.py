import pathlib

import pytest

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "shared" / "golden"


@pytest.fixture(scope="session")
def golden():
    """The folder of reference outputs; not part of the project, so absent on most machines."""
    if not GOLDEN.is_dir():
        pytest.skip("the golden outputs of the reference modules are not on this machine")
    return GOLDEN
