"""Lesson 5: four pictures of networks, each of them a measurement.

You will learn
    how the gradient grows or shrinks from block to block, before and after training
    how to look at the loss around trained weights, so that two kinds of networks can be compared
    that a block's code is a graph, and where the shortcut runs in it
    after which block a simple classifier can tell the classes, and which blocks are alike
Builds on: lessons 1 to 3. Papers: Yang et al. 2019 (arXiv:1902.08129), theorem 3.10; Li et al. 2018
(arXiv:1712.09913), sections 4 and 6; Kornblith et al. 2019 (arXiv:1905.00414), section 3; Alain &
Bengio 2016 (arXiv:1610.01644).
Takes about 70 seconds on two cores (ten networks trained on the built-in Shapes-10, at 12x12).
Writes gradient_flow.png, loss_landscape.png, architecture.png, feature_evolution.png, report.txt
and results.json to outputs/05_visualization/, with --checkpoint to
outputs/05_visualization_checkpoint/.

    python 05_visualization.py --image CAT.jpg
    python 05_visualization.py --checkpoint outputs/06_practical_example/last.pt
    python 05_visualization.py --data-dir DIR --images 2000 --target 1.5
The first sends your own picture through the networks. The second looks at networks that lesson 6
trained. The third trains on your own images.
"""

import math
from dataclasses import replace
from pathlib import Path

from common import UserError, analysis, blocks, data, lesson, models, plotting, training
from common.analysis import Seeds, gradients, growth, published
from common.analysis.landscape import STATISTICS
from common.plotting.diagram import DRAWABLE

import torch

TARGET = "training loss at which a network is stopped; 1.0 for ten classes, for others in "
TARGET += "proportion to the loss of guessing"
SETTINGS = {  # name: (value, value with --quick, type, meaning)
    "image_size": (None, None, lesson.positive, "pixels; 12, or a checkpoint's, at most 64"),
    "images": (256, 64, lesson.several, "images that the networks learn from"),
    "depth": (20, 14, lesson.positive, "of the networks, 6n + 2"),
    "width": (8, None),
    "epochs": (100, 2, lesson.positive, "the most passes over these images"),
    "target": (None, 9.0, lesson.rate, TARGET),
    "batch_size": (32, None),
    "lr": (0.05, None),
    "seeds": (5, 2, lesson.several, "networks of each kind, 2 or more"),
    "resolution": (11, 5, lesson.positive, "points along each side of a landscape, odd"),
    "radius": (0.3, None, lesson.rate, "how far a landscape reaches; 1: a filter's own norm"),
    "landscape_images": (256, 32, lesson.several, "images for the loss of a landscape, 2 or more"),
}
QUESTION = """Plain and residual networks of {} layers are stopped at the same training loss. Then
all weights are moved a little, at random. Around which networks does the loss rise more?"""
ANSWER = """With the running averages of batch norm the loss rose by {:.2f} around plain and by
{:.2f} around residual networks. {} Li et al. 2018 found it flat around residual networks and
chaotic around plain ones, but with 56 layers, and after a full training. Another depth or moment
is another question."""
NO_PAIRS = "With no seed both kinds got to that loss, so that there was nothing to compare."
EXPERIMENT = """python 05_visualization.py --radius 1 goes farther, up to a filter's own norm.
Around which networks does the loss rise more there?"""
STOPPED = """\
Epochs: how often a network saw its {} images until its loss on them fell below {}. There it was
stopped: all know the images about as well. Guessing has a loss of {:.2f}."""
THEORY = """\
Factor: by what a layer multiplies the gradient on its way back. Below 1 it shrinks, above 1 it
grows. First / last: the gradient at the first block over that at the last one. BN: batch norm.
Default init: PyTorch's initial values. Kaiming init: larger ones, made for ReLU. Theory is about
wide, fully connected plain networks. Ours are narrow convolutions, and two of them have a stride,
so that a ratio other than 1 does not contradict it. Of residual networks with batch norm the factor
is a mean over these few blocks: in lesson 1 they follow a power of depth."""
PLANES = """\
Two random directions span a plane around the weights. Rise: the mean loss on it above that in its
middle. Curves downwards: the share of the plane where the surface bends down in some direction of
the plane. In other directions it may, too.
Batch norm uses the averages that it kept in training (running), or new ones of the moved network
(recomputed). Mean and deviation are over networks, each with directions of its own."""
EQUAL = """\
With running averages the networks' losses on these images lie between {:.2f} and {:.2f}. Section 0
stopped them by the loss on all that they learn from. With recomputed averages the losses are not
held equal, and neither is how long the networks trained."""
PROBES = """\
A linear classifier, called a probe, is fitted on what a block gives out. The network stays as it
is. The shares are of validation images whose class the probe tells. The first one sees nothing but
an image's mean colour. Similarity (CKA) is 1 if two blocks give the same but for rotation and
scale, and about 0 if they have nothing in common. It is the mean over all pairs of blocks. How long
the networks trained differs (section 0), which may matter."""
BLOCKS = ["PlainBlock", "BasicBlock", "Bottleneck", "PreActBlock"]


