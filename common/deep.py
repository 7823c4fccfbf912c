"""A thousand layers: identity paths through many blocks, and networks of that depth in training."""

from dataclasses import replace

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from tqdm import tqdm

from common import models, threads, training
from common.blocks import BasicBlock, PreActBlock, PreActBottleneck
from common.data import Split
from common.experiment import WINDOW

BATCH, STEPS = 64, 32


class PlainPreActBottleneck(PreActBottleneck):
    """PreActBottleneck without its shortcut; a projection is kept, unused, for equal counts."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv1(F.relu(self.bn1(x)))  # N channels H W
        out = self.conv2(F.relu(self.bn2(out)))  # N channels H/stride W/stride
        return self.conv3(F.relu(self.bn3(out)))  # N 4*channels H/stride W/stride


def twins(layers: int, dataset, seeds: range, device: str) -> dict[str, list[list[float]]]:
    """Loss (nats) of every training step, residual and plain, by seed (see `losses_of`).

    Pre-activation bottlenecks, 4 channels in the first stage; depth 9n + 2.
    """
    few = Split(*(tensor[: BATCH * STEPS] for tensor in dataset.train))
    dataset = replace(dataset, train=few)
    kinds = {"residual": PreActBottleneck, "plain": PlainPreActBottleneck}
    jobs = []
    for kind, block in kinds.items():
        for seed in seeds:
            torch.manual_seed(seed)
            blocks, classes = (layers - 2) // 9, len(dataset.classes)
            jobs.append((kind, seed, models.PreActNet(block, blocks, classes, width=4)))
    total = len(jobs) * training.steps_per_epoch(dataset, BATCH)
    title = f"{layers:,} layers"
    with tqdm(total=total, desc=title, unit="step", disable=None, leave=False) as bar:

        def job(item: tuple[str, int, nn.Module]) -> list[float]:
            _, seed, model = item
            return losses_of(model, dataset, seed=seed, device=device, bar=bar)

        results = threads.side_by_side(job, jobs, device)
    return {k: [r for r, job in zip(results, jobs, strict=True) if job[0] == k] for k in kinds}


def losses_of(model: nn.Module, dataset, **options) -> list[float]:
    """Training loss (nats) of every step of one epoch; NaN ends the list where it diverges."""
    losses: list[float] = []

    def watch(_step: int, batch) -> None:
        if batch is not None:
            if not torch.isfinite(batch[0]):
                raise training.Diverged("the loss stopped being a number")
            losses.append(batch[0].item())

    options |= {"batch_size": BATCH, "lr": 0.3, "warmup": 0.2, "on_step": watch}
    try:
        list(training.fit(model, dataset, 1, **options))
    except training.Diverged:
        losses.append(float("nan"))
    return losses


def ends(losses: list[float]) -> tuple[float, float]:
    """Mean loss of the first and of the last WINDOW steps, of half of them if there are fewer."""
    window = max(1, min(WINDOW, len(losses) // 2))
    return float(np.mean(losses[:window])), float(np.mean(losses[-window:]))


def falls(losses: list[float]) -> bool:
    """Whether the mean loss of the last window lies below the first's by more than either's
    standard deviation, and all are numbers."""
    finite = len(losses) >= 2 * WINDOW and not np.isnan(losses).any()
    first, last = losses[:WINDOW], losses[-WINDOW:]
    return bool(finite and np.mean(first) - np.mean(last) > max(np.std(first), np.std(last)))


def identity_paths(images: torch.Tensor, blocks: int, seeds: range) -> dict[str, list[list[float]]]:
    """Open share of identity paths (see `open_paths`) over 1, 2 ... blocks, post and pre, by seed.

    At initialisation, 16 channels; `images` are N 3 H W.
    """
    kinds, towers = {"post": BasicBlock, "pre": PreActBlock}, []
    for block in kinds.values():
        for seed in seeds:
            torch.manual_seed(seed)
            stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            tower = nn.Sequential(stem, *(block(16, 16) for _ in range(blocks)))
            towers.append(tower.to(images.device))

    def job(tower: nn.Sequential) -> list[float]:
        return open_paths(tower[1:], tower[0](images))[::-1]

    found = threads.side_by_side(job, towers, images.device.type)
    return {"post": found[: len(seeds)], "pre": found[len(seeds) :]}


def open_paths(blocks: nn.Sequential, x: torch.Tensor) -> list[float]:
    """Share of entries from which the identity path to the last output is open, by block input.

    F(x) is held constant in every block (the output of its last layer is detached), so that the
    gradient of an output entry is the product of the gates on its identity path: 1 if all ReLUs
    after additions let it pass, else 0. The blocks must keep the shape; x is N C H W.
    """
    hooks = [
        list(block.children())[-1].register_forward_hook(lambda _m, _in, out: out.detach())
        for block in blocks
    ]
    hidden = [x.detach().requires_grad_()]
    for block in blocks:
        hidden.append(block(hidden[-1]))
    for hook in hooks:
        hook.remove()
    gradients = torch.autograd.grad(hidden[-1].sum(), hidden[:-1])
    return [(gradient != 0).float().mean().item() for gradient in gradients]
