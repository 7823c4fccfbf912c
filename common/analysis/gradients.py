"""Activations and gradients inside a network: by depth, at the start and in training."""

import contextlib
import copy
import itertools
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from common import models, training

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from .seeds import Seeds

# How a plain network's gradient is measured: three ways to start it.
CONDITIONS = ("no BN, default init", "no BN, Kaiming init", "BN")


@contextlib.contextmanager
def forward_hooks(model: nn.Module, names: Iterable[str], hook: Callable) -> Iterator[None]:
    """Inside the `with`, `hook(name, inputs, output)` sees each named submodule's forward pass;
    what it returns, if not None, replaces the output."""

    def named(name: str) -> Callable:
        return lambda _module, inputs, output: hook(name, inputs, output)

    modules = {name: model.get_submodule(name) for name in names}  # a wrong name leaves no hook
    handles = [module.register_forward_hook(named(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def activations(
    model: nn.Module, names: list[str], x: torch.Tensor, reduce: Callable = lambda output: output
) -> dict[str, torch.Tensor]:
    """`reduce(output)` of each named submodule for x (N C H W), as soon as it is there."""
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str, _inputs, output: torch.Tensor) -> None:
        outputs[name] = reduce(output)

    with forward_hooks(model, names, keep):
        model(x)
    return outputs


def activation_gradients(model: nn.Module, names: list[str], x, y) -> list[float]:
    """L2 norm of d(mean cross-entropy)/d(output) of each named submodule, batch statistics.

    x is N C H W, y holds class indices. Use a real batch of 32 or more: on a single image batch
    norm would make the gradient zero. A copy is measured: running statistics stay as they were.
    """
    model = copy.deepcopy(model).train()
    with torch.enable_grad():
        outputs = activations(model, [*names, ""], x)  # "" is the model itself
        loss = F.cross_entropy(outputs.pop(""), y)
        gradients = torch.autograd.grad(loss, list(outputs.values()))
    return [g.norm().item() for g in gradients]


class Recorder:
    """Records what a network in training does: pass it to `Trainer.run` as `on_step`.

    Keeps loss and accuracy of every step (`batches`). At the chosen steps, counted in updates
    made so far, also the activation gradients on the batch x (N C H W) and y (`gradients[step]`,
    one norm a name) and the size of the following update, |new - old| / |old| (`updates[step]`).
    """

    def __init__(self, model: nn.Module, names: list[str], x, y, steps: list[int]):
        self.model, self.names, self.x, self.y, self.steps = model, names, x, y, set(steps)
        self.batches: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.gradients: dict[int, list[float]] = {}
        self.updates: dict[int, float] = {}
        self._before: torch.Tensor | None = None

    def __call__(self, step: int, batch: tuple[torch.Tensor, torch.Tensor] | None) -> None:
        if batch is not None:
            self.batches.append(batch)
        if self._before is not None:
            change = (self._weights() - self._before).norm() / self._before.norm()
            self.updates[step - 1], self._before = change.item(), None
        if step in self.steps:
            self._before = self._weights()
            self.gradients[step] = activation_gradients(self.model, self.names, self.x, self.y)

    def losses(self, window: int) -> list[float]:
        """The loss of every step, smoothed: means over `window` consecutive steps."""
        return smooth(torch.stack([loss for loss, _ in self.batches]).tolist(), window)

    def _weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in self.model.parameters() if p.ndim > 1])


def smooth(values: list[float], window: int) -> list[float]:
    """Means over `window` consecutive values (over all of them if there are fewer)."""
    window = min(window, len(values))
    return np.convolve(values, np.full(window, 1 / window), "valid").tolist()


def log_ratio(above: list, below: list, step: int) -> Seeds:
    """log10 of above / below, by seed, of the geometric mean over blocks of the recorded gradients.

    Runs have `gradients` as a Recorder has; one that diverged is None and gives NaN.
    """
    logs = [
        Seeds.of(runs, lambda run: float(np.mean(np.log10(run.gradients[step]))))
        for runs in (above, below)
    ]
    return Seeds(a - b for a, b in zip(*logs, strict=True))


def update_ratio(above: list, below: list, step: int) -> float:
    """above / below of the median over seeds of the recorded `updates`; runs as in `log_ratio`. NaN
    where all have diverged, or nothing moved."""
    sizes = [[run.updates[step] for run in runs if run] for runs in (above, below)]
    if not all(sizes) or not (least := statistics.median(sizes[1])):
        return math.nan
    return statistics.median(sizes[0]) / least


