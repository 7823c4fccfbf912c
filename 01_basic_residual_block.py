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

from common import analysis, data, lesson, models, plotting
from common.analysis import Seeds, gradients
from common.blocks import BasicBlock, PlainBlock

import torch
import torch.nn as nn
import torch.nn.functional as F

IMAGES, IMAGE_SIZE = 80, 16  # of the batch whose gradients are measured; pixels
CHANNELS = 16  # of the towers' blocks
SETTINGS = {  # name: (value, value with --quick, type, meaning)
    "seeds": (3, 2, lesson.several, "repetitions of the gradient measurement, 2 or more"),
    "blocks": (64, 8, lesson.several, "of the towers whose gradients are measured, 2 or more"),
}


def main(argv: list[str] | None = None) -> dict:
    """Run the lesson; returns what it measured."""
    args = arguments(argv)
    plotting.use_theme(args.show)
    torch.manual_seed(args.seed)
    images = data.load(args.data, args.data_dir, args.data_url, size=IMAGE_SIZE, limit=IMAGES)
    report = lesson.Report(__file__, args, images.name, images.why)
    measured = {}

    report.section("1. A residual block by hand equals the class")
    # Code that runs can still be wrong. The same weights must give the same numbers.
    difference = measured["by_hand_difference"] = by_hand_difference()
    report.say(f"largest relative difference: {difference:.1e}")
    report.check("by hand equals BasicBlock", difference < 1e-5)

    report.section("2. PlainBlock -> BasicBlock: the shortcut is the whole difference")
    # Read from the source itself, so that this text cannot drift away from the code.
    measured["source_difference"] = analysis.source_difference(PlainBlock, BasicBlock)
    for line in measured["source_difference"]:
        report.say(line)
    report.say("What matters is `out + self.shortcut(x)`.")
    report.say("The rest joins shapes that differ (section 5).")

    report.section("3. Switch F off: the residual block is the identity, the plain block is dead")
    # Where F contributes nothing, only the shortcut is left to carry the signal.
    measured["zero_gamma_difference"] = switch_off(report)

    report.section('4. The "+1": dH/dx = dF/dx + I')
    # The same identity in the derivative: a path on which the gradient meets no weight.
    measured["jacobian_deviation"] = plus_one(report)

    report.section("5. When shapes change: options A, B and C")
    # x can be added to F(x) only in F(x)'s shape, and the paper knows three ways to get it there.
    measured["shortcuts"] = shape_changes()
    report.table(measured["shortcuts"])
    report.say(f"8 channels into a block for 16: {error_of_a_mismatch()[:75]}...")

    report.section("6. Gradient flow with depth: vanishing and exploding are different diseases")
    # One block changes little. A tower of many shows what the change grows to, layer by layer.
    x, y = next(images.batches("train", IMAGES))  # all of them in one batch
    seeds = range(args.seed, args.seed + args.seeds)
    norms = gradient_norms(x, y, args.blocks, seeds)
    factors = {key: Seeds(map(gradients.factor_per_layer, runs)) for key, runs in norms.items()}
    report.table(flow_table(norms, factors))
    claim_flow(report, factors)
    report.say("A gradient that vanishes leaves the first blocks nothing to learn from.")
    figure = plotting.flow.towers(norms, factors, f"{len(y)} images of {images.name}")
    report.figure(figure, "gradient_flow")
    measured["factor_per_layer"] = {", ".join(key): values for key, values in factors.items()}
    measured["gradient_norms"] = {", ".join(key): runs for key, runs in norms.items()}
    return report.save(measured)


def arguments(argv: list[str] | None):
    """The shared flags and this lesson's own."""
    args = lesson.parser(__doc__, SETTINGS).parse_args(argv)
    lesson.device(args.device)  # refuses a device that is not there
    args.device = "cpu"  # a few small blocks gain nothing from a GPU, and some have no float64
    return args


def block_by_hand(x, w1, w2, gamma1, beta1, gamma2, beta2):
    """A residual block in raw tensor operations: y = relu(F(x) + x)."""
    out = F.conv2d(x, w1, padding=1)  # N C H W
    out = F.batch_norm(out, None, None, gamma1, beta1, training=True)  # N C H W
    out = F.relu(out)  # N C H W
    out = F.conv2d(out, w2, padding=1)  # N C H W
    out = F.batch_norm(out, None, None, gamma2, beta2, training=True)  # N C H W: this is F(x)
    return F.relu(out + x)  # N C H W: the shortcut costs one addition


def by_hand_difference() -> float:
    """Largest relative difference of the lines above and common.blocks.BasicBlock."""
    block = BasicBlock(16, 16)
    x = torch.randn(8, 16, 32, 32)
    convolutions = [block.conv1.weight, block.conv2.weight]
    norms = [*block.bn1.parameters(), *block.bn2.parameters()]  # gamma and beta of each
    by_hand = block_by_hand(x, *convolutions, *norms)
    return analysis.relative_difference([by_hand], [block(x)])


def switch_off(report) -> float:
    """Largest |y - relu(x)| of a residual block with F = 0; reports a plain block's |y|, too."""
    x = torch.randn(8, 16, 32, 32)
    residual, plain = BasicBlock(16, 16), PlainBlock(16, 16)
    for block in (residual, plain):
        nn.init.zeros_(block.bn2.weight)  # F ends in this scale; its shift is zero from the start
    from_identity = (residual(x) - F.relu(x)).abs().max().item()
    left_of_plain = plain(x).abs().max().item()
    report.say(f"BasicBlock: largest |y - relu(x)| = {from_identity}")
    report.say(f"PlainBlock: largest |y|           = {left_of_plain}")
    report.check("BasicBlock is relu(x) exactly", from_identity == 0.0)
    report.check("PlainBlock is zero exactly", left_of_plain == 0.0)
    return from_identity


