"""Lesson 4: the variants of the residual block: one idea each, and what it is for.

You will learn
    pre-activation: an identity path that nothing gates, so that 1,001 layers train
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

import math
import statistics

import torch
import torch.nn.functional as F

from common import analysis, blocks, data, deep, lesson, plotting, probes, variant_figures, variants
from common.experiment import WINDOW
from common.lesson import percent, summary
from common.variants import REFERENCE, SMALL_DENSE


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
    """The lines above against the classes."""
    report.section("1. Four ideas by hand equal the classes")
    x = torch.randn(4, 16, 8, 8)
    pre, layer = blocks.PreActBlock(16, 16), blocks.DenseLayer(16, 4)
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


IDEAS = {  # block: (the block that it changes, the idea)
    "PreActBlock": ("BasicBlock", "nothing lies on the path of x: the ReLU moves into F"),
    "WideBlock": ("PreActBlock", "fewer layers of more channels, with dropout inside F"),
    "ResNeXtBlock": ("Bottleneck", "many narrow paths for the price of a wide one"),
    "DenseLayer": ("PreActBlock", "keep x and put F(x) beside it, instead of adding"),
    "SEBasicBlock": ("BasicBlock", "scale each channel of F(x) by what the whole image says"),
}


def idea(report, number: int, name: str) -> None:
    """A section that opens with the idea, and the difference of the two blocks' source."""
    base, text = IDEAS[name]
    report.section(f"{number}. {name}: {text}")
    for line in lesson.source_difference(getattr(blocks, base), getattr(blocks, name)):
        report.say(line)
    report.say()


def costs(report, table, names, title: str = "network") -> None:
    """What networks cost, and how accurate they are."""
    header = [title, "parameters", "multiply-adds (M)", "step (ms)", "peak memory (MB)"]
    rows = []
    for name in names:
        found, step = table[name], 1e3 * statistics.median(table[name]["step"])
        macs, memory = (f"{found[key] / 1e6:.1f}" for key in ("multiply_adds", "peak"))
        rows.append([name, f"{found['parameters']:,}", macs, f"{step:.0f}", memory])
        rows[-1].append(percent(found["accuracy"]))
    report.table([*header, "test accuracy (%)"], rows)


