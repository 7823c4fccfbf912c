"""Activations and gradients inside a network: by depth, at the start and in training."""

import contextlib
import copy
import itertools
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator

from common import models, training

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from .seeds import Seeds

# How a plain network's gradient is measured: three ways to start it.
CONDITIONS = ("no BN, default init", "no BN, Kaiming init", "BN")
# Growth of a wide plain network's gradient norm per layer: weights of variance 1/(3 fan-in), and
# ReLU passes half of the gradient's entries; variance 2/fan-in (He et al. 2015, arXiv:1502.01852);
# Yang et al. 2019, theorem 3.10, for fully connected layers.
THEORY = dict(zip(CONDITIONS, [(1 / 6) ** 0.5, 1.0, (math.pi / (math.pi - 1)) ** 0.5], strict=True))
PREDICTED = {
    CONDITIONS[0]: f"{THEORY[CONDITIONS[0]]:.3f} per layer: weights of variance 1/(3 fan-in), ReLU",
    "BN": f"{THEORY['BN']:.3f} per layer, the root of pi/(pi-1): wide networks, large batches "
    "(Yang et al. 2019, theorem 3.10)",
}
LEVEL, FADES, GROWS = 5, 0.8, 1.2  # ends within this factor; factors a block


@contextlib.contextmanager
def forward_hooks(model: nn.Module, names: Iterable[str], hook: Callable) -> Iterator[None]:
    """Inside the `with`, `hook(name, inputs, output)` sees each named submodule's forward pass;
    what it returns, if not None, replaces the output."""

    def named(name: str) -> Callable:
        return lambda _module, inputs, output: hook(name, inputs, output)

    handles = [model.get_submodule(name).register_forward_hook(named(name)) for name in names]
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

    def curves(self, window: int) -> tuple[list[float], list[float]]:
        """Loss and error of every step, smoothed: means over `window` consecutive steps."""
        losses, accuracies = map(torch.stack, zip(*self.batches, strict=True))
        return smooth(losses.tolist(), window), smooth((1 - accuracies).tolist(), window)

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
    """above / below of the median over seeds of the recorded `updates`; runs as in `log_ratio`."""
    sizes = [Seeds.of(runs, lambda run: run.updates[step]) for runs in (above, below)]
    return statistics.median(sizes[0]) / statistics.median(sizes[1])


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


def factor_per_layer(norms: list[float]) -> float:
    """Growth of the gradient per convolution on its way towards the input, by least squares.

    `norms` are those at the outputs of blocks of two convolutions, the first next to the input.
    """
    slope, _ = np.polyfit(range(len(norms)), np.log(norms), deg=1)  # a block, towards the output
    return math.exp(-slope / 2)  # two convolutions in a block


def first_over_last(runs: list[list[float]]) -> float:
    """The first block's gradient norm over the last block's, geometric mean over runs."""
    return math.exp(statistics.fmean(math.log(run[0] / run[-1]) for run in runs))


def course(runs: list[list[float]]) -> str:
    """What the gradient does on its way from the last block to the first, mean over runs.

    It stays level if the two ends differ by less than a factor of LEVEL. Otherwise the factor a
    block decides: below FADES the gradient vanishes, above GROWS it explodes, and in between it
    fades or grows slowly.
    """
    total = first_over_last(runs)
    per_block = total ** (1 / max(1, len(runs[0]) - 1))
    if 1 / LEVEL < total < LEVEL:
        return "stays level"
    if total < 1:
        return "vanishes" if per_block < FADES else "fades slowly"
    return "explodes" if per_block > GROWS else "grows slowly"
