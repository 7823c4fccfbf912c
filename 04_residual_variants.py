"""Lesson 4: the variants of the residual block: one idea each, and what it is for.

You will learn
    pre-activation: an identity path that nothing gates; 1,001 layers begin to learn
    wide, ResNeXt, DenseNet, squeeze-and-excitation: what each changes, and what it costs
    how to compare networks: the same parameters, steps, batches and seeds
    that a comparison may end with "no difference beyond the spread"
Builds on: lessons 1 to 3. Papers: He et al. 2016 (arXiv:1603.05027); Zagoruyko & Komodakis 2016
(arXiv:1605.07146); Xie et al. 2017 (arXiv:1611.05431); Huang et al. 2017 (arXiv:1608.06993); Hu
et al. 2018 (arXiv:1709.01507).
Takes about 70 seconds on two cores (the built-in Shapes-10, at 12x12 and 8x8 pixels).
Writes deep_training.png, dense_reuse.png, gates.png, variants.png, report.txt and results.json to
outputs/04_residual_variants/.

    python 04_residual_variants.py --data-dir DIR --images 10000 --epochs 4
"""

import bisect
import dataclasses
import math
import statistics
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from common import analysis, blocks, data, lesson, models, plotting, training
from common.analysis import Seeds, costs, features, gradients
from common.blocks import BasicBlock, PreActBlock, PreActBottleneck

import torch
import torch.nn as nn
import torch.nn.functional as F

SETTINGS = {  # name: (value, value with --quick; None leaves it as it is)
    "epochs": (3, 1),
    "seeds": (3, 2),
    "width": (8, None),
    "image_size": (12, 8),
    "images": (2400, 600),
    "batch_size": (48, None),
    "lr": (0.1, None),
    "layers": (1001, 29, lesson.positive, "of the deepest network, 9n + 2"),
    "blocks": (64, 4, lesson.positive, "on the longest identity path"),
}
DEEP = {"batch_size": 64, "lr": 0.3, "warmup": 0.2}  # training of the deepest networks
DEEP_STEPS = 32  # each takes about a second; so many are enough to see the loss fall
WINDOW = 10  # steps over which their losses are averaged: one batch alone is too noisy


class Variant(NamedTuple):
    """What a variant of the residual block changes, and the family of networks made of it."""

    build: Callable[..., nn.Module]  # takes num_classes and width (of a DenseNet: growth rate)
    idea: str
    purpose: str  # by its paper
    published: tuple = ()  # in its paper: a --model, millions of parameters, error (%) on CIFAR-10
    fraction: int = 1  # it gets the reference's number of parameters, divided by this


def densenet(num_classes: int, width: int) -> nn.Module:
    """The DenseNet-BC of 22 layers with a growth rate of `width`."""
    return models.cifar_densenet(22, width, num_classes=num_classes)


REFERENCE, SMALL_DENSE = "resnet-20", "dense-22 (1/3)"
VARIANTS = {  # each is trained, compared and drawn
    REFERENCE: Variant(partial(models.cifar_resnet, 20), "x is added",
        "all the rest is measured against it", ("cifar_resnet-110", 1.7, 6.61)),
    "preact-20": Variant(partial(models.cifar_preact_resnet, 20),
        "nothing lies on the path of x: the ReLU moves into F",
        "very deep networks", ("cifar_preact_resnet-164", 1.7, 5.46)),
    "wide-10": Variant(partial(models.PreActNet, blocks.WideBlock, 1),
        "fewer layers of more channels, with dropout inside F",
        "the same accuracy in less time", ("cifar_wide_resnet-28-10", 36.5, 4.00)),
    "resnext-20": Variant(partial(models.cifar_resnext, 20, 4, 24),
        "many narrow paths for the price of a wide one",
        "accuracy at equal cost on paper", ("cifar_resnext-29-8-64", 34.4, 3.65)),
    "dense-22": Variant(densenet, "keep x and put F(x) beside it, instead of adding",
        "fewer parameters; not less memory", ("cifar_densenet-100-12", 0.8, 4.51)),
    "se-20": Variant(partial(models.cifar_se_resnet, 20),
        "scale each channel of F(x) by what the whole image says",
        "accuracy, for little time"),  # its paper has pre-activation networks on CIFAR
    SMALL_DENSE: Variant(densenet, "the same, a third of the parameters",
        "the same accuracy", fraction=3),
}  # fmt: skip


