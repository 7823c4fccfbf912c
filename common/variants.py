"""What lesson 4 measures on the variants of the residual block."""

import bisect
import math
import statistics
from argparse import Namespace
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn as nn

from common import analysis, experiment, lesson, models
from common.blocks import ResNeXtBlock, WideBlock
from common.experiment import Run

REFERENCE, SMALL_DENSE = "resnet-20", "dense-22 (1/3)"
PUBLISHED = {  # error on CIFAR-10 with crop and flip, from the variant's own paper
    "resnet-20": "6.61 % (ResNet-110, 1.7 M)",
    "preact-20": "5.46 % (ResNet-164, 1.7 M)",
    "wide-10": "4.00 % (WRN-28-10, 36.5 M)",
    "resnext-20": "3.65 % (ResNeXt-29 8x64d, 34.4 M)",
    "dense-22": "4.51 % (DenseNet-BC-100-12, 0.8 M)",
    "se-20": "5.21 % (SE-ResNet-110, 1.7 M)",
}


def family(classes: int) -> dict[str, Callable[[int], nn.Module]]:
    """Each variant as a function of its width: channels of stage 1, or the growth rate."""
    return {
        REFERENCE: partial(models.cifar_resnet, 20, "A", classes),
        "preact-20": partial(models.cifar_preact_resnet, 20, classes),
        "wide-10": partial(models.PreActNet, WideBlock, 1, classes),
        "resnext-20": partial(models.cifar_resnext, 20, 4, 24, classes),
        "dense-22": lambda k: models.cifar_densenet(22, k, True, classes),
        "se-20": partial(models.cifar_se_resnet, 20, classes),
    }


def at_parameters(build: Callable[[int], nn.Module], target: int) -> Callable[[], nn.Module]:
    """The network of the width, 4 to 64, whose number of parameters comes nearest to `target`."""

    def count(width: int) -> int:
        with torch.device("meta"):
            return analysis.parameter_count(build(width))

    above = bisect.bisect(range(4, 64), target, key=count) + 4
    return partial(build, min((max(4, above - 1), above), key=lambda w: abs(count(w) - target)))


