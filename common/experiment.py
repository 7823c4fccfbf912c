"""Experiments on several networks: trained side by side, watched in the same way, by seed."""

import math
import re
import statistics
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from tqdm import tqdm

from common import UserError, analysis, models, threads, training
from common.data import Dataset, Split

KINDS = {"plain": models.cifar_plain, "residual": models.cifar_resnet}  # twins
LESION_IMAGES = 200  # of the test split, for each deleted block
STAGE = re.compile(r"layer\d|features\.denseblock\d")
WINDOW = 10  # steps over which losses and errors are averaged


@dataclass
class Run:
    """One network to train: its name, its seed, and the options of `training.fit`."""

    name: str
    seed: int
    model: torch.nn.Module
    options: dict = field(default_factory=dict)


def build_twin(kind: str, depth: int, classes: int, width: int, seed: int) -> torch.nn.Module:
    """A network whose initial values are a function of seed and size, not of its kind.

    Raises: UserError for a depth that is not 6n + 2.
    """
    torch.manual_seed(seed)
    try:
        return KINDS[kind](depth, num_classes=classes, width=width)
    except ValueError as error:
        raise UserError(str(error)) from error


def block_names(model: torch.nn.Module) -> list[str]:
    """The blocks of a network (of a DenseNet the layers), in the order of the signal."""
    stages = [name for name, _ in model.named_modules() if STAGE.fullmatch(name)]
    return [f"{s}.{child}" for s in stages for child, _ in model.get_submodule(s).named_children()]


def train_all(
    runs: list[Run],
    dataset: Dataset,
    epochs: int,
    batch_size: int,
    device: str = "cpu",
    watch: bool = True,
) -> dict[str, list[dict | None]]:
    """Train all networks, as many at a time as there are cores, under one progress bar.

    Returns, for each name, one result a seed (see `_fit`, and with `watch` also `_watched`), None
    where the training diverged.
    Raises: UserError if all of them diverged.
    """
    steps = epochs * training.steps_per_epoch(dataset, batch_size)
    title = f"{len(runs)} networks"
    with tqdm(total=steps * len(runs), desc=title, unit="step", disable=None, leave=False) as bar:

        def job(run: Run) -> dict | None:
            train = _watched if watch else _fit
            return train(run, dataset, epochs, batch_size, device, bar)

        results = threads.side_by_side(job, runs, device)
    if not any(results):
        raise UserError("the loss of every network stopped being a number: try a smaller --lr")
    return _by_name(runs, results)


def recorded_steps(end: int) -> list[int]:
    """When gradients and updates are recorded: after 0, 1, 10 and all updates."""
    return sorted({0, min(1, end), min(10, end), end})


def _fit(run: Run, dataset, epochs, batch_size, device, bar, on_step=None) -> dict | None:
    """Validation error after each epoch (share), seconds of training; None if it diverged."""
    options = {"batch_size": batch_size, "seed": run.seed, "device": device} | run.options
    try:
        rows = list(training.fit(run.model, dataset, epochs, bar=bar, on_step=on_step, **options))
    except training.Diverged:
        return None
    return {
        "val_error": [1 - row["val_accuracy"] for row in rows],
        "seconds": rows[-1]["seconds"],
    }


def _watched(run: Run, dataset, epochs, batch_size, device, bar) -> dict | None:
    """What was measured on the way and at the end: errors are shares, losses in nats, and
    `largest_rise` is that of the smoothed loss from one step to the next."""
    x, y = next(dataset.batches("train", 64))
    steps = recorded_steps(epochs * training.steps_per_epoch(dataset, batch_size))
    recorder = analysis.Recorder(run.model.to(device), block_names(run.model), x, y, steps)
    found = _fit(run, dataset, epochs, batch_size, device, bar, recorder)
    if found is None:
        return None
    losses, accuracies = zip(*recorder.batches, strict=True)
    return found | {
        "train_error": 1 - training.evaluate(run.model, dataset, "train", device)[1],
        "step_loss": (losses := smooth(torch.stack(losses).tolist())),
        "largest_rise": float(np.diff(losses).max(initial=0.0)),
        "step_error": smooth((1 - torch.stack(accuracies)).tolist()),
        "gradients": recorder.gradients,
        "updates": recorder.updates,
    }


def test_all(
    runs: list[Run], results: dict[str, list[dict | None]], dataset: Dataset, device: str = "cpu"
) -> dict[str, list[float]]:
    """Accuracy on all test images of each trained network by name; NaN where it diverged."""

    def job(run: Run) -> float:
        return training.evaluate(run.model, dataset, "test", device)[1]

    tested = _by_name(runs, threads.side_by_side(job, runs, device))
    return {
        name: [a if r else math.nan for a, r in zip(tested[name], found, strict=True)]
        for name, found in results.items()
    }


