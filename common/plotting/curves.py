"""Curves: by step, by epoch, by block, by cost."""

import itertools
import math
import statistics

from common.analysis import rates
from common.analysis.lesions import lost_share

import numpy as np
from matplotlib import patheffects

from . import style

DEPTHS = list(zip([*style.OTHERS, style.GREY], ["-", "--", "-.", ":"], strict=True))


def training_curves(results: dict[str, list], chance: float, setup: str):
    """Training error by epoch, plain networks in the left panel, residual ones in the right.

    `results` holds, for names like plain-20, one run a seed with `train_error` and `epoch_error`
    (shares), None where it diverged; `chance` is the error of guessing.
    """
    finished = {name: [run for run in runs if run] for name, runs in results.items()}
    depths = sorted({int(name.split("-")[1]) for name in results})
    deep = [finished[f"{kind}-{depths[-1]}"] for kind in style.TWINS]
    after = [100 * np.mean([run.train_error for run in runs] or np.nan) for runs in deep]
    title = f"Training error of {depths[-1]} layers: {after[0]:.1f} % without shortcuts, "
    title += f"{after[1]:.1f} % with them"
    subtitle = f"{setup} and range. Dots: at the end, without augmentation"
    figure, axes = style.new_figure(title, subtitle, 11, 4.8, ncols=2, sharey=True)
    looks = dict(zip(depths, itertools.cycle(DEPTHS)))
    labels = []
    for ax, kind in zip(axes, style.TWINS, strict=True):
        labels.append([(100 * chance, "chance", style.GREY)])
        ax.axhline(100 * chance, color=style.GREY, linewidth=1)
        for depth, look in looks.items():
            runs = finished[f"{kind}-{depth}"]
            if runs:
                errors = [100 * np.array(run.epoch_error) for run in runs]
                epochs = range(1, len(errors[0]) + 1)
                end = style.band(ax, epochs, errors, look)
                last = [100 * run.train_error for run in runs]
                ax.plot([1.02 * epochs[-1]] * len(last), last, "o", color=look[0], alpha=0.6)
                ax.set_xlim(1, 1.05 * epochs[-1])
                labels[-1].append((end, f"depth {depth}", look[0]))
        ax.set_title(kind, fontsize=11)
        ax.set(xlabel="epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set(ylabel="training error (%)", ylim=(0, 100))
    for ax, ends in zip(axes, labels, strict=True):  # now that their shared limits are known
        style.label_ends(ax, ends)
    return figure


def rate_curves(grid: dict[str, dict], setup: str):
    """Training error against the peak learning rate, each network's best rate marked.

    `grid` as in `analysis.rates`, for names like plain-20.
    """
    best = {name: rates.best(by_rate) for name, by_rate in grid.items()}
    at_best = {n: 100 * statistics.fmean(grid[n][rate]["train"]) for n, rate in best.items()}
    deepest = max(int(name.split("-")[1]) for name in grid)
    deep = (f"{kind}-{deepest}" for kind in style.TWINS)
    title = "Training error at the best learning rate: "
    title += ", ".join(f"{name} {at_best[name]:.1f} %" for name in deep)
    subtitle = f"{setup} and range. Disks: best by validation"
    figure, ax = style.new_figure(title, subtitle, 10, 5)
    ax.set_xscale("log", base=2)
    labels = []
    for name, by_rate in grid.items():
        kind, depth = name.split("-")
        colour, _ = style.TWINS[kind]
        look = colour, "--" if int(depth) == deepest else "-"
        rising = sorted(by_rate)
        errors = np.array([by_rate[rate]["train"] for rate in rising])  # rates x seeds
        style.band(ax, rising, 100 * errors.T, look)
        means = 100 * errors.mean(axis=1)
        labels += [(end, name, colour) for end in means[np.isfinite(means)][-1:]]
        ax.plot(best[name], at_best[name], "o", color=colour, markersize=10)
    ax.set(xlabel="peak learning rate", ylabel="training error (%)", ylim=(0, 100))
    ticks = sorted(set().union(*grid.values()))
    ax.set_xticks(ticks, [f"{rate:g}" for rate in ticks])
    ax.minorticks_off()
    style.label_ends(ax, labels)
    return figure


def lesion_curves(lesions: dict, chance: float, setup: str):
    """Accuracy on the training images without each block, the twins of one depth in one panel.

    `lesions` holds, for names like plain-20, one list a seed: the intact network, then without
    each block (shares). The title is about the shallowest twins.
    """
    depths = sorted({int(name.split("-")[1]) for name in lesions})
    depths = depths[0], depths[-1]
    lost = {
        kind: 100 * np.mean([lost_share(run, chance) for run in lesions[f"{kind}-{depths[0]}"]])
        for kind in style.TWINS
    }
    title = f"Without one block plain-{depths[0]} loses {lost['plain']:.0f} % of its accuracy "
    title += f"above chance, residual-{depths[0]} {lost['residual']:.0f} %"
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
    axes[0].set(ylabel="training accuracy (%)", ylim=(0, 105))
    for ax, ends in zip(axes, labels, strict=True):  # now that their shared limits are known
        style.label_ends(ax, ends)
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
