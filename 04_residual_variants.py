"""Lesson 4: the variants of the residual block: one idea each, and what it is for.

You will learn
    pre-activation: no ReLU cuts the path of x, and 1,001 layers learn 32 images by heart
    why they can: each block starts near "do nothing", and that works without batch norm, too
    wide, ResNeXt, DenseNet, squeeze-and-excitation: what each changes, and what it costs
    how to compare networks: each at its own learning rate, in pairs of the same seed
    the same addition in a Transformer, where the norm can stand before F or after the sum
Builds on: lessons 1 to 3. Papers: He et al. 2016 (arXiv:1603.05027); De & Smith 2020
(arXiv:2002.10444); Zagoruyko & Komodakis 2016 (arXiv:1605.07146); Xie et al. 2017
(arXiv:1611.05431); Huang et al. 2017 (arXiv:1608.06993); Hu et al. 2018 (arXiv:1709.01507); Xiong
et al. 2020 (arXiv:2002.04745).
Takes about four minutes on two cores (the built-in Shapes-10, at 12x12 and 8x8 pixels).
Writes deep_training.png, variants.png, transformer.png, report.txt and results.json to
outputs/04_residual_variants/.

    python 04_residual_variants.py --rates
    python 04_residual_variants.py --data-dir DIR --images 10000 --epochs 4
The first tries learning rates for every variant. The second takes your own images.
"""

