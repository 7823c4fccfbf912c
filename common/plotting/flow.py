"""Gradients by depth: how they grow or fade on their way from the last block to the first."""

import re

from common.analysis.gradients import CONDITIONS
from common.analysis.growth import THEORY, first_over_last, law_of

import numpy as np

from . import style


def towers(outputs: dict, weights: dict, images: str):
    """Gradients of towers at their start, a column a condition: above the norms at the blocks'
    outputs relative to the last block's, below those of the weights, |g| / |w|, as they are.

    Both hold {(kind, condition): [norms of a seed, ...]}; `images` says what was measured on.
    """
    seeds, blocks = np.shape(outputs["plain", "BN"])
    plain, residual = (first_over_last(outputs[kind, "BN"]) for kind in style.TWINS)
    title = (
        f"From block {blocks} to block 1, with batch norm: the gradient grows {plain:.2g} times "
        f"in plain, {residual:.2g} times in residual towers"
    )
    subtitle = (
        f"Above: at the blocks' outputs. Below: of the weights, relative to them. At the start; "
        f"two layers a block (3x3, 16 channels), {images}; geometric mean, range of "
        f"{seeds} seeds. l: a block's number from the input. Grey: theory for wide plain networks. "
        "Scales differ."
    )
    figure, axes = style.new_figure(title, subtitle, 12, 8, nrows=2, ncols=3)
    conditions = CONDITIONS[-1], *CONDITIONS[:-1]  # batch norm first, as in the lesson's table
    for (above, below), condition in zip(axes.T, conditions, strict=True):
        networks = {kind: runs for (kind, c), runs in outputs.items() if c == condition}
        labels = {}
        for kind, runs in networks.items():
            law = law_of(runs).split(":")[0].replace("neither", "neither law")
            labels[kind] = f"{kind}\n{re.sub(' ± [0-9.]+', '', law)}"
        labels["theory"] = f"theory\nx{THEORY[condition]:.3f} a layer"
        _panel(above, networks, labels, 0.12, condition)
        _panel(below, {kind: weights[kind, condition] for kind in networks}, {}, 0.1)
    axes[0, 0].set_ylabel("gradient norm / last block's")
    axes[1, 0].set_ylabel("|gradient| / |weights|")
    return figure


def gradient_flow(start: dict, trained: dict, setup: str):
    """Gradient norms of plain and residual networks: a panel a condition, and the trained ones.

    `start` holds {(kind, condition): [norms of a network, ...]}, `trained` the same by the name
    alone. The title says by what factor the ends differ with batch norm.
    """
    plain, residual = (first_over_last(start[kind, "BN"]) for kind in style.TWINS)
    title = f"Untrained, with batch norm, a plain network's gradient is {plain:.2g} times as large "
    title += f"at the first block as at the last, a residual one's {residual:.2g} times"
    figure, axes = style.new_figure(title, setup, 12, 8, nrows=2, ncols=2)
    panels = {c: {kind: start[kind, c] for kind in style.TWINS} for c in CONDITIONS}
    panels["BN, after training"] = trained
    for ax, (condition, networks) in zip(axes.flat, panels.items(), strict=True):
        labels = {name: f"{name} x{first_over_last(runs):.2g}" for name, runs in networks.items()}
        labels["theory"] = "theory: wide, fully\nconnected, no stride"
        _panel(ax, networks, labels, 0.07, condition)
    for ax in axes[:, 0]:
        ax.set_ylabel("gradient norm / last block's")
    return figure


def _panel(
    ax, networks: dict[str, list], labels: dict[str, str], gap: float, condition: str = ""
) -> None:
    """The norms of `networks` {name: [norms of a seed, ...]} from the last block on, with labels at
    the lines' ends; under a condition relative to the last block's, in grey the theory, if any."""
    style.logarithmic(ax, "y")
    blocks = max(len(runs[0]) for runs in networks.values())
    ends, looks = [], style.network_styles(networks)
    if condition in THEORY:
        line = THEORY[condition] ** (2 * np.arange(blocks))  # two layers in a block
        ax.plot(range(blocks), line, color=style.GREY, linewidth=1)
        ends.append((line[-1], labels["theory"], style.GREY))
    for name, runs in networks.items():
        values = np.array(runs)[:, ::-1]  # seeds x blocks
        values = values / values[:, :1] if condition else values
        if values.all():
            end = style.band(ax, range(values.shape[1]), values, looks[name])
            ends.append((end, labels.get(name, name), looks[name][0]))
        else:  # zero has no place on a logarithmic axis
            ends.append((0.0, f"{name}: zero\nin the first step", looks[name][0]))
    ax.set(xlim=(0, max(1, blocks - 1)), xlabel="blocks away from the last block")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_title(condition, fontsize=12)
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.1), max(high, 10))  # what is steady shall look steady
    ends = [(max(end, ax.get_ylim()[0]), *label) for end, *label in ends]
    style.label_ends(ax, ends, gap)
