"""Ctrl-C and SIGTERM that wait until a step is finished."""

import contextlib
import signal
from collections.abc import Iterator

from common import parallel


class Stopped(Exception):
    """A signal has ended the run after its state was saved: one line, and status 128 + signal."""

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.status = 128 + signal


@contextlib.contextmanager
def noted() -> Iterator[list[int]]:
    """Inside the `with`, the first SIGINT or SIGTERM is put on the list that this yields and does
    nothing else; the next one acts at once, as it did before."""
    seen: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, action in before.items():
            signal.signal(number, action)

    def note(number: int, frame) -> None:
        seen.append(int(number))
        if not parallel.started():  # torchrun repeats what the terminal has sent
            restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield seen
    finally:
        restore()