def main(argv: list[str] | None = None) -> dict:
    """Run the lesson; returns what it measured."""
    args = arguments(argv)
    plotting.use_theme(args.show)
    dataset = data.load(args.data, args.data_dir, args.data_url, args.image_size, args.images)
    report = lesson.Report(__file__, args, dataset.name, dataset.why)
    device = report.device
    dataset = dataset.to(device)
    seeds = range(args.seed, args.seed + args.seeds)

    # Each idea is a line or two; the rest of a class is its parameters and its shortcut.
    report.section("1. Four ideas by hand equal the classes")
    torch.manual_seed(args.seed)
    measured = {"by_hand_difference": by_hand(report)}
    # All are trained first, on the same batches for as many steps; sections 3 to 8 question them.
    table, trained = compare(args, dataset, seeds, device)

    # Before training no weight has learnt anything: what closes a path is the design alone.
    show_idea(report, 2, "preact-20", BasicBlock, PreActBlock)
    images, _ = next(dataset.batches("train", 64))
    post = gradients.open_paths_by_length(BasicBlock, images, args.blocks, seeds)
    pre = gradients.open_paths_by_length(PreActBlock, images, args.blocks, seeds)
    report_paths(report, post, pre)
    measured["identity_paths"] = {"post": post, "pre": pre}
    # In training an open path should pay. 8x8 pixels, because a thousand layers are slow enough.
    measured["thousand_layers"] = thousand_layers(args, dataset.resized(8), device)
    report_depth(report, args, measured["thousand_layers"])

    show_idea(report, 3, "wide-10", PreActBlock, blocks.WideBlock)
    report_width(report, table)

    # The cost is equal on paper; the clock of this device need not keep to it.
    show_idea(report, 4, "resnext-20", blocks.Bottleneck, blocks.ResNeXtBlock)
    measured["cardinality"] = costs.equal_cost_family(device)
    report_cardinality(report, measured["cardinality"])

    # Keeping all features costs memory; it saves parameters only if old features are read again.
    show_idea(report, 5, "dense-22", PreActBlock, blocks.DenseLayer)
    memory = costs.memory_by_depth(device)
    reuse_of = partial(features.reuse, dataset=dataset, device=device)
    reuse = training.side_by_side(reuse_of, trained["dense-22"], device)
    report_density(report, memory, table, reuse)
    measured["density"] = {"memory": memory, "reuse": reuse}

    # A gate that is the same for every image is no more than a constant.
    show_idea(report, 6, "se-20", BasicBlock, blocks.SEBasicBlock)
    images, labels = next(dataset.batches("val", len(dataset.val.labels)))
    gates = [features.class_gates(model, images, labels) for model in trained["se-20"]]
    report_gates(report, gates)
    report_costs(report, table, [REFERENCE, "se-20"])
    measured["gates"] = gates

    report.section(f"7. All variants: about equal parameters ({SMALL_DENSE}: a third), equal steps")
    report_costs(report, table, list(table), "variant")
    report.section(f"8. When to use which, against {REFERENCE}")
    measured["verdicts"] = judge(table)
    report_verdicts(report, table, measured["verdicts"])
    draw(report, args, dataset.classes, table, measured)
    return report.save(measured | {"networks": table})


def arguments(argv: list[str] | None):
    """The flags of all lessons and this one's own."""
    flags = lesson.parser(__doc__, SETTINGS)
    args = flags.parse_args(argv)
    if args.layers < 11 or (args.layers - 2) % 9:
        flags.error("--layers must be 9n + 2 (11, 20, 29 ... 1001)")
    return args


