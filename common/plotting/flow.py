"""Gradients by depth: how they grow or fade on their way from the last block to the first."""

import statistics

from common.analysis.gradients import CONDITIONS, THEORY, first_over_last

import numpy as np

from . import style


def towers(norms: dict, factors: dict, images: str):
    """Gradient norms of plain and residual towers at their start: a panel a condition.

    `norms` holds {(kind, condition): [norms of a seed, ...]}, `factors` under the same keys each
    seed's factor per layer, `images` says what was measured on. The title gives the factors.
    """
    mean = {key: statistics.fmean(values) for key, values in factors.items()}
    title = (
        f"Per layer towards the input, a plain network's gradient changes by "
        f"x{mean['plain', CONDITIONS[0]]:.2f} with the default init, "
        f"x{mean['plain', 'BN']:.2f} with BN; residual with BN: x{mean['residual', 'BN']:.2f}"
    )
    seeds, blocks = np.shape(norms["plain", "BN"])
    subtitle = (
        f"At initialisation: {blocks} blocks of two layers (3x3, 16 channels), {images}. "
        f"Mean and range of {seeds} seeds. Grey: theory for wide plain networks."
    )
    figure, axes = style.new_figure(title, subtitle, 12, 5, ncols=3)
    for ax, condition in zip(axes, CONDITIONS, strict=True):
        networks = {kind: norms[kind, condition] for kind in style.TWINS}
        labels = {kind: kind for kind in networks} | {"theory": "theory"}
        _panel(ax, condition, networks, labels)
    axes[0].set_ylabel("gradient norm / last block's")
    return figure


def gradient_flow(start: dict, trained: dict, setup: str):
    """Gradient norms of plain and residual networks: a panel a condition, and the trained ones.

    `start` holds {(kind, condition): [norms of a network, ...]}, `trained` the same by the name
    alone. The title says by what factor the ends differ with batch norm.
    """
    plain, residual = (first_over_last(start[kind, "BN"]) for kind in style.TWINS)
    title = f"With BN a fresh plain network's gradient is {plain:.2g} times as large at the first "
    title += f"block as at the last, a residual one's {residual:.2g} times"
    figure, axes = style.new_figure(title, setup, 12, 8, nrows=2, ncols=2)
    panels = {c: {kind: start[kind, c] for kind in style.TWINS} for c in CONDITIONS}
    panels["BN, after training"] = trained
    for ax, (condition, networks) in zip(axes.flat, panels.items(), strict=True):
        labels = {name: f"{name} x{first_over_last(runs):.2g}" for name, runs in networks.items()}
        labels["theory"] = "theory: wide, fully\nconnected, no stride"
        _panel(ax, condition, networks, labels)
    for ax in axes[:, 0]:
        ax.set_ylabel("gradient norm / last block's")
    return figure


def _panel(ax, condition: str, networks: dict[str, list], labels: dict[str, str]) -> None:
    """The norms of `networks` {name: [norms of a seed, ...]} relative to the last block's, from
    the last block on, with labels at the lines' ends; in grey the theory, if there is one."""
    style.logarithmic(ax, "y")
    blocks = max(len(runs[0]) for runs in networks.values())
    ends, looks = [], style.network_styles(networks)
    if condition in THEORY:
        line = THEORY[condition] ** (2 * np.arange(blocks))  # two layers in a block
        ax.plot(range(blocks), line, color=style.GREY, linewidth=1)
        ends.append((line[-1], labels["theory"], style.GREY))
    for name, runs in networks.items():
        relative = np.array(runs)[:, ::-1] / np.array(runs)[:, -1:]  # seeds x blocks
        end = style.band(ax, range(len(runs[0])), relative, looks[name])
        ends.append((end, labels[name], looks[name][0]))
    ax.set(xlim=(0, max(1, blocks - 1)), xlabel="blocks away from the last block")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_title(condition, fontsize=12)
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.1), max(high, 10))  # what is steady shall look steady
    style.label_ends(ax, ends, 0.07)
