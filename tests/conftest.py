"""What every test shares."""

import pytest
from matplotlib import pyplot


@pytest.fixture(autouse=True)
def closed_figures():
    """No test leaves its figures open to the next."""
    yield
    pyplot.close("all")
