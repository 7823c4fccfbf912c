"""Repeated measurements: one number for each seed, and when a comparison of two is a result."""

import math
import statistics
from collections.abc import Callable

import numpy as np

ENOUGH = 5  # pairs of seeds: all agree by chance alone once in 2 ** 5 times


class Seeds(list):
    """One number for each seed.

    `f"{error:.1%}"` gives "87.6 ± 0.4 %" and `f"{loss:.2f}"` "2.31 ± 0.02": mean and standard
    deviation. A single number stands alone.
    """

    @classmethod
    def of(cls, runs: list, read: Callable) -> "Seeds":
        """`read(run)` of every run; NaN for None, which stands for a training that diverged."""
        return cls(math.nan if run is None else read(run) for run in runs)

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return statistics.fmean(self)

    @property
    def deviation(self) -> float:
        """The sample standard deviation over seeds; NaN for a single one."""
        return float(np.std(self, ddof=1)) if len(self) > 1 else math.nan

    def __format__(self, form: str) -> str:
        """Mean and deviation, each in the format of a number; three digits without one."""
        scale, unit = (100, " %") if form.endswith("%") else (1, "")
        numbers = [self.mean] if len(self) == 1 else [self.mean, self.deviation]
        form = form.replace("%", "f") or ".3g"
        return " ± ".join(f"{scale * number:{form}}" for number in numbers) + unit


def verdict(left, relation: str, right, margin: float = 0.0) -> str:
    """Judge "left > right", "left < right" or "left <= right + margin" by pairs of seeds.

    Each side is Seeds, whose numbers i belong to the same seed on both, or an exact number. The
    claim "holds" if every pair agrees and there are five or more: without any difference that
    happens once in 32 times. It "does not hold" if five or more all disagree. Else it is "unclear",
    with the number of pairs that agree. Two exact numbers are a count: they decide at once.
    Raises: ValueError for another relation, and for sides of different lengths.
    """
    if relation not in (">", "<", "<="):
        raise ValueError(f"relation must be >, < or <=, not {relation!r}")
    agree, oppose, n = _pairs(left, relation, right, margin)
    enough = n >= ENOUGH or not (isinstance(left, list) or isinstance(right, list))
    if agree == n and enough:
        return "holds"
    if oppose == n and enough:
        return "does not hold"
    return f"unclear: {agree} of {n} seeds"


def _pairs(left, relation: str, right, margin: float) -> tuple[int, int, int]:
    """How many pairs agree, how many say the contrary, and how many there are; NaN does neither."""
    n = max(len(side) if isinstance(side, list) else 1 for side in (left, right))
    sides = [side if isinstance(side, list) else n * [side] for side in (left, right)]
    if relation == "<":
        sides.reverse()
    differences = [a - b for a, b in zip(*sides, strict=True)]
    most = margin + 1e-9 if margin else 0.0  # 0.89 - 0.86 is a little more than 0.03 in binary
    above = sum(difference > most for difference in differences)
    below = sum(difference <= most for difference in differences)
    return (below, above, n) if relation == "<=" else (above, below, n)
