"""The figures of lesson 4, of what common/deep.py and common/variants.py measured."""

import math
import statistics

import numpy as np
import seaborn
from matplotlib import patheffects

from common.deep import ends
from common.plotting import GREY, OTHERS, RESIDUAL, TWINS, band, label_ends, new_figure
from common.probes import by_age, class_dependence
from common.variants import REFERENCE, exponent


def draw(report, args, table: dict, measured: dict) -> None:
    """All four, into the report's folder; `measured` as the lesson returns it."""
    setup = f"{report.results['data']}, {args.image_size}x{args.image_size} pixels, "
    setup += f"{args.epochs} epochs, {args.seeds} seeds"
    pair = measured["thousand_layers"], measured["identity_paths"]
    size = args.layers, len(args.names), report.results["data"]
    report.figure(deep_training(*pair, *size), "deep_training")
    report.figure(dense_reuse(**measured["density"], setup=setup), "dense_reuse")
    report.figure(gate_maps(measured["gates"], args.names, setup), "gates")
    report.figure(trade_off(table, setup), "variants")


def deep_training(losses: dict, paths: dict, layers: int, classes: int, data_name: str):
    """Loss by step, one line a seed, and the open share of identity paths by length.

    `losses` as `deep.twins` gives them, `paths` as `deep.identity_paths`.
    """
    course = {kind: _course(runs) for kind, runs in losses.items()}
    title = f"{layers:,} layers: with shortcuts the loss {course['residual']}, "
    title += f"without them it {course['plain']}"
    subtitle = f"Left: pre-activation bottlenecks, {data_name}, 8x8 pixels, one line a seed, grey: "
    subtitle += "chance. Right: 16 channels at initialisation, mean and range over seeds"
    figure, axes = new_figure(title, subtitle, 11, 4.8, ncols=2)
    labels = [(math.log(classes), "chance", GREY)]
    for kind, runs in losses.items():
        colour, dash = TWINS[kind]
        for run in runs:
            finite = [loss for loss in run if math.isfinite(loss)]
            axes[0].plot(range(1, len(finite) + 1), finite, dash, color=colour, linewidth=1.5)
            if finite and len(finite) < len(run):
                axes[0].plot(len(finite), finite[-1], "X", color=colour, markersize=10)
        text = kind if len(finite) == len(run) else f"{kind}: NaN after the cross"
        labels.append((finite[-1] if finite else math.log(classes), text, colour))
    axes[0].axhline(math.log(classes), color=GREY, linewidth=1)
    axes[0].set(xlabel="step", ylabel="training loss (nats)")
    axes[0].margins(x=0.02)
    label_ends(axes[0], labels)
    labels = []
    for kind, look in (("pre", (RESIDUAL, "-")), ("post", (OTHERS[0], "-."))):
        runs = 100 * np.array(paths[kind])
        index = range(1, runs.shape[1] + 1)
        labels.append((band(axes[1], index, runs, look), f"{kind}-activation", look[0]))
    axes[1].set(xlabel="blocks on the identity path", ylabel="entries whose path is open (%)")
    axes[1].set(ylim=(0, 105), xlim=(1, runs.shape[1]))
    label_ends(axes[1], labels)
    return figure


def _course(runs: list[list[float]]) -> str:
    """What became of the loss, in words and means over seeds."""
    if not all(math.isfinite(loss) for run in runs for loss in run):
        last = min(sum(math.isfinite(loss) for loss in run) for run in runs)
        return f"is NaN after step {last}"
    first, last = map(statistics.fmean, zip(*map(ends, runs), strict=True))
    return f"goes from {first:.2f} to {last:.2f}"


