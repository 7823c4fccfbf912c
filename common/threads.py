"""Small networks on the cores of a CPU: one on each, or all work on one."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch


def side_by_side(function: Callable, jobs: list, device: str) -> list:
    """`function(job)` for every job, in order. On a CPU as many at a time as PyTorch has threads,
    each on one: small networks gain nothing from a second thread. Elsewhere one at a time."""
    threads = torch.get_num_threads() if device == "cpu" else 1

    def alone(job):
        torch.set_num_threads(1)  # holds for this thread
        return function(job)

    pool = ThreadPoolExecutor(threads)
    try:
        return list(pool.map(alone if threads > 1 else function, jobs))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


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
