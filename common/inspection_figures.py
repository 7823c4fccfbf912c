"""The pictures of lesson 5; each writes its title from the numbers that it is given."""

import statistics

import numpy as np
import seaborn
import torch
from matplotlib.colors import LogNorm

from common import lesson, plotting
from common.flow import CONDITIONS, THEORY, first_over_last, word
from common.similarity import off_diagonal

CAP = 10.0  # nats: above it the landscape's colours do not change


def looks(names) -> dict[str, tuple[str, str]]:
    """Colour and dash of each network: plain and residual as everywhere; five are told apart."""
    rest = [plotting.TWINS["residual"], *((colour, "-") for colour in plotting.OTHERS)]
    plain, chosen = [plotting.TWINS["plain"]], {}
    for name in names:
        free = plain if "plain" in name and plain else rest
        chosen[name] = free.pop(0) if free else (plotting.GREY, "-")
    return chosen


def gradient_flow(start: dict, trained: dict, setup: str):
    """Activation-gradient norms, relative to the last block's: a panel a condition, and trained.

    `start` holds {(kind, condition): [norms of a seed, ...]}, `trained` {network: norms}. The
    title says whose gradient vanishes, explodes or stays level.
    """
    said = []
    for kind in plotting.TWINS:
        bare, normed = start[kind, CONDITIONS[0]], start[kind, "BN"]
        said.append(
            f"{kind}'s gradient {word(bare)} with the default init (x{first_over_last(bare):.1g}) "
            f"and {word(normed)} with BN (x{first_over_last(normed):.2g})"
        )
    title = f"From the last block to the first, {'; '.join(said)}"
    figure, axes = plotting.new_figure(title, setup, 12, 8, nrows=2, ncols=2)
    panels = {c: {k: start[k, c] for k in plotting.TWINS} for c in THEORY}
    panels["BN, after training"] = {name: [norms] for name, norms in trained.items()}
    for ax, (condition, networks) in zip(axes.flat, panels.items(), strict=True):
        ax.set_yscale("log")
        ends, chosen = [], looks(networks)
        longest = max(len(runs[0]) for runs in networks.values())
        if condition in THEORY:
            line = THEORY[condition] ** (2 * np.arange(longest))  # two layers in a block
            ax.plot(range(longest), line, color=plotting.GREY, linewidth=1)
            ends.append((line[-1], f"theory x{THEORY[condition]:.3g} a layer", plotting.GREY))
        for name, runs in networks.items():
            relative = np.array(runs)[:, ::-1] / np.array(runs)[:, -1:]  # from the last block on
            end = plotting.band(ax, range(len(runs[0])), relative, chosen[name])
            said = f"{name} {word(runs)}, x{first_over_last(runs):.2g}"
            ends.append((end, said, chosen[name][0]))
        ax.set(xlim=(0, max(1, longest - 1)), xlabel="blocks away from the last block")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_title(condition, fontsize=12)
        low, high = ax.get_ylim()
        ax.set_ylim(min(low, 0.1), max(high, 10))  # what is steady shall look steady
        plotting.label_ends(ax, ends, 0.07)
    for ax in axes[:, 0]:
        ax.set_ylabel("gradient norm / last block's")
    return figure


def loss_landscape(planes: dict, errors: dict, shares: dict, steps: list[float], setup: str):
    """Contours of the loss, a column a network, a row a way to take batch-norm statistics.

    `planes` as `landscape.survey` gives them, of which the first seed's are drawn; `errors`
    {network: training error}; `shares` {statistics: {network: one share of the plane that curves
    downwards a seed}}, which the title compares. All panels share one logarithmic colour scale,
    which ends at CAP.
    """
    mean = {m: {n: 100 * np.mean(s) for n, s in row.items()} for m, row in shares.items()}
    said = [", ".join(f"{n} {s:.0f} %" for n, s in row.items()) for row in mean.values()]
    title = f"Share of the plane around the weights that curves downwards: {said[0]}; "
    title += f"with BN statistics recomputed: {said[1]}"
    size = max(8, 1.4 + 4.5 * len(planes)), 0.9 + 4.2 * len(shares)
    options = {"nrows": len(shares), "ncols": len(planes), "sharex": True, "sharey": True}
    figure, axes = plotting.new_figure(title, setup, *size, squeeze=False, **options)
    lowest = max(1e-3, 0.999 * min(np.nanmin(planes[n][m][0]) for n in planes for m in shares))
    top = max(CAP, 2 * lowest)
    scale = {"levels": np.geomspace(lowest, top, 32), "norm": LogNorm(lowest, top)}
    for line, mode in zip(axes, shares, strict=True):
        for ax, (name, found) in zip(line, planes.items(), strict=True):
            filled = ax.contourf(
                steps, steps, found[mode][0], cmap="viridis", extend="max", **scale
            )
            ax.contour(steps, steps, found[mode][0], colors="white", linewidths=0.5, **scale)
            ax.plot(0, 0, "+", color="white", markersize=10, markeredgewidth=2)
            spread = 100 * lesson.spread(shares[mode][name])
            text = f"{name}, {mode} BN statistics\ntraining error {100 * errors[name]:.0f} %; "
            text += f"curves downwards: {mean[mode][name]:.0f} +- {spread:.0f} %"
            ax.set_title(text, fontsize=10)
            ax.set(aspect="equal")
        line[0].set_ylabel("second direction")
    for ax in axes[-1]:
        ax.set_xlabel("first direction (1: every filter's own norm)")
    ticks = [tick for tick in (0.001, 0.01, 0.1, 0.2, 0.5, 1, 2, 5, CAP) if lowest <= tick <= top]
    bar = figure.colorbar(filled, ax=axes, shrink=0.7, ticks=ticks, format="%g")
    bar.set_label("loss (nats), one scale for all panels")
    return figure


