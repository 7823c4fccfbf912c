"""The loss around trained weights: directions, grids, and numbers for how steep and rough it is.

After Li et al. 2018 (arXiv:1712.09913), sections 4 and 6.
"""

import copy
import itertools
import math
from dataclasses import dataclass

from common import training

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.func import functional_call

from .seeds import Seeds

STATISTICS = ("running", "recomputed")  # of batch norm


@dataclass
class Landscape:
    """The loss (nats) around the weights of several networks of one kind, each on its own plane.

    `losses` and `errors` (share of images that are classified wrongly) hold each network's own;
    `grids` holds, for each of STATISTICS, one grid a network: grid[i][j] is the loss i steps along
    the second and j steps along the first of its two directions.
    """

    losses: list[float]
    errors: list[float]
    grids: dict[str, list[list[list[float]]]]

    def centres(self, statistics: str) -> list[float]:
        """The loss in the middle of every grid."""
        middle = len(self.grids[statistics][0]) // 2
        return [grid[middle][middle] for grid in self.grids[statistics]]

    def curves_downwards(self, statistics: str) -> Seeds:
        """Share of each plane where it has negative curvature, one a network."""
        return Seeds(negative_curvature(grid) for grid in self.grids[statistics])

    def rise(self, statistics: str) -> Seeds:
        """Mean loss of each plane above the loss in its middle (nats), one a network."""
        means = [float(np.mean(grid)) for grid in self.grids[statistics]]
        return Seeds(a - b for a, b in zip(means, self.centres(statistics), strict=True))

    def rows(self, name: str) -> list[dict]:
        """What a table says of the networks, a row for each of STATISTICS."""
        row = {"network": name, "training error": f"{Seeds(self.errors):.1%}"}
        return [
            row
            | {"batch norm's averages": statistics}
            | {"loss": f"{Seeds(self.centres(statistics)):.3f}"}
            | {"rise": f"{self.rise(statistics):.3f}"}
            | {"curves downwards": f"{self.curves_downwards(statistics):.1%}"}
            for statistics in STATISTICS
        ]


class _Reached(Exception):
    """A training's loss is below its target."""


def epochs_in_words(epochs: list[int | None]) -> str:
    """What `train_to_loss` needed, in one cell: "48 to 60; never (1 of 5)"."""
    reached = [number for number in epochs if number]
    never = f"never ({len(epochs) - len(reached)} of {len(epochs)})"
    parts = [f"{min(reached)} to {max(reached)}"] if reached else []
    return "; ".join(parts + [never] * (len(reached) < len(epochs)))


def train_to_loss(
    twins: dict[str, dict], dataset, target: float, epochs: int, device: str, **options
) -> dict[str, list[int | None]]:
    """Train the networks {kind: {seed: network}} by a Trainer with these `options`, each until its
    loss (nats) on the training images, without augmentation and in eval mode, is below `target`.

    Returns the epochs that each needed, {kind: one a seed}; None if `epochs` were not enough.
    Raises: training.Diverged.
    """
    jobs = [(kind, seed) for kind, by_seed in twins.items() for seed in by_seed]
    # Two epochs of warm-up, and a schedule for ten times the epochs, so that the rate is near its
    # highest whenever a network stops: one that stops later shall not stop at another rate as well.
    options |= {"warmup": 0.2 / epochs, "device": device}
    with training.progress(f"{len(jobs)} networks", None, "step") as bar:

        def epochs_needed(job: tuple[str, int]) -> int | None:
            kind, seed = job
            model = twins[kind][seed]
            trainer = training.Trainer(model, dataset, 10 * epochs, seed=seed, **options)

            def look(step: int, _batch) -> None:
                if step and step % 2 == 0:  # in time: after an epoch some are far below the target
                    loss, _ = training.evaluate(model, dataset, "train", device)
                    model.train()
                    if loss < target:
                        raise _Reached

            try:
                for _ in itertools.islice(trainer.run(bar, on_step=look), epochs):
                    pass
            except _Reached:
                model.eval()
                return len(trainer.rows) + 1
            return None

        needed = iter(training.side_by_side(epochs_needed, jobs, device))
    return {kind: list(itertools.islice(needed, len(by))) for kind, by in twins.items()}


