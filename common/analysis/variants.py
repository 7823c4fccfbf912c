"""Networks compared: about as many parameters, the same steps, batches and seeds."""

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from common import training

import torch
import torch.nn as nn

from . import costs
from .seeds import Seeds


@dataclass
class Result(costs.Costs):
    """What a network costs and, by seed, what came of its training; NaN where it diverged."""

    validation: Seeds  # accuracy, as a share of all validation images: choices are made by it
    loss: Seeds  # on these images (nats)
    accuracy: Seeds  # share of all test images


def at_parameters(build: Callable[..., nn.Module], target: int) -> Callable[[], nn.Module]:
    """`build` at the width, 4 to 64, whose number of parameters comes nearest to `target`."""

    def count(width: int) -> int:
        with torch.device("meta"):  # shapes without values: nothing is drawn or stored
            return costs.parameter_count(build(width=width))

    above = bisect.bisect(range(4, 64), target, key=count) + 4  # a wider network has more
    nearest = min(max(4, above - 1), above, key=lambda width: abs(count(width) - target))
    return partial(build, width=nearest)


def compare(
    builds: dict[str, Callable[[], nn.Module]],
    rates: dict[str, float],
    dataset,
    epochs: int,
    batch_size: int,
    seeds: range,
    device: str,
) -> tuple[dict[str, Result], dict[str, list[nn.Module]]]:
    """Train every network with every seed, at its own learning rate.

    Returns, by name, the results, and the trained networks in the order of the seeds.
    """
    runs = []
    for name, build in builds.items():
        for seed in seeds:
            torch.manual_seed(seed)  # of the initial values; the Run's orders the images
            runs.append(training.Run(name, seed, build(), {"lr": rates[name]}))
    trained = training.train_all(runs, dataset, epochs, batch_size, device)
    tested = training.side_by_side(
        lambda run: training.evaluate(run.model, dataset, "test", device)[1], runs, device
    )
    tested = training.by_name(runs, tested)
    x, y = next(dataset.batches("train", batch_size))
    fresh = {name: build() for name, build in builds.items()}  # measuring would touch trained ones
    table = {}
    for name, cost in costs.measure(fresh, x, y).items():
        rows = trained[name]
        table[name] = Result(
            **vars(cost),
            validation=Seeds.of(rows, lambda epochs: epochs[-1]["val_accuracy"]),
            loss=Seeds.of(rows, lambda epochs: epochs[-1]["val_loss"]),
            accuracy=Seeds(
                share if epochs else math.nan
                for epochs, share in zip(rows, tested[name], strict=True)
            ),
        )
    return table, training.by_name(runs, [run.model for run in runs])