def main(argv: list[str] | None = None) -> dict:
    """Run the lesson; returns what it measured."""
    args = arguments(argv)
    plotting.use_theme(args.show)
    nets, entries = training.checkpoints.load_models(args.checkpoint or [])
    dataset = load_images(args, entries)
    image = dataset.val.images[0].permute(1, 2, 0).numpy()  # H W 3
    if args.image:
        image = data.read_image(args.image, args.image_size)

    def build(kind: str, condition: str, seed: int) -> torch.nn.Module:
        twin = models.build_twin(kind, args.depth, len(dataset.classes), args.width, seed)
        return gradients.start(twin, condition)

    # Built before the report: a wrong --depth ends the lesson while no folder is written yet.
    seeds = range(args.seed, args.seed + args.seeds)
    twins = {kind: {seed: build(kind, "BN", seed) for seed in seeds} for kind in models.TWINS}
    script = f"{Path(__file__).stem}_checkpoint" if nets else __file__
    report = lesson.Report(script, args, dataset.name, dataset.why)
    if not nets:
        report.ask(QUESTION.format(args.depth))
    dataset = dataset.to(report.device)
    nets = {name: {args.seed: model.to(report.device)} for name, model in nets.items()}
    measured = {}
    if not nets:
        report.section(f"0. Training, until the loss is below {args.target}")
        nets, measured["epochs"] = train(report, twins, dataset.first(args.images))
    setup = describe(args, dataset)

    report.section("1. A random direction, each filter scaled to the norm of the trained one")
    first = next(iter(nets[next(iter(nets))].values()))
    measured["by_hand_difference"] = compare_by_hand(report, first)

    report.section("2. Gradient flow, from the last block to the first")
    x, y = next(dataset.batches("train", 64))
    untrained = gradients.at_start(build, seeds, x, y)
    trained = {n: [gradients.by_block(net, x, y) for net in nets[n].values()] for n in nets}
    measured |= report_gradients(report, untrained, trained)
    subtitle = f"Mean and range of {args.seeds} networks. Scales differ. Grey: theory for wide, "
    subtitle += f"fully connected ones. {len(y)} images. First three panels: depth {args.depth}, "
    subtitle += f"untrained. Last: {setup}"
    report.figure(plotting.flow.gradient_flow(untrained, trained, subtitle), "gradient_flow")

    report.section("3. Loss landscape around the trained weights")
    # Every plane is measured twice, for moved weights do not fit batch norm's running statistics.
    x, y = next(dataset.first(args.images).batches("train", args.landscape_images))
    steps = analysis.landscape.axis(args.radius, args.resolution)
    landscapes = analysis.landscape.measure(nets, x, y, steps, report.device)
    measured |= report_landscapes(report, landscapes, nets) | {"landscape_steps": steps}
    subtitle = f"{len(y)} training images of {setup}"
    figure = plotting.landscape.loss_landscape(landscapes, steps, subtitle)
    report.figure(figure, "loss_landscape")

    report.section("4. Architecture: the blocks' own code as graphs")
    # Traced, not drawn by hand: a block whose code changes has another picture.
    graphs = {name: trace_block(name) for name in args.diagrams}
    measured |= report_architecture(report, graphs)
    report.figure(plotting.diagram.draw(graphs), "architecture")

    report.section("5. Features: where classes separate, which blocks are alike")
    features = analysis.features.measure(nets, dataset, image)
    measured |= report_features(report, features)
    figure = plotting.features.feature_evolution(image, dataset.classes, features, setup)
    report.figure(figure, "feature_evolution")
    if not args.checkpoint:
        answer(report, landscapes, nets)
    return report.save(measured)


