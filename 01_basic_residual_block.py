"""Lesson 1: one residual block, and what it does to gradients.

You will learn
    that a residual block is y = relu(F(x) + x), written by hand and as a class
    that only the shortcut separates it from a plain block
    why doing nothing is hard to learn for plain blocks, and easier for residual ones
    where the "+1" in its derivative is exact, and what happens when shapes change
    in which networks gradients vanish or explode with depth, and by which law
    why gradients relative to the weights tell another story than those of the activations
    that residual networks can do without batch norm: SkipInit
Builds on: nothing. Papers: He et al. 2015 (arXiv:1512.03385), sections 3 and 4.1; Yang et al. 2019
(arXiv:1902.08129) and De & Smith 2020 (arXiv:2002.10444) for the theory.
Takes about 45 seconds on two cores (the built-in Shapes-10, at 16x16 pixels); it runs on the CPU
whatever --device says, in float64 where float32 would round to zero.
Writes block.png, gradient_flow.png, report.txt and results.json to
outputs/01_basic_residual_block/.

    python 01_basic_residual_block.py --blocks 128
"""

import itertools
import statistics
from functools import partial

from common import analysis, data, lesson, models, plotting, training
from common.analysis import Seeds, gradients, growth
from common.analysis.comparison import times
from common.analysis.gradients import CONDITIONS
from common.analysis.growth import PREDICTED, THEORY, exponent, factor_per_layer
from common.blocks import BasicBlock, PlainBlock, SkipInitBlock

import torch
import torch.nn as nn
import torch.nn.functional as F

IMAGES, IMAGE_SIZE = 40, 16  # a tenth for validation, the rest are measured; pixels
CHANNELS = 16  # of the towers' blocks
NOTHING = (1, 2, 4)  # blocks that learn to return their input, together
NOTHING_STEPS = 60  # of SGD; enough for one residual block to come near
BLOCKS = {"plain": PlainBlock, "residual": BasicBlock, "SkipInit": SkipInitBlock}
DEFAULT_INIT, KAIMING, BN = CONDITIONS  # the last two with Kaiming's initial values
TOWERS = [(kind, condition) for condition in (BN, DEFAULT_INIT, KAIMING) for kind in models.TWINS]
TOWERS += [("SkipInit", KAIMING)]
QUESTION = """\
Stack {} plain blocks with batch norm. Send a gradient back from the last block to the first. Does
it vanish, stay as it is, or explode? And with a shortcut around each block?"""
ANSWER = """\
Without shortcuts the gradient behind the first block is {} that behind the last one. With shortcuts
it is {}. Far below 1 it has vanished. Far above 1 it has exploded."""
EXPERIMENT = """\
python 01_basic_residual_block.py --blocks 128 has twice as many blocks. What becomes of the two
numbers?"""
MEMORY = "memory: 1.2 GB, and 3 MB more for each block and core"
HOW_TO_READ = """\
Towers are stacks of {} equal blocks of two layers, here not trained yet. The gradient is that of
the loss, at each block's output. first / last: its size behind the first block over that behind the
last one. BN: with batch norm. Default init: PyTorch's first weights, of variance 1/(3 fan-in),
where fan-in counts the inputs of one output. Kaiming init: 2/fan-in, six times that. SkipInit: see
section 9. Your prediction is about the first two rows. The others are for the curious."""
LAWS = """\
x0.4 a layer: each layer on the way back leaves 0.4 of the gradient. l ** -1: it goes as 1/l, where
l is a block's number, 1 next to the input. That is {}-fold from last to first, if all blocks follow
the line. Level: first and last block differ by less than a factor of {}. |g|/|w|: the size of a
block's gradients by its weights over that of the weights, see section 8."""
BESIDE_THEORY = """\
{0:.4f} times theory's {1:.3f} a layer, {2:.1f} standard errors of the mean off (more than 2 are
rarely chance). Over the {3} layers from last to first that adds up to {4:.2g} of theory's value."""
WHY_A_POWER = """\
residual, BN: the gradient at block l goes as l ** {:.2f}. Why a power? Behind batch norm every F(x)
has one size. So in theory the variance of x grows in proportion to l (De & Smith 2020). A late
block changes only a small part of a large x. It multiplies the gradient by about 1 + c/l. The
product of all these is a power law, l ** -c. Such a network has no fixed factor a layer."""
CLOSING_WORDS = """
Batch norm is not the only remedy. Fixup (Zhang et al. 2019, arXiv:1901.09321) and ReZero
(Bachlechner et al. 2020, arXiv:2003.04887) do without it, too. The shortcut is not the only one,
either. Plain networks train deep from delta-orthogonal initial values (Xiao et al. 2018,
arXiv:1806.05393), and with an identity inside the weights (DiracNets, Zagoruyko & Komodakis 2017,
arXiv:1706.00388). The size of a gradient is not all that counts. In plain networks the gradients of
neighbouring inputs also become unlike: "shattered gradients" (Balduzzi et al. 2017,
arXiv:1702.08591)."""
SETTINGS = {  # name: (value, value with --quick, type, meaning)
    "seeds": (5, 2, lesson.several, "fresh networks of each kind, 2 or more; claims need 5"),
    "blocks": (64, 8, lesson.several, f"of the towers measured, 2 or more; {MEMORY}"),
}