import math
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
    "layers": (1001, 29, lesson.positive, "layers of the deepest network, 9n + 2"),
    "bare_layers": (110, 14, lesson.positive, "layers of the network without batch norm, 6n + 2"),
    "transformer_layers": (24, 4, lesson.positive, "layers of the Transformer, 4 or more"),
    "blocks": (64, 4, lesson.positive, "blocks that the longest path of x leads through"),
}
LEARNT = 0.78  # of the loss of guessing, log 10 = 2.30 for ten classes: well below it, 1.8
RATES = (0.05, 0.1, 0.2, 0.4, 0.8)  # that --rates tries
QUESTION = """Two networks of {:,} layers try to learn {} images by heart. In one, batch norm and
ReLU follow each convolution, and a ReLU follows each addition (post-activation). In the other, both
stand before each convolution, and nothing follows the addition (pre-activation). Which one learns
better, and why?"""
ANSWER = """With pre-activation the loss of the last steps was {pre:.2f}, with post-activation
{post:.2f}. {found} Two things differ. A ReLU after the addition cuts off x itself wherever the sum
is negative, and batch norm stands elsewhere. Which of them matters is not tested. If F starts at
zero, there is little to cut at first. With such a start post-activation's loss was {zero:.2f}."""
EXPERIMENT = """python 04_residual_variants.py --lr 0.1 gives one learning rate to all variants of
sections 8 and 9. Which verdicts change, and which comparison is the fair one?"""
BY_HEART = """\
Now in training: can {:,} layers learn {} images by heart? The images, of 8x8 pixels, are the same
at every step, because fresh ones would ask for thousands of steps. The blocks are bottlenecks of
few channels. "Plain" is pre-activation without the addition. In "last gamma 0" each F ends in a
batch norm whose factor, gamma, starts at 0, so that every block starts as its shortcut. All four
have the same stem, last batch norm and classifier. Each has the best learning rate that we tried.
"Plain" has none: in 1,001 layers its gradient overflows at any. Compare the mean loss of the last
{} steps. Guessing has {:.2f}. At {:.2g} or less a network has begun to learn."""
PATHS = """\
Follow one number of x through the additions, and hold every F(x) constant. Where a sum is negative,
a ReLU after it (post-activation) gives 0, and the number counts no more: its path is closed. If all
ReLUs are inside F (pre-activation), no path can close. How many stay open?"""
FEW_STEPS = """
Some differ in more than their idea. preact-20, wide-10 and resnext-20 have 1x1 convolutions on
shortcuts. wide-10 is pre-activation, too, so compare it with preact-20. resnext-20 has bottlenecks.
We trained for few steps. In a longer training the order may differ. The last column is not measured
here: the papers trained the networks named for hundreds of epochs."""
TRANSFORMER = """\
A Transformer's layer adds twice. F is attention, then two linear layers. Where does the norm stand?
pre-norm:  x + F(norm(x))   nothing lies on the path of x, as in pre-activation
post-norm: norm(x + F(x))   on the path, as the ReLU of lesson 1's block"""
NORMS_AT_START = """\
The gradient is that of the second linear layer's weights in the last Transformer layer, untrained.
Ratio: all layers over a quarter of them. By a theorem's upper bounds it is 1 with post-norm, and
with pre-norm {}. Xiong et al. say why that matters: where the gradient is large, full first
steps do harm, so post-norm needs small ones at first, a warm-up. Liu et al. 2020 (arXiv:2004.08249)
see the root cause elsewhere."""


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
    "wide-10": Variant(partial(models.PreActNet, blocks.WideBlock, 1),  # one block a stage
        "fewer layers of more channels, and dropout in F, which is off here",
        "the same accuracy in less time", "cifar_wide_resnet-28-10", lr=0.1),
    "resnext-20": Variant(partial(models.cifar_resnext, 20, cardinality=4, base_width=24),
        "many narrow paths for the price of a wide one",
        "accuracy at an equal count of multiply-adds", "cifar_resnext-29-8-64", lr=0.1),
    "dense-22": Variant(densenet, "keep x and put F(x) beside it, instead of adding",
        "fewer parameters", "cifar_densenet-100-12", lr=0.4),
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
    by_heart = min(deep.IMAGES, len(dataset.train.labels))
    report.ask(QUESTION.format(args.layers, by_heart))
    device = report.device
    dataset = dataset.to(device)
    classes, seeds = len(dataset.classes), range(args.seed, args.seed + args.seeds)
    guessing = math.log(classes)  # the loss of a network that knows nothing
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
    report.explain(BY_HEART.format(args.layers, by_heart, deep.WINDOW, guessing, LEARNT * guessing))
    report_thousand(report, args.layers, trials, losses, LEARNT * guessing)
    # Pre-activation and a last gamma of zero share the start at the identity. Is batch norm needed?
    report.section("3. SkipInitBlock: each block starts as its shortcut, without batch norm")
    trials = deep.without_batch_norm(args.bare_layers, classes)
    bare = deep.by_heart(trials, dataset.resized(8), seeds, device)
    report_bare(report, args.bare_layers, trials, bare, LEARNT * guessing)
    measured |= {"paths": paths, "thousand_layers": losses, "without_batch_norm": bare}

    # All variants see the same batches for as many steps; the next sections question them.
    rates = {name: args.lr or variant.lr for name, variant in VARIANTS.items()}
    table, trained = variants.compare(builds, rates, plan, seeds, device)
    show_idea(report, 4, "wide-10", PreActBlock, blocks.WideBlock)
    report_width(report, table["preact-20"], table["wide-10"])
    show_idea(report, 5, "resnext-20", Bottleneck, blocks.ResNeXtBlock, "__init__", "conv2")
    measured["cardinality"] = costs.equal_cost_family(device)
    report_cardinality(report, measured["cardinality"])
    show_idea(report, 6, "dense-22", PreActBlock, blocks.DenseLayer)
    measured["memory"] = costs.memory_by_depth(device)
    report_memory(report, measured["memory"])
    show_idea(report, 7, "se-20", BasicBlock, blocks.SEBasicBlock)
    batch = next(dataset.batches("val", len(dataset.val.labels)))
    measured["gates"] = [features.gate_dependence(net, *batch) for net in trained["se-20"]]
    report_gates(report, measured["gates"])

    at = f"a learning rate of {args.lr:g}" if args.lr else "their own learning rates"
    report.section(f"8. All variants: about equal parameters, equal steps, {at}")
    report.table(variants.cost_table(table, rates))
    where = "one core" if device == "cpu" else device
    report.say(f"Multiply-adds: of one image. Step and memory: of a training step on {where}.")
    new, last = len(dataset.val.labels), len(dataset.test.labels)
    report.say(f"Accuracy: on {new} validation images and {last} test images.")
    report.section(f"9. When to use which, against {REFERENCE}")
    measured["verdicts"] = variants.judge(table, REFERENCE)
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
    draw(report, args, measured, guessing, f"{by_heart} images of {report.data}")
    answer(report, deep.ends(measured["thousand_layers"]))
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
    if args.image_size < 4:
        flags.error("--image-size must be 4 or more")
    if args.transformer_layers < 4:
        flags.error("--transformer-layers must be 4 or more")
    return args


def norm_relu(x):
    """Batch norm as it is at initialisation, without running averages, then ReLU."""
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
    out = F.conv2d(norm_relu(x), w1)  # N 4k H W, where k is the growth rate
    return torch.cat([x, F.conv2d(norm_relu(out), w2, padding=1)], dim=1)  # N C+k H W


