"""What every test shares."""

import signal

import pytest
from matplotlib import pyplot

# A shell starts what it sends to the background with Ctrl-C ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def closed_figures():
    """No test leaves its figures open to the next."""
    yield
    pyplot.close("all")
