"""What the features of a network hold."""

import numpy as np
import seaborn
import torch

from . import style


def mosaic(channels: np.ndarray) -> np.ndarray:
    """Up to four channels (C H W), each scaled to 0..1, as one picture of 2 by 2 with a gap."""
    low, high = channels.min((1, 2), keepdims=True), channels.max((1, 2), keepdims=True)
    scaled = (channels - low) / np.maximum(high - low, 1e-12)
    gap = max(1, channels.shape[-1] // 12)
    missing = 4 - len(scaled)
    padded = np.pad(scaled, ((0, missing), (0, gap), (0, gap)), constant_values=np.nan)
    return np.block([[padded[0], padded[1]], [padded[2], padded[3]]])[:-gap, :-gap]


def feature_evolution(image, classes: list[str], features: dict[str, dict], setup: str):
    """One image through the networks; linear probes by depth; similarity of all blocks.

    `image` is H W 3, `features` holds {name: {seed: Features}}, `setup` says how it was measured.
    The image passes through the first network of each name; probes show the mean over networks and
    their range, of a single one the standard error; similarities are means over networks. The
    title says how separable the classes are at half depth.
    """
    halves = {n: np.mean([f.probes.half_depth for f in by.values()]) for n, by in features.items()}
    parts = [f"{name} {100 * share:.0f} %" for name, share in halves.items()]
    title = f"Images that a linear classifier gets right at half depth: {', '.join(parts)}"
    first = {name: next(iter(by_seed.values())) for name, by_seed in features.items()}
    count = len(features)
    columns = 1 + max(len(f.response.channels) for f in first.values())
    size = max(12, 2.2 * columns, 4 * count + 4), 2.4 * count + 5.2
    networks = max(map(len, features.values()))
    subtitle = "Four strongest channels a stage. Linear classifiers on each block's mean channels, "
    subtitle += f"mean and range of {networks} networks" if networks > 1 else "standard error"
    figure = style.titled(title, f"{subtitle}. {setup}", *size)
    upper, lower = figure.add_gridspec(2, 1, height_ratios=[2.2 * count, 4.0])
    upper = upper.subgridspec(count, columns)
    lower = lower.subgridspec(1, 1 + count, width_ratios=[1.3] + [1] * count)
    styles = style.network_styles(features)
    for i, (name, found) in enumerate(first.items()):
        predicted, probability = found.response.predicted, found.response.probability
        panels = {f"taken for: {classes[predicted]} ({100 * probability:.0f} %)": image}
        panels |= {layer: mosaic(maps) for layer, maps in found.response.channels.items()}
        for j, (text, picture) in enumerate(panels.items()):
            ax = figure.add_subplot(upper[i, j])
            _picture(ax, picture, text.removeprefix("features."))
            if j == 0:
                ax.set_ylabel(name.replace(", ", "\n"), color=styles[name][0], weight="bold")
    _probe_curves(figure.add_subplot(lower[0]), features)
    for i, (name, by_seed) in enumerate(features.items()):
        ax = figure.add_subplot(lower[1 + i])
        _similarity_map(ax, [f.cka for f in by_seed.values()], colour_bar=i == count - 1)
        ax.set_title(f"similarity of blocks\n{name}", fontsize=11)
        ax.set(xlabel="block", ylabel="" if i else "block")
    return figure


def _picture(ax, picture: np.ndarray, title: str) -> None:
    """A picture without an axis; one of a single channel by colour."""
    ax.imshow(picture, cmap="cividis")
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=10)
    seaborn.despine(ax=ax, left=True, bottom=True)


def _probe_curves(ax, features: dict[str, dict]) -> None:
    """Accuracy of the probes by depth: mean and range over networks, or one's standard error."""
    ends, styles = [], style.network_styles(features)
    for name, by_seed in features.items():
        probes = [found.probes for found in by_seed.values()]
        runs = 100 * np.array([p.accuracies for p in probes])
        if len(probes) == 1:
            error = 100 * np.array(probes[0].standard_errors)
            runs = np.concatenate([runs - error, runs + error])
        end = style.band(ax, range(runs.shape[1]), runs, styles[name])
        ends.append((end, name, styles[name][0]))
    ax.set(xlim=(0, max(line.get_xdata()[-1] for line in ax.lines)))
    ax.set(xlabel="block (0: the image's mean colour)", ylabel="linear classifier, accuracy (%)")
    ax.xaxis.get_major_locator().set_params(integer=True)
    style.label_ends(ax, ends, 0.07)


def _similarity_map(ax, cka: list, colour_bar: bool) -> None:
    """CKA of all pairs of blocks, mean over networks."""
    mean = torch.tensor(cka, dtype=torch.float64).nanmean(dim=0).numpy()
    key = {"label": "similarity (debiased linear CKA)", "shrink": 0.8}
    scale = {"vmin": 0, "vmax": 1, "cmap": "cividis", "square": True, "cbar_kws": key}
    seaborn.heatmap(mean, ax=ax, cbar=colour_bar, **scale)
    ticks = np.arange(0, len(mean), max(1, len(mean) // 6))
    ax.set_xticks(ticks + 0.5, ticks + 1, rotation=0)
    ax.set_yticks(ticks + 0.5, ticks + 1, rotation=0)
