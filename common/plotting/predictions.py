"""What a trained network says of the test images: confusion, calibration, mistakes."""

from common.analysis import predictions

import numpy as np
import seaborn
import torch
from matplotlib import patheffects

from . import style

SHOWN = 12  # thumbnails


def confusion(counts: torch.Tensor, classes: list[str], subtitle: str):
    """Images by true class (rows) and guess (columns); the commonest mistake is the title.

    The colours count mistakes alone: beside the right images, far more of them, none would show.
    """
    wrong = counts.clone().fill_diagonal_(0)
    true, guess = divmod(int(wrong.argmax()), len(classes))
    title = "No test image is taken for another class"
    if number := int(wrong[true, guess]):
        title = f"{number} of {int(counts[true].sum())} images of class {classes[true]} are taken "
        title += f"for {classes[guess]}, the most common of {int(wrong.sum())} mistakes"
    size = min(14.0, 3.5 + 0.5 * len(classes))
    figure, ax = style.new_figure(title, subtitle, size + 1.5, size)
    names = classes if len(classes) <= 40 else False
    cells = counts.numpy() if len(classes) <= 20 else False
    options = {"xticklabels": names, "yticklabels": names, "annot": cells, "fmt": "d"}
    options |= {"vmin": 0, "vmax": max(1, number), "cbar_kws": {"label": "mistakes"}}
    seaborn.heatmap(wrong.numpy(), ax=ax, cmap="Blues", square=True, linewidths=0.5, **options)
    ax.tick_params(axis="y", rotation=0)
    ax.set(xlabel="class that the network names", ylabel="true class")
    return figure


def reliability(found: dict, images: int, what: str):
    """Accuracy by confidence; `found` comes from predictions.calibration.

    Points of different size stand for different numbers of images; bars are Wilson intervals. No
    line joins them: between a bin of 3 images and the next there is no course.
    """
    confidence, accuracy, counts = np.array(found["bins"]).T
    gap = 100 * (np.average(confidence, weights=counts) - np.average(accuracy, weights=counts))
    word = "higher" if gap > 0 else "lower"
    title = f"Confidence is {abs(gap):.1f} points {word} than accuracy on average"
    subtitle = f"{what}, {images} test images in {predictions.BINS} bins of equal width by the "
    subtitle += "highest probability; numbers: a bin's images; bars: 95 % intervals (Wilson). "
    subtitle += f"Expected calibration error {100 * found['ece']:.1f} %"
    figure, ax = style.new_figure(title, subtitle, 8, 6)
    ax.plot([0, 100], [0, 100], color=style.GREY, linewidth=1)
    hits = np.round(accuracy * counts).astype(int)
    bounds = 100 * np.array([predictions.wilson(*pair) for pair in zip(hits, counts, strict=True)])
    ax.vlines(100 * confidence, *bounds.T, color=style.OTHERS[0], linewidth=1.5)
    sizes = 20 + 280 * counts / counts.max()  # the area grows with the number
    ax.scatter(
        100 * confidence, 100 * accuracy, sizes, color=style.OTHERS[0], zorder=3, clip_on=False
    )
    for x, y, count, size in zip(confidence, accuracy, counts, sizes, strict=True):
        away = 5 + 0.4 * size**0.5  # points, behind the edge of the disk
        place = {"xytext": (-away, away), "textcoords": "offset points", "ha": "right"}
        place["fontsize"] = 9
        text = ax.annotate(f"{int(count)}", (100 * x, 100 * y), **place)
        text.set_path_effects([patheffects.withStroke(linewidth=3, foreground="white")])
    ax.text(105, 100, "perfectly\ncalibrated", color=style.GREY, va="center")
    ax.set(xlim=(0, 103), ylim=(0, 103), aspect="equal")
    ax.set(xlabel="mean confidence of the bin (%)", ylabel="accuracy of the bin (%)")
    return figure


def mistakes(split, probabilities: torch.Tensor, classes: list[str], what: str):
    """Thumbnails of the mistakes that the network was surest of; `split` holds the images."""
    labels, guesses = split.labels.cpu(), probabilities.argmax(1)
    wrong = int((guesses != labels).sum())
    worst = predictions.surest_mistakes(probabilities, labels, SHOWN)
    title = f"The {len(worst)} most confident of {wrong} mistakes" if wrong else "No mistakes"
    figure, axes = style.new_figure(title, what, 9, 6.6, nrows=3, ncols=SHOWN // 3)
    for ax in axes.flat:
        ax.axis("off")
    for ax, i in zip(axes.flat, worst, strict=False):
        ax.imshow(split.images[i].cpu().permute(1, 2, 0).numpy())
        caption = f"{classes[labels[i]]}, named {classes[guesses[i]]}"
        ax.set_title(f"{caption}\nwith {100 * probabilities[i].max():.0f} %", fontsize=9)
    return figure
