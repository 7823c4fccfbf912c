"""Maps: numbers by colour, block against step, channel against position."""

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
    title = f"{one}'s gradient is {ratios[0]:.1f} times as large as {other}'s at the start, "
    title += f"{ratios[steps.index(late)]:.1f} times after {late} updates, "
    title += f"{ratios[-1]:.1f} times after {steps[-1]}"
    levels = np.concatenate(list(maps.values()))
    scale = {"vmin": levels.min(), "vmax": levels.max(), "cmap": "cividis"}
    figure, axes = style.new_figure(title, setup, 10, 6, ncols=len(maps), sharey=True)
    for ax, (name, values) in zip(axes, maps.items(), strict=True):
        key = {"label": "gradient behind the block: log10 of its norm"} if ax is axes[-1] else None
        options = {"cbar": ax is axes[-1], "cbar_kws": key, "xticklabels": steps}
        seaborn.heatmap(values, ax=ax, **options, **scale)
        ax.set_title(name, fontsize=11)
        ax.set(xlabel="updates made")
        ticks = np.arange(0, len(values), max(1, len(values) // 9))
        ax.set_yticks(ticks + 0.5, ticks + 1, rotation=0)
    axes[0].set_ylabel("block (1 is next to the input)")
    return figure


def stems(image, maps: dict[str, dict], images: str):
    """An image and what reaches each stage behind every stem, pixel by pixel.

    `image` is 3 H W, `maps` holds {stem: {stage: activations 1 C H W}}, `images` says where the
    image is from. Of every stage the strongest channel is drawn, unless it is a single pixel.
    """
    left = {stem: list(stages.values())[-1][0, 0].numel() for stem, stages in maps.items()}
    title = f"Of a {size(image)} image the CIFAR stem leaves {left['cifar']} pixels to the end of "
    title += f"the network, the ImageNet stem {left['imagenet']}"
    subtitle = f"ResNet-18, untrained, one image of {images}; the strongest channel of each "
    subtitle += "stage, coloured from its least to its largest value. After layer4 each channel is "
    subtitle += "averaged over its pixels"
    figure, axes = style.new_figure(title, subtitle, 11, 4.6, nrows=2, ncols=6)
    for row, (stem, stages) in zip(axes, maps.items(), strict=True):
        row[0].imshow(image.permute(1, 2, 0))
        row[0].set_title(f"image {size(image)}", fontsize=10)
        row[0].set_ylabel(f"{stem} stem", fontsize=11)
        for ax, (stage, activations) in zip(row[1:], stages.items(), strict=True):
            ax.set_title(f"{stage} {size(activations)}", fontsize=10)
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


def size(tensor) -> str:
    """Height and width."""
    return f"{tensor.shape[-2]}x{tensor.shape[-1]}"