def arguments(argv: list[str] | None):
    """The shared flags and this lesson's own."""
    flags = lesson.parser(__doc__, SETTINGS)
    add = flags.add_argument
    files = "written by lesson 6: look at these networks instead of training ten"
    add("--checkpoint", type=Path, nargs="+", metavar="FILE", help=files)
    add("--image", type=Path, metavar="FILE", help="a picture to send through the networks")
    drawn = f"blocks to draw, of {', '.join(DRAWABLE)} (default: {' '.join(BLOCKS)})"
    choice = {"default": BLOCKS, "choices": DRAWABLE, "metavar": "BLOCK"}
    add("--diagrams", nargs="+", help=drawn, **choice)
    args = flags.parse_args(argv)
    if args.resolution < 3 or args.resolution % 2 == 0:
        flags.error("--resolution must be odd, and 3 or more")
    return args


def load_images(args, entries: dict) -> data.Dataset:
    """The images; `entries` are those of the checkpoint whose networks are looked at, if any.

    Raises: UserError if that is for other classes, or if the target is one of guessing.
    """
    args.image_size = args.image_size or min(entries.get("image_size", 12), 64)
    # More than the networks learn from: the probes of section 5 need images, too.
    args.images = None if entries else args.images
    limit = args.images and max(5_000, 2 * args.images)
    dataset = data.load(args.data, args.data_dir, args.data_url, args.image_size, limit)
    if entries and list(entries["classes"]) != dataset.classes:
        raise UserError(f"--checkpoint is for other classes than those of {dataset.name}")
    if not entries:
        guessing = math.log(len(dataset.classes))
        args.images = min(args.images, len(dataset.train.labels))
        args.target = args.target or round(guessing / math.log(10), 2)
        if args.target >= guessing and not args.quick:
            raise UserError(f"--target {args.target}: guessing has a loss of {guessing:.2f}")
    if "mean" in entries:  # as the network knows them: a fine-tuned one has ImageNet's
        dataset = replace(dataset, normalisation=(entries["mean"], entries["std"]))
    return dataset


def train(report, twins: dict, dataset: data.Dataset) -> tuple[dict, dict]:
    """Train all twins until their loss on the training images is below the target.

    Returns those that got there, {kind: {seed: network}}, and the epochs that all needed, None for
    never. Raises: UserError if none got there, or the loss of one stopped being a number.
    """
    # A network that has learnt more lies deeper, and what surrounds it is another place. Equal
    # loss, and not equal time, makes the surroundings comparable.
    args = report.args
    options = {"batch_size": args.batch_size, "lr": args.lr, "device": report.device}
    until = analysis.landscape.train_to_loss
    epochs = until(twins, dataset, args.target, args.epochs, **options)
    words = analysis.landscape.epochs_in_words
    report.table([{"network": f"{k}-{args.depth}", "epochs": words(n)} for k, n in epochs.items()])
    guessing = math.log(len(dataset.classes))
    report.say(STOPPED.format(len(dataset.train.labels), args.target, guessing))
    nets = {}
    for kind, by_seed in twins.items():
        pairs = zip(by_seed.items(), epochs[kind], strict=True)
        nets[kind] = {seed: model for (seed, model), needed in pairs if needed}
    nets = {kind: arrived for kind, arrived in nets.items() if arrived}
    if not nets:
        raise UserError(f"no network reached a loss of {args.target}: a larger --target, --epochs")
    return nets, epochs


def describe(args, dataset: data.Dataset) -> str:
    """Images and networks, for the subtitles of the figures."""
    nets = "networks from checkpoints"
    if not args.checkpoint:
        nets = f"networks of depth {args.depth}, width {args.width}, trained on {args.images} "
        nets += f"images to a loss of {args.target:g}"
    return f"{dataset.name}, {args.image_size}x{args.image_size} pixels; {nets}"


