"""Lesson 4: the variants of the residual block: one idea each, and what it is for.

You will learn
    pre-activation: an identity path that no ReLU cuts; 1,001 layers learn a batch by heart
    what lets them: blocks that start near the identity, without batch norm, too
    wide, ResNeXt, DenseNet, squeeze-and-excitation: what each changes, and what it costs
    how to compare networks: each at its own learning rate, in pairs of seeds
    the same addition in a Transformer: pre-norm and post-norm
Builds on: lessons 1 to 3. Papers: He et al. 2016 (arXiv:1603.05027); De & Smith 2020
(arXiv:2002.10444); Zagoruyko & Komodakis 2016 (arXiv:1605.07146); Xie et al. 2017
(arXiv:1611.05431); Huang et al. 2017 (arXiv:1608.06993); Hu et al. 2018 (arXiv:1709.01507); Xiong
et al. 2020 (arXiv:2002.04745).
Takes about three minutes on two cores (the built-in Shapes-10, at 12x12 and 8x8 pixels).
Writes deep_training.png, variants.png, transformer.png, report.txt and results.json to
outputs/04_residual_variants/.

    python 04_residual_variants.py --rates
    python 04_residual_variants.py --data-dir DIR --images 10000 --epochs 4
"""

import math
import statistics
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from common import analysis, blocks, data, lesson, models, plotting
from common.analysis import Seeds, costs, deep, features, published, variants
from common.analysis.variants import Result
from common.blocks import BasicBlock, Bottleneck, PreActBlock

import torch
import torch.nn as nn
import torch.nn.functional as F

SETTINGS = {  # name: (value, value with --quick; None leaves it as it is)
    "epochs": (3, 1),
    "seeds": (5, 2),
    "width": (8, None),
    "image_size": (12, 8),
    "images": (2400, 600),
    "batch_size": (48, None),
    "lr": (None, None, lesson.rate, "peak learning rate of all variants (default: its own each)"),
    "layers": (1001, 29, lesson.positive, "of the deepest network, 9n + 2"),
    "bare_layers": (110, 14, lesson.positive, "of the network without batch norm, 6n + 2"),
    "transformer_layers": (24, 4, lesson.positive, "of the Transformer, 4 or more"),
    "blocks": (64, 4, lesson.positive, "on the longest identity path"),
}
LEARNT = 1.8  # nats: well below chance, which is log 10 = 2.30 for ten classes
RATES = (0.05, 0.1, 0.2, 0.4, 0.8)  # that --rates tries


class Variant(NamedTuple):
    """What a variant of the residual block changes, and the family of networks made of it."""

    build: Callable[..., nn.Module]  # takes num_classes and width (of a DenseNet: growth rate)
    idea: str
    purpose: str  # by its paper
    published: str = ""  # the --model of its paper whose error on CIFAR-10 we quote
    lr: float = 0.1  # of RATES that with the lowest validation loss


def densenet(num_classes: int, width: int) -> nn.Module:
    """The DenseNet-BC of 22 layers with a growth rate of `width`."""
    return models.cifar_densenet(22, width, num_classes=num_classes)


REFERENCE = "resnet-20"
VARIANTS = {  # each is trained, compared and drawn
    REFERENCE: Variant(partial(models.cifar_resnet, 20), "x is added",
        "all the rest is measured against it", "cifar_resnet-110", lr=0.1),
    "preact-20": Variant(partial(models.cifar_preact_resnet, 20),
        "no ReLU cuts the path of x: it moves into F",
        "very deep networks", "cifar_preact_resnet-164", lr=0.4),
    "wide-10": Variant(partial(models.PreActNet, blocks.WideBlock, 1),
        "fewer layers of more channels, with dropout inside F",
        "the same accuracy in less time", "cifar_wide_resnet-28-10", lr=0.1),
    "resnext-20": Variant(partial(models.cifar_resnext, 20, 4, 24),
        "many narrow paths for the price of a wide one",
        "accuracy at equal cost on paper", "cifar_resnext-29-8-64", lr=0.1),
    "dense-22": Variant(densenet, "keep x and put F(x) beside it, instead of adding",
        "fewer parameters; not less memory", "cifar_densenet-100-12", lr=0.4),
    "se-20": Variant(partial(models.cifar_se_resnet, 20),
        "scale each channel of F(x) by what the whole image says",
        "accuracy, for little time", lr=0.4),  # on CIFAR its paper has pre-activation networks
}  # fmt: skip