def random_direction(model: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """A random direction for every parameter, normalised filter by filter.

    Each output filter (each row of a linear layer) gets the norm of the filter that it would
    move. One-dimensional tensors, biases and all of batch norm, get zero.
    """
    generator = torch.Generator().manual_seed(seed)
    direction = {}
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            direction[name] = torch.zeros_like(weight)
            continue
        noise = torch.randn(weight.shape, generator=generator).to(weight)
        scale = _filter_norms(weight.detach()) / _filter_norms(noise)
        direction[name] = noise * scale
    return direction


def _filter_norms(weight: torch.Tensor) -> torch.Tensor:
    """L2 norm over everything but the first dimension, in a shape that multiplies `weight`."""
    return weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1))


def losses(model, x, y, directions, points, recompute=False, on_point=None) -> list[float]:
    """Mean cross-entropy (nats) at weights + a * directions[0] + b * directions[1] + ...

    `points` holds tuples (a, b, ...). Batch norm uses its running statistics, or, with
    `recompute`, those of the images x under the moved weights. Everything else is in eval mode.
    A copy of the model is evaluated; `on_point()` is called after each point.
    """
    model = copy.deepcopy(model).eval()
    values = []
    if recompute:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train()
    with torch.no_grad():
        weights = dict(model.named_parameters())
        for point in points:
            logits = functional_call(model, _moved(weights, directions, point), (x,))
            values.append(F.cross_entropy(logits.float(), y).item())
            if on_point:
                on_point()
    return values


def _moved(weights, directions, point) -> dict[str, torch.Tensor]:
    """The weights after a step of `point` along the directions; zero steps change no bit."""
    moved = {name: weight for name, weight in weights.items() if weight.ndim > 1}
    for name in moved:
        for step, direction in zip(point, directions, strict=True):
            if step:
                moved[name] = moved[name] + step * direction[name]
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
        smallest = (xx + yy) / 2 - np.hypot((xx - yy) / 2, xy)  # eigenvalue of a 2x2 matrix
    finite = np.isfinite(smallest)
    negative = smallest[finite] < -1e-5 * np.abs(inner[finite])
    return float(negative.mean()) if finite.any() else math.nan


def measure(
    nets: dict[str, dict[int, nn.Module]], x, y, steps: list[float], device: str
) -> dict[str, Landscape]:
    """The Landscape of all networks {name: {seed: network}}, for images x (N 3 H W) and labels y.

    Every grid has a point for all pairs of `steps`. The seed draws the directions: networks of the
    same parameters and the same seed are moved by the same random numbers. Leaves the networks in
    eval mode.
    """
    runs = [(model, seed) for by_seed in nets.values() for seed, model in by_seed.items()]
    jobs = [(*run, statistics) for statistics in STATISTICS for run in runs]
    points = [(a, b) for b in steps for a in steps]
    with training.progress(f"{len(jobs)} planes", len(jobs) * len(points)) as bar:

        def grid(job: tuple[nn.Module, int, str]) -> list[list[float]]:
            model, seed, statistics = job
            directions = [random_direction(model, 2 * seed + i) for i in range(2)]
            recompute = statistics == "recomputed"
            values = losses(model, x, y, directions, points, recompute, bar.update)
            return np.reshape(values, (len(steps), len(steps))).tolist()

        grids = iter(training.side_by_side(grid, jobs, device))

    @torch.no_grad()
    def own(run: tuple[nn.Module, int]) -> tuple[float, float]:
        logits = run[0].eval()(x)
        return F.cross_entropy(logits, y).item(), (logits.argmax(1) != y).float().mean().item()

    # Side by side like the grids: another number of threads would sum in another order, and the
    # middle of a grid would differ from the network's own loss in the last bit.
    results = iter(training.side_by_side(own, runs, device))
    landscapes = {}
    for name, by_seed in nets.items():
        numbers = zip(*itertools.islice(results, len(by_seed)), strict=True)
        landscapes[name] = Landscape(*map(list, numbers), {})
    for statistics in STATISTICS:
        for name, by_seed in nets.items():
            landscapes[name].grids[statistics] = list(itertools.islice(grids, len(by_seed)))
    return landscapes
