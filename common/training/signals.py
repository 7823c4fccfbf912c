"""Ctrl-C and SIGTERM that wait until a step is finished."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from . import parallel


class Stopped(Exception):
    """A signal has ended the run after its state was saved: one line, and status 128 + signal."""

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.status = 128 + signal


@contextlib.contextmanager
def deferred() -> Iterator[list[int]]:
    """Inside the `with`, the first SIGINT or SIGTERM is put on the list that this yields and does
    nothing else; the next one acts at once, as it did before. In another thread than the main one,
    which alone may say what signals do, they stay as they are."""
    received: list[int] = []
    alone = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if alone else ()
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, action in before.items():
            signal.signal(number, action)

    def receive(number: int, _frame) -> None:
        received.append(int(number))
        if not parallel.started():  # torchrun repeats what the terminal has sent
            restore()

    for number in before:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        restore()


@contextlib.contextmanager
def interruptible(
    save: Callable[[], None], every: int, steps: int, device: str, advice: str
) -> Iterator[Callable]:
    """Inside the `with`, a training can be stopped between two of its `steps`. Yields what
    `Trainer.run` takes as `on_step`: it calls `save` after `every` steps (0: never), and when a
    signal has come. The last step is followed by one more look.

    Raises: Stopped, with `advice` in its text, after a signal.
    """
    pause = 20 if parallel.world() > 1 and device == "cuda" else 1  # asking makes GPUs wait
    with deferred() as received:

        def on_step(step: int, batch) -> None:
            stop = step % pause == 0 and parallel.any_of(bool(received), device)
            if stop or (every and batch and step % every == 0):
                save()
            if stop:
                number = (received or [signal.SIGTERM])[0]
                raise Stopped(f"stopped after step {step} of {steps}; {advice}", number)

        yield on_step
        on_step(steps, None)