def main(argv: list[str] | None = None) -> dict:
    """Run the lesson; returns what it measured."""
    args = arguments(argv)
    plotting.use_theme(args.show)
    dataset = data.load(args.data, args.data_dir, args.data_url, args.image_size, args.images)
    report = lesson.Report(__file__, args, dataset.name, dataset.why)
    device = report.device
    dataset = dataset.to(device)
    classes, seeds = len(dataset.classes), range(args.seed, args.seed + args.seeds)
    builds, plan = networks(classes, args.width), (dataset, args.epochs, args.batch_size)
    if args.rates:
        return report.save({"rates": search_rates(report, builds, plan, args.seed)})

    # Each idea is a line or two; the rest of a class is its parameters and its shortcut.
    report.section("1. Six ideas by hand equal the classes")
    torch.manual_seed(args.seed)
    measured = {"by_hand_difference": by_hand(report)}

    # Before training no weight has learnt anything: what closes a path is the design alone.
    show_idea(report, 2, "preact-20", BasicBlock, PreActBlock)
    images, _ = next(dataset.batches("train", 64))
    kinds = {"post": BasicBlock, "pre": PreActBlock}
    paths = {k: deep.open_paths_by_length(b, images, args.blocks, seeds) for k, b in kinds.items()}
    report_paths(report, **paths)
    # In training an open path should pay. 8x8 pixels, because a thousand layers are slow enough.
    trials = deep.thousand_layers(args.layers, classes)
    losses = deep.by_heart(trials, dataset.resized(8), seeds, device)
    report_thousand(report, args.layers, trials, losses, math.log(classes))
    # Pre-activation and a last gamma of zero share the start at the identity. Is batch norm needed?
    report.section("3. SkipInitBlock: the start at the identity, without batch norm")
    trials = deep.without_batch_norm(args.bare_layers, classes)
    bare = deep.by_heart(trials, dataset.resized(8), seeds, device)
    report_bare(report, args.bare_layers, trials, bare, math.log(classes))
    measured |= {"paths": paths, "thousand_layers": losses, "without_batch_norm": bare}

    # All variants see the same batches for as many steps; the next sections question them.
    rates = {name: args.lr or variant.lr for name, variant in VARIANTS.items()}
    table, trained = variants.compare(builds, rates, *plan, seeds, device)
    show_idea(report, 4, "wide-10", PreActBlock, blocks.WideBlock)
    report_width(report, table["preact-20"], table["wide-10"])
    show_idea(report, 5, "resnext-20", Bottleneck, blocks.ResNeXtBlock)
    measured["cardinality"] = costs.equal_cost_family(device)
    report_cardinality(report, measured["cardinality"])
    show_idea(report, 6, "dense-22", PreActBlock, blocks.DenseLayer)
    measured["memory"] = costs.memory_by_depth(device)
    report_memory(report, measured["memory"])
    show_idea(report, 7, "se-20", BasicBlock, blocks.SEBasicBlock)
    batch = next(dataset.batches("val", len(dataset.val.labels)))
    measured["gates"] = [features.gate_dependence(net, *batch) for net in trained["se-20"]]
    report_gates(report, measured["gates"])

    counts = [result.parameters for result in table.values()]
    size = f"{min(counts):,} to {max(counts):,} parameters"
    report.section(f"8. All variants: {size}, as many steps, each at its own learning rate")
    report_costs(report, table)
    report.section(f"9. When to use which, against {REFERENCE}")
    measured["verdicts"] = judge(table)
    report_verdicts(report, table, measured["verdicts"])

    # Most people meet the addition here today, and the question where to normalise comes with it.
    report.section("10. The same addition in a Transformer: pre-norm and post-norm")
    layers, small = args.transformer_layers, dataset.resized(12)
    flow = deep.transformer_gradients(layers, classes, small, seeds, device)
    report_flow(report, layers, flow)
    trials = deep.transformers(layers, classes)
    attention = deep.by_heart(trials, small, seeds, device)
    report_attention(report, layers, trials, attention)
    measured |= {"transformer_gradients": flow, "transformers": attention, "networks": table}
    draw(report, args, measured, math.log(classes))
    return report.save(measured)


