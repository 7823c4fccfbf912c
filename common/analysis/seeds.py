"""Repeated measurements: one number for each seed, and when a comparison of two is a result."""

import math
import statistics
from collections.abc import Callable

import numpy as np


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


def verdict(left, relation: str, right, noise: float | None = None) -> str:
    """Judge "left > right", "left < right" or "left <= right", each Seeds or an exact number.

    More and less: "holds" if the means differ by more than the larger standard deviation, "does
    not hold" if they do so the other way round. No more: "holds" unless the excess is that large.
    A `noise` that is known otherwise, a standard error say, takes the deviation's place.
    Raises: ValueError for another relation.
    """
    if relation not in (">", "<", "<="):
        raise ValueError(f"relation must be >, < or <=, not {relation!r}")
    left, right = _repeated(left), _repeated(right)
    if noise is None:
        noise = float(np.max([left.deviation, right.deviation]))  # NaN if one of them is unknown
    margin = left.mean - right.mean if relation == ">" else right.mean - left.mean
    if relation == "<=":
        margin, noise = margin + noise, 0.0
    if margin > noise:
        return "holds"
    return "does not hold" if margin < -noise else "not reproduced in this run"


def _repeated(value) -> Seeds:
    """Seeds as they are; an exact number as one that never varies."""
    return Seeds(value) if isinstance(value, list | tuple) else Seeds([value, value])