def norm_relu(x):
    """Batch norm as it is at initialisation, then ReLU."""
    return F.relu(F.batch_norm(x, None, None, training=True))


def preactivation(x, w1, w2):
    """Normalise before each convolution, add last, touch nothing after."""
    out = F.conv2d(norm_relu(x), w1, padding=1)  # N C H W
    return F.conv2d(norm_relu(out), w2, padding=1) + x  # N C H W


def grouped(x, w, groups):
    """Cut the channels into groups, convolve each by itself: the cost falls by `groups`."""
    parts = zip(x.chunk(groups, dim=1), w.chunk(groups), strict=True)  # N C/groups H W each
    return torch.cat([F.conv2d(part, weight, padding=1) for part, weight in parts], dim=1)


def dense(x, w1, w2):
    """Keep x and put the new channels beside it, where a residual block would add."""
    out = F.conv2d(norm_relu(x), w1)  # N 4k H W
    return torch.cat([x, F.conv2d(norm_relu(out), w2, padding=1)], dim=1)  # N C+k H W


def squeeze_excitation(x, w1, b1, w2, b2):
    """Scale each channel by a gate computed from the means of all."""
    hidden = F.relu(F.linear(x.mean(dim=(2, 3)), w1, b1))  # N C/r
    return x * torch.sigmoid(F.linear(hidden, w2, b2))[:, :, None, None]  # N C H W


def by_hand(report) -> dict[str, float]:
    """The largest relative difference between the lines above and each class."""
    x = torch.randn(4, 16, 8, 8)
    pre = PreActBlock(16, 16)
    layer = blocks.DenseLayer(16, 4)
    gate = blocks.SqueezeExcitation(16)
    conv = blocks.ResNeXtBlock(16, 16, cardinality=4, base_width=16).conv2
    pairs = {
        "PreActBlock": (preactivation(x, pre.conv1.weight, pre.conv2.weight), pre(x)),
        "ResNeXtBlock.conv2": (grouped(x, conv.weight, 4), conv(x)),
        "DenseLayer": (dense(x, layer.conv1.weight, layer.conv2.weight), layer(x)),
        "SqueezeExcitation": (squeeze_excitation(x, *gate.parameters()), gate(x)),
    }
    differences = {n: analysis.relative_difference([a], [b]) for n, (a, b) in pairs.items()}
    report.say(f"largest relative difference: {max(differences.values()):.1e}")
    for name, difference in differences.items():
        report.check(f"by hand equals {name}", difference < 1e-5)
    return differences


@dataclasses.dataclass
class Result(costs.Costs):
    """What a variant costs and, by seed, what came of its training."""

    seconds: Seeds  # of training
    accuracy: Seeds  # share of all test images; NaN where the training diverged