def arguments(argv: list[str] | None):
    """The flags of all lessons and this one's own."""
    flags = lesson.parser(__doc__, SETTINGS)
    search = "only try learning rates for each variant, by validation; see Variant.lr"
    flags.add_argument("--rates", action="store_true", help=search)
    args = flags.parse_args(argv)
    if args.layers < 11 or (args.layers - 2) % 9:
        flags.error("--layers must be 9n + 2 (11, 20, 29 ... 1001)")
    if args.bare_layers < 8 or (args.bare_layers - 2) % 6:
        flags.error("--bare-layers must be 6n + 2 (8, 14, 20 ... 200)")
    if args.transformer_layers < 4:
        flags.error("--transformer-layers must be 4 or more")
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


def branches(layer):
    """The two branches of a Transformer's layer: attention, and two linear layers."""

    def attention(x):
        return layer.self_attn(x, x, x, need_weights=False)[0]  # N patches width

    def feed_forward(x):
        return layer.linear2(F.relu(layer.linear1(x)))  # N patches width

    return attention, feed_forward


def pre_norm(x, layer):
    """Normalise inside each branch, as in pre-activation: nothing lies on the path of x."""
    attention, feed_forward = branches(layer)
    x = x + attention(layer.norm1(x))
    return x + feed_forward(layer.norm2(x))


def post_norm(x, layer):
    """Normalise each sum, as a block with its ReLU behind the addition."""
    attention, feed_forward = branches(layer)
    x = layer.norm1(x + attention(x))
    return layer.norm2(x + feed_forward(x))


def by_hand(report) -> dict[str, float]:
    """The largest relative difference between the lines above and each class."""
    x, words = torch.randn(4, 16, 8, 8), torch.randn(4, 9, 32)
    pre = PreActBlock(16, 16)
    layer = blocks.DenseLayer(16, 4)
    gate = blocks.SqueezeExcitation(16)
    conv = blocks.ResNeXtBlock(16, 16, cardinality=4, base_width=16).conv2
    first, last = (deep.VisionTransformer(1, norm_first).layers[0] for norm_first in (True, False))
    pairs = {
        "PreActBlock": (preactivation(x, pre.conv1.weight, pre.conv2.weight), pre(x)),
        "ResNeXtBlock.conv2": (grouped(x, conv.weight, 4), conv(x)),
        "DenseLayer": (dense(x, layer.conv1.weight, layer.conv2.weight), layer(x)),
        "SqueezeExcitation": (squeeze_excitation(x, *gate.parameters()), gate(x)),
        "PyTorch's pre-norm layer": (pre_norm(words, first), first(words)),
        "PyTorch's post-norm layer": (post_norm(words, last), last(words)),
    }
    differences = {n: analysis.relative_difference([a], [b]) for n, (a, b) in pairs.items()}
    report.say(f"largest relative difference: {max(differences.values()):.1e}")
    for name, difference in differences.items():
        report.check(f"by hand equals {name}", difference < 1e-5)
    return differences


def show_idea(report, number: int, name: str, old: type, new: type) -> None:
    """A section that opens with a variant's idea, and where the source of two blocks differs."""
    report.section(f"{number}. {new.__name__}: {VARIANTS[name].idea}")
    report.say(f"For, by its paper: {VARIANTS[name].purpose}.")
    for line in analysis.source_difference(old, new):
        report.say(line)
    report.say()


