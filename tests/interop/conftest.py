import pytest


@pytest.fixture(autouse=True)
def weights_from_files(undrawn_kernels):
    """All encoders here get their weights from files."""
