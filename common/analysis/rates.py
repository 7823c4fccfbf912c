"""A grid of learning rates: every network at its own best one, and at half and twice of that.

A grid is {network: {rate: {"train": errors by seed, "val": errors by seed}}}: shares of images
after training, NaN where the training diverged.
"""

import math
import statistics

from common import training

from .seeds import Seeds

FACTORS = {1: "its own best rate", 0.5: "half its best rate", 2: "twice its best rate"}
Rates = dict[float, dict[str, list[float]]]  # of one network


def collect(runs: list[training.Run], results: list) -> dict[str, Rates]:
    """The grid of trained runs (option "lr") and their `comparison.Measured`, None if diverged."""
    grid: dict[str, Rates] = {}
    for run, result in zip(runs, results, strict=True):
        by_rate = grid.setdefault(run.name, {})
        splits = by_rate.setdefault(run.options["lr"], {"train": [], "val": []})
        for split, errors in splits.items():
            errors.append(getattr(result, f"{split}_error", math.nan))
    return grid


def best(by_rate: Rates) -> float:
    """The rate of the lowest validation error, mean over seeds; where one seed diverged, last."""
    means = {rate: statistics.fmean(splits["val"]) for rate, splits in by_rate.items()}
    return min(sorted(means), key=lambda rate: (math.isnan(means[rate]), means[rate]))


def at_edge(by_rate: Rates) -> bool:
    """Whether the best rate is the lowest or the highest: a better one may lie beyond."""
    return best(by_rate) in (min(by_rate), max(by_rate))


def around_best(grid: dict[str, Rates], factor: float) -> dict[str, Seeds | None]:
    """Training errors of every network at `factor` times its own best rate; None outside the grid.

    Doubling and halving are exact in floating point, so that a rate is found by its value.
    """
    found = {name: by_rate.get(factor * best(by_rate)) for name, by_rate in grid.items()}
    return {name: splits and Seeds(splits["train"]) for name, splits in found.items()}


def table(grid: dict[str, Rates]) -> list[dict]:
    """One row a network, one column a rate: training errors; a star at the network's best rate."""
    rows = []
    for name, by_rate in grid.items():
        row = {"network": name}
        for rate in sorted(by_rate):
            errors = Seeds(by_rate[rate]["train"])
            diverged = sum(map(math.isnan, errors))
            cell = f"{diverged} of {len(errors)} diverged" if diverged else f"{errors:.1%}"
            row[f"{rate:g}"] = cell + " *" * (rate == best(by_rate))
        rows.append(row)
    return rows
