"""The loss around trained weights."""

from common.analysis.landscape import STATISTICS, Landscape

import numpy as np
from matplotlib.colors import LogNorm

from . import style

CAP = 10.0  # nats: above it the colours do not change


def loss_landscape(
    landscapes: dict[str, Landscape], errors: dict[str, float], steps: list[float], setup: str
):
    """Contours of the loss, a column a network, a row a way to take batch-norm statistics.

    Of each network the first seed's grids are drawn; `steps` are the points of their sides and
    `errors` the networks' training errors (shares). The title compares how much of the planes
    curves downwards; `setup` says for which images. All panels share one logarithmic colour
    scale, which ends at CAP.
    """
    shares = {s: {n: ls.curves_downwards(s) for n, ls in landscapes.items()} for s in STATISTICS}
    means = {
        statistics: ", ".join(f"{name} {100 * share.mean:.0f} %" for name, share in row.items())
        for statistics, row in shares.items()
    }
    title = f"Share of the plane around the weights that curves downwards: {means['running']}; "
    title += f"with BN statistics recomputed: {means['recomputed']}"
    pairs = len(next(iter(landscapes.values())).grids["running"])
    subtitle = f"{len(steps)}x{len(steps)} points; mean ± deviation of {pairs} pairs of "
    subtitle += f"directions, the first is drawn. {setup}"
    size = max(8, 1.4 + 4.5 * len(landscapes)), 0.9 + 4.2 * len(STATISTICS)
    layout = {"nrows": len(STATISTICS), "ncols": len(landscapes), "sharex": True, "sharey": True}
    figure, axes = style.new_figure(title, subtitle, *size, squeeze=False, **layout)
    scale, ticks = _colour_scale([ls.grids[s][0] for ls in landscapes.values() for s in STATISTICS])
    for row, statistics in zip(axes, STATISTICS, strict=True):
        for ax, (name, landscape) in zip(row, landscapes.items(), strict=True):
            grid = landscape.grids[statistics][0]
            filled = ax.contourf(steps, steps, grid, cmap="viridis", extend="max", **scale)
            ax.contour(steps, steps, grid, colors="white", linewidths=0.5, **scale)
            ax.plot(0, 0, "+", color="white", markersize=10, markeredgewidth=2)
            text = f"{name}, {statistics} BN statistics\ntraining error {100 * errors[name]:.0f} %;"
            text += f" curves downwards: {shares[statistics][name]:.0%}"
            ax.set_title(text, fontsize=10)
            ax.set(aspect="equal")
        row[0].set_ylabel("second direction")
    for ax in axes[-1]:
        ax.set_xlabel("first direction (1: every filter's own norm)")
    bar = figure.colorbar(filled, ax=axes, shrink=0.7, ticks=ticks, format="%g")
    bar.set_label("loss (nats), one scale for all panels")
    return figure


def _colour_scale(grids: list[list[list[float]]]) -> tuple[dict, list[float]]:
    """Contour levels and norm from the lowest loss of all grids to CAP, and the colour bar's ticks.

    A minimum slightly below the lowest loss keeps that point inside the first level.
    """
    lowest = max(1e-3, 0.999 * min(np.nanmin(grid) for grid in grids))
    top = max(CAP, 2 * lowest)
    ticks = [tick for tick in (0.001, 0.01, 0.1, 0.2, 0.5, 1, 2, 5, CAP) if lowest <= tick <= top]
    return {"levels": np.geomspace(lowest, top, 32), "norm": LogNorm(lowest, top)}, ticks
