"""The figures of lesson 3: training curves, gradient maps, networks without single blocks."""

import numpy as np
import seaborn

from common import plotting


def training_curves(results: dict, window: int, chance: float, title: str, subtitle: str):
    """Training error by step (already averaged over `window`) and validation error by epoch.

    `chance` is the error of guessing. `results` holds, for names like plain-20, runs with
    `step_error` and `val_error` (shares). The deeper the network, the thicker its line.
    """
    figure, axes = plotting.new_figure(title, subtitle, 11, 5, ncols=2)
    depths = sorted({int(name.split("-")[1]) for name in results})
    for ax, key, first in zip(axes, ("step_error", "val_error"), (window, 1), strict=True):
        ends = [(100 * chance, "chance", plotting.GREY)]
        ax.axhline(100 * chance, color=plotting.GREY, linewidth=1)
        for name, found in results.items():
            kind, depth = name.split("-")
            width = 1 + 2 * (depths.index(int(depth)) + 1) / len(depths)
            runs = [100 * np.array(run[key]) for run in found]
            if runs:
                look, steps = plotting.TWINS[kind], range(first, first + len(runs[0]))
                ends.append((plotting.band(ax, steps, runs, look, width), name, look[0]))
        ax.margins(x=0)
        plotting.label_ends(ax, ends)
    axes[0].set(xlabel="step", ylabel=f"training error (%), mean of {window} steps")
    axes[1].set(xlabel="epoch", ylabel="validation error (%)")
    axes[1].xaxis.get_major_locator().set_params(integer=True)
    return figure


def lesion_curves(lesions: dict, depths: tuple[int, int], chance: float, title: str, subtitle: str):
    """Test accuracy without each block, the twins of one depth in one panel.

    `lesions` holds, for names like plain-20, one list a seed: the whole network, then without
    each block (shares).
    """
    figure, axes = plotting.new_figure(title, subtitle, 11, 4.8, ncols=2, sharey=True)
    for ax, depth in zip(axes, depths, strict=True):
        blocks, ends = (depth - 2) // 2, [(100 * chance, "chance", plotting.GREY)]
        for kind, look in plotting.TWINS.items():
            runs = 100 * np.array(lesions[f"{kind}-{depth}"])
            ends.append((plotting.band(ax, range(1, blocks + 1), runs[:, 1:], look), kind, look[0]))
            ax.plot(0, runs[:, 0].mean(), "o", color=look[0])
        ax.axhline(100 * chance, color=plotting.GREY, linewidth=1)
        for change in (blocks // 3 + 1, 2 * blocks // 3 + 1):
            ax.axvline(change, color=plotting.GREY, linewidth=1, linestyle=":")
        ax.set(xlabel="deleted block (0: none)", xlim=(-0.5, blocks))
        ax.set_title(f"depth {depth}", fontsize=11)
        plotting.label_ends(ax, ends)
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
    figure, axes = plotting.new_figure(title, subtitle, 9, 6, ncols=len(maps), sharey=True)
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