def main(argv: list[str] | None = None) -> dict:
    """Run the lesson; returns what it measured."""
    args = arguments(argv)
    plotting.use_theme(args.show)
    torch.manual_seed(args.seed)
    images = data.load(args.data, args.data_dir, args.data_url, size=IMAGE_SIZE, limit=IMAGES)
    precision = "float32 and float64"
    report = lesson.Report(__file__, args, images.name, images.why, precision)
    report.ask(QUESTION.format(args.blocks))
    measured = {}

    report.section("1. A residual block by hand equals the class")
    # Code that runs can still be wrong. The same weights must give the same numbers.
    difference = measured["by_hand_difference"] = by_hand_difference()
    report.say(f"largest relative difference: {difference:.2g}")
    report.check("by hand equals BasicBlock", difference < 1e-5)

    report.section("2. PlainBlock -> BasicBlock: the shortcut is the whole difference")
    # Read from the source itself, so that this text cannot drift away from the code.
    lines = analysis.source_difference(PlainBlock.forward, BasicBlock.forward)
    measured["source_difference"] = lines
    report.say("\n".join(lines))
    report.say("`shortcut(x)` is x itself. Where the shapes differ it joins them (section 6).")
    kinds = (PlainBlock, BasicBlock)
    graphs = {kind.__name__: plotting.diagram.trace(kind(64, 64), 64, 56, 56) for kind in kinds}
    report.figure(plotting.diagram.draw(graphs, "The whole idea: one extra arrow"), "block")

    report.section("3. Switch F off: the residual block passes x on, the plain block is dead")
    # Where F contributes nothing, only the shortcut is left to carry the signal.
    measured["zero_gamma_difference"] = switch_off(report)

    report.section("4. Learning to do nothing")
    # A deeper network is no worse than a shallow one if its further blocks can pass on what they
    # get. What comes for free with F = 0 plain blocks have to learn.
    seeds = range(args.seed, args.seed + args.seeds)
    measured["errors_of_doing_nothing"] = do_nothing(report, seeds)

    report.section('5. The "+1": dH/dx = dF/dx + I')
    # The same identity in the derivative: a path on which the gradient meets no weight.
    measured["jacobian_deviation"] = plus_one(report)

    report.section("6. When shapes change: options A, B and C")
    # x can be added to F(x) only in F(x)'s shape, and the paper knows three ways to get it there.
    report.say("Where the shape changes A takes every second pixel and adds channels of zeros, B")
    report.say("has a 1x1 convolution. C has one on every shortcut. Our blocks have B, lesson 3's")
    report.say("twins A.")
    measured["shortcuts"] = shape_changes()
    report.table(measured["shortcuts"])
    report.say("Give 8 channels to a block that takes 16, and PyTorch refuses, as it should:")
    report.say(error_of_a_mismatch())

    report.section("7. Gradient flow with depth: vanishing and exploding are different diseases")
    # One block changes little. A tower of many shows what the change grows to, layer by layer.
    x, y = next(images.batches("train", IMAGES))  # all of them in one batch
    build = partial(tower, args.blocks, len(images.classes))
    towers = gradients.of_towers(build, TOWERS, seeds, x, y)
    at_outputs = {key: [run.outputs for run in runs] for key, runs in towers.items()}
    at_weights = {key: [run.weights for run in runs] for key, runs in towers.items()}
    factors = {key: Seeds.of(runs, factor_per_layer) for key, runs in at_outputs.items()}
    exponents = {key: Seeds.of(runs, exponent) for key, runs in at_outputs.items()}
    report.explain(HOW_TO_READ.format(args.blocks))
    report.table(flow_table(at_outputs, at_weights))
    report.explain(LAWS.format(args.blocks, growth.LEVEL))
    claim_course(report, factors, at_outputs)
    claim_laws(report, at_outputs)
    say_without_norm(report, at_outputs)
    compare_with_theory(report, factors, 2 * (args.blocks - 1))  # two layers a block
    report.explain(WHY_A_POWER.format(exponents["residual", BN]))

    report.section("8. Relative to the weights: what a step of gradient descent can change")
    # Where x grows, the gradient at x shrinks, and the function may be the same. |g|/|w| is fair.
    claim_weights(report, at_outputs, at_weights)

    report.section("9. For the curious: SkipInit, y = relu(alpha F(x) + x), alpha = 0 at first")
    say_skipinit(report, towers["SkipInit", KAIMING])
    report.say(CLOSING_WORDS)
    figure = plotting.flow.towers(at_outputs, at_weights, f"{len(y)} images of {images.name}")
    report.figure(figure, "gradient_flow")
    report.say("Look first at its panel at the top left: batch norm, without and with shortcuts.")
    for name, results in (("factor_per_layer", factors), ("exponent", exponents)):
        measured[name] = {", ".join(key): values for key, values in results.items()}
    measured["gradients"] = {", ".join(key): runs for key, runs in towers.items()}
    ends = [times(growth.log_ends(at_outputs[kind, BN])) for kind in models.TWINS]
    report.answer(ANSWER.format(*ends), EXPERIMENT)
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
    for parameter in norms:
        nn.init.uniform_(parameter, 0.5, 1.5)  # at first all are 1 or 0: a mix-up would not show
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
    report.say("F ends in a batch norm, which scales its output by gamma. With gamma = 0 F is 0,")
    report.say("and BasicBlock computes relu(0 + x). Behind another block x is not negative, so it")
    report.say(f"passes unchanged. The largest |y - relu(x)| is {from_identity}.")
    report.say(f"PlainBlock gives nothing at all. The largest |y| is {left_of_plain}.")
    report.check("BasicBlock is relu(x) exactly", from_identity == 0.0)
    report.check("PlainBlock is zero exactly", left_of_plain == 0.0)
    return from_identity


