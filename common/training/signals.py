"""Ctrl-C, SIGTERM and SIGHUP: they end a run in one line, a training after its step is saved."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from . import parallel

# SIGHUP, which Windows does not have: the terminal was closed, or the line to it dropped.
ENDING = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]


class Stopped(BaseException):
    """A signal has ended the run: one line, and status 128 + signal. Like KeyboardInterrupt it is
    no Exception, so that nobody takes it for a damaged file."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number, self.status = number, 128 + number


@contextlib.contextmanager
def handled(action: Callable) -> Iterator[None]:
    """Inside the `with`, these signals call `action(number, frame)`. Those that are ignored (nohup)
    stay so, and outside the main thread, which alone may say, all stay as they are."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, action)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Inside the `with`, the first signal raises Stopped wherever the program is, and so does every
    Ctrl-C; what else comes, while things are put away, changes nothing."""
    received: list[int] = []

    def receive(number: int, _frame) -> None:
        received.append(number)
        if len(received) == 1 or number == signal.SIGINT:
            raise Stopped(f"stopped by {signal.Signals(number).name}", int(number))

    with handled(receive):
        yield


@contextlib.contextmanager
def deferred() -> Iterator[list[int]]:
    """Inside the `with`, a signal is put on the list that this yields and does nothing else, for a
    closed terminal sends several; but a second Ctrl-C raises KeyboardInterrupt."""
    received: list[int] = []

    def receive(number: int, _frame) -> None:
        received.append(int(number))
        again = received.count(signal.SIGINT) > 1 and number == signal.SIGINT
        if again and not parallel.started():  # torchrun repeats what the terminal has sent
            raise KeyboardInterrupt

    with handled(receive):
        yield received


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
            asked = step % pause == 0 or step == steps
            stop = asked and parallel.any_of(bool(received), device)
            if stop or (every and batch and step % every == 0):
                save()
            if stop:
                number = (received or [signal.SIGTERM])[0]
                raise Stopped(f"stopped after step {step} of {steps}; {advice}", number)

        try:
            yield on_step
        except OSError as error:  # between two steps: the terminal is gone
            if parallel.world() == 1:  # several processes save together or not at all
                save()
            if received:
                raise Stopped(f"stopped; {advice}", received[0]) from error
            raise
        on_step(steps, None)


@contextlib.contextmanager
def advised(advice: str) -> Iterator[None]:
    """Inside the `with`, whoever stops the run reads the advice.

    Raises: Stopped, with the advice.
    """
    try:
        yield
    except Stopped as stop:
        raise Stopped(f"{stop}; {advice}", stop.number) from None
