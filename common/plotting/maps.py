"""Maps: numbers by colour, block against step, reader against source, class against channel."""

import statistics

from common.analysis.costs import exponent
from common.analysis.features import by_age, class_dependence

import numpy as np
import seaborn

from . import style


def gradient_maps(results: dict[str, list], late: int, setup: str):
    """Gradient norm of every block (rows) at the measured steps (columns), mean over runs.

    `results` holds, for two networks, one run a seed with `gradients`, {updates made: one norm a
    block}, None where it diverged. Both are drawn on one logarithmic colour scale; the title
    compares them at the first step and at the step `late`.
    """
    maps = {}
    for name, runs in results.items():
        finished = [list(run.gradients.values()) for run in runs if run]
        maps[name] = np.log10(finished).mean(axis=0).T  # runs steps blocks -> blocks steps
    (one, above), (other, below) = maps.items()
    steps = next(list(run.gradients) for run in results[one] if run)
    ratios = 10 ** (above.mean(axis=0) - below.mean(axis=0))  # one a step
    title = f"{one}'s gradients: {ratios[0]:.1f} times {other}'s at the start, "
    title += f"{ratios[steps.index(late)]:.1f} times after {late} updates"
    scale = {
        "vmin": min(m.min() for m in maps.values()),
        "vmax": max(m.max() for m in maps.values()),
    }
    figure, axes = style.new_figure(title, setup, 10, 6, ncols=len(maps), sharey=True)
    for ax, (name, values) in zip(axes, maps.items(), strict=True):
        key = {"label": "log10 of the activation gradient's norm"} if ax is axes[-1] else None
        options = {
            "cmap": "cividis",
            "xticklabels": steps,
            "cbar_kws": key,
        }
        seaborn.heatmap(values, ax=ax, cbar=ax is axes[-1], **options, **scale)
        ax.set_title(name, fontsize=11)
        ax.set(xlabel="updates made")
        ticks = np.arange(0, len(values), max(1, len(values) // 9))
        ax.set_yticks(ticks + 0.5, ticks + 1, rotation=0)
    axes[0].set_ylabel("block (1 is next to the input)")
    return figure


def dense_reuse(memory: dict, reuse: list, setup: str):
    """Memory by depth, and what every reader of the dense blocks loses without each source.

    `memory` as `costs.memory_by_depth` gives it; `reuse` one `features.reuse` a seed.
    """
    powers = {kind: exponent(by_depth) for kind, by_depth in memory.items()}
    old, newest = map(statistics.fmean, zip(*map(by_age, reuse), strict=True))
    title = f"DenseNet: memory grows as depth^{powers['dense']:.2f} (ResNet: {powers['resnet']:.2f}"
    title += f"); a hidden old source costs {old:.2f} nats, the newest {newest:.2f}"
    subtitle = "Left: one training step on 8 images of 32x32. Right: rise of the validation loss "
    subtitle += (
        f"(nats) when a reader does not see a source (old: all but the newest); dense-22, {setup}"
    )
    figure, axes = style.new_figure(title, subtitle, 12, 4.6, ncols=4, width_ratios=[1.5, 1, 1, 1])
    style.logarithmic(axes[0], "x", "y")
    axes[0].set(xlabel="depth (layers)", ylabel="peak memory (MB)")
    labels = []
    for kind, name, colour in (
        ("dense", "DenseNet", style.OTHERS[0]),
        ("resnet", "ResNet", style.RESIDUAL),
    ):
        depths = list(memory[kind])
        megabytes = [size / 1e6 for size in memory[kind].values()]
        axes[0].plot(depths, megabytes, "o-", color=colour, markersize=4)
        labels.append((megabytes[-1], name, colour))
    axes[0].set_xticks(depths, depths)
    axes[0].set_yticks([10, 20, 50, 100, 200], [10, 20, 50, 100, 200])
    axes[0].minorticks_off()
    style.label_ends(axes[0], labels)
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


def gate_maps(gates: list[dict], names: list[str], setup: str):
    """Mean gate of each class and channel, first and last block, of the first seed's network.

    `gates` holds one `features.class_gates` a seed, `names` those of the classes.
    """
    first, *_, last = gates[0]
    spread = [statistics.fmean(class_dependence(run[b]) for run in gates) for b in (first, last)]
    title = f"Gates differ between classes by {spread[0]:.3f} in the first block, "
    title += f"by {spread[1]:.3f} in the last (standard deviation)"
    subtitle = f"se-20, {setup}: the numbers are means over them, the maps show the first"
    figure, axes = style.new_figure(title, subtitle, 12, 4.6, ncols=2, width_ratios=[1, 2.4])
    for ax, block in zip(axes, (first, last), strict=True):
        shown = ax is axes[1]
        seaborn.heatmap(gates[0][block].cpu().numpy(), ax=ax, vmin=0, vmax=1, cmap="cividis",
                        cbar=shown, cbar_kws={"label": "gate"} if shown else None,
                        yticklabels=False if shown else names)  # fmt: skip
        count = gates[0][block].shape[1]
        ticks = np.arange(0, count, max(1, count // 8))
        ax.set_xticks(ticks + 0.5, ticks + 1, rotation=0)
        ax.set_title(f"{block} ({count} channels)", fontsize=11)
        ax.set_xlabel("channel")
    return figure


def stems(image, maps: dict[str, dict], images: str):
    """An image and what reaches each stage behind every stem, pixel by pixel.

    `image` is 3 H W, `maps` holds {stem: {stage: activations 1 C H W}}, `images` says where the
    image is from. Of every stage the strongest channel is drawn, unless it is a single pixel.
    """
    left = {stem: list(stages.values())[-1][0, 0].numel() for stem, stages in maps.items()}
    title = f"Of a {_size(image)} image the CIFAR stem leaves {left['cifar']} pixels to the end of "
    title += f"the network, the ImageNet stem {left['imagenet']}"
    subtitle = f"ResNet-18, untrained, one image of {images}; the strongest channel of each "
    subtitle += "stage, coloured from its least to its largest value. After layer4 each channel is "
    subtitle += "averaged over its pixels"
    figure, axes = style.new_figure(title, subtitle, 11, 4.6, nrows=2, ncols=6)
    for row, (stem, stages) in zip(axes, maps.items(), strict=True):
        row[0].imshow(image.permute(1, 2, 0))
        row[0].set_title(f"image {_size(image)}", fontsize=10)
        row[0].set_ylabel(f"{stem} stem", fontsize=11)
        for ax, (stage, activations) in zip(row[1:], stages.items(), strict=True):
            ax.set_title(f"{stage} {_size(activations)}", fontsize=10)
            if activations[0, 0].numel() == 1:
                words = {"ha": "center", "va": "center", "transform": ax.transAxes}
                ax.text(0.5, 0.5, "one pixel a channel:\nno picture", fontsize=9, **words)
                ax.set(aspect="equal")
                continue
            channel = activations[0].flatten(1).std(dim=1).argmax()
            ax.imshow(activations[0, channel], cmap="cividis")
        for ax in row:
            ax.set(xticks=[], yticks=[])
    return figure


def _size(tensor) -> str:
    """Height and width."""
    return f"{tensor.shape[-2]}x{tensor.shape[-1]}"