def mosaic(channels: np.ndarray) -> np.ndarray:
    """Up to four channels (C H W), each scaled to 0..1, as one picture of 2 by 2 with a gap."""
    low, high = channels.min((1, 2), keepdims=True), channels.max((1, 2), keepdims=True)
    scaled = (channels - low) / np.maximum(high - low, 1e-12)
    gap = max(1, channels.shape[-1] // 12)
    missing = 4 - len(scaled)
    padded = np.pad(scaled, ((0, missing), (0, gap), (0, gap)), constant_values=np.nan)
    return np.block([[padded[0], padded[1]], [padded[2], padded[3]]])[:-gap, :-gap]


def feature_evolution(image, classes: list[str], seen: dict, setup: str):
    """One image through the networks; linear probes by depth; similarity of all blocks.

    `image` is H W 3; `seen` is what `similarity.look_inside` returns. The title says how separable
    the classes are behind the last block and how alike the blocks are.
    """
    ends = [f"{name} {100 * found['accuracies'][-1]:.0f} %" for name, found in seen.items()]
    means = [statistics.fmean(map(off_diagonal, found["cka"])) for found in seen.values()]
    alike = [f"{name} {mean:.2f}" for name, mean in zip(seen, means, strict=True)]
    title = f"A linear probe after the last block reads the class: {', '.join(ends)}; "
    title += f"mean CKA between blocks: {', '.join(alike)}"
    columns = 1 + max(len(found["channels"]) for found in seen.values())
    size = max(12, 2.2 * columns, 4 * len(seen) + 4), 2.4 * len(seen) + 5.2
    figure = plotting.titled(title, setup, *size)
    upper, lower = figure.add_gridspec(2, 1, height_ratios=[2.2 * len(seen), 4.0])
    upper = upper.subgridspec(len(seen), columns)
    for i, (name, found) in enumerate(seen.items()):
        says = f"taken for: {classes[found['class']]} ({100 * found['p']:.0f} %)"
        panels = {says: image} | {n: mosaic(c) for n, c in found["channels"].items()}
        for j, (text, picture) in enumerate(panels.items()):
            ax = figure.add_subplot(upper[i, j])
            ax.imshow(picture, cmap="cividis")
            ax.set(xticks=[], yticks=[])
            ax.set_title(text.removeprefix("features."), fontsize=10)
            seaborn.despine(ax=ax, left=True, bottom=True)
            if j == 0:
                ax.set_ylabel(name.replace(", ", "\n"), color=looks(seen)[name][0], weight="bold")
    lower = lower.subgridspec(1, 1 + len(seen), width_ratios=[1.3] + [1] * len(seen))
    _probe_curves(figure.add_subplot(lower[0]), seen)
    for i, (name, found) in enumerate(seen.items()):
        ax = figure.add_subplot(lower[1 + i])
        mean = torch.tensor(found["cka"], dtype=torch.float64).nanmean(dim=0).numpy()
        key = {"label": "debiased linear CKA", "shrink": 0.8}
        scale = {"vmin": 0, "vmax": 1, "cmap": "cividis", "square": True, "cbar_kws": key}
        seaborn.heatmap(mean, ax=ax, cbar=i == len(seen) - 1, **scale)
        ticks = np.arange(0, len(mean), max(1, len(mean) // 6))
        ax.set_xticks(ticks + 0.5, ticks + 1, rotation=0)
        ax.set_yticks(ticks + 0.5, ticks + 1, rotation=0)
        ax.set_title(f"similarity of blocks\n{name}", fontsize=11)
        ax.set(xlabel="block", ylabel="" if i else "block")
    return figure


def _probe_curves(ax, seen: dict) -> None:
    """Accuracy of the probes by depth with its standard error."""
    ends, chosen = [], looks(seen)
    for name, found in seen.items():
        mean = 100 * np.array(found["accuracies"])
        error = 100 * np.array(found["standard_errors"])
        end = plotting.band(ax, range(len(mean)), [mean - error, mean + error], chosen[name])
        ends.append((end, name, chosen[name][0]))
    ax.set(xlim=(0, max(len(f["accuracies"]) for f in seen.values()) - 1))
    ax.set(xlabel="block (0: the image's mean colour)", ylabel="linear probe, accuracy (%)")
    ax.xaxis.get_major_locator().set_params(integer=True)
    plotting.label_ends(ax, ends, 0.07)