def direction_by_hand(weight: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Filter normalisation in raw tensor operations: each filter of the noise gets w's norm."""
    # Batch norm cancels the scale of a filter. With steps of one length for all networks, the one
    # with the larger weights would move less, and its surroundings would look flatter.
    filters, moves = weight.flatten(1), noise.flatten(1)  # C_out C_in*k*k
    norms = (filters**2).sum(dim=1, keepdim=True).sqrt()  # C_out 1
    moves = moves / (moves**2).sum(dim=1, keepdim=True).sqrt()  # C_out C_in*k*k, length 1
    return (norms * moves).view_as(weight)  # C_out C_in k k


def compare_by_hand(report, model: torch.nn.Module) -> float:
    """The lines above against analysis.landscape, on every layer of a network."""
    direction = analysis.landscape.random_direction(model, seed=0)
    generator = torch.Generator().manual_seed(0)  # draws the noise of that direction once more
    differences = []
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            noise = torch.randn(weight.shape, generator=generator)
            expected = direction_by_hand(weight.detach().cpu(), noise)
            ours = direction[name].cpu()
            differences.append(analysis.relative_difference([expected], [ours]))
    moved, still = len(differences), len(direction) - len(differences)
    report.say(f"Largest relative difference of the two: {max(differences):.2g}")
    report.say(f"{moved} weight tensors move. {still} biases and batch-norm parameters stay fixed.")
    report.check("by hand equals analysis.landscape.random_direction", max(differences) < 1e-5)
    return max(differences)


def report_gradients(report, untrained: dict, trained: dict) -> dict:
    """Factors per layer beside theory's; two claims about untrained networks."""
    norms = {", ".join(key): runs for key, runs in untrained.items()}
    after = {f"{name}, BN, after training": runs for name, runs in trained.items()}
    factors = {key: Seeds(map(growth.factor_per_layer, runs)) for key, runs in norms.items()}
    theory = {f"plain, {name}": factor for name, factor in growth.THEORY.items()}
    ratios = {key: factors[key].mean / factor for key, factor in theory.items()}
    report.table(growth.factor_table(norms | after, factors, theory))
    report.say(THEORY)
    default, predicted = gradients.CONDITIONS[0], growth.PREDICTED
    key = f"plain, {default}"
    claim = "without batch norm, PyTorch's initial values let a plain network's gradient shrink"
    measured = f"{{:.3f}} a layer, {ratios[key]:.2f} of theory's"
    report.claim(claim, factors[key], "<", 1.0, predicted[default], measured)
    claim = "with batch norm an untrained network's gradient grows faster if it is plain"
    plain, residual = factors["plain, BN"], factors["residual, BN"]
    measured = f"{{:.3f}} a layer ({ratios['plain, BN']:.2f} of theory's) against {{:.3f}}"
    report.claim(claim, plain, ">", residual, predicted["BN"], measured)
    after_training = {"gradient_norms_after_training": trained}
    return {"gradient_norms": norms, "factor_per_layer": factors} | after_training


def report_landscapes(report, landscapes: dict, nets: dict) -> dict:
    """What the planes around every kind look like; does the shortcut make them flatter?"""
    for name, landscape in landscapes.items():
        # The centre moves no weight: were its loss another one, no point could be trusted.
        equal = landscape.centres("running") == landscape.losses
        report.check(f"{name}: the loss at the centre is the network's own, to the bit", equal)
    report.table([row for name, found in landscapes.items() for row in found.rows(name)])
    report.explain(PLANES)
    if has_pairs(nets):
        claim_flatness(report, landscapes, nets)
    planes = {name: f.grids | {"losses": f.losses} for name, f in landscapes.items()}
    errors = {name: landscape.errors for name, landscape in landscapes.items()}
    rises = {n: {s: f.rise(s) for s in STATISTICS} for n, f in landscapes.items()}
    return {"training_errors": errors, "landscapes": planes, "rise": rises}


def claim_flatness(report, landscapes: dict, nets: dict) -> None:
    """Is it flatter around residual ones, and simple around plain ones? Of seeds with both."""
    losses = [loss for landscape in landscapes.values() for loss in landscape.losses]
    report.explain(EQUAL.format(min(losses), max(losses)))
    for statistics in STATISTICS:
        plain, residual = in_pairs(nets, {n: f.rise(statistics) for n, f in landscapes.items()})
        claim = f"at a training loss of {report.args.target:g} residual networks of "
        claim += f"{report.args.depth} layers lie in flatter places ({statistics} averages)"
        measured = "small random steps raise the loss by {:.2f}, around plain ones by {:.2f}"
        report.claim(claim, residual, "<", plain, published.FLATTER, measured)
    for statistics in STATISTICS:
        shares = {name: f.curves_downwards(statistics) for name, f in landscapes.items()}
        plain, _ = in_pairs(nets, shares)
        claim = f"near plain networks at most 5 % of a random plane curves downwards ({statistics})"
        report.claim(claim, plain, "<=", 0.0, published.SHALLOW_IS_BENIGN, "{:.1%}", margin=0.05)


def has_pairs(nets: dict) -> bool:
    """Whether plain and residual networks are there, and both with one seed at least."""
    seeds = [set(nets.get(kind, ())) for kind in models.TWINS]
    return bool(set.intersection(*seeds))


def in_pairs(nets: dict, values: dict) -> list[Seeds]:
    """Of plain and residual, the values of those seeds for which both networks are there."""
    both = set.intersection(*(set(nets[kind]) for kind in models.TWINS))
    pairs = {kind: zip(nets[kind], values[kind], strict=True) for kind in models.TWINS}
    return [Seeds(value for seed, value in pairs[kind] if seed in both) for kind in models.TWINS]


def trace_block(name: str) -> plotting.diagram.Graph:
    """The graph of a block of 64 channels (bottlenecks: 256) on 56x56 pixels."""
    block = getattr(blocks, name)
    channels = 64 * getattr(block, "expansion", 1)
    return plotting.diagram.trace(block(channels, 64), channels, 56, 56)


def report_architecture(report, graphs: dict[str, plotting.diagram.Graph]) -> dict:
    """How many operations lie on each block's shortcut and after its join."""
    counts = {name: graph.counts() for name, graph in graphs.items()}
    rows = []
    for name, count in counts.items():
        cells = {key: "none" if value is None else value for key, value in count.items()}
        rows.append({"block": name, **cells})
    report.table(rows)
    report.say("Join: where the shortcut meets F, mostly an addition. 0 and 0: x passes unchanged.")
    return {"architecture": counts}


def report_features(report, features: dict[str, dict]) -> dict:
    """Separability by depth and similarity between blocks; does residual separate earlier?"""
    report.table(analysis.features.probe_table(features))
    report.say(PROBES)
    if has_pairs(features):
        halves = {n: [f.probes.half_depth for f in features[n].values()] for n in features}
        plain, residual = in_pairs(features, halves)
        claim = "on features at half depth a linear classifier is right more often in residual "
        claim += "networks, if both were stopped at the same loss"
        source = "none: a question of our own"
        report.claim(claim, residual, ">", plain, source, "{:.1%}, in plain ones {:.1%}")
    similar = {n: Seeds(f.cka_between_blocks for f in by.values()) for n, by in features.items()}
    entries = {
        name: [{**vars(found.probes), "cka": found.cka} for found in by_seed.values()]
        for name, by_seed in features.items()
    }
    return {"cka_between_blocks": similar, "features": entries}


def answer(report, landscapes: dict, nets: dict) -> None:
    """The question of the beginning, answered by the networks that got to the loss."""
    text = NO_PAIRS
    if has_pairs(nets):
        plain, residual = in_pairs(nets, {n: f.rise("running") for n, f in landscapes.items()})
        found = {"holds": "More around residual ones.", "does not hold": "More around plain ones."}
        judged = analysis.verdict(residual, ">", plain)
        text = ANSWER.format(plain, residual, found.get(judged, "These seeds do not settle it."))
    report.answer(text, EXPERIMENT)


if __name__ == "__main__":
    lesson.run(main)
