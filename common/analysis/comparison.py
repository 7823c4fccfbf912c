"""Networks that train under the same conditions, and what is watched meanwhile."""

import math
from dataclasses import dataclass, replace

from common import models, training
from common.data import Split

import numpy as np

from . import gradients
from .seeds import Seeds


@dataclass
class Measured:
    """What one training showed: errors are shares of images, losses in nats."""

    train_error: float  # after training, on the images as they are
    val_error: float  # after training
    epoch_error: list[float]  # of every epoch's training images, augmented, as they passed
    step_loss: list[float]  # by step: mean over as many steps as an epoch has
    gradients: dict[int, list[float]]  # after so many updates: norm at the output of each block
    updates: dict[int, float]  # after so many updates: |new - old| / |old| of the next


def train_all(
    runs: list[training.Run], dataset, epochs: int, steps: list[int], device: str
) -> list[Measured | None]:
    """Train all networks, watched after `steps` updates; None where the loss became no number."""
    an_epoch = [training.steps_per_epoch(dataset, run.options["batch_size"]) for run in runs]
    with training.progress(f"{len(runs)} networks", epochs * sum(an_epoch), "step") as bar:

        def job(run: training.Run) -> Measured | None:
            return _train(run, dataset, epochs, steps, device, bar)

        return training.side_by_side(job, runs, device)


def _train(run: training.Run, dataset, epochs, steps, device, bar) -> Measured | None:
    """Train one network. Its seed alone decides on order and augmentation of the batches."""
    # Validated once, at the end: with so few training images it would take 40 % of the time.
    brief = replace(dataset, val=Split(*(part[:1] for part in dataset.val)))
    options = {"seed": run.seed, "device": device} | run.options
    trainer = training.Trainer(run.model, brief, epochs, **options)
    x, y = next(dataset.batches("train", 64))  # the same images for all: their gradients compare
    recorder = gradients.Recorder(run.model, models.block_names(run.model), x, y, steps)
    try:
        rows = list(trainer.run(bar, on_step=recorder))
    except training.Diverged:
        return None
    return Measured(
        train_error=1 - training.evaluate(run.model, dataset, "train", device)[1],
        val_error=1 - training.evaluate(run.model, dataset, "val", device)[1],
        epoch_error=[1 - row["train_accuracy"] for row in rows],
        step_loss=recorder.losses(trainer.steps // epochs),
        gradients=recorder.gradients,
        updates=recorder.updates,
    )


def errors(results: dict[str, list[Measured | None]], split: str) -> dict[str, Seeds]:
    """By network: the errors after training on "train" or "val", one a seed."""
    return {
        name: Seeds.of(runs, lambda run: getattr(run, f"{split}_error"))
        for name, runs in results.items()
    }


def error_table(results: dict[str, list[Measured | None]]) -> list[dict]:
    """One row a network: both errors, and how many of its trainings diverged."""
    train, val = errors(results, "train"), errors(results, "val")
    rows = []
    for name, runs in results.items():
        row = {"network": name, "training error": f"{train[name]:.1%}"}
        rows.append(row | {"validation error": f"{val[name]:.1%}", "diverged": runs.count(None)})
    return rows


def times(logs: Seeds, what: str = "times") -> str:
    """Ratios, given by their log10, in words: geometric mean and range over seeds."""
    low, middle, high = (_digits(10**log, 2) for log in (min(logs), logs.mean, max(logs)))
    return f"{middle} {what} ({low} to {high} by seed)"


def _digits(value: float, count: int) -> str:
    """The number, rounded to so many digits: 2,300 instead of 2.3e+03."""
    return f"{float(f'{value:.{count}g}'):,g}"


def explosion(runs: list[Measured | None], step: int) -> Seeds:
    """By seed: log10 of the gradient behind the first block over that behind the last one."""
    return Seeds.of(runs, lambda run: float(np.subtract(*np.log10(run.gradients[step])[[0, -1]])))


def gradient_table(twins: dict[str, list[Measured | None]], steps: list[int]) -> list[dict]:
    """One row for each of the `steps` at which two networks, plain and residual, were watched.

    Gradients: norms at the blocks' outputs, geometric mean over blocks and seeds, and updates:
    median over seeds, both plain / residual. Then, of each network, the gradient behind its first
    block over that behind its last.
    """
    rows = []
    for step in steps:
        row = {"updates made": step}
        ratio = 10 ** gradients.log_ratio(*twins.values(), step).mean
        row["gradient, plain / residual"] = f"{ratio:.2f}"
        row["change, plain / residual"] = f"{gradients.update_ratio(*twins.values(), step):.2f}"
        for name, runs in twins.items():
            row[f"{name}: first / last"] = _digits(10 ** explosion(runs, step).mean, 3)
        rows.append(row)
    return rows


def steps_to(runs: list[Measured | None], targets: Seeds, window: int) -> Seeds:
    """Steps until a run's mean loss over `window` steps (an epoch) is at most its seed's target;
    infinite if it never is."""
    steps = Seeds()
    for run, target in zip(runs, targets, strict=True):
        losses = run.step_loss if run else []  # the first of them after `window` steps
        reached = (step for step, loss in enumerate(losses, window) if loss <= target)
        steps.append(next(reached, math.inf))
    return steps


def steps_in_words(steps: Seeds) -> str:
    """Mean and deviation over the seeds that got there, and how many never did."""
    there = Seeds(step for step in steps if step < math.inf)
    never = f"never ({len(steps) - len(there)} of {len(steps)})"
    if not there:
        return never
    return f"{there:.0f}" + (f", {never}" if len(there) < len(steps) else "")
