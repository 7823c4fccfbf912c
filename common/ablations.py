"""The options of lesson 3: one change at a time, and other learning rates."""

import math
import statistics

from common import experiment, lesson, models, optim
from common.experiment import Run, pick

ABLATIONS = {  # name: (change of the network, change of the training)
    "baseline": (lambda model: model, {}),
    "without batch norm": (models.without_batch_norm, {}),
    "PyTorch's default init": (models.default_init, {}),
    "constant learning rate": (lambda model: model, {"schedule": optim.warmup_constant}),
    "no weight decay": (lambda model: model, {"weight_decay": 0.0}),
    "last gamma zero": (models.zero_last_gamma, {}),
}


def train_and_tabulate(report, runs: list[Run], dataset, args) -> dict:
    """Train the runs; a row a name, its validation error judged against the first row's."""
    results = experiment.train_all(runs, dataset, args.epochs, args.batch_size, args.device)
    rows, first = [], pick(next(iter(results.values())), "val_error", -1)
    for name, found in results.items():
        error = pick(found, "val_error", -1)
        judged = lesson.in_words(lesson.greater(first, error)) if rows else ""
        rows.append([name, lesson.percent(pick(found, "train_error")), lesson.percent(error)])
        rows[-1].append(judged)
    header = ["network", "training error (%)", "validation error (%)", "against the first row"]
    report.table(header, rows)
    return results


def ablate(report, dataset, args, depth: int) -> dict[str, list[float]]:
    """One change at a time to the same residual network or its training: validation errors."""
    size, runs = (depth, args.classes, args.width), []
    for name, (change, options) in ABLATIONS.items():
        for seed in range(args.seed, args.seed + args.seeds):
            model = change(experiment.build_twin("residual", *size, seed))
            runs.append(Run(name, seed, model, {"lr": args.lr} | options))
    results = train_and_tabulate(report, runs, dataset, args)
    return {name: pick(found, "val_error", -1) for name, found in results.items()}


def sweep(report, dataset, args, twins) -> dict[str, list[float]]:
    """Does plain only need another learning rate? Training errors of each network at its own best
    of three, by validation error. `twins(args, lr)` builds the runs.
    """
    runs = []
    for rate in (args.lr / 5, args.lr, args.lr * 5):
        for run in twins(args, rate):
            runs.append(Run(f"{run.name} at {rate:g}", run.seed, run.model, run.options))
    results = train_and_tabulate(report, runs, dataset, args)
    best: dict[str, tuple[float, list[float]]] = {}
    for name, found in results.items():
        error, key = statistics.fmean(pick(found, "val_error", -1)), name.split()[0]
        if key not in best or math.isnan(best[key][0]) or error < best[key][0]:
            best[key] = error, pick(found, "train_error")
    return {key: trained for key, (_, trained) in best.items()}