def networks(classes: int, width: int) -> dict[str, Callable[[], nn.Module]]:
    """Every variant with the parameters of a ResNet-20 of `width`; a DenseNet with a third."""
    functions = family(classes)
    target = analysis.parameter_count(functions[REFERENCE](width))
    built = {name: at_parameters(build, target) for name, build in functions.items()}
    return built | {SMALL_DENSE: at_parameters(functions["dense-22"], target // 3)}


def compare(args: Namespace, dataset) -> tuple[dict[str, dict], dict[str, list[nn.Module]]]:
    """Train every network with every seed on the same batches, for as many steps.

    `args` holds the lesson's settings. Returns what was measured by network (parameters; one
    image's multiply-adds; seconds of each timed step; peak bytes at a batch; by seed seconds of
    training and accuracy on all test images), and the trained networks.
    """
    built, runs = networks(len(dataset.classes), args.width), []
    for name, build in built.items():
        for seed in range(args.seed, args.seed + args.seeds):
            torch.manual_seed(seed)
            runs.append(Run(name, seed, build(), {"lr": args.lr}))
    settings = args.epochs, args.batch_size, args.device
    results = experiment.train_all(runs, dataset, *settings, watch=False)
    tested = experiment.test_all(runs, results, dataset, args.device)
    fresh = {name: build() for name, build in built.items()}
    x, y = next(dataset.batches("train", args.batch_size))
    steps = analysis.step_seconds(fresh, x, y)
    table = {
        name: {
            "parameters": analysis.parameter_count(model),
            "multiply_adds": analysis.multiply_adds(model, *x.shape[1:]),
            "step": steps[name],
            "peak": analysis.peak_bytes(model, x, y),
            "seconds": experiment.pick(results[name], "seconds"),
            "accuracy": tested[name],
        }
        for name, model in fresh.items()
    }
    return table, {name: [r.model for r in runs if r.name == name] for name in built}


def ratio(numerator: list[float], denominator: list[float]) -> str:
    """The ratio of two medians."""
    return f"{statistics.median(numerator) / statistics.median(denominator):.2f}"


def judge(table: dict[str, dict]) -> dict[str, str]:
    """Each network's test accuracy against the reference's: better, worse, neither, diverged."""
    accuracy = table[REFERENCE]["accuracy"]
    judged = {n: lesson.greater(found["accuracy"], accuracy) for n, found in table.items()}
    judged = {name: lesson.in_words(verdict) for name, verdict in judged.items()}
    lost = {n: "diverged" for n, f in table.items() if any(map(math.isnan, f["accuracy"]))}
    return judged | {REFERENCE: ""} | lost


def advice(table: dict[str, dict], judged: dict[str, str]) -> list[str]:
    """What to choose for what, in sentences made from the table."""
    mean = {n: statistics.fmean(table[n]["accuracy"]) for n in table if judged[n] != "diverged"}
    if REFERENCE not in mean:
        return [f"{REFERENCE} diverged: there is nothing to compare with; try a smaller --lr."]
    fine = [name for name in mean if judged[name] != "worse"]
    best = max(mean, key=mean.get)
    rivals = [n for n in mean if n != best and not _beats(table[best], table[n])]
    fast = min(fine, key=lambda name: statistics.median(table[name]["step"]))
    lean = min(fine, key=lambda name: table[name]["peak"])
    small = min(fine, key=lambda name: table[name]["parameters"])
    beaten = f"not beyond the spread of {', '.join(rivals)}" if rivals else "beyond the spread"
    return [
        f"Highest mean accuracy: {best}, {beaten}.",
        f"Among those not measurably less accurate than {REFERENCE}, the least time a step:",
        f"{fast}; the least memory: {lean}; the fewest parameters: {small}.",
        "Better and worse: by more than the larger of the two standard deviations over seeds.",
        "One learning rate for all, and few steps: in a longer training the order may differ. The",
        "last column is CIFAR-10, not measured here: hundreds of epochs of the networks named.",
    ]


def _beats(one: dict, other: dict) -> bool:
    """Whether the accuracy is higher by more than either's spread."""
    return lesson.greater(one["accuracy"], other["accuracy"]) == "holds"


def equal_cost_family(device: str) -> dict[str, tuple[int, int, list[float]]]:
    """The cardinality x width pairs of Xie et al. 2017, table 2: 1x64d to 32x4d.

    Of each: parameters and multiply-adds (224x224) of the network of 50 layers, and seconds of
    training steps of one block (256 channels, 28x28, 8 images).
    """
    pairs = {f"{c}x{d}d": (c, d) for c, d in ((1, 64), (2, 40), (4, 24), (8, 14), (32, 4))}
    x, y = torch.randn(8, 256, 28, 28, device=device), torch.arange(8, device=device)
    heads = {}
    for name, (groups, base) in pairs.items():
        block = ResNeXtBlock(256, 64, cardinality=groups, base_width=base)
        heads[name] = nn.Sequential(block, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    seconds, found = analysis.step_seconds(heads, x, y), {}
    for name, pair in pairs.items():
        with torch.device("meta"):
            model = models.ResNet(models.grouped(*pair), [3, 4, 6, 3])
            macs = analysis.multiply_adds(model, 3, 224, 224)
        found[name] = analysis.parameter_count(model), macs, seconds[name]
    return found


def memory_by_depth(device: str) -> dict[str, dict[int, int]]:
    """Peak bytes of a training step on 8 images of 32x32, by depth: DenseNet-BC and ResNet."""
    x, y = torch.randn(8, 3, 32, 32, device=device), torch.arange(8, device=device)
    found: dict[str, dict[int, int]] = {"dense": {}, "resnet": {}}
    for depth in (22, 40, 58, 76, 100):
        pair = models.cifar_densenet(depth, 12), models.cifar_resnet(depth - 2)
        for kind, model in zip(found, pair, strict=True):
            found[kind][depth] = analysis.peak_bytes(model.to(device), x, y)
    return found


def exponent(sizes: list[float], values: list[float]) -> float:
    """The p of values ~ sizes^p, by least squares on logarithms."""
    slope, _ = np.polyfit(np.log(sizes), np.log(values), deg=1)
    return float(slope)