def report_paths(report, post: list[list[float]], pre: list[list[float]]) -> None:
    """How much of the identity path is open after 1, 2 ... blocks, by seed."""
    longest = len(pre[0])
    rows = []
    for n in sorted({1, max(1, longest // 4), longest}):
        open_post, open_pre = (Seeds(seed[n - 1] for seed in seeds) for seeds in (post, pre))
        row = {"blocks behind the stem": n, "post-activation: open paths": f"{open_post:.1%}"}
        rows.append(row | {"pre-activation: open paths": f"{open_pre:.1%}"})
    report.table(rows)  # the last row, which the claim is about, has the longest paths
    closed = f"post-activation closes identity paths through {longest} blocks, pre-activation none"
    source = "x_L = x_l + the sum of all F between, ungated (He et al. 2016, equation 4)"
    report.claim(closed, open_pre, ">", open_post, source, "open: pre {:.1%}, post {:.1%}")


def report_thousand(report, layers: int, trials: dict, losses: dict, chance: float) -> None:
    """Which networks of a thousand layers learn, and what that takes."""
    report.table(deep.summary(f"{layers:,} layers", trials, losses))
    report.say("The same images at every step: fresh ones would ask for thousands of steps.")
    last = deep.ends(losses)
    learn = f"{layers:,} layers begin to learn {deep.IMAGES} images if "
    end = f": at most {LEARNT} nats in the end (chance: {chance:.2f})"
    pre = f"{learn}no ReLU cuts the path{end}"
    source = published.THOUSAND_LAYERS
    report.claim(pre, last["pre-activation"], "<=", LEARNT, source, "{:.2f} nats")
    post = "with ReLUs on the path they learn less well, each kind at the best rate found for it"
    both = last["post-activation"], ">", last["pre-activation"]
    report.claim(post, *both, published.THOUSAND_GATED, "{:.2f} against {:.2f} nats")
    zero = f"{learn}the last gammas start at 0, even with ReLUs on the path{end}"
    source = "each block starts as its shortcut (Goyal et al. 2017, section 5.1)"
    report.claim(zero, last["post, last gamma 0"], "<=", LEARNT, source, "{:.2f} nats")
    finite = [sum(map(math.isfinite, run)) for run in losses["plain"]]
    steps = trials["plain"].steps
    report.say(f"Without shortcuts the loss is a number in {max(finite)} of {steps} steps at most.")


def report_bare(report, layers: int, trials: dict, losses: dict, chance: float) -> None:
    """Whether a network without batch norm learns if it starts at the identity."""
    report.say("y = relu(x + alpha F(x)), where alpha is learnt and starts at 0, or at 1.")
    report.table(deep.summary(f"{layers} layers", trials, losses))
    last = deep.ends(losses)
    learn = f"{layers} layers without batch norm begin to learn {deep.IMAGES} images if alpha "
    learn += f"starts at 0: at most {LEARNT} nats in the end (chance: {chance:.2f})"
    source = "SkipInit trains deep networks without batch norm (De & Smith 2020)"
    report.claim(learn, last["alpha = 0"], "<=", LEARNT, source, "{:.2f} nats")
    learnt = sum(loss <= LEARNT for loss in last["alpha = 1"])
    report.say(f"Where alpha starts at 1, {learnt} of {len(last['alpha = 1'])} networks do.")


def networks(classes: int, width: int) -> dict[str, Callable[[], nn.Module]]:
    """Every variant with about the parameters of the reference of `width`."""
    target = analysis.parameter_count(VARIANTS[REFERENCE].build(num_classes=classes, width=width))
    return {
        name: variants.at_parameters(partial(variant.build, num_classes=classes), target)
        for name, variant in VARIANTS.items()
    }


def search_rates(report, builds: dict, plan: tuple, first: int) -> dict[str, dict]:
    """Validation loss of every variant at every rate, with two seeds that no claim uses."""
    found: dict[str, dict] = {name: {} for name in builds}
    for rate in RATES:
        rates, seeds = dict.fromkeys(builds, rate), range(first + 10, first + 12)
        for name, result in variants.compare(builds, rates, *plan, seeds, report.device)[0].items():
            found[name][f"{rate:g}"] = {"loss": result.loss, "accuracy": result.validation}
    report.table(
        [
            {"validation loss (nats)": name}
            | {f"rate {rate}": f"{run['loss']:.2f}" for rate, run in by_rate.items()}
            for name, by_rate in found.items()
        ]
    )
    return found


def report_costs(report, table: dict[str, Result]) -> None:
    """What the variants cost, and how accurate they are."""
    rows = []
    for name, result in table.items():
        row = {"variant": name, "learning rate": f"{report.args.lr or VARIANTS[name].lr:g}"}
        row |= {"parameters": f"{result.parameters:,}"}
        row["multiply-adds (M)"] = f"{result.multiply_adds / 1e6:.1f}"
        row["step (ms)"] = f"{result.milliseconds:.0f}"
        row["peak memory (MB)"] = f"{result.peak / 1e6:.1f}"
        row["validation accuracy"] = f"{result.validation:.1%}"
        rows.append(row | {"test accuracy": f"{result.accuracy:.1%}"})
    report.table(rows)


def report_width(report, thin: Result, wide: Result) -> None:
    """Depth against width at about equal parameters."""
    report.say(f"A step of the wide network takes {costs.ratio(wide.step, thin.step)} as long")
    report.say(f"as one of the deep network. In its paper: {published.WIDE_IS_FASTER}.")
    # No claim: with five other seeds not every pair agreed on which is the more accurate.
    accurate = f"deep {thin.accuracy:.1%}, wide {wide.accuracy:.1%}"
    report.say(f"Test accuracy: {accurate}. In its paper: {published.WIDE_AGAINST_DEEP}.")


def report_cardinality(report, family: dict[str, dict]) -> None:
    """The equal-cost family as counted, and as timed."""
    rows = []
    for name, member in family.items():
        row = {"50 layers": name, "parameters (M)": f"{member['parameters'] / 1e6:.2f}"}
        row["multiply-adds (G)"] = f"{member['multiply_adds'] / 1e9:.2f}"
        row["step of one block (ms)"] = f"{1e3 * statistics.median(member['seconds']):.1f}"
        rows.append(row)
    report.table(rows)
    report.say("Block: 256 channels, 28x28 pixels, 8 images, forward and backward. Equal on paper,")
    ratio = costs.ratio(family["32x4d"]["seconds"], family["1x64d"]["seconds"])
    report.say(f"but here 32x4d takes {ratio} as long as 1x64d.")
    report.say(f"Published: {published.GROUPS_ARE_SLOWER}.")


def report_memory(report, memory: dict[str, dict[int, int]]) -> None:
    """What keeping all features costs."""
    rows = []
    for kind, by_depth in memory.items():
        row = {f"depth {depth}": f"{size / 1e6:.0f}" for depth, size in by_depth.items()}
        rows.append({"peak memory (MB)": kind} | row)
    report.table(rows)
    report.say("8 images of 32x32; DenseNet-BC of growth rate 12; ResNet of 16 channels.")
    grows = "the memory of a DenseNet grows faster with depth than a ResNet's"
    source = "quadratically, unless recomputed (Pleiss et al. 2017, arXiv:1707.06990)"
    power = {kind: costs.exponent(by_depth) for kind, by_depth in memory.items()}
    measured = "as depth^{:.2f} against depth^{:.2f}; quadratic would be 2"
    report.claim(grows, power["dense"], ">", power["resnet"], source, measured)


def report_gates(report, runs: list[dict[str, tuple[float, float]]]) -> None:
    """Whether gates depend on the class: a gate that is always the same is only a constant."""
    rows = []
    for block in runs[0]:
        classes, chance = (Seeds(run[block][i] for run in runs) for i in (0, 1))
        row = {"block": block, "standard deviation over classes": f"{classes:.4f}"}
        rows.append(row | {"with permuted labels": f"{chance:.4f}"})
    report.table(rows)
    depends = "the last block's gates depend on the class: more than with permuted labels"
    source = "later gates differ by class, but the very last hardly (Hu et al. 2018, section 7.2)"
    report.claim(depends, classes, ">", chance, source, "{:.4f} against {:.4f}")


def judge(table: dict[str, Result]) -> dict[str, str]:
    """Each variant's validation accuracy against the reference's, by pairs of seeds."""
    reference, judged = table[REFERENCE].validation, {}
    for name, result in table.items():
        pairs = list(zip(result.validation, reference, strict=True))
        judged[name] = f"unclear: {sum(a > b for a, b in pairs)} of {len(pairs)} better"
        if analysis.verdict(result.validation, ">", reference) == "holds":
            judged[name] = "better"
        if analysis.verdict(result.validation, "<", reference) == "holds":
            judged[name] = "worse"
        if any(map(math.isnan, result.validation)):
            judged[name] = "diverged"
    if judged[REFERENCE] != "diverged":
        judged[REFERENCE] = ""  # it is not compared with itself
    return judged


def advice(table: dict[str, Result], judged: dict[str, str]) -> list[str]:
    """What to choose for what, in sentences made from the validation accuracies."""
    sound = [name for name, verdict in judged.items() if verdict != "diverged"]
    if REFERENCE not in sound:
        return [f"{REFERENCE} diverged: there is nothing to compare with; try a smaller --lr."]
    best = max(sound, key=lambda name: table[name].validation.mean)
    fine = [name for name in sound if judged[name] != "worse"]
    fast = min(fine, key=lambda name: table[name].milliseconds)
    lean = min(fine, key=lambda name: table[name].peak)
    pairs = len(table[REFERENCE].validation)
    return [
        f"Highest mean validation accuracy: {best} ({table[best].accuracy:.1%} on test images).",
        f"Of those that are not worse than {REFERENCE}, the least time a step: {fast}; the least",
        f"memory: {lean}. Better, worse: in all {pairs} pairs of seeds, on validation images.",
        "Few steps: in a longer training the order may differ. The last column is CIFAR-10, not",
        "measured here: hundreds of epochs of the networks named.",
    ]


def report_verdicts(report, table: dict[str, Result], judged: dict[str, str]) -> None:
    """When to use which, worded from the table."""
    rows = []
    for name in table:
        row = {"variant": name, "validation accuracy": judged[name]}
        paper = VARIANTS[name].published
        error = f"{published.ERRORS[paper].number} % ({paper})" if paper else ""
        rows.append(row | {"error at full scale (its paper)": error})
    report.table(rows)
    for line in advice(table, judged):
        report.say(line)


def report_flow(report, layers: int, flow: dict[str, dict[int, list]]) -> None:
    """Where the norm stands, and the gradient near the output at the start."""
    report.say("pre-norm:  x + F(norm(x))   nothing lies on the path of x, as in pre-activation")
    report.say("post-norm: norm(x + F(x))   as in lesson 1's block, which has a ReLU there")
    report.say("F is attention, then two linear layers; each of the two has its own addition.")
    rows, last, change = [], {}, {}
    for kind, by_depth in flow.items():
        few, many = (Seeds(run[-1] for run in runs) for runs in by_depth.values())
        last[kind], change[kind] = many, many.mean / few.mean
        row = {"gradient of the last layer": kind, f"{layers // 4} layers": f"{few:.3f}"}
        rows.append(row | {f"{layers} layers": f"{many:.3f}", "ratio": f"{change[kind]:.2f}"})
    report.table(rows)
    theory = math.sqrt((layers // 4) / layers)
    report.say(f"Ratio by the theorem's bounds: {theory:.2f} with pre-norm, 1 with post-norm.")
    larger = f"near the output of {layers} layers post-norm starts with the larger gradient"
    both = last["post-norm"], ">", last["pre-norm"]
    report.claim(larger, *both, "Xiong et al. 2020, theorem 1", "post {:.3f}, pre {:.3f}")


def report_attention(report, layers: int, trials: dict, losses: dict) -> None:
    """Pre-norm and post-norm in training, with and without warm-up."""
    report.table(deep.summary(f"{layers} layers", trials, losses))
    last = deep.ends(losses)
    post, rate = last["post-norm"], trials["post-norm"].rate
    steps = trials["post-norm, warm-up"].warmup
    faster = f"at a rate of {rate} and without warm-up pre-norm learns better than post-norm"
    source = "pre-norm trains without warm-up (Xiong et al. 2020)"
    report.claim(faster, last["pre-norm"], "<", post, source, "pre {:.2f}, post {:.2f} nats")
    helps = f"{steps} steps of warm-up help post-norm at that rate"
    source = "post-norm needs warm-up (Xiong et al. 2020)"
    report.claim(helps, last["post-norm, warm-up"], "<", post, source, "{:.2f} against {:.2f} nats")
    slower = trials["post-norm, slower"].rate
    ahead = f"pre-norm learns better than post-norm at post-norm's own best rate, {slower}"
    source = "none; the rates are chosen with another seed"
    both = last["pre-norm"], "<", last["post-norm, slower"]
    report.claim(ahead, *both, source, "pre {:.2f}, post {:.2f} nats")


def draw(report, args, measured: dict, chance: float) -> None:
    """The three figures; `measured` as `main` collects it."""
    curves, learnt = plotting.curves, f"{deep.IMAGES} images of {report.data}, {args.seeds} seeds"
    losses, paths = measured["thousand_layers"], measured["paths"]
    report.figure(curves.deep_training(losses, paths, args.layers, chance, learnt), "deep_training")
    setup = f"{report.data}, {args.image_size}x{args.image_size} pixels, {args.epochs} epochs, "
    setup += f"{args.seeds} seeds, each at its own learning rate"
    report.figure(curves.trade_off(measured["networks"], REFERENCE, setup), "variants")
    flow, losses = measured["transformer_gradients"], measured["transformers"]
    layers = args.transformer_layers
    flow = {kind: by_depth[layers] for kind, by_depth in flow.items()}
    report.figure(curves.transformer(flow, losses, chance, learnt), "transformer")


if __name__ == "__main__":
    lesson.run(main)
