"""Curves: by step, by epoch, by block, by cost."""

import math

import numpy as np
from matplotlib import patheffects

from . import style


def training_curves(results: dict[str, list], window: int, chance: float, setup: str):
    """Training error by step (already averaged over `window`) and validation error by epoch.

    `results` holds, for names like plain-20, one run a seed with `train_error`, `step_error` and
    `val_error` (shares), None where it diverged; `chance` is the error of guessing. The deeper the
    network, the thicker its line.
    """
    finished = {name: [run for run in runs if run] for name, runs in results.items()}
    depths = sorted({int(name.split("-")[1]) for name in results})
    subtitle = f"{setup} and range. Title: after training; curves: augmented, as they pass"
    figure, axes = style.new_figure(_errors_by_depth(finished, depths), subtitle, 11, 5, ncols=2)
    for ax, key, first in zip(axes, ("step_error", "val_error"), (window, 1), strict=True):
        ends = [(100 * chance, "chance", style.GREY)]
        ax.axhline(100 * chance, color=style.GREY, linewidth=1)
        for name, runs in finished.items():
            kind, depth = name.split("-")
            width = 1 + 2 * (depths.index(int(depth)) + 1) / len(depths)
            errors = [100 * np.array(getattr(run, key)) for run in runs]
            if errors:
                look = style.TWINS[kind]
                steps = range(first, first + len(errors[0]))
                ends.append((style.band(ax, steps, errors, look, width), name, look[0]))
        ax.margins(x=0)
        style.label_ends(ax, ends)
    axes[0].set(xlabel="step", ylabel=f"training error (%), mean of {window} steps")
    axes[1].set(xlabel="epoch", ylabel="validation error (%)")
    axes[1].xaxis.get_major_locator().set_params(integer=True)
    return figure


def _errors_by_depth(finished: dict[str, list], depths: list[int]) -> str:
    """The training errors of the shallowest and the deepest twins, in words."""
    courses = []
    for kind in style.TWINS:
        ends = [finished[f"{kind}-{depth}"] for depth in (depths[0], depths[-1])]
        means = [np.mean([run.train_error for run in runs] or np.nan) for runs in ends]
        courses.append(f"{kind} {100 * means[0]:.0f} % to {100 * means[1]:.0f} %")
    return f"Training error from depth {depths[0]} to {depths[-1]}: {', '.join(courses)}"