def squeeze_excitation(x, w1, b1, w2, b2):
    """Scale each channel by a gate computed from the means of all."""
    hidden = F.relu(F.linear(x.mean(dim=(2, 3)), w1, b1))  # N C/r, where r is the reduction
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
    x, patches = torch.randn(4, 16, 8, 8), torch.randn(4, 9, 32)
    pre = PreActBlock(16, 16)
    layer = blocks.DenseLayer(16, 4)
    gate = blocks.SqueezeExcitation(16, reduction=2)
    conv = blocks.ResNeXtBlock(16, 16, cardinality=4, base_width=16).conv2
    before, after = (deep.VisionTransformer(1, first).layers[0] for first in (True, False))
    pairs = {
        "PreActBlock": (preactivation(x, pre.conv1.weight, pre.conv2.weight), pre(x)),
        "ResNeXtBlock.conv2": (grouped(x, conv.weight, 4), conv(x)),
        "DenseLayer": (dense(x, layer.conv1.weight, layer.conv2.weight), layer(x)),
        "SqueezeExcitation": (squeeze_excitation(x, *gate.parameters()), gate(x)),
        "PyTorch's pre-norm layer": (pre_norm(patches, before), before(patches)),
        "PyTorch's post-norm layer": (post_norm(patches, after), after(patches)),
    }
    differences = {n: analysis.relative_difference([a], [b]) for n, (a, b) in pairs.items()}
    report.say(f"Largest relative difference of the two: {max(differences.values()):.2g}")
    for name, difference in differences.items():
        report.check(f"by hand equals {name}", difference < 1e-5)
    return differences


def show_idea(report, number: int, name: str, old, new, member="forward", about="") -> None:
    """A section that opens with a variant's idea, and with the lines of `member` that only one of
    two blocks has; only those `about` a word, if there is one."""
    report.section(f"{number}. {new.__name__}: {VARIANTS[name].idea}")
    report.say(f"What it is for, by its paper: {VARIANTS[name].purpose}.")
    report.say("The lines that differ, those of the old block with -, of the new one with +:")
    lines = analysis.source_difference(getattr(old, member), getattr(new, member))
    report.say("\n".join(lines[:2] + [line for line in lines[2:] if about in line]) + "\n")


def report_paths(report, post: list[list[float]], pre: list[list[float]]) -> None:
    """How much of the identity path is open after 1, 2 ... blocks, by seed."""
    report.explain(PATHS)
    report.table(deep.path_table(post, pre))
    open_post, open_pre = (Seeds(seed[-1] for seed in seeds) for seeds in (post, pre))
    claim = f"through {len(pre[0])} blocks more paths of x stay open with pre-activation"
    source = "x_L = x_l + all F between, nothing stands in the way (He et al. 2016, equation 4)"
    report.claim(claim, open_pre, ">", open_post, source, "{:.1%} against {:.1%} open")


def report_thousand(report, layers: int, trials: dict, losses: dict, learnt: float) -> None:
    """Which networks of a thousand layers learn, to a loss of `learnt`, and what that takes."""
    report.table(deep.summary(f"{layers:,} layers", trials, losses))
    last, measured = deep.ends(losses), f"training loss {{:.2f}}, asked for {learnt:.2g} or less"
    claim = f"{layers:,} layers begin to learn with pre-activation"
    source = published.THOUSAND_LAYERS
    report.claim(claim, last["pre-activation"], "<=", learnt, source, measured)
    claim = f"{layers:,} layers learn less well with post-activation, a ReLU after each addition"
    both = last["post-activation"], ">", last["pre-activation"]
    report.claim(claim, *both, published.THOUSAND_GATED, "training loss {:.2f} against {:.2f}")
    claim = f"with post-activation {layers:,} layers learn better if every F starts at zero"
    source = "each block starts as its shortcut (Goyal et al. 2017, section 5.1)"
    both = last["post, last gamma 0"], "<", last["post-activation"]
    report.claim(claim, *both, source, "training loss {:.2f} against {:.2f}")


def report_bare(report, layers: int, trials: dict, losses: dict, learnt: float) -> None:
    """Whether a network without batch norm learns if it starts at the identity."""
    report.say("SkipInit: y = relu(x + alpha F(x)), where alpha is a number that is learnt. If it")
    report.say("starts at 0, each block starts as its shortcut. If at 1, F counts from the start.")
    report.table(deep.summary(f"{layers} layers", trials, losses))
    last = deep.ends(losses)
    claim = f"{layers} layers without batch norm begin to learn if every F starts at zero"
    source = "SkipInit trains deep networks without batch norm (De & Smith 2020)"
    measured = f"training loss {{:.2f}}, asked for {learnt:.2g} or less"
    report.claim(claim, last["alpha = 0"], "<=", learnt, source, measured)
    begun = sum(loss <= learnt for loss in last["alpha = 1"])
    runs = len(last["alpha = 1"])
    report.say(f"Where alpha starts at 1, {begun} of {runs} networks begin to learn at that rate.")