def plus_one(report) -> float:
    """Largest deviation of dH/dx from dF/dx + I, for H(x) = F(x) + x, element by element."""
    # Small, so that a Jacobian has 32 x 32 entries; eval mode, so that no image's statistics enter.
    block = BasicBlock(2, 2).double().eval()
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64)

    def residual_branch(x):
        return block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))

    jacobian_f = torch.func.jacrev(residual_branch)(x).reshape(32, 32)
    jacobian_h = torch.func.jacrev(lambda x: residual_branch(x) + x)(x).reshape(32, 32)
    deviation = (jacobian_h - jacobian_f - torch.eye(32)).abs().max().item()
    report.say(f"largest deviation over 32 x 32 entries: {deviation:.1e}")
    report.check("dH/dx = dF/dx + I", deviation < 1e-12)

    # The class has a ReLU after the addition: y = relu(H(x)). Each row passes whole, or is zero.
    is_open = (block(x) > 0).reshape(32, 1)
    jacobian_y = torch.func.jacrev(block)(x).reshape(32, 32)
    masked_deviation = (jacobian_y - is_open * jacobian_h).abs().max().item()
    report.check("the ReLU after the addition only masks rows", masked_deviation < 1e-12)
    closed = 1 - is_open.double().mean().item()
    report.say(f"That ReLU closes {100 * closed:.0f} % of the rows here: the path")
    report.say("through the block is a clean identity only before it.")
    return deviation


def shape_changes() -> list[dict]:
    """Options A, B and C, where the block halves the resolution and doubles the channels, and
    where it keeps both."""
    rows = []
    for option in "ABC":
        for channels, stride in ((32, 2), (16, 1)):
            block = BasicBlock(16, channels, stride, shortcut=option)
            y = block(torch.randn(2, 16, 32, 32))
            shapes = f"2x16x32x32 -> {'x'.join(map(str, y.shape))}"
            parameters = f"{analysis.parameter_count(block):,}"
            rows.append({"option": option, "shapes (N C H W)": shapes, "parameters": parameters})
    return rows


def error_of_a_mismatch() -> str:
    """What PyTorch says to 8 channels that enter a block for 16."""
    try:
        BasicBlock(16, 32)(torch.randn(2, 8, 32, 32))
    except RuntimeError as error:
        return str(error)
    raise AssertionError("a block took an input that does not fit")


def tower(kind: str, condition: str, seed: int, blocks: int) -> nn.Sequential:
    """A 3x3 stem, equal "plain" or "residual" blocks, global pooling, a classifier."""
    torch.manual_seed(seed)
    block = {"plain": PlainBlock, "residual": BasicBlock}[kind]
    convolution = nn.Conv2d(3, CHANNELS, 3, padding=1, bias=False)
    stem = nn.Sequential(convolution, nn.BatchNorm2d(CHANNELS), nn.ReLU())
    body = [block(CHANNELS, CHANNELS) for _ in range(blocks)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 10)]
    model = nn.Sequential(stem, *body, *head)
    if condition != "no BN, default init":
        # Fan-in keeps the size of activations, fan-out that of gradients. Here the blocks have as
        # many channels in as out, so that both are one but for the stem.
        models.kaiming_init(model, mode="fan_in")
    return model if condition == "BN" else models.without_batch_norm(model)


def gradient_norms(x, y, blocks: int, seeds: range) -> dict[tuple[str, str], list[list[float]]]:
    """Norm of the loss's gradient at every block's output: {(kind, condition): one list a seed}.

    x is N 3 H W, y holds class indices. Kinds are plain and residual; the lists begin next to the
    input.
    """
    names = [str(i) for i in range(1, blocks + 1)]  # in the Sequential 0 is the stem

    def build(kind: str, condition: str, seed: int) -> nn.Module:
        return tower(kind, condition, seed, blocks)

    return gradients.at_start(build, seeds, x, y, names)


def flow_table(norms: dict, factors: dict) -> list[dict]:
    """By kind and condition, the fitted factor a layer, and what all layers together make."""
    rows = []
    for key, runs in norms.items():
        row = {"network": ", ".join(key)}
        row["gradient factor per layer, towards the input"] = f"{factors[key]:.3f}"
        row["first / last block"] = f"{gradients.first_over_last(runs):.1e}"
        rows.append(row)
    return rows


def claim_flow(report, factors: dict[tuple[str, str], Seeds]) -> None:
    """What theory says of the factor a layer: below 1 the gradient vanishes, above it explodes."""
    report.claim(
        "plain, PyTorch's default init, no BN: the gradient vanishes towards the input",
        factors["plain", "no BN, default init"],
        "<",
        1.0,
        source=gradients.PREDICTED["no BN, default init"],
        measured="{:.3f}",
    )
    report.claim(
        "plain, BN: the gradient explodes towards the input; it does not vanish",
        factors["plain", "BN"],
        ">",
        1.0,
        source=gradients.PREDICTED["BN"],
        measured="{:.3f}",
    )
    report.claim(
        "BN: with the shortcut the gradient grows more slowly than without",
        factors["residual", "BN"],
        "<",
        factors["plain", "BN"],
        source="exponential without (Yang et al. 2019); linear variance with it (De & Smith 2020)",
        measured="{:.3f} against {:.3f}",
    )


if __name__ == "__main__":
    lesson.run(main)
