"""The loss around trained weights."""

from common.analysis.landscape import STATISTICS, Landscape

import numpy as np
from matplotlib.colors import LogNorm

from . import style

LEVELS = 14  # of the contours, in all panels the same


def loss_landscape(landscapes: dict[str, Landscape], steps: list[float], setup: str):
    """Contours of the loss, a column a kind of network, a row a way to take batch-norm statistics.

    Of each kind the first network is drawn; `steps` are the points of the grids' sides, `setup`
    says for which networks and images. The title says how much the loss rises. All panels share
    levels and one logarithmic colour scale, from the lowest to the highest loss on any of them.
    """
    rises = {name: landscape.rise("running").mean for name, landscape in landscapes.items()}
    kinds = {name: f"{name} networks" if name in style.TWINS else name for name in rises}
    parts = [f"by {rise:.2f} around {kinds[name]}" for name, rise in rises.items()]
    title = f"With running averages the loss rises {', '.join(parts)}"
    count = max(len(landscape.losses) for landscape in landscapes.values())
    subtitle = f"{len(steps)}x{len(steps)} points. Rise: mean of the plane above its middle"
    subtitle += f", mean ± deviation of {count} networks; the first is drawn" * (count > 1)
    size = max(8, 1.4 + 4.5 * len(landscapes)), 0.9 + 4.2 * len(STATISTICS)
    layout = {"nrows": len(STATISTICS), "ncols": len(landscapes), "sharex": True, "sharey": True}
    figure, axes = style.new_figure(title, f"{subtitle}. {setup}", *size, squeeze=False, **layout)
    scale, ticks = _colour_scale([ls.grids[s][0] for ls in landscapes.values() for s in STATISTICS])
    for row, statistics in zip(axes, STATISTICS, strict=True):
        for ax, (name, landscape) in zip(row, landscapes.items(), strict=True):
            grid = landscape.grids[statistics][0]
            filled = ax.contourf(steps, steps, grid, cmap="viridis", extend="both", **scale)
            lines = ax.contour(steps, steps, grid, colors="white", linewidths=0.7, **scale)
            for label in ax.clabel(lines, fmt="%.3g", fontsize=8):
                inside = max(map(abs, label.get_position())) < 0.85 * steps[-1]
                label.set_visible(inside)  # at the border it would be cut
            ax.plot(0, 0, "+", color="white", markersize=10, markeredgewidth=2)
            text = f"{name}, {statistics} averages of batch norm\n"
            text += f"the loss rises by {landscape.rise(statistics):.2f}"
            ax.set_title(text, fontsize=10)
            ax.set(aspect="equal")
        row[0].set_ylabel("second direction")
    for ax in axes[-1]:
        ax.set_xlabel("first direction (1: every filter's own norm)")
    bar = figure.colorbar(filled, ax=axes, shrink=0.7, ticks=ticks, format="%.3g")
    bar.set_label("loss, one scale for all panels")
    return figure


def _colour_scale(grids: list[list[list[float]]]) -> tuple[dict, list[float]]:
    """Contour levels and norm from the lowest to the highest loss of all grids, and the colour
    bar's ticks."""
    values = np.concatenate([np.ravel(grid) for grid in grids])
    values = values[np.isfinite(values)]
    lowest = max(1e-3, 0.999 * values.min())  # keeps the lowest point inside the first level
    highest = max(1.001 * values.max(), 1.1 * lowest)
    levels = np.geomspace(lowest, highest, LEVELS)
    return {"levels": levels, "norm": LogNorm(lowest, highest)}, levels[::2].tolist()