def networks(classes: int, width: int) -> dict[str, Callable[[], nn.Module]]:
    """Every variant with about the parameters of the reference of `width`."""
    target = analysis.parameter_count(VARIANTS[REFERENCE].build(num_classes=classes, width=width))
    return {
        name: variants.at_parameters(partial(variant.build, num_classes=classes), target)
        for name, variant in VARIANTS.items()
    }


def search_rates(report, builds: dict, plan: tuple, first: int) -> dict[str, dict]:
    """Validation loss of every variant at every rate, with two seeds that no claim uses."""
    seeds = range(first + 10, first + 12)
    found = variants.search(builds, RATES, plan, seeds, report.device)
    report.table(variants.rate_table(found))
    return found


def report_width(report, thin: Result, wide: Result) -> None:
    """Depth against width at about equal parameters."""
    report.say(f"A step of wide-10 takes {costs.ratio(wide.step, thin.step)} as long")
    report.say(f"as one of preact-20 (see section 8).\nIn its paper: {published.WIDE_IS_FASTER}.")
    report.say(f"Test accuracy: preact-20 {thin.accuracy:.1%}, wide-10 {wide.accuracy:.1%}. No")
    report.say("claim: with five other seeds not all pairs agreed on which is ahead.")
    report.say(f"In its paper: {published.WIDE_AGAINST_DEEP}.")


def report_cardinality(report, family: dict[str, dict]) -> None:
    """The equal-cost family as counted, and as timed."""
    report.table(costs.family_table(family))
    report.say("32x4d: 32 groups of 4 channels. Parameters and multiply-adds hardly differ. Step:")
    report.say("forward and backward through one block of 256 channels, 8 images of 28x28 pixels.")
    ratio = costs.ratio(family["32x4d"]["seconds"], family["1x64d"]["seconds"])
    report.say(f"Timed here, 32x4d takes {ratio} as long as 1x64d.")
    report.say(f"Published: {published.GROUPS_ARE_SLOWER}.")


def report_memory(report, memory: dict[str, dict[int, int]]) -> None:
    """What keeping all features costs."""
    report.table(costs.memory_table(memory))
    report.say("Peak: the most memory that a training step on 8 images of 32x32 pixels needs. Each")
    report.say("layer of the DenseNet adds 12 channels. The ResNet has 16 channels at first.")
    claim = "a DenseNet's memory grows faster with depth than a ResNet's"
    source = "quadratically, unless recomputed (Pleiss et al. 2017, arXiv:1707.06990)"
    power = {kind: costs.exponent(by_depth) for kind, by_depth in memory.items()}
    measured = "as depth^{:.2f} against depth^{:.2f}, quadratic would be depth^2"
    report.claim(claim, power["dense"], ">", power["resnet"], source, measured)


def report_gates(report, runs: list[dict[str, tuple[float, float]]]) -> None:
    """Whether gates depend on the class: a gate that is always the same is only a constant."""
    report.say("A gate, from 0 to 1, scales a channel. Do images of other classes get other gates?")
    report.table(features.gate_table(runs))
    report.say("Spread: standard deviation over classes. Shuffled labels show what chance does.")
    last_block = [[*run.values()][-1] for run in runs]
    spread, by_chance = (Seeds(values) for values in zip(*last_block, strict=True))
    claim = "even the last block's gates differ between classes more than by chance"
    source = "Hu et al. 2018, section 7.2: on ImageNet the very last gates hardly differ by class"
    report.claim(claim, spread, ">", by_chance, source, "spread {:.4f} against {:.4f}")


def advice(table: dict[str, Result], judged: dict[str, str]) -> list[str]:
    """What to choose for what, in sentences made from the validation accuracies."""
    sound = [name for name, verdict in judged.items() if verdict != "diverged"]
    if REFERENCE not in sound:
        return [f"{REFERENCE} diverged: there is nothing to compare with. Try a smaller --lr."]
    best = max(sound, key=lambda name: table[name].validation.mean)
    fine = [name for name in sound if judged[name] != "worse"]
    fast = min(fine, key=lambda name: table[name].milliseconds)
    lean = min(fine, key=lambda name: table[name].peak)
    pairs = len(table[REFERENCE].validation)
    return [
        f"Better or worse: five seeds or more, all {pairs} agree, on validation images.",
        f"Highest mean validation accuracy: {best} ({table[best].accuracy:.1%} on test images).",
        f"Of all that are not worse, the fastest step: {fast}. The least memory: {lean}.",
    ]