def identity_paths(report, args, images) -> dict[str, list[list[float]]]:
    """How much of the identity path is left after some blocks, post against pre."""
    seeds = range(args.seed, args.seed + args.seeds)
    tower = 4 if args.quick else 64  # blocks
    found = deep.identity_paths(images, tower, seeds)
    rows = []
    for n in sorted({1, tower // 4, tower}):
        post, pre = ([run[n - 1] for run in found[kind]] for kind in ("post", "pre"))
        rows.append([n, percent(post), percent(pre)])
    header = ["blocks", "post-activation: open paths (%)", "pre-activation: open paths (%)"]
    report.table(header, rows)
    report.finding(
        f"post-activation closes identity paths over {tower} blocks, pre-activation none",
        "x_L = x_l + the sum of all F between, ungated (He et al. 2016, equation 4)",
        f"open: post {percent(post)} %, pre {percent(pre)} %",
        lesson.greater(pre, post),
    )
    return found


def thousand_layers(report, args, dataset) -> dict[str, list[list[float]]]:
    """A thousand layers, with and without shortcuts: the loss of every step."""
    seeds = range(args.seed, args.seed + 2)
    found = deep.twins(args.layers, dataset, seeds, args.device)
    falls = {kind: [float(deep.falls(run)) for run in runs] for kind, runs in found.items()}
    rows = []
    for kind, runs in found.items():
        for seed, losses, fell in zip(seeds, runs, falls[kind], strict=True):
            ends = [f"{mean:.3f}" for mean in deep.ends(losses)]
            finite = sum(map(math.isfinite, losses))
            rows.append([kind, seed, finite, *ends, "yes" if fell else "no"])
    header = [f"loss, {part} {WINDOW} steps (nats)" for part in ("first", "last")]
    report.table([f"{args.layers:,} layers", "seed", "finite steps", *header, "falls"], rows)
    report.finding(
        f"a pre-activation network of {args.layers:,} layers trains, its plain twin does not",
        "1,001 layers reach 4.92 % error on CIFAR-10 (He et al. 2016, table 3)",
        f"share of runs whose loss falls: {summary(falls['residual'], 1)}, "
        f"plain {summary(falls['plain'], 1)}",
        lesson.greater(falls["residual"], falls["plain"]),
    )
    return found


def width(report, table) -> None:
    """Depth against width at equal parameters."""
    thin, wide = table["preact-20"], table["wide-10"]
    costs(report, table, ("preact-20", "wide-10"))
    report.finding(
        "at equal parameters the wide network takes less time a step than the deep one",
        "WRN-40-4 trains 8 times as fast as ResNet-1001 (Zagoruyko & Komodakis 2016, section 3)",
        f"{variants.ratio(wide['step'], thin['step'])} of the deep one's time",
        lesson.greater(thin["step"], wide["step"]),
    )
    report.finding(
        "at equal parameters the wide network is no less accurate than the deep one",
        "4.53 against 4.92 % error, WRN-40-4 and ResNet-1001 (the same paper, table 5)",
        f"{percent(wide['accuracy'])} against {percent(thin['accuracy'])} %",
        lesson.not_greater(thin["accuracy"], wide["accuracy"]),
    )


def cardinality(report, args) -> dict[str, dict]:
    """The equal-cost family of Xie et al. 2017, table 2: as counted, and as timed."""
    found, rows = variants.equal_cost_family(args.device), []
    for name, (parameters, macs, seconds) in found.items():
        counts = f"{parameters / 1e6:.2f}", f"{macs / 1e9:.2f}"
        rows.append([name, *counts, f"{1e3 * statistics.median(seconds):.1f}"])
    header = ["50 layers", "parameters (M)", "multiply-adds (G)", "step of one block (ms)"]
    report.table(header, rows)
    report.say("Block: 256 channels, 28x28 pixels, 8 images, forward and backward.")
    narrow, whole = found["32x4d"][2], found["1x64d"][2]
    report.finding(
        "groups that cost the same on paper take longer on this device",
        "1.36 times: ResNeXt-101 32x4d against ResNet-101 (Xie et al. 2017, section 5.1)",
        f"32x4d takes {variants.ratio(narrow, whole)} times as long as 1x64d",
        lesson.greater(narrow, whole),
    )
    return found


def density(report, args, dataset, table, trained) -> dict:
    """Memory by depth, parameters against accuracy, and which features are used again."""
    memory = variants.memory_by_depth(args.device)
    depths = list(memory["dense"])
    rows = [[kind, *(f"{m / 1e6:.0f}" for m in found.values())] for kind, found in memory.items()]
    report.table(["peak memory (MB)", *(f"depth {d}" for d in depths)], rows)
    report.say("8 images of 32x32; DenseNet-BC of growth rate 12; ResNet of 16 channels.")
    powers = {k: variants.exponent(depths, list(found.values())) for k, found in memory.items()}
    report.finding(
        "the memory of a DenseNet grows faster with depth than a ResNet's",
        "quadratically, unless recomputed (Pleiss et al. 2017, arXiv:1707.06990)",
        f"as depth^{powers['dense']:.2f} against depth^{powers['resnet']:.2f}",
        lesson.verdict(powers["dense"] - powers["resnet"], 0.0),
    )
    small, large = table[SMALL_DENSE], table[REFERENCE]
    share = small["parameters"] / large["parameters"]
    report.finding(
        f"with {share:.2f} of the parameters a DenseNet is no less accurate than a ResNet",
        "with a third (Huang et al. 2017, section 5)",
        f"{percent(small['accuracy'])} against {percent(large['accuracy'])} %",
        lesson.not_greater(large["accuracy"], small["accuracy"]),
    )
    reuse = probes.reuse_all(trained["dense-22"], dataset, args.device)
    older, newest = zip(*map(probes.by_age, reuse), strict=True)
    report.finding(
        "dense layers use old features: hiding one of them raises the loss",
        "weights spread over many sources of a block (Huang et al. 2017, figure 5)",
        f"rise, mean over layers: old {summary(older)}, newest {summary(newest)} nats",
        lesson.greater(older, [0.0] * len(older)),
    )
    return {"memory": memory, "reuse": reuse}


def gates(report, dataset, table, trained) -> list[dict]:
    """What the gates are for each class in the trained networks, and what they cost."""
    images = next(dataset.batches("val", len(dataset.val.labels)))
    found = [probes.class_gates(model, *images) for model in trained["se-20"]]
    rows, spread = [], {}
    for block in found[0]:
        spread[block] = [probes.class_dependence(run[block]) for run in found]
        mean = summary([run[block].mean().item() for run in found], 2)
        rows.append([block, mean, summary(spread[block])])
    report.table(["block", "mean gate", "standard deviation over classes"], rows)
    first, *_, last = spread.values()
    report.finding(
        "the gates of the last block depend more on the class than those of the first",
        "later gates differ by class, the very last but modestly (Hu et al. 2018, section 7.2)",
        f"{summary(last)} against {summary(first)}",
        lesson.greater(last, first),
    )
    costs(report, table, (REFERENCE, "se-20"))
    return found


def verdicts(report, table) -> dict[str, str]:
    """Everything on one table, and when to use which, worded from it."""
    report.section(f"7. All variants: as many parameters ({SMALL_DENSE}: a third), steps, batches")
    costs(report, table, table, "variant")
    report.section(f"8. When to use which, against {REFERENCE}")
    rows, judged, reference = [], variants.judge(table), table[REFERENCE]
    for name, found in table.items():
        times = variants.ratio(found["step"], reference["step"])
        memory = f"{found['peak'] / reference['peak']:.2f}"
        rows.append([name, judged[name], times, memory, variants.PUBLISHED.get(name, "")])
    header = ["variant", "test accuracy", "time (ratio)", "memory (ratio)"]
    report.table([*header, "error at full scale (its paper)"], rows)
    for line in variants.advice(table, judged):
        report.say(line)
    report.say()
    return judged


def arguments(argv: list[str] | None):
    """The shared flags and this lesson's own."""
    flags = lesson.parser(__doc__)
    lesson.training_flags(flags, lr=0.1, image_size=12, images=2400)
    layers = "of the deepest network, 9n + 2 (default: %(default)s)"
    flags.add_argument("--layers", type=lesson.positive, default=1001, help=layers)
    args = flags.parse_args(argv)
    if args.layers < 11 or (args.layers - 2) % 9:
        flags.error("--layers must be 9n + 2 (11, 20, 29 ... 1001)")
    if args.quick:
        args.layers, args.epochs, args.images, args.image_size = 29, 1, 600, 8
    args.seeds = 2 if args.quick else args.seeds
    return args


def main(argv: list[str] | None = None) -> dict:
    """Run the lesson; returns what it measured."""
    args = arguments(argv)
    plotting.use_theme(args.show)
    dataset = data.load(args.data, args.data_dir, args.data_url, args.image_size, args.images)
    report = lesson.Report(__file__, args, dataset.name, dataset.why)
    args.device, args.names = report.results["device"], dataset.classes
    dataset = dataset.to(args.device)
    torch.manual_seed(args.seed)
    measured = {"by_hand_difference": by_hand(report)}
    table, trained = variants.compare(args, dataset)
    idea(report, 2, "PreActBlock")
    measured["identity_paths"] = identity_paths(report, args, next(dataset.batches("train", 64))[0])
    measured["thousand_layers"] = thousand_layers(report, args, dataset.resized(8))
    idea(report, 3, "WideBlock")
    width(report, table)
    idea(report, 4, "ResNeXtBlock")
    measured["cardinality"] = cardinality(report, args)
    idea(report, 5, "DenseLayer")
    measured["density"] = density(report, args, dataset, table, trained)
    idea(report, 6, "SEBasicBlock")
    measured["gates"] = gates(report, dataset, table, trained)
    measured["verdicts"] = verdicts(report, table)
    variant_figures.draw(report, args, table, measured)
    return report.save(measured | {"networks": table})


if __name__ == "__main__":
    lesson.run(main)
