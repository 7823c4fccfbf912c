"""What the features of a network hold."""

from common.analysis.features import Features

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


def feature_evolution(image, classes: list[str], features: dict[str, Features], setup: str):
    """One image through the networks; linear probes by depth; similarity of all blocks.

    `image` is H W 3. The title says how separable the classes are behind the last block of each
    network and how similar its blocks are, the subtitle how it was measured, with `setup`.
    """
    ends = [f"{name} {100 * f.probes.accuracies[-1]:.0f} %" for name, f in features.items()]
    means = [f"{name} {f.cka_between_blocks.mean:.2f}" for name, f in features.items()]
    title = f"A linear probe after the last block reads the class: {', '.join(ends)}; "
    title += f"mean CKA between blocks: {', '.join(means)}"
    count = len(features)
    columns = 1 + max(len(f.response.channels) for f in features.values())
    size = max(12, 2.2 * columns, 4 * count + 4), 2.4 * count + 5.2
    subtitle = "Four strongest channels a stage; probes on pooled features, standard error. "
    figure = style.titled(title, subtitle + setup, *size)
    upper, lower = figure.add_gridspec(2, 1, height_ratios=[2.2 * count, 4.0])
    upper = upper.subgridspec(count, columns)
    lower = lower.subgridspec(1, 1 + count, width_ratios=[1.3] + [1] * count)
    styles = style.network_styles(features)
    for i, (name, found) in enumerate(features.items()):
        predicted, probability = found.response.predicted, found.response.probability
        panels = {f"taken for: {classes[predicted]} ({100 * probability:.0f} %)": image}
        panels |= {layer: mosaic(maps) for layer, maps in found.response.channels.items()}
        for j, (text, picture) in enumerate(panels.items()):
            ax = figure.add_subplot(upper[i, j])
            _picture(ax, picture, text.removeprefix("features."))
            if j == 0:
                ax.set_ylabel(name.replace(", ", "\n"), color=styles[name][0], weight="bold")
    _probe_curves(figure.add_subplot(lower[0]), features)
    for i, (name, found) in enumerate(features.items()):
        ax = figure.add_subplot(lower[1 + i])
        _similarity_map(ax, found.cka, colour_bar=i == count - 1)
        ax.set_title(f"similarity of blocks\n{name}", fontsize=11)
        ax.set(xlabel="block", ylabel="" if i else "block")
    return figure


def _picture(ax, picture: np.ndarray, title: str) -> None:
    """A picture without an axis; one of a single channel by colour."""
    ax.imshow(picture, cmap="cividis")
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=10)
    seaborn.despine(ax=ax, left=True, bottom=True)


def _probe_curves(ax, features: dict[str, Features]) -> None:
    """Accuracy of the probes by depth with its standard error."""
    ends, styles = [], style.network_styles(features)
    for name, found in features.items():
        accuracy = 100 * np.array(found.probes.accuracies)
        error = 100 * np.array(found.probes.standard_errors)
        bounds = [accuracy - error, accuracy + error]
        end = style.band(ax, range(len(accuracy)), bounds, styles[name])
        ends.append((end, name, styles[name][0]))
    ax.set(xlim=(0, max(len(f.probes.accuracies) for f in features.values()) - 1))
    ax.set(xlabel="block (0: the image's mean colour)", ylabel="linear probe, accuracy (%)")
    ax.xaxis.get_major_locator().set_params(integer=True)
    style.label_ends(ax, ends, 0.07)


def _similarity_map(ax, cka: list, colour_bar: bool) -> None:
    """CKA of all pairs of blocks, mean over the parts of the images."""
    mean = torch.tensor(cka, dtype=torch.float64).nanmean(dim=0).numpy()
    key = {"label": "debiased linear CKA", "shrink": 0.8}
    scale = {"vmin": 0, "vmax": 1, "cmap": "cividis", "square": True, "cbar_kws": key}
    seaborn.heatmap(mean, ax=ax, cbar=colour_bar, **scale)
    ticks = np.arange(0, len(mean), max(1, len(mean) // 6))
    ax.set_xticks(ticks + 0.5, ticks + 1, rotation=0)
    ax.set_yticks(ticks + 0.5, ticks + 1, rotation=0)
