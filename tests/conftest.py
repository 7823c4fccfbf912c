"""What every test shares."""

import signal

import pytest
from matplotlib import pyplot

# A shell ignores Ctrl-C for what it sends to the background, nohup a closed terminal, and children
# inherit that. The tests send these signals and want them to arrive.
for name in ("SIGINT", "SIGHUP"):
    number = getattr(signal, name, None)  # Windows has no SIGHUP
    if number and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)


@pytest.fixture(autouse=True)
def closed_figures():
    """No test leaves its figures open to the next."""
    yield
    pyplot.close("all")