def networks(classes: int, width: int) -> dict[str, Callable[[], nn.Module]]:
    """Every variant with the parameters of the reference of `width`, or its fraction of them."""
    target = analysis.parameter_count(VARIANTS[REFERENCE].build(num_classes=classes, width=width))
    return {
        name: at_parameters(partial(v.build, num_classes=classes), target // v.fraction)
        for name, v in VARIANTS.items()
    }


def at_parameters(build: Callable[..., nn.Module], target: int) -> Callable[[], nn.Module]:
    """`build` at the width, 4 to 64, whose number of parameters comes nearest to `target`."""

    def count(width: int) -> int:
        with torch.device("meta"):  # shapes without values: nothing is drawn or stored
            return analysis.parameter_count(build(width=width))

    above = bisect.bisect(range(4, 64), target, key=count) + 4  # a wider network has more
    nearest = min(max(4, above - 1), above, key=lambda width: abs(count(width) - target))
    return partial(build, width=nearest)


def compare(args, dataset, seeds: range, device: str) -> tuple[dict[str, Result], dict[str, list]]:
    """Train every variant with every seed on the same batches, for as many steps.

    Returns, by name, the results and the trained networks.
    """
    built = networks(len(dataset.classes), args.width)
    runs = []
    for name, build in built.items():
        for seed in seeds:
            torch.manual_seed(seed)  # of the initial values; the Run's orders the images
            runs.append(training.Run(name, seed, build(), {"lr": args.lr}))
    epochs = training.train_all(runs, dataset, args.epochs, args.batch_size, device)
    tested = training.side_by_side(
        lambda run: training.evaluate(run.model, dataset, "test", device)[1], runs, device
    )
    tested = training.by_name(runs, tested)
    x, y = next(dataset.batches("train", args.batch_size))
    fresh = {name: build() for name, build in built.items()}  # measuring would touch trained ones
    table = {}
    for name, cost in costs.measure(fresh, x, y).items():
        seconds = Seeds.of(epochs[name], lambda rows: rows[-1]["seconds"])
        pairs = zip(epochs[name], tested[name], strict=True)
        accuracies = Seeds(share if rows else math.nan for rows, share in pairs)
        table[name] = Result(**vars(cost), seconds=seconds, accuracy=accuracies)
    return table, training.by_name(runs, [run.model for run in runs])


def show_idea(report, number: int, name: str, old: type, new: type) -> None:
    """A section that opens with a variant's idea, and where the source of two blocks differs."""
    report.section(f"{number}. {new.__name__}: {VARIANTS[name].idea}")
    report.say(f"For, by its paper: {VARIANTS[name].purpose}.")
    for line in analysis.source_difference(old, new):
        report.say(line)
    report.say()


def report_costs(report, table, names: list[str], title: str = "network") -> None:
    """What networks cost, and how accurate they are."""
    rows = []
    for name in names:
        row = {title: name, "parameters": f"{table[name].parameters:,}"}
        row["multiply-adds (M)"] = f"{table[name].multiply_adds / 1e6:.1f}"
        row["step (ms)"] = f"{table[name].milliseconds:.0f}"
        row["peak memory (MB)"] = f"{table[name].peak / 1e6:.1f}"
        rows.append(row | {"test accuracy": f"{table[name].accuracy:.1%}"})
    report.table(rows)


def report_paths(report, post: list[list[float]], pre: list[list[float]]) -> None:
    """How much of the identity path is left after 1, 2 ... blocks, by seed."""
    longest = len(pre[0])
    rows = []
    for n in sorted({1, max(1, longest // 4), longest}):
        open_post, open_pre = (Seeds(seed[n - 1] for seed in seeds) for seeds in (post, pre))
        row = {"blocks": n, "post-activation: open paths": f"{open_post:.1%}"}
        rows.append(row | {"pre-activation: open paths": f"{open_pre:.1%}"})
    report.table(rows)  # the last row, which the claim is about, has the longest paths
    closed = f"post-activation closes identity paths over {longest} blocks, pre-activation none"
    source = "x_L = x_l + the sum of all F between, ungated (He et al. 2016, equation 4)"
    measured = "open: pre {:.1%}, post {:.1%}"
    report.claim(closed, open_pre, ">", open_post, source, measured)


class PlainPreActBottleneck(PreActBottleneck):
    """PreActBottleneck without its shortcut; a projection is kept, unused, for equal counts."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv1(F.relu(self.bn1(x)))  # N channels H W
        out = self.conv2(F.relu(self.bn2(out)))  # N channels H/stride W/stride
        return self.conv3(F.relu(self.bn3(out)))  # N 4*channels H/stride W/stride


def thousand_layers(args, dataset, device: str) -> dict[str, list[list[float]]]:
    """Loss (nats) of every training step of residual and plain networks, by seed."""
    few = data.Split(*(tensor[: DEEP["batch_size"] * DEEP_STEPS] for tensor in dataset.train))
    dataset = dataclasses.replace(dataset, train=few)
    runs = []
    for kind, block in (("residual", PreActBottleneck), ("plain", PlainPreActBottleneck)):
        for seed in range(args.seed, args.seed + 2):
            torch.manual_seed(seed)  # twins start from the same values
            depth = (args.layers - 2) // 9
            model = models.PreActNet(block, depth, len(dataset.classes), width=4)
            runs.append(training.Run(kind, seed, model, DEEP))
    steps = len(runs) * training.steps_per_epoch(dataset, DEEP["batch_size"])
    with training.progress(f"{args.layers:,} layers", steps, "step") as bar:
        job = partial(step_losses, dataset=dataset, device=device, bar=bar)
        return training.by_name(runs, training.side_by_side(job, runs, device))


def step_losses(run: training.Run, dataset, device: str, bar=None) -> list[float]:
    """Training loss (nats) of every step of one epoch; NaN ends the list where it diverges."""
    losses: list[float] = []

    def keep(_step: int, batch) -> None:
        if batch is None:  # before the first update
            return
        if not torch.isfinite(batch[0]):  # at once: the Trainer itself looks every 20 steps
            raise training.Diverged("the loss stopped being a number")
        losses.append(batch[0].item())

    trainer = training.Trainer(run.model, dataset, 1, seed=run.seed, device=device, **run.options)
    try:
        list(trainer.run(bar, keep))
    except training.Diverged:
        losses.append(math.nan)
    return losses


def ends(losses: list[float]) -> tuple[float, float]:
    """Mean loss of the first and of the last WINDOW steps, of half of them if there are fewer."""
    window = max(1, min(WINDOW, len(losses) // 2))
    return statistics.fmean(losses[:window]), statistics.fmean(losses[-window:])


def falls(losses: list[float]) -> bool:
    """Whether the mean loss of the last window lies below the first's by more than either's
    standard deviation, and all are numbers."""
    if len(losses) < 2 * WINDOW or not all(map(math.isfinite, losses)):
        return False
    first, last = losses[:WINDOW], losses[-WINDOW:]
    noise = max(statistics.pstdev(first), statistics.pstdev(last))
    return statistics.fmean(first) - statistics.fmean(last) > noise


def report_depth(report, args, losses: dict[str, list[list[float]]]) -> None:
    """Whether a thousand layers train, with and without shortcuts."""
    rows = []
    falling = {kind: Seeds() for kind in losses}
    for kind, runs in losses.items():
        for seed, run in enumerate(runs, args.seed):
            falling[kind].append(float(falls(run)))
            first, last = (f"{mean:.3f}" for mean in ends(run))
            row = {f"{args.layers:,} layers": kind, "seed": seed}
            row["finite steps"] = sum(map(math.isfinite, run))
            row[f"loss, first {WINDOW} steps (nats)"] = first
            row[f"loss, last {WINDOW} steps (nats)"] = last
            rows.append(row | {"falls": "yes" if falls(run) else "no"})
    report.table(rows)
    trains = f"a pre-activation network of {args.layers:,} layers trains, its plain twin does not"
    source = "1,001 layers reach 4.92 % error on CIFAR-10 (He et al. 2016, table 3)"
    measured = "share of runs whose loss falls: {:.1f}, plain {:.1f}"
    report.claim(trains, falling["residual"], ">", falling["plain"], source, measured)


def report_width(report, table: dict[str, Result]) -> None:
    """Depth against width at equal parameters."""
    thin, wide = table["preact-20"], table["wide-10"]
    report_costs(report, table, ["preact-20", "wide-10"])
    faster = "at equal parameters the wide network takes less time a step than the deep one"
    source = "8 times as fast: WRN-40-4 against ResNet-1001 (Zagoruyko & Komodakis 2016, section 3)"
    measured = f"{wide.milliseconds / thin.milliseconds:.2f} of the deep one's time"
    report.claim(faster, wide.step, "<", thin.step, source, measured)
    as_good = "at equal parameters the wide network is no less accurate than the deep one"
    source = "4.53 % error (WRN-40-4, 8.9 M) against 4.92 (ResNet-1001, 10.2 M; same, table 5)"
    measured = "deep {:.1%}, wide {:.1%}"
    report.claim(as_good, thin.accuracy, "<=", wide.accuracy, source, measured)


def report_cardinality(report, family: dict[str, dict]) -> None:
    """The equal-cost family as counted, and as timed."""
    rows = []
    milliseconds = {}
    for name, member in family.items():
        milliseconds[name] = 1e3 * statistics.median(member["seconds"])
        row = {"50 layers": name, "parameters (M)": f"{member['parameters'] / 1e6:.2f}"}
        row["multiply-adds (G)"] = f"{member['multiply_adds'] / 1e9:.2f}"
        rows.append(row | {"step of one block (ms)": f"{milliseconds[name]:.1f}"})
    report.table(rows)
    report.say("Block: 256 channels, 28x28 pixels, 8 images, forward and backward.")
    slower = "groups that cost the same on paper take longer on this device"
    source = "1.36 times: ResNeXt-101 32x4d against ResNet-101 (Xie et al. 2017, section 5.1)"
    ratio = milliseconds["32x4d"] / milliseconds["1x64d"]
    measured = f"32x4d takes {ratio:.2f} times as long as 1x64d"
    many, one = family["32x4d"]["seconds"], family["1x64d"]["seconds"]
    report.claim(slower, many, ">", one, source, measured)


def report_density(report, memory: dict, table: dict[str, Result], reuse: list) -> None:
    """Memory by depth, parameters against accuracy, and whether old features are used again."""
    rows = []
    for kind, by_depth in memory.items():
        row = {f"depth {depth}": f"{size / 1e6:.0f}" for depth, size in by_depth.items()}
        rows.append({"peak memory (MB)": kind} | row)
    report.table(rows)
    report.say("8 images of 32x32; DenseNet-BC of growth rate 12; ResNet of 16 channels.")
    grows = "the memory of a DenseNet grows faster with depth than a ResNet's"
    source = "quadratically, unless recomputed (Pleiss et al. 2017, arXiv:1707.06990)"
    power = {kind: costs.exponent(by_depth) for kind, by_depth in memory.items()}
    measured = "as depth^{:.2f} against depth^{:.2f}"
    report.claim(grows, power["dense"], ">", power["resnet"], source, measured)

    small, large = table[SMALL_DENSE], table[REFERENCE]
    share = small.parameters / large.parameters
    as_good = f"with {share:.2f} of the parameters a DenseNet is no less accurate than a ResNet"
    source = "with a third (Huang et al. 2017, section 5)"
    measured = "ResNet {:.1%}, DenseNet {:.1%}"
    report.claim(as_good, large.accuracy, "<=", small.accuracy, source, measured)

    older, newest = map(Seeds, zip(*map(features.by_age, reuse), strict=True))
    used = "dense layers use old features: hiding one of them raises the loss"
    source = "weights spread over many sources of a block (Huang et al. 2017, figure 5)"
    measured = f"rise, mean over layers: old {older:.3f}, newest {newest:.3f} nats"
    report.claim(used, older, ">", 0.0, source, measured)


def report_gates(report, gates: list[dict[str, torch.Tensor]]) -> None:
    """What the gates are in the trained networks, one dict a seed, and how they differ by class."""
    rows = []
    spreads = []
    for block in gates[0]:
        mean = Seeds(run[block].mean().item() for run in gates)
        spreads.append(Seeds(features.class_dependence(run[block]) for run in gates))
        row = {"block": block, "mean gate": f"{mean:.2f}"}
        rows.append(row | {"standard deviation over classes": f"{spreads[-1]:.3f}"})
    report.table(rows)
    later = "the gates of the last block depend more on the class than those of the first"
    source = "later gates differ by class, the very last but modestly (Hu et al. 2018, section 7.2)"
    report.claim(later, spreads[-1], ">", spreads[0], source, "{:.3f} against {:.3f}")


def compared(one: Result, other: Result) -> str:
    """Of one in accuracy against the other: better, worse, or no difference beyond the spread."""
    words = {"holds": "better", "does not hold": "worse"}
    verdict = analysis.verdict(one.accuracy, ">", other.accuracy)
    return words.get(verdict, "no difference beyond the spread")


def judge(table: dict[str, Result]) -> dict[str, str]:
    """Each variant's test accuracy against the reference's: better, worse, neither, diverged."""
    judged = {name: compared(result, table[REFERENCE]) for name, result in table.items()}
    judged[REFERENCE] = ""
    for name, result in table.items():
        if any(map(math.isnan, result.accuracy)):
            judged[name] = "diverged"
    return judged


def advice(table: dict[str, Result], judged: dict[str, str]) -> list[str]:
    """What to choose for what, in sentences made from the table."""
    mean = {name: table[name].accuracy.mean for name in table if judged[name] != "diverged"}
    if REFERENCE not in mean:
        return [f"{REFERENCE} diverged: there is nothing to compare with; try a smaller --lr."]
    best = max(mean, key=mean.get)
    rivals = [n for n in mean if n != best and compared(table[best], table[n]) != "better"]
    lead = f"not beyond the spread of {', '.join(rivals)}" if rivals else "beyond the spread"
    fine = [name for name in mean if judged[name] != "worse"]
    fast = min(fine, key=lambda name: table[name].milliseconds)
    lean = min(fine, key=lambda name: table[name].peak)
    small = min(fine, key=lambda name: table[name].parameters)
    return [
        f"Highest mean accuracy: {best}, {lead}.",
        f"Among those not measurably less accurate than {REFERENCE}, the least time a step:",
        f"{fast}; the least memory: {lean}; the fewest parameters: {small}.",
        "Better and worse: by more than the larger of the two standard deviations over seeds.",
        "One learning rate for all, and few steps: in a longer training the order may differ. The",
        "last column is CIFAR-10, not measured here: hundreds of epochs of the networks named.",
    ]


def report_verdicts(report, table: dict[str, Result], judged: dict[str, str]) -> None:
    """When to use which, worded from the table."""
    reference = table[REFERENCE]
    rows = []
    for name, result in table.items():
        row = {"variant": name, "test accuracy": judged[name]}
        row["time (ratio)"] = f"{result.milliseconds / reference.milliseconds:.2f}"
        row["memory (ratio)"] = f"{result.peak / reference.peak:.2f}"
        paper = VARIANTS[name].published
        error = "{2:.2f} % ({0}, {1} M)".format(*paper) if paper else ""
        rows.append(row | {"error at full scale (its paper)": error})
    report.table(rows)
    for line in advice(table, judged):
        report.say(line)
    report.say()


def draw(report, args, classes: list[str], table: dict[str, Result], measured: dict) -> None:
    """The four figures; `measured` as `main` collects it."""
    setup = f"{report.data}, {args.image_size}x{args.image_size} pixels, "
    setup += f"{args.epochs} epochs, {args.seeds} seeds"
    losses, paths = measured["thousand_layers"], measured["identity_paths"]
    means = {}
    for kind, runs in losses.items():
        means[kind] = [statistics.fmean(side) for side in zip(*map(ends, runs), strict=True)]
    curves, maps = plotting.curves, plotting.maps
    size = args.layers, len(classes), report.data
    report.figure(curves.deep_training(losses, means, paths, *size), "deep_training")
    report.figure(maps.dense_reuse(**measured["density"], setup=setup), "dense_reuse")
    report.figure(maps.gate_maps(measured["gates"], classes, setup), "gates")
    report.figure(curves.trade_off(table, REFERENCE, setup), "variants")


if __name__ == "__main__":
    lesson.run(main)