def do_nothing(report, seeds: range) -> dict[str, dict[int, Seeds]]:
    """Errors of plain and of residual blocks that learn to return their input, by their number."""
    kinds = models.TWINS
    jobs = list(itertools.product(kinds, NOTHING, seeds))
    stacks = []
    for kind, count, seed in jobs:  # before the first one learns: threads share one generator
        torch.manual_seed(seed)
        stacks.append(nn.Sequential(*(BLOCKS[kind](8, 8) for _ in range(count))))
    with training.progress("doing nothing", len(jobs)) as bar:
        found = training.side_by_side(partial(learn_nothing, bar=bar), stacks, "cpu")
    errors: dict[str, dict[int, Seeds]] = {kind: {} for kind in kinds}
    for (kind, count, _seed), error in zip(jobs, found, strict=True):
        errors[kind].setdefault(count, Seeds()).append(error)
    rows = [{"blocks": n} | {kind: f"{errors[kind][n]:.3f}" for kind in kinds} for n in NOTHING]
    report.say("Each stack of blocks learns to return its input: the target is x itself.")
    report.table(rows)
    report.say(f"Squared error in step {NOTHING_STEPS}, as a share of the input's variance.")
    report.say("0: the output is the input. 1: no better than always its mean. Above 1: worse.")
    last = NOTHING[-1]
    claim = f"{last} residual blocks learn to return their input with less error than plain ones"
    source = "the guess of He et al. 2015, section 3.1: the identity is hard to learn for layers"
    text = "squared error {:.2f} against {:.2f} of the input's variance"
    report.claim(claim, errors["residual"][last], "<", errors["plain"][last], source, text)
    return errors


