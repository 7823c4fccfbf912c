"""Lesson 1: one residual block, and what it does to gradients.

You will learn
    that a residual block is y = relu(F(x) + x), written by hand and as a class
    that only the shortcut separates it from a plain block
    where the "+1" in its derivative is exact, and what happens when shapes change
    in which networks gradients vanish, in which they explode: two different questions
Builds on: nothing. Papers: He et al. 2015 (arXiv:1512.03385), sections 3 and 4.1; Yang et al. 2019
(arXiv:1902.08129) and De & Smith 2020 (arXiv:2002.10444) for the theory.
Takes about 20 seconds on two cores (the built-in Shapes-10, at 16x16 pixels); it runs on the CPU
whatever --device says, in float64 where float32 would round to zero.
Writes gradient_flow.png, report.txt and results.json to outputs/01_basic_residual_block/.

    python 01_basic_residual_block.py --blocks 128
"""

import statistics

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from tqdm import tqdm

from common import analysis, data, lesson, models, plotting
from common.blocks import BasicBlock, PlainBlock
from common.flow import CONDITIONS, PREDICTED, THEORY, factor_per_layer, first_over_last


def block_by_hand(x, w1, w2, gamma1, beta1, gamma2, beta2):
    """A residual block in raw tensor operations: y = relu(F(x) + x)."""
    out = F.conv2d(x, w1, padding=1)  # N C H W
    out = F.batch_norm(out, None, None, gamma1, beta1, training=True)  # N C H W
    out = F.relu(out)  # N C H W
    out = F.conv2d(out, w2, padding=1)  # N C H W
    out = F.batch_norm(out, None, None, gamma2, beta2, training=True)  # N C H W: this is F(x)
    return F.relu(out + x)  # N C H W: the shortcut costs one addition


def by_hand(report) -> float:
    """The lines above against common.blocks.BasicBlock."""
    report.section("1. A residual block by hand equals the class")
    block, x = BasicBlock(16, 16), torch.randn(8, 16, 32, 32)
    weights = [block.conv1.weight, block.conv2.weight, *block.bn1.parameters()]
    weights += block.bn2.parameters()
    difference = analysis.relative_difference([block_by_hand(x, *weights)], [block(x)])
    report.say(f"largest relative difference: {difference:.1e}")
    report.check("by hand equals BasicBlock", difference < 1e-5)
    return difference


def show_difference(report) -> list[str]:
    """Print what BasicBlock has and PlainBlock has not, from their own source."""
    report.section("2. PlainBlock -> BasicBlock: the shortcut is the whole difference")
    difference = lesson.source_difference(PlainBlock, BasicBlock)
    for line in difference:
        report.say(line)
    report.say(
        "What matters is `out + self.shortcut(x)`; the rest joins shapes that differ (section 5)."
    )
    return difference


def identity_at_zero(report) -> float:
    """With the last batch-norm scale at zero, F(x) = 0: what is left of each block?"""
    report.section("3. Switch F off: the residual block is the identity, the plain block is dead")
    x = torch.randn(8, 16, 32, 32)
    residual, plain = BasicBlock(16, 16), PlainBlock(16, 16)
    for block in (residual, plain):
        nn.init.zeros_(block.bn2.weight)
    off = (residual(x) - F.relu(x)).abs().max().item()
    report.say(f"BasicBlock: largest |y - relu(x)| = {off}")
    report.say(f"PlainBlock: largest |y|           = {plain(x).abs().max().item()}")
    report.check("BasicBlock is relu(x) exactly", off == 0.0)
    report.check("PlainBlock is zero exactly", plain(x).abs().max().item() == 0.0)
    return off


