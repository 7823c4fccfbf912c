"""One training loop for all lessons, and the checkpoint it can leave behind."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from common import UserError


class Diverged(UserError):
    """The training loss is no longer a number."""


def native_bf16(device: str) -> bool:
    """Whether the hardware multiplies bfloat16 natively, so that autocast saves time."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_capability()[0] >= 8
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return device == "cpu" and supported()


def autocast(device: str):
    """bfloat16 convolutions where they are native, float32 everywhere else."""
    enabled = native_bf16(device)
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16) if enabled else contextlib.nullcontext()


def sgd(model: nn.Module, lr: float, weight_decay: float = 5e-4) -> torch.optim.SGD:
    """SGD with Nesterov momentum 0.9; biases and batch-norm parameters are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)


def warmup_cosine(optimizer, steps: int, warmup: int) -> LambdaLR:
    """The factor at global step s (0-based): (s + 1) / warmup while s < warmup, then a half
    cosine from 1 towards 0 at `steps` (Loshchilov & Hutter 2017, arXiv:1608.03983)."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)


def warmup_constant(optimizer, steps: int, warmup: int) -> LambdaLR:
    """The same warm-up, then the full rate to the end: the baseline that a schedule must beat."""
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup)))


def fit(
    model: nn.Module,
    dataset,
    epochs: int,
    *,
    batch_size: int = 128,
    lr: float = 0.1,
    weight_decay: float = 5e-4,
    warmup: float = 0.15,
    cutout: int = 0,
    schedule: Callable = warmup_cosine,
    seed: int = 0,
    device: str = "cpu",
    bar: tqdm | None = None,
    on_step: Callable | None = None,
) -> Iterator[dict]:
    """Train `model` in place, yielding a row of plain numbers after each epoch.

    The argument `lr` is the peak of the schedule, `warmup` a share of all steps, `cutout` in
    pixels; `bar` counts steps. The order and augmentation of epoch e are a function of `seed` and
    e alone. In a row, losses are mean cross-entropies (nats), accuracies shares of samples, the
    training one measured on the augmented images as they passed; `lr` is the highest rate of the
    epoch and `images_per_s` counts training only.
    `on_step(step, batch)` is called before every update and once after the last; `batch` holds
    loss and accuracy (tensors on the device) of the update before, None at step 0.
    Raises: Diverged when the loss is not finite.
    """
    model.to(device, memory_format=torch.channels_last)
    steps = epochs * steps_per_epoch(dataset, batch_size)
    optimizer = sgd(model, lr, weight_decay)
    rates = schedule(optimizer, steps, round(warmup * steps))
    start, on_step = time.perf_counter(), on_step or (lambda step, batch: None)
    on_step(0, None)
    mine = {"desc": "training", "unit": "step", "disable": None, "leave": False}
    with contextlib.nullcontext(bar) if bar is not None else tqdm(total=steps, **mine) as bar:
        for epoch in range(1, epochs + 1):
            row = {"epoch": epoch}
            batches = dataset.batches("train", batch_size, seed * 10_007 + epoch, cutout)
            row |= _train_epoch(model, batches, optimizer, rates, device, bar, on_step)
            row["val_loss"], row["val_accuracy"] = evaluate(model, dataset, "val", device)
            row["seconds"] = time.perf_counter() - start
            yield row


def steps_per_epoch(dataset, batch_size: int) -> int:
    """Number of batches in one pass over the training images."""
    return math.ceil(len(dataset.train.labels) / batch_size)


def _train_epoch(model, batches, optimizer, schedule, device, bar, on_step) -> dict:
    """One pass over the batches; sums stay on the device until the end."""
    model.train()
    start, seen, peak = time.perf_counter(), 0, 0.0
    loss_sum = torch.zeros((), device=device)
    correct = torch.zeros((), device=device)
    for x, y in batches:
        peak = max(peak, optimizer.param_groups[0]["lr"])
        loss, logits = train_step(model, x, y, optimizer, device)
        schedule.step()
        hits = (logits.argmax(1) == y).sum()
        on_step(schedule.last_epoch, (loss, hits / len(y)))
        seen += len(y)
        loss_sum, correct = loss_sum + loss * len(y), correct + hits
        bar.update()
        if schedule.last_epoch % 20 == 0:  # now and then: reading a value makes a GPU wait
            _finite(loss_sum, schedule.last_epoch)
    train_loss = _finite(loss_sum, schedule.last_epoch) / seen
    seconds = time.perf_counter() - start
    rates = {"train_accuracy": correct.item() / seen, "images_per_s": seen / seconds}
    return {"train_loss": train_loss, "lr": peak} | rates


def train_step(model, x, y, optimizer, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """One update on one batch; returns the mean loss and the logits, detached."""
    with autocast(device):
        logits = model(x).float()  # the softmax stays in float32
        loss = F.cross_entropy(logits, y)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach(), logits.detach()


def _finite(loss_sum: torch.Tensor, step: int) -> float:
    """The sum as a number; one NaN or infinity among its terms makes it raise Diverged."""
    value = loss_sum.item()
    if not math.isfinite(value):
        raise Diverged(f"the loss stopped being a number before step {step}: try a smaller --lr")
    return value


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


@torch.no_grad()
def predict(model: nn.Module, dataset, split: str, device: str = "cpu") -> torch.Tensor:
    """Logits of every image of a split in its order, float32 N classes, in eval mode."""
    model.eval()
    outputs = []
    with autocast(device):
        for x, _ in dataset.batches(split, 500):
            outputs.append(model(x).float())
    return torch.cat(outputs)


def evaluate(model: nn.Module, dataset, split: str, device: str = "cpu") -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy (share of samples) over a whole split."""
    logits, labels = predict(model, dataset, split, device), getattr(dataset, split).labels
    accuracy = (logits.argmax(1) == labels).float().mean()  # float: MPS has no double
    return F.cross_entropy(logits, labels).item(), accuracy.item()


def save_checkpoint(path: Path, entries: dict) -> None:
    """Write tensors and plain values to `path` whole or not at all.

    Raises: UserError if the disk refuses; what was at `path` before is then still there.
    """
    scratch = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with scratch.open("wb") as file:
            torch.save(entries, file)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} could not be written ({error})") from error
    finally:
        scratch.unlink(missing_ok=True)