def report_verdicts(report, table: dict[str, Result], judged: dict[str, str]) -> None:
    """When to use which, worded from the table."""
    rows = []
    for name in table:
        row = {"variant": name, f"better than {REFERENCE}?": judged[name]}
        paper = VARIANTS[name].published
        error = f"{published.ERRORS[paper]:.2f} % ({paper})" if paper else ""
        rows.append(row | {"CIFAR-10 error in its paper": error})
    report.table(rows)
    report.say("\n".join(advice(table, judged)) + FEW_STEPS)


def report_flow(report, layers: int, flow: dict[str, dict[int, list]]) -> None:
    """Where the norm stands, and the gradient near the output at the start."""
    report.say(TRANSFORMER)
    report.table(deep.flow_table(flow))
    few = layers // 4
    theory = f"sqrt({few}/{layers}) = {math.sqrt(few / layers):.2f}"
    report.explain(NORMS_AT_START.format(theory))
    post, pre = (Seeds(run[-1] for run in flow[kind][layers]) for kind in ("post-norm", "pre-norm"))
    claim = f"near the output of {layers} layers post-norm starts with the larger gradient"
    report.claim(claim, post, ">", pre, "Xiong et al. 2020, theorem 1", "{:.3f} against {:.3f}")


def report_attention(report, layers: int, trials: dict, losses: dict) -> None:
    """Pre-norm and post-norm in training, with and without warm-up."""
    steps = trials["post-norm, warm-up"].warmup
    report.say(f"In training, as in section 2. Warm-up: the rate rises from 0 over {steps} steps.")
    report.say('The rate is the best one for pre-norm, but in "own rate", which has post-norm\'s.')
    report.table(deep.summary(f"{layers} layers", trials, losses))
    last, measured = deep.ends(losses), "training loss {:.2f} against {:.2f}"
    post, rate = last["post-norm"], trials["post-norm"].rate
    claim = f"without warm-up pre-norm learns better than post-norm at pre-norm's best rate, {rate}"
    source = "pre-norm trains without warm-up (Xiong et al. 2020)"
    report.claim(claim, last["pre-norm"], "<", post, source, measured)
    claim = f"{steps} steps of warm-up help post-norm at that rate"
    source = "post-norm needs warm-up (Xiong et al. 2020)"
    report.claim(claim, last["post-norm, warm-up"], "<", post, source, measured)
    claim = "each at its own best rate, pre-norm learns better than post-norm"
    source = "none: a question of our own, at rates that were chosen with other seeds"
    report.claim(claim, last["pre-norm"], "<", last["post-norm, own rate"], source, measured)


def answer(report, last: dict[str, Seeds]) -> None:
    """The question of the beginning, answered by the losses in the end."""
    pre, post, zero = (last[n] for n in ("pre-activation", "post-activation", "post, last gamma 0"))
    found = {"holds": "The former is ahead.", "does not hold": "We had expected the contrary."}
    found = found.get(analysis.verdict(pre, "<", post), "These seeds do not settle it.")
    report.answer(ANSWER.format(pre=pre, post=post, zero=zero, found=found), EXPERIMENT)


def draw(report, args, measured: dict, chance: float, images: str) -> None:
    """The three figures; `measured` as `main` collects it."""
    curves, learnt = plotting.curves, f"{images}, {args.seeds} seeds"
    losses, paths = measured["thousand_layers"], measured["paths"]
    report.figure(curves.deep_training(losses, paths, args.layers, chance, learnt), "deep_training")
    setup = f"{report.data}, {args.image_size}x{args.image_size} pixels, {args.epochs} epochs, "
    rate = f"all at a learning rate of {args.lr:g}" if args.lr else "each at its own learning rate"
    setup += f"{args.seeds} seeds, {rate}"
    report.figure(curves.trade_off(measured["networks"], REFERENCE, setup), "variants")
    flow, losses = measured["transformer_gradients"], measured["transformers"]
    layers = args.transformer_layers
    flow = {kind: by_depth[layers] for kind, by_depth in flow.items()}
    report.figure(curves.transformer(flow, losses, chance, learnt), "transformer")


if __name__ == "__main__":
    lesson.run(main)