def start(model: nn.Module, condition: str) -> nn.Module:
    """A network with batch norm and Kaiming's initial values, changed to one of CONDITIONS."""
    if condition != "BN":
        model = models.without_batch_norm(model)
    return models.default_init(model) if condition == CONDITIONS[0] else model


def by_block(model: nn.Module, x, y, names: list[str] | None = None) -> list[float]:
    """Activation-gradient norm at the output of each block (or of `names`), for images x (N 3 H W)
    and labels y.

    What underflowed to zero is given as the smallest positive number, which has a logarithm.
    """
    norms = activation_gradients(model, names or models.block_names(model), x, y)
    return [max(norm, sys.float_info.min) for norm in norms]


def at_start(build: Callable, seeds: range, x, y, names=None) -> dict[tuple[str, str], list]:
    """`by_block` of fresh networks `build(kind, condition, seed)`, plain and residual, under all
    CONDITIONS: {(kind, condition): one list a seed}.

    On the CPU in float64: in float32 the smallest gradients would be rounded to zero.
    """
    norms: dict[tuple[str, str], list[list[float]]] = {}
    runs = list(itertools.product(models.TWINS, CONDITIONS, seeds))
    x, y = x.cpu().double(), y.cpu()
    with training.progress("gradient flow", len(runs)) as bar:
        for kind, condition, seed in runs:
            model = build(kind, condition, seed).double()
            norms.setdefault((kind, condition), []).append(by_block(model, x, y, names))
            bar.update()
    return norms


@dataclass
class BlockGradients:
    """What one backward pass brings to the blocks of a tower; the lists begin next to the input.

    `outputs` are norms of the gradient at the blocks' outputs. `weights` are norms of the gradient
    relative to those of the weights, |g| / |w|, all weights of a block together: steps of gradient
    descent are fair or unfair to the blocks by these. `scalars` are the gradients of the blocks'
    `alpha`, if they have one (see SkipInitBlock).
    """

    outputs: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    scalars: list[float] = field(default_factory=list)


def through_blocks(tower: nn.Sequential, x, y) -> BlockGradients:
    """Backpropagation of the mean cross-entropy by hand through stem, blocks and head.

    `tower` is Sequential(stem, *blocks, head), x is N C H W, y holds class indices. A copy is
    measured, in float64, with batch statistics. Memory holds the input of every block and the
    graph of one: each block runs once more when the gradient gets there (Chen et al. 2016,
    arXiv:1604.06174). What underflowed at an output is the smallest positive number.
    """
    tower = copy.deepcopy(tower).double().train()
    signals = [x.double()]
    with torch.no_grad():
        for stage in tower:
            signals.append(stage(signals[-1]))
    logits = signals.pop().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y), logits)
    head, *blocks = reversed(tower[1:])  # the stem is not asked
    gradient, _, _ = back_through(head, signals.pop(), gradient)
    found = BlockGradients()
    for block in blocks:
        found.outputs.insert(0, max(gradient.norm().item(), sys.float_info.min))
        gradient, relative, scalars = back_through(block, signals.pop(), gradient)
        found.weights.insert(0, relative)
        found.scalars[:0] = scalars
    return found


def of_towers(build: Callable, keys: list, seeds: range, x, y) -> dict:
    """`through_blocks` of fresh towers `build(*key, seed)`: {key: one BlockGradients a seed}."""
    # All are built before the first is measured: threads share one random number generator.
    towers = [build(*key, seed) for key in keys for seed in seeds]
    with training.progress("gradient flow", len(towers)) as bar:

        def job(tower: nn.Sequential) -> BlockGradients:
            found = through_blocks(tower, x, y)
            bar.update()
            return found

        found = iter(training.side_by_side(job, towers, "cpu"))
    return {key: [next(found) for _ in seeds] for key in keys}


def back_through(block: nn.Module, x, gradient) -> tuple[torch.Tensor, float, list[float]]:
    """The chain rule for one block with input x and this gradient at its output: the gradient at
    its input, |g| / |w| of its weights, and the gradient of its `alpha`, if there is one."""
    weights = [p for p in block.parameters() if p.ndim > 1]
    scalars = [p for name, p in block.named_parameters() if name == "alpha"]
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        wanted = [x, *weights, *scalars]
        at_input, *others = torch.autograd.grad(block(x), wanted, gradient)
    both = others[: len(weights)], weights
    gradient_size, size = (torch.cat([tensor.flatten() for tensor in side]).norm() for side in both)
    return at_input, (gradient_size / size).item(), [g.item() for g in others[len(weights) :]]
