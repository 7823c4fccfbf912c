"""Networks compared: about as many parameters, the same steps, batches and seeds."""

import bisect
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from common import training

import torch
import torch.nn as nn

from . import costs
from .seeds import Seeds, verdict


@dataclass
class Result:
    """What a network costs and, by seed, what came of its training; NaN where it diverged."""

    parameters: int  # trainable
    multiply_adds: int  # of a forward pass of one image
    step: list[float]  # seconds of each timed training step on a batch
    peak: int  # bytes held in a training step on that batch
    validation: Seeds  # accuracy, as a share of all validation images: choices are made by it
    loss: Seeds  # on these images (nats)
    accuracy: Seeds  # share of all test images

    @property
    def milliseconds(self) -> float:
        """The median time of a training step."""
        return 1e3 * statistics.median(self.step)


def at_parameters(build: Callable[..., nn.Module], target: int) -> Callable[[], nn.Module]:
    """`build` at the width, 4 to 160, whose number of parameters comes nearest to `target`."""

    def count(width: int) -> int:
        with torch.device("meta"):  # shapes without values: nothing is drawn or stored
            return costs.parameter_count(build(width=width))

    above = bisect.bisect(range(4, 160), target, key=count) + 4  # a wider network has more
    nearest = min(max(4, above - 1), above, key=lambda width: abs(count(width) - target))
    return partial(build, width=nearest)


def compare(
    builds: dict[str, Callable], rates: dict[str, float], plan: tuple, seeds: range, device: str
) -> tuple[dict[str, Result], dict[str, list[nn.Module]]]:
    """Train every network with every seed, at its own learning rate.

    `plan` is dataset, epochs and batch size. Returns, by name, the results, and the trained
    networks in the order of the seeds.
    """
    dataset, epochs, batch_size = plan
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
    seconds = costs.step_seconds(fresh, x, y)
    table = {}
    for name, rows in trained.items():
        table[name] = Result(
            parameters=costs.parameter_count(fresh[name]),
            multiply_adds=costs.multiply_adds(fresh[name], *x.shape[1:]),
            step=seconds[name],
            peak=costs.peak_bytes(fresh[name], x, y),
            validation=Seeds.of(rows, lambda epochs: epochs[-1]["val_accuracy"]),
            loss=Seeds.of(rows, lambda epochs: epochs[-1]["val_loss"]),
            accuracy=Seeds(
                share if epochs else math.nan
                for epochs, share in zip(rows, tested[name], strict=True)
            ),
        )
    return table, training.by_name(runs, [run.model for run in runs])


def cost_table(table: dict[str, Result], rates: dict[str, float]) -> list[dict]:
    """What networks cost and how accurate they are, a row each."""
    rows = []
    for name, result in table.items():
        row = {"variant": name, "learning rate": f"{rates[name]:g}"}
        row |= {"parameters": f"{result.parameters:,}"}
        row["multiply-adds (M)"] = f"{result.multiply_adds / 1e6:.1f}"
        row["step (ms)"] = f"{result.milliseconds:.0f}"
        row["peak memory (MB)"] = f"{result.peak / 1e6:.1f}"
        row["validation accuracy"] = f"{result.validation:.1%}"
        rows.append(row | {"test accuracy": f"{result.accuracy:.1%}"})
    return rows


def judge(table: dict[str, Result], reference: str) -> dict[str, str]:
    """Each network's validation accuracy against the reference's, by pairs of seeds."""
    expected, judged = table[reference].validation, {}
    for name, result in table.items():
        pairs = list(zip(result.validation, expected, strict=True))
        judged[name] = f"unclear: {sum(a > b for a, b in pairs)} of {len(pairs)} better"
        if verdict(result.validation, ">", expected) == "holds":
            judged[name] = "better"
        if verdict(result.validation, "<", expected) == "holds":
            judged[name] = "worse"
        if any(map(math.isnan, result.validation)):
            judged[name] = "diverged"
    if judged[reference] != "diverged":
        judged[reference] = ""  # it is not compared with itself
    return judged


def search(builds: dict, rates: tuple, plan: tuple, seeds: range, device: str) -> dict[str, dict]:
    """Validation loss and accuracy of every network at each of the learning rates; `plan` is the
    dataset, epochs and batch size of `compare`."""
    found: dict[str, dict] = {name: {} for name in builds}
    for rate in rates:
        table, _ = compare(builds, dict.fromkeys(builds, rate), plan, seeds, device)
        for name, result in table.items():
            found[name][f"{rate:g}"] = {"loss": result.loss, "accuracy": result.validation}
    return found


def rate_table(found: dict[str, dict]) -> list[dict]:
    """The losses of `search`, a row a network."""
    return [
        {"validation loss": name}
        | {f"rate {rate}": f"{run['loss']:.2f}" for rate, run in by_rate.items()}
        for name, by_rate in found.items()
    ]