def jacobian(report) -> float:
    """dH/dx of H(x) = F(x) + x against dF/dx + I, element by element."""
    report.section('4. The "+1": dH/dx = dF/dx + I')
    block = BasicBlock(2, 2).double().eval()
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64)

    def branch(x):
        return block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))

    with_skip = torch.func.jacrev(lambda x: branch(x) + x)(x).reshape(32, 32)
    without = torch.func.jacrev(branch)(x).reshape(32, 32)
    deviation = (with_skip - without - torch.eye(32)).abs().max().item()
    report.say(f"largest deviation over 32 x 32 entries: {deviation:.1e}")
    report.check("dH/dx = dF/dx + I", deviation < 1e-12)
    gate = (block(x) > 0).reshape(32, 1)
    gated = torch.func.jacrev(block)(x).reshape(32, 32)
    gated_deviation = (gated - gate * with_skip).abs().max().item()
    report.check("the ReLU after the addition only masks rows", gated_deviation < 1e-12)
    closed = 100 * (1 - gate.double().mean().item())
    report.say(f"That ReLU closes {closed:.0f} % of the rows here: the path")
    report.say("through the block is a clean identity only before it.")
    return deviation


def dimension_changes(report) -> list[list]:
    """Options A, B and C where the block halves the resolution and doubles the channels."""
    report.section("5. When shapes change: options A, B and C")
    rows = []
    for option in "ABC":
        for channels, stride in ((32, 2), (16, 1)):
            block = BasicBlock(16, channels, stride, shortcut=option)
            y = block(torch.randn(2, 16, 32, 32))
            shape = "x".join(map(str, y.shape))
            rows.append([option, f"2x16x32x32 -> {shape}", f"{analysis.parameter_count(block):,}"])
    report.table(["option", "shapes (N C H W)", "parameters"], rows)
    try:
        BasicBlock(16, 32)(torch.randn(2, 8, 32, 32))
    except RuntimeError as error:
        report.say(f"8 channels into a block for 16: {str(error)[:75]}...")
    return rows