def dense_reuse(memory: dict, reuse: list, setup: str):
    """Memory by depth, and what every reader of the dense blocks loses without each source.

    `memory` as `variants.memory_by_depth` gives it; `reuse` one `probes.reuse` a seed.
    """
    depths = list(memory["dense"])
    powers = {kind: exponent(depths, list(found.values())) for kind, found in memory.items()}
    rises = [statistics.fmean(ages) for ages in zip(*map(by_age, reuse), strict=True)]
    title = f"DenseNet: memory grows as depth^{powers['dense']:.2f} (ResNet: {powers['resnet']:.2f}"
    title += f"); a hidden old source costs {rises[0]:.2f} nats, the newest {rises[1]:.2f}"
    subtitle = "Left: one training step on 8 images of 32x32. Right: rise of the validation loss "
    subtitle += (
        f"(nats) when a reader does not see a source (old: all but the newest); dense-22, {setup}"
    )
    figure, axes = new_figure(title, subtitle, 12, 4.6, ncols=4, width_ratios=[1.5, 1, 1, 1])
    axes[0].set(xscale="log", yscale="log", xlabel="depth (layers)", ylabel="peak memory (MB)")
    labels = []
    for (kind, found), colour in zip(memory.items(), (OTHERS[0], RESIDUAL), strict=True):
        values = [size / 1e6 for size in found.values()]
        axes[0].plot(depths, values, "o-", color=colour, markersize=4)
        labels.append((values[-1], {"dense": "DenseNet", "resnet": "ResNet"}[kind], colour))
    axes[0].set_xticks(depths, depths)
    axes[0].set_yticks([10, 20, 50, 100, 200], [10, 20, 50, 100, 200])
    axes[0].minorticks_off()
    label_ends(axes[0], labels)
    blocks = [[np.mean(rows, axis=0) for rows in zip(*runs, strict=True)]
              for runs in zip(*reuse, strict=True)]  # fmt: skip
    top = max(row.max() for block in blocks for row in block)
    for i, (ax, block) in enumerate(zip(axes[1:], blocks, strict=True), 1):
        grid = np.full((len(block), len(block)), np.nan)
        for reader, row in enumerate(block):
            grid[reader, : len(row)] = row
        readers = [f"layer {k}" for k in range(1, len(block))] + ["what follows"]
        seaborn.heatmap(grid, ax=ax, vmin=0, vmax=top, cmap="cividis", annot=True, fmt=".2f",
                        cbar=False, xticklabels=["input", *range(1, len(block))],
                        yticklabels=readers if i == 1 else False)  # fmt: skip
        ax.set_title(f"dense block {i}", fontsize=11)
        ax.set_xlabel("source (layer)")
        ax.tick_params("y", rotation=0)
    return figure


def gate_maps(found: list[dict], names: list[str], setup: str):
    """Mean gate of each class and channel, first and last block, of the first seed's network.

    `found` holds one `probes.class_gates` a seed.
    """
    first, *_, last = found[0]
    spread = [statistics.fmean(class_dependence(run[b]) for run in found) for b in (first, last)]
    title = f"Gates differ between classes by {spread[0]:.3f} in the first block, "
    title += f"by {spread[1]:.3f} in the last (standard deviation)"
    subtitle = f"se-20, {setup}: the numbers are means over them, the maps show the first"
    figure, axes = new_figure(title, subtitle, 12, 4.6, ncols=2, width_ratios=[1, 2.4])
    for ax, block in zip(axes, (first, last), strict=True):
        shown = ax is axes[1]
        seaborn.heatmap(found[0][block].cpu().numpy(), ax=ax, vmin=0, vmax=1, cmap="cividis",
                        cbar=shown, cbar_kws={"label": "gate"} if shown else None,
                        yticklabels=False if shown else names)  # fmt: skip
        count = found[0][block].shape[1]
        ticks = np.arange(0, count, max(1, count // 8))
        ax.set_xticks(ticks + 0.5, ticks + 1, rotation=0)
        ax.set_title(f"{block} ({count} channels)", fontsize=11)
        ax.set_xlabel("channel")
    return figure


def trade_off(table: dict, setup: str):
    """Test accuracy against the time of a training step; the area of a disk is its parameters.

    `table` as `variants.compare` gives it.
    """
    table = {n: f for n, f in table.items() if np.isfinite(f["accuracy"]).all()}  # not diverged
    if not table:
        return new_figure("Every network diverged with one seed or more", setup, 9, 5.2)[0]
    mean = {name: statistics.fmean(found["accuracy"]) for name, found in table.items()}
    best = max(mean, key=mean.get)
    step = {name: 1e3 * statistics.median(found["step"]) for name, found in table.items()}
    cheapest = min(step, key=step.get)
    beside = f" ({REFERENCE}: {100 * mean[REFERENCE]:.0f} %)" if REFERENCE in mean else ""
    title = (
        f"Most accurate: {best}, {100 * mean[best]:.0f} %{beside}; least time a step: {cheapest}"
    )
    title += "" if best == cheapest else f", {100 * mean[cheapest]:.0f} %"
    setup += ". Area: parameters; bars: standard deviation over seeds; blue: the reference"
    figure, ax = new_figure(title, setup, 9, 5.2)
    largest = max(found["parameters"] for found in table.values())
    for name, found in table.items():
        colour = RESIDUAL if name == REFERENCE else OTHERS[0]
        x, shares = step[name], 100 * np.array(found["accuracy"])
        low, high = (shares.mean() + sign * shares.std(ddof=1) for sign in (-1, 1))
        ax.plot([x, x], [low, high], color=GREY, linewidth=1)
        area = 500 * found["parameters"] / largest
        ax.scatter(x, shares.mean(), s=area, color=colour, alpha=0.8, edgecolors="white")
        left = _crowded(name, step, mean)
        place = {"textcoords": "offset points", "size": 10, "ha": "right" if left else "left"}
        text = ax.annotate(name, (x, shares.mean()), (-12 if left else 12, 6), **place)
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
