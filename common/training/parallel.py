"""Several processes on one training, started by torchrun; alone, everything here does nothing."""

import contextlib
import datetime
import os
from collections.abc import Iterator

from common import UserError

import torch
import torch.distributed as dist
import torch.nn as nn
from torch.nn.parallel import DistributedDataParallel


def started() -> bool:
    """Whether torchrun has started this process: one of its variables may be left from others."""
    names = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return all(name in os.environ for name in names)


def apart() -> bool:
    """Whether torchrun has started several processes that nobody has connected."""
    return started() and os.environ["WORLD_SIZE"] != "1" and not dist.is_initialized()


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; 0 is the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextlib.contextmanager
def processes(device: str) -> Iterator[None]:
    """Inside the `with`, the processes that torchrun has started are connected: by nccl on CUDA,
    where each gets its own GPU as "cuda", and by gloo elsewhere.

    Raises: UserError if there are more processes on this machine than GPUs, or several on MPS.
    """
    if not started():
        yield
        return
    if device == "cuda":
        if (local := int(os.environ["LOCAL_RANK"])) >= torch.cuda.device_count():
            raise UserError(f"--nproc-per-node is more than the {torch.cuda.device_count()} GPUs")
        torch.cuda.set_device(local)
    if device == "mps" and os.environ["WORLD_SIZE"] != "1":
        raise UserError("PyTorch cannot connect processes on mps: add --device cpu")
    patience = datetime.timedelta(days=1)  # while the first one downloads and reads the images
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=patience)
    try:
        yield
        dist.barrier()  # all leave together: none takes its end of a connection away too early
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """Rank 0 passes through the `with` before the others: what it downloads, they find."""
    if rank() > 0:
        dist.barrier()
    yield
    if rank() == 0 and world() > 1:
        dist.barrier()


def replicated(model: nn.Module) -> nn.Module:
    """The network with gradients averaged over processes, starting from rank 0's weights."""
    return DistributedDataParallel(model) if world() > 1 else model


def part() -> slice:
    """Which rows of every batch are this process's."""
    return slice(rank(), None, world())


def total(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over processes."""
    if world() > 1:
        dist.all_reduce(tensor := tensor.clone())
    return tensor


def gathered(rows: torch.Tensor) -> torch.Tensor:
    """All rows of a batch in their order, of which each process has its `part`."""
    if world() == 1:
        return rows
    count = int(total(torch.tensor(len(rows), device=rows.device)))
    whole = rows.new_zeros(count, *rows.shape[1:])
    whole[part()] = rows
    return total(whole)


def same_buffers(model: nn.Module) -> None:
    """Rank 0's batch-norm statistics for all."""
    if world() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def any_of(flag: bool, device: str) -> bool:
    """Whether the flag is set in any process."""
    return bool(total(torch.tensor(float(flag), device=device))) if world() > 1 else flag