def lesion_curves(lesions: dict, depths: tuple[int, int], chance: float, setup: str):
    """Test accuracy without each block, the twins of one depth in one panel.

    `lesions` holds, for names like plain-20, one list a seed: the intact network, then without
    each block (shares). The title is about the deeper residual network.
    """
    runs = np.array(lesions[f"residual-{depths[1]}"])  # seeds, intact + one a block
    title = f"residual-{depths[1]}: {100 * runs[:, 0].mean():.0f} % test accuracy, "
    title += f"{100 * runs[:, 1:].mean():.0f} % without one block (mean)"
    subtitle = f"{setup} and range. Dotted: the resolution changes"
    figure, axes = style.new_figure(title, subtitle, 11, 4.8, ncols=2, sharey=True)
    labels = []
    for ax, depth in zip(axes, depths, strict=True):
        blocks, ends = (depth - 2) // 2, [(100 * chance, "chance", style.GREY)]
        for kind, look in style.TWINS.items():
            runs = 100 * np.array(lesions[f"{kind}-{depth}"])
            ends.append((style.band(ax, range(1, blocks + 1), runs[:, 1:], look), kind, look[0]))
            ax.plot(0, runs[:, 0].mean(), "o", color=look[0])
        ax.axhline(100 * chance, color=style.GREY, linewidth=1)
        for change in (blocks // 3 + 1, 2 * blocks // 3 + 1):
            ax.axvline(change, color=style.GREY, linewidth=1, linestyle=":")
        ax.set(xlabel="deleted block (0: none)", xlim=(-0.5, blocks))
        ax.set_title(f"depth {depth}", fontsize=11)
        labels.append(ends)
    for ax, ends in zip(axes, labels, strict=True):  # now that their shared limits are known
        style.label_ends(ax, ends)
    axes[0].set_ylabel("test accuracy (%)")
    return figure


def epochs(rows: list[dict], what: str, subtitle: str, accuracy: float):
    """Loss and accuracy by epoch; `rows` come from training.Trainer, `accuracy` from the test."""
    title = f"{what}: {100 * accuracy:.1f} % test accuracy after "
    title += f"{len(rows)} epoch{'s' * (len(rows) > 1)}"
    figure, axes = style.new_figure(title, subtitle, 10, 4.6, ncols=2)
    epochs = [row["epoch"] for row in rows]
    looks = {"train": (style.GREY, "-"), "val": (style.OTHERS[0], "-")}
    for ax, quantity, scale in zip(axes, ("loss", "accuracy"), (1, 100), strict=True):
        ends = []
        if quantity == "loss":
            style.logarithmic(ax, "y")
        for split, (colour, dash) in looks.items():
            values = [scale * row[f"{split}_{quantity}"] for row in rows]
            ax.plot(epochs, values, dash, color=colour, marker="o", markersize=4)
            ends.append((values[-1], {"train": "training", "val": "validation"}[split], colour))
        ax.set(xlabel="epoch", xlim=(min(epochs) - 0.2, max(epochs)))
        ax.xaxis.get_major_locator().set_params(integer=True)
        style.label_ends(ax, ends)
    axes[0].set_ylabel("mean cross-entropy (nats)")
    axes[1].set_ylabel("accuracy (%)")
    return figure


def deep_training(losses: dict, ends: dict, paths: dict, layers: int, classes: int, data_name: str):
    """Loss by step, one line a seed, and the open share of identity paths by length.

    `losses` holds, for plain and residual, the losses of every step by seed, `ends` their mean
    over seeds at the beginning and at the end; `paths`, for pre and post, the shares over 1, 2 ...
    blocks by seed.
    """
    course = {kind: _course(runs, *ends[kind]) for kind, runs in losses.items()}
    title = f"{layers:,} layers: with shortcuts the loss {course['residual']}, "
    title += f"without them it {course['plain']}"
    subtitle = f"Left: pre-activation bottlenecks, {data_name}, 8x8 pixels, one line a seed, grey: "
    subtitle += "chance. Right: 16 channels at initialisation, mean and range over seeds"
    figure, axes = style.new_figure(title, subtitle, 11, 4.8, ncols=2)
    chance = math.log(classes)
    labels = [(chance, "chance", style.GREY)]
    for kind, runs in losses.items():
        colour, dash = style.TWINS[kind]
        for run in runs:
            finite = [loss for loss in run if math.isfinite(loss)]
            axes[0].plot(range(1, len(finite) + 1), finite, dash, color=colour, linewidth=1.5)
            if finite and len(finite) < len(run):
                axes[0].plot(len(finite), finite[-1], "X", color=colour, markersize=10)
        text = kind if len(finite) == len(run) else f"{kind}: NaN after the cross"
        labels.append((finite[-1] if finite else chance, text, colour))
    axes[0].axhline(chance, color=style.GREY, linewidth=1)
    axes[0].set(xlabel="step", ylabel="training loss (nats)")
    axes[0].margins(x=0.02)
    style.label_ends(axes[0], labels)
    labels = []
    for kind, look in (("pre", (style.RESIDUAL, "-")), ("post", (style.OTHERS[0], "-."))):
        runs = 100 * np.array(paths[kind])
        index = range(1, runs.shape[1] + 1)
        labels.append((style.band(axes[1], index, runs, look), f"{kind}-activation", look[0]))
    axes[1].set(xlabel="blocks on the identity path", ylabel="entries whose path is open (%)")
    axes[1].set(ylim=(0, 105), xlim=(1, runs.shape[1]))
    style.label_ends(axes[1], labels)
    return figure


def _course(runs: list[list[float]], first: float, last: float) -> str:
    """What became of the loss, in words."""
    finite_steps = min(sum(map(math.isfinite, run)) for run in runs)
    if finite_steps < max(map(len, runs)):
        return f"is NaN after step {finite_steps}"
    return f"goes from {first:.2f} to {last:.2f}"


def trade_off(table: dict, reference: str, setup: str):
    """Test accuracy against the time of a training step; the area of a disk is its parameters.

    `table` holds, by network, `analysis.costs.Costs` with an `accuracy` (Seeds, shares); networks
    that diverged with a seed are left out.
    """
    table = {n: costs for n, costs in table.items() if np.isfinite(costs.accuracy).all()}
    if not table:
        return style.new_figure("Every network diverged with one seed or more", setup, 9, 5.2)[0]
    mean = {name: 100 * costs.accuracy.mean for name, costs in table.items()}
    step = {name: costs.milliseconds for name, costs in table.items()}
    best = max(mean, key=mean.get)
    cheapest = min(step, key=step.get)
    beside = f" ({reference}: {mean[reference]:.0f} %)" if reference in mean else ""
    title = f"Most accurate: {best}, {mean[best]:.0f} %{beside}; least time a step: {cheapest}"
    title += "" if best == cheapest else f", {mean[cheapest]:.0f} %"
    setup += ". Area: parameters; bars: standard deviation over seeds; blue: the reference"
    figure, ax = style.new_figure(title, setup, 9, 5.2)
    largest = max(costs.parameters for costs in table.values())
    for name, costs in table.items():
        colour = style.RESIDUAL if name == reference else style.OTHERS[0]
        x, y = step[name], mean[name]
        deviation = 100 * costs.accuracy.deviation
        ax.plot([x, x], [y - deviation, y + deviation], color=style.GREY, linewidth=1)
        area = 500 * costs.parameters / largest
        ax.scatter(x, y, s=area, color=colour, alpha=0.8, edgecolors="white")
        left = _crowded(name, step, mean)
        place = {"textcoords": "offset points", "size": 10, "ha": "right" if left else "left"}
        text = ax.annotate(name, (x, y), (-12 if left else 12, 6), **place)
        text.set_path_effects([patheffects.withStroke(linewidth=3, foreground="white")])
    ax.set(xlabel="training time: milliseconds a step, one core; all take as many steps")
    ax.set(ylabel="test accuracy (%)")
    ax.margins(0.15)
    return figure


def _crowded(name: str, step: dict[str, float], mean: dict[str, float]) -> bool:
    """Whether another disk lies where the label to the right of this one would be."""
    width, height = (max(v.values()) - min(v.values()) or 1 for v in (step, mean))
    return any(
        0 < step[n] - step[name] < 0.2 * width and abs(mean[n] - mean[name]) < 0.2 * height
        for n in step
    )
