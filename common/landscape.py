"""The loss around trained weights: directions, grids, and a number for how rough it is.

After Li et al. 2018 (arXiv:1712.09913), sections 4 and 6.
"""

import copy
import math

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.func import functional_call
from tqdm import tqdm

from common import threads

STATISTICS = ("running", "recomputed")  # of batch norm


def direction(model: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """A random direction for every parameter, normalised filter by filter.

    Each output filter (each row of a linear layer) gets the norm of the filter that it would
    move. One-dimensional tensors, biases and all of batch norm, get zero.
    """
    generator, parts = torch.Generator().manual_seed(seed), {}
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            parts[name] = torch.zeros_like(weight)
            continue
        random = torch.randn(weight.shape, generator=generator).to(weight)
        scale = _filter_norms(weight.detach()) / _filter_norms(random)
        parts[name] = random * scale
    return parts


def _filter_norms(weight: torch.Tensor) -> torch.Tensor:
    """L2 norm over everything but the first dimension, in a shape that multiplies `weight`."""
    return weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1))


def losses(model, x, y, directions, points, recompute=False, on_point=None) -> list[float]:
    """Mean cross-entropy (nats) at weights + a * directions[0] + b * directions[1] + ...

    `points` holds tuples (a, b, ...). Batch norm uses its running statistics, or, with
    `recompute`, those of the images x under the moved weights. Everything else is in eval mode.
    A copy of the model is evaluated; `on_point()` is called after each point.
    """
    model, found = copy.deepcopy(model).eval(), []
    if recompute:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train()
    with torch.no_grad():
        weights = dict(model.named_parameters())
        for point in points:
            logits = functional_call(model, _moved(weights, directions, point), (x,))
            found.append(F.cross_entropy(logits.float(), y).item())
            if on_point:
                on_point()
    return found


def _moved(weights, directions, point) -> dict[str, torch.Tensor]:
    """The weights after a step of `point` along the directions; zero steps change no bit."""
    moved = {name: weight for name, weight in weights.items() if weight.ndim > 1}
    for name in moved:
        for share, parts in zip(point, directions, strict=True):
            if share:
                moved[name] = moved[name] + share * parts[name]
    return moved


def axis(radius: float, resolution: int) -> list[float]:
    """`resolution` (odd) equal steps from -radius to radius; the middle one is 0 exactly."""
    half = resolution // 2
    return [radius * (i / half) for i in range(-half, half + 1)]


def negative_curvature(grid) -> float:
    """Share of a grid's inner points where the Hessian in its plane has a negative eigenvalue.

    By second differences; what lies within rounding, 1e-5 of the loss, is not negative. Points
    whose loss or neighbours' overflow are left out; NaN if all do.
    """
    f = np.asarray(grid, float)
    with np.errstate(invalid="ignore"):
        inner = f[1:-1, 1:-1]
        xx = f[2:, 1:-1] - 2 * inner + f[:-2, 1:-1]
        yy = f[1:-1, 2:] - 2 * inner + f[1:-1, :-2]
        xy = (f[2:, 2:] - f[2:, :-2] - f[:-2, 2:] + f[:-2, :-2]) / 4
        smallest = (xx + yy) / 2 - np.hypot((xx - yy) / 2, xy)
    finite = np.isfinite(smallest)
    negative = smallest[finite] < -1e-5 * np.abs(inner[finite])
    return float(negative.mean()) if finite.any() else math.nan


def survey(nets: dict[str, nn.Module], x, y, steps: list[float], seeds: range, device: str) -> dict:
    """Grids of the loss around each network: {name: {statistics: [one grid a seed]}}.

    grid[i][j] is the loss (nats) at steps[j] along the first and steps[i] along the second of a
    seed's directions; networks of the same parameters are moved by the same random numbers. Under
    "plain", the loss without any of this, which is that in the middle with running statistics.
    """
    jobs = [(name, mode, seed) for name in nets for mode in STATISTICS for seed in seeds]
    points = [(a, b) for b in steps for a in steps]
    title = f"{len(jobs)} planes"
    with tqdm(total=len(jobs) * len(points), desc=title, disable=None, leave=False) as bar:

        def job(job: tuple[str, str, int]) -> tuple[list[list[float]], float]:
            model, recompute = nets[job[0]], job[1] == "recomputed"
            directions = [direction(model, 2 * job[2] + i) for i in range(2)]
            values = losses(model, x, y, directions, points, recompute, bar.update)
            with torch.no_grad():
                plain = F.cross_entropy(model.eval()(x), y).item()
            return np.reshape(values, (len(steps), -1)).tolist(), plain

        found = threads.side_by_side(job, jobs, device)
    planes = {name: {mode: [] for mode in STATISTICS} for name in nets}
    for (name, mode, _), (grid, plain) in zip(jobs, found, strict=True):
        planes[name][mode].append(grid)
        planes[name]["plain"] = plain
    return planes
