"""Many small networks on the cores of a CPU: one on each."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field

from common import UserError

import torch
import torch.nn as nn

from . import signals
from .trainer import Diverged, Trainer, progress, steps_per_epoch


@dataclass
class Run:
    """A network to train: its name, its seed, and the options of its `Trainer`."""

    name: str
    seed: int
    model: nn.Module
    options: dict = field(default_factory=dict)


def side_by_side(function: Callable, jobs: list, device: str) -> list:
    """`function(job)` for every job, in order. On a CPU as many at a time as PyTorch has threads,
    each on one: small networks gain nothing from a second thread. Elsewhere one at a time. If one
    fails or a signal comes, the others stop at their next layer."""
    threads = torch.get_num_threads() if device == "cpu" else 1
    ours: set[int] = set()  # Python's threads, one a job at a time

    def on_one_thread(job):
        ours.add(threading.get_ident())
        if threads > 1:
            torch.set_num_threads(1)  # holds for this thread of Python
        return function(job)

    with ThreadPoolExecutor(threads) as pool:
        try:
            return list(pool.map(on_one_thread, jobs))
        except BaseException:
            # A second Ctrl-C changes nothing: a thread that outlives the program aborts it.
            with signals.handled(lambda number, frame: None), no_more_layers(ours):
                pool.shutdown(cancel_futures=True)
            raise
        finally:
            torch.set_num_threads(threads)


@contextlib.contextmanager
def no_more_layers(threads: set[int]) -> Iterator[None]:
    """Inside the `with`, a network that one of these threads computes ends in CancelledError: no
    thread can be stopped from outside, but all come to their next layer soon."""

    def stop(_module, _inputs) -> None:
        if threading.get_ident() in threads:
            raise CancelledError

    hook = nn.modules.module.register_module_forward_pre_hook(stop)  # of all networks there are
    try:
        yield
    finally:
        hook.remove()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Inside the `with`, PyTorch computes on one core: small operations gain nothing from a second
    one, and lose much if it is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def train_all(
    runs: list[Run], dataset, epochs: int, batch_size: int, device: str
) -> dict[str, list[list[dict] | None]]:
    """Train all networks under one progress bar; by name, for each seed, the rows of its Trainer,
    None where the training diverged.

    Raises: UserError if all of them diverged.
    """
    steps = epochs * steps_per_epoch(dataset, batch_size)
    with progress(f"{len(runs)} networks", steps * len(runs), "step") as bar:

        def job(run: Run) -> list[dict] | None:
            options = {"batch_size": batch_size, "seed": run.seed, "device": device} | run.options
            try:
                return list(Trainer(run.model, dataset, epochs, **options).run(bar))
            except Diverged:
                return None

        return by_name(runs, side_by_side(job, runs, device))


def by_name(runs: list[Run], results: list) -> dict[str, list]:
    """The results of all seeds under the name of their network; None stands for diverged.

    Raises: UserError if all of them diverged.
    """
    if all(result is None for result in results):
        raise UserError("the loss of every network stopped being a number: try a smaller --lr")
    grouped: dict[str, list] = {}
    for run, result in zip(runs, results, strict=True):
        grouped.setdefault(run.name, []).append(result)
    return grouped
