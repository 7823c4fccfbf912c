"""The look of every figure: theme, colours, titles, labels at the ends of lines."""

import textwrap

import matplotlib
import numpy as np
import seaborn
from matplotlib import pyplot

RESIDUAL, PLAIN = "#0072B2", "#D55E00"
OTHERS = ["#009E73", "#CC79A7", "#E69F00"]
GREY = "#666666"
TWINS = {"plain": (PLAIN, "--"), "residual": (RESIDUAL, "-")}  # colour and dash


def use_theme(show: bool = False) -> None:
    """Set the theme; without `show`, draw to files alone, so that no display is needed."""
    if not show:
        matplotlib.use("Agg")
    seaborn.set_theme(style="ticks", rc={"savefig.dpi": 150, "figure.dpi": 100})
    pyplot.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 2}


def new_figure(title: str, subtitle: str, width: float = 9, height: float = 5, **subplots):
    """A figure (inches) whose title states the finding and whose subtitle states the set-up.

    `subplots` goes to `Figure.subplots`. Returns the figure and its axes.
    """
    figure = titled(title, subtitle, width, height)
    return figure, figure.subplots(**subplots)


def titled(title: str, subtitle: str, width: float, height: float):
    """The same without axes."""
    figure = pyplot.figure(figsize=(width, height), layout="constrained")
    title = textwrap.fill(title, int(width * 9.5))
    subtitle = textwrap.fill(subtitle, int(width * 12.5))
    below = 0.12 + 0.24 * (title.count("\n") + 1)  # inches from the top
    bottom = below + 0.08 + 0.18 * (subtitle.count("\n") + 1)
    figure.text(0.015, 1 - 0.12 / height, title, va="top", weight="bold", size=13)
    figure.text(0.015, 1 - below / height, subtitle, va="top", color=GREY, size=10)
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - bottom / height), w_pad=0.1, h_pad=0.08)
    return figure


def band(axes, x, runs, look: tuple[str, str], width: float = 2) -> float:
    """Plot the mean over runs (one list of values a run, the same x) and their range.

    `look` is colour and dash; on a logarithmic axis the mean is geometric. Returns the mean at
    the last x.
    """
    colour, dash = look
    runs = np.asarray(runs, float)  # runs x points
    mean = np.exp(np.log(runs).mean(0)) if axes.get_yscale() == "log" else runs.mean(0)
    axes.plot(x, mean, dash, color=colour, linewidth=width)
    axes.fill_between(x, runs.min(0), runs.max(0), color=colour, alpha=0.2, linewidth=0)
    return float(mean[-1])


def label_ends(axes, labels: list[tuple[float, str, str]], gap: float = 0.055) -> None:
    """Write (y, text, colour) beside the right end of each line, moved apart where they collide.

    `gap` is the least distance, as a share of the axes' height. Call it when the limits are set.
    """
    to_share = axes.transData + axes.transAxes.inverted()
    right = axes.get_xlim()[1]
    placed = sorted((to_share.transform((right, y))[1], text, colour) for y, text, colour in labels)
    heights = [min(max(height, 0.0), 1.0) for height, _, _ in placed]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    surplus = max(0.0, heights[-1] - 1.0)
    for height, (_, text, colour) in zip(heights, placed, strict=True):
        place = (1.015, height - surplus)
        axes.annotate(text, place, xycoords="axes fraction", va="center", color=colour, size=10)


def training_curves(results: dict, window: int, chance: float, title: str, subtitle: str):
    """Training error by step (already averaged over `window`) and validation error by epoch.

    `chance` is the error of guessing. `results` holds, for names like plain-20, runs with
    `step_error` and `val_error` (shares). The deeper the network, the thicker its line.
    """
    figure, axes = new_figure(title, subtitle, 11, 5, ncols=2)
    depths = sorted({int(name.split("-")[1]) for name in results})
    for ax, key, first in zip(axes, ("step_error", "val_error"), (window, 1), strict=True):
        ends = [(100 * chance, "guessing", GREY)]
        ax.axhline(100 * chance, color=GREY, linewidth=1)
        for name, found in results.items():
            kind, depth = name.split("-")
            width = 1 + 2 * (depths.index(int(depth)) + 1) / len(depths)
            runs = [100 * np.array(run[key]) for run in found]
            if runs:
                end = band(ax, range(first, first + len(runs[0])), runs, TWINS[kind], width)
                ends.append((end, name, TWINS[kind][0]))
        ax.margins(x=0)
        label_ends(ax, ends)
    axes[0].set(xlabel="step", ylabel=f"training error (%), mean of {window} steps")
    axes[1].set(xlabel="epoch", ylabel="validation error (%)")
    axes[1].xaxis.get_major_locator().set_params(integer=True)
    return figure


def lesion_curves(lesions: dict, depths: tuple[int, int], chance: float, title: str, subtitle: str):
    """Test accuracy without each block, the twins of one depth in one panel.

    `lesions` holds, for names like plain-20, one list a seed: the whole network, then without
    each block (shares).
    """
    figure, axes = new_figure(title, subtitle, 11, 4.8, ncols=2, sharey=True)
    for ax, depth in zip(axes, depths, strict=True):
        blocks, ends = (depth - 2) // 2, [(100 * chance, "chance", GREY)]
        for kind, look in TWINS.items():
            runs = 100 * np.array(lesions[f"{kind}-{depth}"])
            ends.append((band(ax, range(1, blocks + 1), runs[:, 1:], look), kind, look[0]))
            ax.plot(0, runs[:, 0].mean(), "o", color=look[0])
        ax.axhline(100 * chance, color=GREY, linewidth=1)
        for change in (blocks // 3 + 1, 2 * blocks // 3 + 1):
            ax.axvline(change, color=GREY, linewidth=1, linestyle=":")
        ax.set(xlabel="deleted block (0: none)", xlim=(-0.5, blocks))
        ax.set_title(f"depth {depth}", fontsize=11)
        label_ends(ax, ends)
    axes[0].set_ylabel("test accuracy (%)")
    return figure


def gradient_maps(results: dict[str, list[dict]], title: str, subtitle: str):
    """Gradient norm of every block (rows) at the measured steps (columns), mean over runs.

    `results` holds, for each network, runs with `gradients`: {updates made: one norm a block}.
    All networks are drawn on one logarithmic colour scale.
    """
    maps = {}
    for name, runs in results.items():
        logs = np.log10([list(run["gradients"].values()) for run in runs])  # runs steps blocks
        maps[name] = logs.mean(axis=0).T
    scale = {
        "vmin": min(m.min() for m in maps.values()),
        "vmax": max(m.max() for m in maps.values()),
    }
    figure, axes = new_figure(title, subtitle, 9, 6, ncols=len(maps), sharey=True)
    for ax, (name, values) in zip(axes, maps.items(), strict=True):
        key = {"label": "log10 of the activation gradient's norm"} if ax is axes[-1] else None
        options = {
            "cmap": "cividis",
            "xticklabels": list(results[name][0]["gradients"]),
            "cbar_kws": key,
        }
        seaborn.heatmap(values, ax=ax, cbar=ax is axes[-1], **options, **scale)
        ax.set_title(name, fontsize=11)
        ax.set(xlabel="updates made")
        ticks = np.arange(0, len(values), max(1, len(values) // 9))
        ax.set_yticks(ticks + 0.5, ticks + 1, rotation=0)
    axes[0].set_ylabel("block (1 is next to the input)")
    return figure