def tower(block, blocks: int, condition: str) -> nn.Sequential:
    """A 3x3 stem, `blocks` equal blocks of 16 channels, global pooling, a classifier."""
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    body = [block(16, 16) for _ in range(blocks)]
    model = nn.Sequential(stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    if condition != CONDITIONS[0]:
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    model = model if condition == "BN" else models.without_batch_norm(model)
    return model.double()  # in float32 the smallest gradients would be rounded to zero


def gradient_flow(x, y, blocks: int, seeds: range) -> dict[tuple[str, str], list[list[float]]]:
    """Activation-gradient norm after each block: {(block, condition): one list a seed}."""
    names = [str(i) for i in range(1, blocks + 1)]
    runs = [(b, c, s) for b in (PlainBlock, BasicBlock) for c in CONDITIONS for s in seeds]
    norms: dict[tuple[str, str], list[list[float]]] = {}
    for block, condition, seed in tqdm(runs, "gradient flow", disable=None, leave=False):
        torch.manual_seed(seed)
        model = tower(block, blocks, condition)
        measured = analysis.activation_gradients(model, names, x.double(), y)
        kind = "plain" if block is PlainBlock else "residual"
        norms.setdefault((kind, condition), []).append(measured)
    return norms


def report_flow(report, norms) -> dict[str, list[float]]:
    """The fitted factors, and the findings at the heart of this lesson."""
    report.section("6. Gradient flow with depth: vanishing and exploding are different diseases")
    factors = {key: [factor_per_layer(run) for run in runs] for key, runs in norms.items()}
    rows = []
    for key, runs in norms.items():
        rows.append([", ".join(key), lesson.summary(factors[key])])
        rows[-1].append(f"{first_over_last(runs):.1e}")
    header = ["network", "gradient factor per layer, towards the input", "first / last block"]
    report.table(header, rows)
    vanish, explode = factors["plain", CONDITIONS[0]], factors["plain", "BN"]
    gentle = factors["residual", "BN"]
    report.finding(
        "plain, PyTorch's default init, no BN: the gradient vanishes towards the input",
        PREDICTED[CONDITIONS[0]],
        lesson.summary(vanish),
        lesson.greater([1.0] * len(vanish), vanish),
    )
    report.finding(
        "plain, BN: the gradient explodes towards the input; it does not vanish",
        PREDICTED["BN"],
        lesson.summary(explode),
        lesson.greater(explode, [1.0] * len(explode)),
    )
    report.finding(
        "BN: with the shortcut the gradient grows more slowly than without",
        "exponential without (Yang et al. 2019); with it x grows linearly (De & Smith 2020)",
        f"{lesson.summary(gentle)} against {lesson.summary(explode)}",
        lesson.greater(explode, gentle),
    )
    report.say("A gradient that vanishes leaves the first blocks nothing to learn from; one that")
    report.say("explodes asks for another learning rate at each end of the network.")
    return {", ".join(key): values for key, values in factors.items()}


def draw_flow(norms, factors, images: str):
    """Gradient norm after each block, relative to the last block's; one panel a condition."""
    mean = {key: statistics.fmean(values) for key, values in factors.items()}
    blocks, seeds = len(norms["plain", "BN"][0]), len(norms["plain", "BN"])
    title = (
        f"Per layer towards the input, a plain network's gradient changes by "
        f"x{mean['plain, no BN, default init']:.2f} with the default init, "
        f"x{mean['plain, BN']:.2f} with BN; residual with BN: x{mean['residual, BN']:.2f}"
    )
    subtitle = (
        f"At initialisation: {blocks} blocks of two layers (3x3, 16 channels), {images}. "
        f"Mean and range of {seeds} seeds. Grey: theory for wide plain networks."
    )
    figure, axes = plotting.new_figure(title, subtitle, 12, 5, ncols=3)
    index = range(blocks)
    for ax, condition in zip(axes, CONDITIONS, strict=True):
        ax.set_yscale("log")
        theory = THEORY[condition] ** (2 * np.arange(blocks))  # two layers in a block
        ax.plot(index, theory, color=plotting.GREY, linewidth=1)
        ends = [(theory[-1], "theory", plotting.GREY)]
        for kind, look in plotting.TWINS.items():
            logs = np.log10(norms[kind, condition])  # seeds x blocks
            runs = 10 ** (logs - logs[:, -1:])[:, ::-1]
            ends.append((plotting.band(ax, index, runs, look), kind, look[0]))
        ax.set(xlim=(0, blocks - 1), xlabel="blocks away from the last block")
        ax.set_title(condition, fontsize=11)
        plotting.label_ends(ax, ends)
    axes[0].set_ylabel("gradient norm / last block's")
    return figure


def arguments(argv: list[str] | None):
    """The shared flags and this lesson's own."""
    flags = lesson.parser(__doc__)
    seeds = "repetitions of the gradient measurement, 2 or more (default: %(default)s)"
    flags.add_argument("--seeds", type=lesson.several, default=3, help=seeds)
    depth = "of the towers whose gradients are measured, 2 or more (default: %(default)s)"
    flags.add_argument("--blocks", type=lesson.several, default=64, help=depth)
    args = flags.parse_args(argv)
    lesson.device(args.device)  # refuses a device that is not there
    args.device = "cpu"
    return args


def main(argv: list[str] | None = None) -> dict:
    """Run the lesson; returns what it measured."""
    args = arguments(argv)
    blocks, seeds = (8, 2) if args.quick else (args.blocks, args.seeds)
    plotting.use_theme(args.show)
    torch.manual_seed(args.seed)
    images = data.load(args.data, args.data_dir, args.data_url, size=16, limit=80)
    report = lesson.Report(__file__, args, images.name, images.why)
    measured = {
        "by_hand_difference": by_hand(report),
        "source_difference": show_difference(report),
        "zero_gamma_difference": identity_at_zero(report),
        "jacobian_deviation": jacobian(report),
        "shortcuts": dimension_changes(report),
    }
    x, y = next(images.batches("train", 100))  # all of them in one batch
    norms = gradient_flow(x, y, blocks, range(args.seed, args.seed + seeds))
    measured["factor_per_layer"] = report_flow(report, norms)
    figure = draw_flow(norms, measured["factor_per_layer"], f"{len(y)} images of {images.name}")
    report.figure(figure, "gradient_flow")
    measured["gradient_norms"] = {", ".join(key): runs for key, runs in norms.items()}
    return report.save(measured)


if __name__ == "__main__":
    lesson.run(main)