def learn_nothing(model: nn.Sequential, bar) -> float:
    """Squared error, as a share of the variance, of blocks that were trained to return x."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(0)  # all blocks see the same x
    for _ in range(NOTHING_STEPS):
        x = F.relu(torch.randn(16, 8, 8, 8, generator=generator))  # N C H W, as behind a block
        loss = F.mse_loss(model(x), x) / x.var()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    bar.update()
    return loss.item()


def plus_one(report) -> float:
    """Largest deviation of dH/dx from dF/dx + I, for H(x) = F(x) + x, element by element."""
    # Small, so that a Jacobian has 32 x 32 entries. In eval mode batch norm has fixed numbers, in
    # training each entry would depend on all pixels.
    block = BasicBlock(2, 2).double().eval()
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64)

    def residual_branch(x):
        return block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))

    jacobian_f = torch.func.jacrev(residual_branch)(x).reshape(32, 32)
    jacobian_h = torch.func.jacrev(lambda x: residual_branch(x) + x)(x).reshape(32, 32)
    deviation = (jacobian_h - jacobian_f - torch.eye(32)).abs().max().item()
    report.say("H(x) = F(x) + x. So H's derivative, less F's, should be the identity matrix I: the")
    report.say("gradient has a path on which it meets no weight. Here x and H have 32 numbers")
    report.say(f"each, and the derivative 32 x 32. The largest deviation of these: {deviation:.1e}")
    report.check("dH/dx = dF/dx + I", deviation < 1e-12)

    # The class has a ReLU after the addition: y = relu(H(x)). Each row passes whole, or is zero.
    is_open = (block(x) > 0).reshape(32, 1)
    jacobian_y = torch.func.jacrev(block)(x).reshape(32, 32)
    masked_deviation = (jacobian_y - is_open * jacobian_h).abs().max().item()
    what = "the ReLU after the addition only sets rows of the derivative to zero"
    report.check(what, masked_deviation < 1e-12)
    closed = 1 - is_open.double().mean().item()
    report.say(f"A row is one number of the output. The ReLU makes {100 * closed:.0f} % of them 0,")
    report.say("and with them their rows. So the +1 holds exactly only before that ReLU.")
    report.say("Over many blocks the derivative is a product of such (J + I), with J = dF/dx. It")
    report.say("is near the identity only where every J is small, as with the default init below.")
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


def tower(blocks: int, classes: int, kind: str, condition: str, seed: int) -> nn.Sequential:
    """A 3x3 stem, equal blocks of one of the BLOCKS, global pooling with a classifier."""
    torch.manual_seed(seed)
    convolution = nn.Conv2d(3, CHANNELS, 3, padding=1, bias=False)
    stem = nn.Sequential(convolution, nn.BatchNorm2d(CHANNELS), nn.ReLU())
    body = [BLOCKS[kind](CHANNELS, CHANNELS) for _ in range(blocks)]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, classes))
    model = nn.Sequential(stem, *body, head)
    if condition != DEFAULT_INIT:
        # Fan-in keeps the size of activations, fan-out that of gradients. Here the blocks have as
        # many channels in as out, so that both are one but for the stem.
        models.kaiming_init(model, mode="fan_in")
    return model if condition == BN else models.without_batch_norm(model)


def flow_table(at_outputs: dict, at_weights: dict) -> list[dict]:
    """By tower: the gradient's growth, its law, and the weights' relative gradients."""
    rows = []
    for key, runs in at_outputs.items():
        row = {"tower": ", ".join(key)}
        row["at outputs: first / last"] = f"{growth.first_over_last(runs):.1e}"
        row["law, towards the input"] = growth.law_of(runs)
        for name, block in (("first", 0), ("last", -1)):
            middle = statistics.median(run[block] for run in at_weights[key])
            row[f"|g|/|w| {name}"] = f"{middle:.1g}"
        rows.append(row)
    return rows


def claim_course(report, factors: dict[tuple[str, str], Seeds], at_outputs: dict) -> None:
    """Which gradients vanish, which explode, and which grow less."""
    claim = "plain blocks as PyTorch initialises them, no batch norm: the gradient vanishes"
    factor, source = factors["plain", DEFAULT_INIT], PREDICTED[DEFAULT_INIT]
    report.claim(claim, factor, "<", 1.0, source, "times {:.3f} a layer towards the input")
    claim = "untrained plain blocks with batch norm: the gradient explodes. It does not vanish"
    factor, source = factors["plain", BN], PREDICTED[BN]
    report.claim(claim, factor, ">", 1.0, source, "times {:.3f} a layer towards the input")
    claim = "with batch norm, the gradient grows less with shortcuts than without"
    plain, residual = (growth.log_ends(at_outputs[kind, BN]) for kind in models.TWINS)
    blocks = len(at_outputs["plain", BN][0])
    measured = f"through {blocks} blocks {times(residual)} against {times(plain)}"
    report.claim(claim, residual, "<", plain, "Yang et al. 2019; De & Smith 2020", measured)


def claim_laws(report, at_outputs: dict[tuple[str, str], list]) -> None:
    """By which law the gradients of networks with batch norm grow."""
    # log(gradient) is a straight line over a block's number l (exponential) or over log(l) (power).
    measured = "misfit {:.3f} against {:.3f} (mean square, of log(gradient))"
    power = partial(growth.misfit, law="power law")
    exponential = partial(growth.misfit, law="exponential")
    claim = "plain blocks with batch norm: a factor per layer fits better than a power of depth"
    left, right = (Seeds.of(at_outputs["plain", BN], off) for off in (exponential, power))
    report.claim(claim, left, "<", right, "Yang et al. 2019", measured)
    claim = "residual blocks with batch norm: a power of depth fits better than a factor per layer"
    left, right = (Seeds.of(at_outputs["residual", BN], off) for off in (power, exponential))
    source = "the variance of x grows linearly with depth: De & Smith 2020"
    report.claim(claim, left, "<", right, source, measured)


def say_without_norm(report, at_outputs: dict[tuple[str, str], list]) -> None:
    """What the shortcut alone does, without batch norm: it depends on the first weights."""
    if growth.first_over_last(at_outputs["residual", KAIMING]) > growth.LEVEL:
        report.say("The shortcut alone is no remedy. Without batch norm, and with Kaiming's larger")
        report.say("first weights, the gradient of residual blocks explodes, too.")
    if growth.is_level(at_outputs["residual", DEFAULT_INIT]):
        report.say("Residual blocks are level even without batch norm, if their first weights are")
        report.say("so small, as PyTorch's, that F(x) is small beside x. To train well takes more.")


def compare_with_theory(report, factors: dict[tuple[str, str], Seeds], layers: int) -> None:
    """Numbers beside theory's: what is near a layer may be far over all `layers`."""
    for condition in (DEFAULT_INIT, BN):
        found, theory = factors["plain", condition], THEORY[condition]
        ratio, error = found.mean / theory, found.deviation / len(found) ** 0.5
        both = ratio, theory, abs(found.mean - theory) / error, layers, ratio**layers
        report.explain(f"plain, {condition}: {BESIDE_THEORY.format(*both)}")
    report.say("Theory is for wide fully connected layers and, with BN, for endless batches.")
    report.say(f"Probable causes of a gap: {CHANNELS} channels, zero padding, a small batch.")


