"""How a gradient grows on its way through many blocks: theory, and the law that fits it."""

import math

import numpy as np

from . import published
from .gradients import CONDITIONS
from .seeds import Seeds

# Growth of a wide plain network's gradient norm per layer: weights of variance 1/(3 fan-in), and
# ReLU passes half of the gradient's entries; variance 2/fan-in (He et al. 2015, arXiv:1502.01852);
# Yang et al. 2019, theorem 3.10, for fully connected layers.
THEORY = dict(zip(CONDITIONS, [(1 / 6) ** 0.5, 1.0, (math.pi / (math.pi - 1)) ** 0.5], strict=True))
PREDICTED = {
    CONDITIONS[0]: f"{THEORY[CONDITIONS[0]]:.3f} per layer: weights of variance 1/(3 fan-in), ReLU",
    "BN": f"{THEORY['BN']:.3f} per layer, the root of {published.BN_EXPLODES}",
}
LEVEL = 5  # a gradient whose ends lie within this factor has no law to speak of


def factor_per_layer(norms: list[float]) -> float:
    """Growth of the gradient per convolution on its way towards the input, by least squares.

    `norms` are those at the outputs of blocks of two convolutions, the first next to the input.
    """
    slope, _ = fit(norms, "exponential")  # a block, towards the output
    return math.exp(-slope / 2)  # two convolutions in a block


def factor_table(
    runs: dict[str, list[list[float]]], factors: dict[str, Seeds], theory: dict[str, float]
) -> list[dict]:
    """Factors a layer beside theory's, where there are any, and first over last block, by name."""
    rows = []
    for key, norms in runs.items():
        row = {"network": key, "factor a layer": f"{factors[key]:.3f}" if key in factors else ""}
        row["theory"] = f"{theory[key]:.3f}" if key in theory else ""
        row["ratio to it"] = f"{factors[key].mean / theory[key]:.3f}" if key in theory else ""
        rows.append(row | {"first / last block": f"{first_over_last(norms):.2g}"})
    return rows


def fit(norms: list[float], law: str) -> tuple[float, float]:
    """Slope and mean squared error of a line through log(norm), by least squares.

    `norms` are those of blocks 1, 2 ... from the input. In an "exponential" a block multiplies the
    norm by exp(slope): the line is over the block's number l. In a "power law" the norm goes as
    l ** slope: the line is over log(l). That is what comes out where block l multiplies the
    gradient by 1 + p / l on its way to the input: l ** -p.
    Raises: ValueError for another law.
    """
    if law not in ("exponential", "power law"):
        raise ValueError(f"law must be 'exponential' or 'power law', not {law!r}")
    numbers = np.arange(1, len(norms) + 1)
    place = numbers if law == "exponential" else np.log(numbers)
    logs = np.log(norms)
    slope, offset = np.polyfit(place, logs, deg=1)
    return float(slope), float(np.mean((logs - slope * place - offset) ** 2))


def exponent(norms: list[float]) -> float:
    """p of the power law norm ~ l ** p that fits best, l the block's number from the input."""
    return fit(norms, "power law")[0]


def misfit(norms: list[float], law: str) -> float:
    """How far the norms are from a law: mean squared error of log(norm), see `fit`."""
    return fit(norms, law)[1]


def law_of(runs: list[list[float]]) -> str:
    """The law that fits every run better than the other one does, with its number: a factor a
    layer towards the input, or a power of l, the block's number from the input."""
    if is_level(runs):
        return "level"
    exponential = [misfit(run, "exponential") < misfit(run, "power law") for run in runs]
    if all(exponential):
        return f"x{Seeds.of(runs, factor_per_layer):.3f} a layer"
    if not any(exponential):
        return f"l ** {Seeds.of(runs, exponent):.2f}"
    return f"neither: exponential in {sum(exponential)} of {len(runs)}"


def log_ends(runs: list[list[float]]) -> Seeds:
    """By seed: log10 of the first block's norm over the last block's."""
    return Seeds.of(runs, lambda run: math.log10(run[0] / run[-1]))


def first_over_last(runs: list[list[float]]) -> float:
    """The first block's gradient norm over the last block's, geometric mean over runs."""
    return 10 ** log_ends(runs).mean


def is_level(runs: list[list[float]]) -> bool:
    """Whether first and last block differ by less than a factor of LEVEL, mean over runs."""
    return 1 / LEVEL < first_over_last(runs) < LEVEL
