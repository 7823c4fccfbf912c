"""Curves: by step, by epoch, by block, by cost."""

import itertools
import math
import statistics

from common.analysis import deep, rates
from common.analysis.lesions import lost_share

import numpy as np
from matplotlib import patheffects

from . import style

DEPTHS = list(zip([*style.OTHERS, style.GREY], ["-", "--", "-.", ":"], strict=True))
GOLD = style.OTHERS[2]
ARROW = {"plain": "without shortcuts", "residual": "with them"}


def training_curves(results: dict[str, list], chance: float, setup: str):
    """Training error by epoch, plain networks in the left panel, residual ones in the right.

    `results` holds, for names like plain-20, one run a seed with `train_error` and `epoch_error`
    (shares), None where it diverged; `chance` is the error of guessing.
    """
    finished = {name: [run for run in runs if run] for name, runs in results.items()}
    depths = sorted({int(name.split("-")[1]) for name in results})
    after = {n: np.mean([r.train_error for r in runs] or np.nan) for n, runs in finished.items()}
    shown = {name: f"{100 * error:.1f}" for name, error in after.items()}
    few, many = depths[0], depths[-1]
    title = f"{few} and {many} layers: training error "
    both = [f"{shown[f'{k}-{few}']} and {shown[f'{k}-{many}']} % {how}" for k, how in ARROW.items()]
    title += ", ".join(both)
    subtitle = f"{setup} and range, of shifted and mirrored images in training. Dots: after it, of "
    subtitle += "the images as they are"
    figure, axes = style.new_figure(title, subtitle, 11, 4.8, ncols=2, sharey=True)
    looks = dict(zip(depths, itertools.cycle(DEPTHS)))
    labels = []
    for ax, kind in zip(axes, style.TWINS, strict=True):
        labels.append([(100 * chance, "guessing", style.GREY)])
        ax.axhline(100 * chance, color=style.GREY, linewidth=1)
        for depth, look in looks.items():
            runs = finished[f"{kind}-{depth}"]
            if runs:
                errors = [100 * np.array(run.epoch_error) for run in runs]
                epochs = range(1, len(errors[0]) + 1)
                end = style.band(ax, epochs, errors, look)
                last = [100 * run.train_error for run in runs]
                ax.plot([1.02 * epochs[-1]] * len(last), last, "o", color=look[0], alpha=0.6)
                ax.set_xlim(1, 1.05 * epochs[-1])
                labels[-1].append((end, f"depth {depth}", look[0]))
        ax.set_title(kind, fontsize=11)
        ax.set(xlabel="epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set(ylabel="training error (%)", ylim=(-3, 100))
    for ax, ends in zip(axes, labels, strict=True):  # now that their shared limits are known
        style.label_ends(ax, ends)
    return figure


def rate_curves(grid: dict[str, dict], setup: str):
    """Training error against the peak learning rate, the best by validation error marked.

    `grid` as in `analysis.rates`, for names like plain-20.
    """
    best = {name: rates.best(by_rate) for name, by_rate in grid.items()}
    at_best = {n: 100 * statistics.fmean(grid[n][rate]["train"]) for n, rate in best.items()}
    deepest = max(int(name.split("-")[1]) for name in grid)
    title = f"{deepest} layers: training error "
    title += ", ".join(f"{at_best[f'{kind}-{deepest}']:.1f} % {how}" for kind, how in ARROW.items())
    subtitle = f"{setup} and range. Disks: where the validation error is lowest. Dashed: {deepest} "
    subtitle += "layers"
    figure, ax = style.new_figure(title, subtitle, 7, 4.6)
    ax.set_xscale("log", base=2)
    labels = []
    for name, by_rate in grid.items():
        kind, depth = name.split("-")
        colour, _ = style.TWINS[kind]
        look = colour, "--" if int(depth) == deepest else "-"
        rising = sorted(by_rate)
        errors = np.array([by_rate[rate]["train"] for rate in rising])  # rates x seeds
        style.band(ax, rising, 100 * errors.T, look)
        means = 100 * errors.mean(axis=1)
        labels += [(end, name, colour) for end in means[np.isfinite(means)][-1:]]
        ax.plot(best[name], at_best[name], "o", color=colour, markersize=10)
    ax.set(xlabel="peak learning rate", ylabel="training error (%)", ylim=(-3, 100))
    ticks = sorted(set().union(*grid.values()))
    ax.set_xticks(ticks, [f"{rate:g}" for rate in ticks])
    ax.minorticks_off()
    style.label_ends(ax, labels)
    return figure


def lesion_curves(lesions: dict, chance: float, setup: str):
    """Accuracy on the training images without each block, the twins of one depth in one panel.

    `lesions` holds, for names like plain-20, one list a seed: the intact network, then without
    each block (shares). The title is about the shallowest twins.
    """
    depths = sorted({int(name.split("-")[1]) for name in lesions})
    depths = depths[0], depths[-1]
    lost = {
        kind: 100 * np.mean([lost_share(run, chance) for run in lesions[f"{kind}-{depths[0]}"]])
        for kind in style.TWINS
    }
    title = f"Without one block plain-{depths[0]} loses {lost['plain']:.0f} % of what it had above "
    title += f"guessing, residual-{depths[0]} {lost['residual']:.0f} %, on average"
    subtitle = f"{setup} and range. Dotted: where the resolution halves"
    figure, axes = style.new_figure(title, subtitle, 11, 4.8, ncols=2, sharey=True)
    labels = []
    for ax, depth in zip(axes, depths, strict=True):
        blocks, ends = (depth - 2) // 2, [(100 * chance, "guessing", style.GREY)]
        for kind, look in style.TWINS.items():
            runs = 100 * np.array(lesions[f"{kind}-{depth}"])
            if not len(runs := runs[np.isfinite(runs[:, 0])]):  # all have diverged
                continue
            ends.append((style.band(ax, range(1, blocks + 1), runs[:, 1:], look), kind, look[0]))
            ax.plot(0, runs[:, 0].mean(), "o", color=look[0])
        ax.axhline(100 * chance, color=style.GREY, linewidth=1)
        for change in (blocks // 3 + 1, 2 * blocks // 3 + 1):
            ax.axvline(change, color=style.GREY, linewidth=1, linestyle=":")
        ax.set(xlabel="deleted block (0: none)", xlim=(-0.5, blocks))
        ax.set_title(f"depth {depth}", fontsize=11)
        labels.append(ends)
    axes[0].set(ylabel="training accuracy (%)", ylim=(0, 105))
    for ax, ends in zip(axes, labels, strict=True):  # now that their shared limits are known
        style.label_ends(ax, ends)
    return figure


def epochs(rows: list[dict], what: str, images: int, accuracy: float, sizes=(), smoothing=0.0):
    """Loss and accuracy by epoch; `rows` come from training.Trainer, `accuracy` from the test."""
    subtitle = f"{images} training images. Training: while the network learns, of augmented images."
    subtitle += " Validation: after each epoch. One seed."
    subtitle += " The training loss is that of smoothed labels." if smoothing else ""
    subtitle += f" Trained at {', '.join(map(str, sizes))} pixels in turn." if sizes else ""
    title = f"{what}: {100 * accuracy:.1f} % test accuracy after "
    title += f"{len(rows)} epoch{'s' * (len(rows) > 1)}"
    figure, axes = style.new_figure(title, subtitle, 10, 4.6, ncols=2)
    epochs = [row["epoch"] for row in rows]
    looks = {"train": (style.GREY, "-"), "val": (style.OTHERS[0], "-")}
    for ax, quantity, scale in zip(axes, ("loss", "accuracy"), (1, 100), strict=True):
        ends = []
        if quantity == "loss":
            style.logarithmic(ax, "y")
        for split, (colour, dash) in looks.items():
            values = [scale * row[f"{split}_{quantity}"] for row in rows]
            ax.plot(epochs, values, dash, color=colour, marker="o", markersize=4)
            ends.append((values[-1], {"train": "training", "val": "validation"}[split], colour))
        ax.set(xlabel="epoch", xlim=(min(epochs) - 0.2, max(epochs) + 0.2))
        ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        style.label_ends(ax, ends)
    axes[0].set_ylabel("mean cross-entropy (nats)")
    axes[1].set_ylabel("accuracy (%)")
    return figure


def deep_training(losses: dict, paths: dict, layers: int, chance: float, setup: str):
    """Loss by step of four networks, and the open share of identity paths by length.

    `losses` holds, by the names of `analysis.deep.thousand_layers`, the losses of every step by
    seed, NaN at the end where a run diverged; `paths`, for pre and post, the shares over 1, 2 ...
    blocks by seed; `chance` is the loss of guessing (nats).
    """
    title = f"{layers:,} layers: with pre-activation the loss {_course(losses['pre-activation'])}, "
    title += f"without shortcuts it {_course(losses['plain'])}"
    subtitle = f"Left: {setup}, the same at every step; mean, and thin lines for seeds; title: "
    subtitle += f"mean of the last {deep.WINDOW} steps. Right: untrained blocks of 16 channels; "
    subtitle += "mean and range over seeds"
    figure, axes = style.new_figure(title, subtitle, 11, 4.8, ncols=2)
    looks = {"pre-activation": (style.RESIDUAL, "-"), "plain": (style.PLAIN, "--")}
    looks |= {"post-activation": (style.OTHERS[0], "-."), "post, last gamma 0": (GOLD, ":")}
    _losses(axes[0], losses, looks, chance)
    labels = []
    for kind in ("pre", "post"):
        look, runs = looks[f"{kind}-activation"], 100 * np.array(paths[kind])
        index = range(1, runs.shape[1] + 1)
        labels.append((style.band(axes[1], index, runs, look), f"{kind}-activation", look[0]))
    axes[1].set(xlabel="blocks passed", ylabel="open paths of x (%)")
    axes[1].set(ylim=(0, 105), xlim=(1, runs.shape[1]))
    style.label_ends(axes[1], labels)
    return figure


def transformer(gradients: dict, losses: dict, chance: float, setup: str):
    """Gradient by layer of untrained Transformers, pre-norm and post-norm, and loss by step.

    `gradients` holds, by kind, one norm a layer by seed; `losses` the losses of every step by seed,
    by the names of `analysis.deep.transformers`; `chance` is the loss of guessing (nats).
    """
    last = {kind: np.mean([run[-1] for run in runs]) for kind, runs in gradients.items()}
    title = f"Post-norm starts with {last['post-norm'] / last['pre-norm']:.1f} times pre-norm's "
    title += "gradient in the last layer"
    subtitle = f"{len(gradients['pre-norm'][0])} layers, {setup}. Left: at initialisation, mean and"
    subtitle += " range. Right: the same images at every step; mean, and thin lines for seeds"
    figure, axes = style.new_figure(title, subtitle, 11, 4.8, ncols=2)
    looks = {"pre-norm": (style.RESIDUAL, "-"), "post-norm": (style.PLAIN, "--")}
    looks |= {"post-norm, warm-up": (style.OTHERS[0], "-."), "post-norm, own rate": (GOLD, ":")}
    labels = []
    for kind, runs in gradients.items():
        index = range(1, len(runs[0]) + 1)
        end = style.band(axes[0], index, runs, looks[kind])
        labels.append((end, kind, looks[kind][0]))
    axes[0].set(xlabel="layer (1 is next to the input)", xlim=(1, len(runs[0])))
    axes[0].set_ylabel("gradient of the layer's last weights")
    axes[0].set_ylim(bottom=0)
    style.label_ends(axes[0], labels)
    _losses(axes[1], losses, looks, chance)
    return figure


def _losses(ax, losses: dict[str, list], looks: dict[str, tuple[str, str]], chance: float) -> None:
    """Training loss by step: a thin line a seed, a thick one for the mean while all are finite."""
    labels = [(chance, "guessing", style.GREY)]
    for name, runs in losses.items():
        colour, dash = looks[name]
        for run in runs:
            ax.plot(range(1, len(run) + 1), run, dash, color=colour, linewidth=0.8, alpha=0.5)
        mean = [np.mean(step) for step in zip(*runs, strict=False)]
        mean = [loss for loss in mean if math.isfinite(loss)]
        ax.plot(range(1, len(mean) + 1), mean, dash, color=colour, linewidth=2)
        if _diverged(runs):
            ax.plot(len(mean), mean[-1], "X", color=colour, markersize=10, zorder=10)
        text = f"{name}: diverged at the cross" if _diverged(runs) else name
        labels.append((mean[-1], text, colour))
    ax.axhline(chance, color=style.GREY, linewidth=1)
    highest = max(chance, *(loss for runs in losses.values() for run in runs for loss in run[:1]))
    ax.set(xlabel="step", ylabel="training loss", ylim=(0, 1.3 * highest))
    ax.margins(x=0.02)
    style.label_ends(ax, labels)


def _diverged(runs: list[list[float]]) -> bool:
    """Whether the loss of any run ended as no number."""
    return not all(math.isfinite(run[-1]) for run in runs)


def _course(runs: list[list[float]]) -> str:
    """What became of the loss, in words."""
    if _diverged(runs):
        return f"diverges after step {min(sum(map(math.isfinite, run)) for run in runs)}"
    first = statistics.fmean(run[0] for run in runs)
    last = statistics.fmean(loss for run in runs for loss in run[-deep.WINDOW :])
    return f"goes from {first:.2f} to {last:.2f}"


def trade_off(table: dict, reference: str, setup: str):
    """Validation accuracy against the time of a training step; a disk's area is its parameters.

    `table` holds, by network, an `analysis.variants.Result`; networks that diverged with a seed
    are left out.
    """
    table = {n: costs for n, costs in table.items() if np.isfinite(costs.validation).all()}
    if not table:
        return style.new_figure("Every network diverged with one seed or more", setup, 9, 5.2)[0]
    mean = {name: 100 * costs.validation.mean for name, costs in table.items()}
    step = {name: costs.milliseconds for name, costs in table.items()}
    best = max(mean, key=mean.get)
    cheapest = min(step, key=step.get)
    title = f"Highest mean validation accuracy: {best}. Fastest: {cheapest}"
    setup += ". Area: parameters. Bars: standard deviation over seeds. Blue: the reference"
    figure, ax = style.new_figure(title, setup, 9, 5.2)
    largest = max(costs.parameters for costs in table.values())
    for name, costs in table.items():
        colour = style.RESIDUAL if name == reference else style.OTHERS[0]
        x, y = step[name], mean[name]
        deviation = 100 * costs.validation.deviation
        ax.plot([x, x], [y - deviation, y + deviation], color=style.GREY, linewidth=1)
        area = 500 * costs.parameters / largest
        ax.scatter(x, y, s=area, color=colour, alpha=0.8, edgecolors="white")
        left = _crowded(name, step, mean, 1) and not _crowded(name, step, mean, -1)
        place = {"textcoords": "offset points", "size": 10, "ha": "right" if left else "left"}
        text = ax.annotate(name, (x, y), (-12 if left else 12, 6), **place)
        text.set_path_effects([patheffects.withStroke(linewidth=3, foreground="white")])
    ax.set(xlabel="milliseconds for a training step; all take as many steps")
    ax.set(ylabel="validation accuracy (%)")
    ax.margins(0.15)
    return figure


def _crowded(name: str, step: dict[str, float], mean: dict[str, float], side: int) -> bool:
    """Whether another disk lies where a label to the right (1) or left (-1) would be."""
    width, height = (max(v.values()) - min(v.values()) or 1 for v in (step, mean))
    places = {n: (side * (step[n] - step[name]) / width, mean[n] - mean[name]) for n in step}
    return any(0 < right < 0.15 and abs(up) < 0.1 * height for right, up in places.values())