def lesions(runs: list[Run], dataset: Dataset, device: str = "cpu") -> dict[str, list[list[float]]]:
    """Test accuracy of each trained network as it is, then without each of its blocks in turn.

    Measured on the first `LESION_IMAGES` test images; by name, one list a seed.
    """
    few = Split(*(tensor[:LESION_IMAGES] for tensor in dataset.test))
    dataset = replace(dataset, test=few)
    with tqdm(total=len(runs), desc="lesions", disable=None, leave=False) as bar:

        def job(run: Run) -> list[float]:
            accuracies = [training.evaluate(run.model, dataset, "test", device)[1]]
            for name in block_names(run.model):
                with analysis.without_block(run.model, name):
                    accuracies.append(training.evaluate(run.model, dataset, "test", device)[1])
            bar.update()
            return accuracies

        results = threads.side_by_side(job, runs, device)
    return _by_name(runs, results)


def _by_name(runs: list[Run], results: list) -> dict[str, list]:
    """The results of all seeds under the name of their network."""
    grouped: dict[str, list] = {}
    for run, result in zip(runs, results, strict=True):
        grouped.setdefault(run.name, []).append(result)
    return grouped


def lost_share(accuracies: list[float], chance: float) -> float:
    """Of the accuracy above chance, the share lost with one block, mean over blocks.

    `accuracies` as `lesions` gives them; NaN if the whole network is no better than chance.
    """
    whole, *without = accuracies
    return (whole - statistics.fmean(without)) / (whole - chance) if whole > chance else math.nan


def pick(results: list[dict | None], *keys) -> list[float]:
    """One number of every run, result[keys[0]][keys[1]] ..., NaN where a run diverged."""
    numbers = []
    for result in results:
        for key in keys:
            result = math.nan if result is None else result[key]
            if isinstance(result, float) and math.isnan(result):
                break
        numbers.append(result)
    return numbers


def smooth(values: list[float]) -> list[float]:
    """Means over WINDOW consecutive steps (over all of them if there are fewer)."""
    window = min(WINDOW, len(values))
    return np.convolve(values, np.full(window, 1 / window), "valid").tolist()


def steps_to(smoothed: list[float], target: float) -> float:
    """Steps until a smoothed loss is at most `target`; all of them if it never is."""
    reached = (i for i, loss in enumerate(smoothed) if loss <= target)
    return float(next(reached, len(smoothed) - 1) + WINDOW)


def log_gradient_ratio(
    above: list[dict | None], below: list[dict | None], step: int
) -> list[float]:
    """log10 of above / below, by seed, of the geometric mean over blocks of the gradients."""
    return [
        float(np.mean(np.log10(a["gradients"][step])) - np.mean(np.log10(b["gradients"][step])))
        if a and b
        else math.nan
        for a, b in zip(above, below, strict=True)
    ]


def update_ratio(above: list[dict | None], below: list[dict | None], step: int) -> float:
    """above / below of the median over seeds of the relative size of an update."""
    medians = [statistics.median(pick(found, "updates", step)) for found in (above, below)]
    return medians[0] / medians[1]


def steps_to_plain(results: dict[str, list[dict | None]], depth: int) -> dict[str, list[float]]:
    """Steps of the twins of a depth to the loss at which the plain one ends (mean over seeds)."""
    plain, residual = results[f"plain-{depth}"], results[f"residual-{depth}"]
    target = statistics.fmean(pick(plain, "step_loss", -1))
    return {
        kind: [steps_to(r["step_loss"], target) if r else math.nan for r in found]
        for kind, found in (("plain", plain), ("residual", residual))
    }


def split_lesions(runs: list[list[float]]) -> tuple[list[float], list[float]]:
    """Mean accuracy, by seed, without a block that changes the resolution, and without another.

    `runs` as `lesions` gives them, of networks with three stages of equal length.
    """
    at_change, elsewhere = [], []
    for _whole, *without in runs:
        third = len(without) // 3
        changes = [without[third], without[2 * third]]
        at_change.append(statistics.fmean(changes))
        elsewhere.append((sum(without) - sum(changes)) / (len(without) - 2))
    return at_change, elsewhere


def compare_twins(results, lesions, shallow: int, deep: int, chance: float, end: int) -> dict:
    """The numbers that decide the claims about plain and residual networks, by seed.

    `results` and `lesions` as `train_all` and `lesions` give them, with names like plain-20;
    `chance` is the accuracy of guessing, `end` the number of updates.
    """
    plain, residual = (results[f"{kind}-{deep}"] for kind in KINDS)
    ratios = {step: log_gradient_ratio(plain, residual, step) for step in recorded_steps(end)}
    early = [ratios[step] for step in ratios if step < end]
    return {
        "errors": {name: pick(found, "train_error") for name, found in results.items()},
        "steps_to_plain_loss": steps_to_plain(results, shallow),
        "largest_rises": {kind: pick(results[f"{kind}-{deep}"], "largest_rise") for kind in KINDS},
        "log_ratios": [statistics.fmean(seed) for seed in zip(*early, strict=True)],
        "log_ratios_at_end": ratios[end],
        "lost_shares": {
            kind: [lost_share(run, chance) for run in lesions[f"{kind}-{shallow}"]]
            for kind in KINDS
        },
        "split_lesions": split_lesions(lesions[f"residual-{deep}"]),
    }
