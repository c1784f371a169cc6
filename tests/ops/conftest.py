import pytest


@pytest.fixture(autouse=True)
def _strict(strict):
    """Everything in this room runs under strict promotion."""