def claim_weights(report, at_outputs: dict, at_weights: dict) -> None:
    """Whether an explosion at the outputs is one of the weights' gradients, too."""
    claim = f"residual, {KAIMING}: the gradient grows more at the outputs than at the weights"
    of_x, of_w = (growth.log_ends(runs["residual", KAIMING]) for runs in (at_outputs, at_weights))
    source = "a weight's gradient is x times the gradient behind it: towards the output the one "
    source += "grows as the other shrinks"
    measured = f"first / last block: {times(of_x)} against {times(of_w)}"
    report.claim(claim, of_x, ">", of_w, source, measured)
    claim = "plain blocks with batch norm: measured against the weights it explodes, too"
    factor = Seeds.of(at_weights["plain", BN], factor_per_layer)
    report.claim(claim, factor, ">", 1.0, "Yang et al. 2019", "times {:.3f} a layer")
    for key in (("plain", DEFAULT_INIT), ("residual", KAIMING)):
        middle = statistics.median(itertools.chain(*at_weights[key]))
        report.say(f"{', '.join(key)}: the median of |g|/|w| over all blocks is {middle:.0e}.")
    report.say("So it is not enough that |g|/|w| is level. Its size counts. A step at learning")
    report.say("rate lr moves the weights by lr |g|/|w| of their size: little, but not nothing, is")
    report.say("right.")


def say_skipinit(report, runs: list[gradients.BlockGradients]) -> None:
    """What is level at the start of a tower of SkipInitBlocks, and what is not."""
    same = all(len(set(run.outputs[:-1])) == 1 for run in runs)
    report.check("the gradient is the same at every output but the last", same)
    last = Seeds(run.outputs[-1] / run.outputs[0] for run in runs)
    report.say(f"At the last it is {last:.2f} times as large: no ReLU behind it has zeroed half.")
    still = not any(itertools.chain(*(run.weights for run in runs)))
    report.check("the first gradient of all weights is zero", still)
    sizes = [[abs(gradient) for gradient in run.scalars] for run in runs]
    spread = [f"{max(scalars) / min(scalars):,.0f}" for scalars in sizes]
    report.say("In the first step alpha learns alone, in the next one F, too. The gradients of the")
    report.say("alphas are not level. The largest of a tower over its smallest, seed by seed:")
    report.say(f"{', '.join(spread)}.")
    report.say(f"Along the blocks, by number, they go as l ** {Seeds.of(sizes, exponent):.2f}.")


if __name__ == "__main__":
    lesson.run(main)
