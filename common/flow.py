"""How a gradient changes on its way to the input: conditions, theory, words for it."""

import itertools
import math
import statistics
import sys
from collections.abc import Callable

import numpy as np
import torch.nn as nn
from tqdm import tqdm

from common import models
from common.analysis import activation_gradients
from common.experiment import block_names

CONDITIONS = ("no BN, default init", "no BN, Kaiming init", "BN")
# Growth of a wide plain network's gradient norm per layer: weights of variance 1/(3 fan-in), and
# ReLU passes half of the gradient's entries; variance 2/fan-in (He et al. 2015, arXiv:1502.01852);
# Yang et al. 2019, theorem 3.10, for fully connected layers.
THEORY = dict(zip(CONDITIONS, [(1 / 6) ** 0.5, 1.0, (math.pi / (math.pi - 1)) ** 0.5], strict=True))
PREDICTED = {
    CONDITIONS[0]: f"{THEORY[CONDITIONS[0]]:.3f} per layer: weights of variance 1/(3 fan-in), ReLU",
    "BN": f"{THEORY['BN']:.3f} per layer, plain and wide (Yang et al. 2019, theorem 3.10)",
}
LEVEL, FADES, GROWS = 5, 0.8, 1.2  # ends within this factor; factors a block
CHANGES = dict.fromkeys(CONDITIONS, lambda model: model)  # of a network with batch norm
CHANGES["no BN, default init"] = lambda m: models.default_init(models.without_batch_norm(m))
CHANGES["no BN, Kaiming init"] = models.without_batch_norm


def at_blocks(model: nn.Module, x, y) -> list[float]:
    """Activation-gradient norm at the output of each block, for images x (N 3 H W) and labels y.

    What underflowed to zero is given as the smallest positive number, which has a logarithm.
    """
    norms = activation_gradients(model, block_names(model), x, y)
    return [max(norm, sys.float_info.min) for norm in norms]


def at_start(build: Callable, kinds, seeds: range, x, y) -> dict[tuple[str, str], list]:
    """The same of fresh networks `build(kind, seed)`: {(kind, condition): one list a seed}.

    On the CPU in float64: in float32 the smallest gradients would be rounded to zero.
    """
    start: dict[tuple[str, str], list[list[float]]] = {}
    runs, x, y = list(itertools.product(CONDITIONS, kinds, seeds)), x.cpu().double(), y.cpu()
    for condition, kind, seed in tqdm(runs, "gradient flow", disable=None, leave=False):
        model = CHANGES[condition](build(kind, seed)).double()
        start.setdefault((kind, condition), []).append(at_blocks(model, x, y))
    return start


def factor_per_layer(norms: list[float]) -> float:
    """Growth of the gradient per convolution on its way towards the input, by least squares.

    `norms` are those at the outputs of blocks of two convolutions, the first next to the input.
    """
    slope, _ = np.polyfit(range(len(norms)), np.log(norms), deg=1)  # a block, towards the output
    return math.exp(-slope / 2)  # two convolutions in a block


def first_over_last(runs: list[list[float]]) -> float:
    """The first block's gradient norm over the last block's, geometric mean over runs."""
    return math.exp(statistics.fmean(math.log(run[0] / run[-1]) for run in runs))


def word(runs: list[list[float]]) -> str:
    """What the gradient does on its way from the last block to the first, mean over runs.

    It stays level if the two differ by less than a factor of LEVEL; else it vanishes below a
    factor of FADES a block, explodes above GROWS, and fades or grows slowly in between.
    """
    whole = first_over_last(runs)
    a_block = whole ** (1 / max(1, len(runs[0]) - 1))
    if 1 / LEVEL < whole < LEVEL:
        return "stays level"
    if whole < 1:
        return "vanishes" if a_block < FADES else "fades slowly"
    return "explodes" if a_block > GROWS else "grows slowly"
