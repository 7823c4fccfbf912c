"""Lesson 5: four pictures of networks, each of them a measurement.

You will learn
    which networks' gradients vanish, explode or stay level, at the start and after training
    how to look at a loss landscape so that two networks can be compared, and how rough it is
    that a block's code is a graph, and where the shortcut runs in it
    where in a network the classes become linearly separable, and which blocks resemble each other
Builds on: lessons 1 to 3. Papers: Yang et al. 2019 (arXiv:1902.08129), theorem 3.10; Li et al. 2018
(arXiv:1712.09913), sections 4 and 6; Kornblith et al. 2019 (arXiv:1905.00414), section 3; Alain &
Bengio 2016 (arXiv:1610.01644).
Takes about a minute on two cores (two networks trained on the built-in Shapes-10, at 16x16).
Writes gradient_flow.png, loss_landscape.png, architecture.png, feature_evolution.png, report.txt
and results.json to outputs/05_visualization/, with --checkpoint to
outputs/05_visualization_checkpoint/.

    python 05_visualization.py --image CAT.jpg
    python 05_visualization.py --checkpoint outputs/06_practical_example/last.pt
    python 05_visualization.py --data-dir DIR --depth 56 --images 20000 --epochs 8 --batch-size 64
"""

import math
from dataclasses import replace
from pathlib import Path

from common import UserError, analysis, blocks, data, lesson, models, plotting, training
from common.analysis import Seeds, gradients
from common.analysis.landscape import STATISTICS
from common.plotting.diagram import DRAWABLE

import torch

SETTINGS = {  # name: (value, value with --quick, type, meaning)
    "image_size": (None, None, lesson.positive, "pixels; 16, or a checkpoint's, at most 64"),
    "images": (None, 400, lesson.positive, "train and val; 3000, or all with --checkpoint"),
    "depth": (32, 14, lesson.positive, "of the two networks, 6n + 2"),
    "width": (8, None),
    "epochs": (6, 1),
    "batch_size": (32, None),
    "lr": (0.05, None),
    "seeds": (3, 2, lesson.several, "networks for the gradients at the start, 2 or more"),
    "resolution": (15, 5, lesson.positive, "points along a side of a landscape, odd"),
    "radius": (1.0, None, lesson.rate, "of a landscape; 1: a filter moves by its own norm"),
    "directions": (3, 2, lesson.several, "random pairs for a landscape, 2 or more"),
    "landscape_images": (128, 32, lesson.several, "for a landscape's loss, 2 or more"),
}
LI_2018 = "deep networks: chaotic without shortcuts, nearly convex with (Li et al. 2018, sec. 6)"
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
    twins = {kind: build(kind, "BN", args.seed) for kind in models.TWINS}
    script = f"{Path(__file__).stem}_checkpoint" if nets else __file__
    report = lesson.Report(script, args, dataset.name, dataset.why)
    dataset = dataset.to(report.device)
    nets = {name: model.to(report.device) for name, model in nets.items()}
    nets = nets or train(twins, dataset, args, report.device)
    setup = describe(args, dataset)

    report.section("1. A random direction, each filter scaled to the norm of the trained one")
    measured = {"by_hand_difference": compare_by_hand(report, next(iter(nets.values())))}

    report.section("2. Gradient flow: vanishing, exploding, level")
    # Several fresh networks, because their weights are random; the trained ones are what they are.
    x, y = next(dataset.batches("train", 64))
    seeds = range(args.seed, args.seed + args.seeds)
    start = gradients.at_start(build, seeds, x, y)
    trained = {name: gradients.by_block(model, x, y) for name, model in nets.items()}
    measured |= report_gradients(report, start, trained)
    subtitle = f"At the start: depth {args.depth}, mean and range of {args.seeds} seeds; grey: "
    subtitle += f"theory for wide plain networks. {len(y)} images of {setup}"
    report.figure(plotting.flow.gradient_flow(start, trained, subtitle), "gradient_flow")

    report.section("3. Loss landscape around the trained weights")
    # The features of section 5 are measured here, for the training error: the surroundings of a
    # network that has learnt nothing may be smooth as well. Every plane is measured twice, for
    # moved weights do not fit the running statistics of batch norm: the loss rises with both.
    features = analysis.features.measure(nets, dataset, image)
    errors = {name: found.probes.training_error for name, found in features.items()}
    x, y = next(dataset.batches("train", args.landscape_images))
    steps = analysis.landscape.axis(args.radius, args.resolution)
    seeds = range(args.seed, args.seed + args.directions)
    landscapes = analysis.landscape.measure(nets, x, y, steps, seeds, report.device)
    measured |= report_landscapes(report, landscapes, errors) | {"landscape_steps": steps}
    subtitle = f"{len(y)} images of {setup}"
    figure = plotting.landscape.loss_landscape(landscapes, errors, steps, subtitle)
    report.figure(figure, "loss_landscape")

    report.section("4. Architecture: the blocks' own code as graphs")
    # Traced, not drawn by hand: a block whose code changes has another picture.
    graphs = {name: trace_block(name) for name in args.diagrams}
    measured |= report_architecture(report, graphs)
    report.figure(plotting.diagram.draw(graphs), "architecture")

    report.section("5. Features: where classes separate, which blocks are alike")
    measured |= report_features(report, features)
    figure = plotting.features.feature_evolution(image, dataset.classes, features, setup)
    report.figure(figure, "feature_evolution")
    return report.save(measured)


def arguments(argv: list[str] | None):
    """The shared flags and this lesson's own."""
    flags = lesson.parser(__doc__, SETTINGS)
    add = flags.add_argument
    files = "written by lesson 6: look at these networks instead of training two"
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

    Raises: UserError if that is for other classes, and for fewer than 12 training images.
    """
    args.image_size = args.image_size or min(entries.get("image_size", 16), 64)
    args.images = args.images or (None if entries else 3_000)
    dataset = data.load(args.data, args.data_dir, args.data_url, args.image_size, args.images)
    if entries and list(entries["classes"]) != dataset.classes:
        raise UserError(f"--checkpoint is for other classes than those of {dataset.name}")
    if "mean" in entries:  # as the network knows them: a fine-tuned one has ImageNet's
        dataset = replace(dataset, normalisation=(entries["mean"], entries["std"]))
    if len(dataset.train.labels) < 12:  # three parts of four, the fewest that CKA can compare
        raise UserError(f"{dataset.name}: at least 12 training images are needed")
    return dataset


def train(twins: dict, dataset: data.Dataset, args, device: str) -> dict[str, torch.nn.Module]:
    """Train both twins on the same batches, by the same schedule; returns them.

    Raises: UserError if one diverges.
    """
    runs = [training.Run(kind, args.seed, twin, {"lr": args.lr}) for kind, twin in twins.items()]
    results = training.train_all(runs, dataset, args.epochs, args.batch_size, device)
    if [None] in results.values():
        raise UserError("the loss of one network stopped being a number: try a smaller --lr")
    return twins


def describe(args, dataset: data.Dataset) -> str:
    """Images and networks, for the subtitles of the figures."""
    nets = f"networks of depth {args.depth}, width {args.width}, trained {args.epochs} epochs"
    if args.checkpoint:
        nets = "networks from checkpoints"
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
    still = len(direction) - len(differences)
    report.say(f"largest relative difference: {max(differences):.1e}")
    report.say(f"{len(differences)} tensors move; {still}, biases and batch norm, stay")
    report.check("by hand equals analysis.landscape.random_direction", max(differences) < 1e-5)
    return max(differences)


def report_gradients(report, start: dict, trained: dict) -> dict:
    """Factors per layer and what the gradient does; two claims about plain networks' start."""
    norms = {", ".join(key): runs for key, runs in start.items()}
    after = {f"{name}, BN, after training": [run] for name, run in trained.items()}
    factors = {key: Seeds(map(gradients.factor_per_layer, runs)) for key, runs in norms.items()}
    rows = []
    for key, runs in (norms | after).items():
        factor = f"{factors[key]:.3f}" if key in factors else ""
        row = {"network": key, "gradient factor per layer, towards the input": factor}
        row["first / last block"] = f"{gradients.first_over_last(runs):.1e}"
        row["its gradient"] = gradients.course(runs)
        rows.append(row)
    report.table(rows)
    report.say(f"Level: the ends differ by less than a factor of {gradients.LEVEL}. If they")
    report.say(f"differ by more, the factor a block counts: above {gradients.GROWS} the gradient")
    report.say(f"explodes, below {gradients.FADES} it vanishes, else it grows or fades slowly.")
    default, predicted = gradients.CONDITIONS[0], gradients.PREDICTED
    sentence = "plain, PyTorch's default init, no BN: the gradient vanishes towards the input"
    plain = factors[f"plain, {default}"]
    report.claim(sentence, plain, "<", 1.0, predicted[default], "{:.3f} per layer")
    sentence = "BN, at the start: plain's gradient grows faster towards the input than residual's"
    plain, residual = factors["plain, BN"], factors["residual, BN"]
    report.claim(sentence, plain, ">", residual, predicted["BN"], "{:.3f} against {:.3f}")
    after_training = {"gradient_norms_after_training": trained}
    return {"gradient_norms": norms, "factor_per_layer": factors} | after_training


def report_landscapes(report, landscapes: dict, errors: dict[str, float]) -> dict:
    """Training error and roughness of every network; is the residual one smoother?"""
    shares = {s: {n: f.curves_downwards(s) for n, f in landscapes.items()} for s in STATISTICS}
    rows = []
    for name, landscape in landscapes.items():
        # The centre moves no weight: were its loss another one, no point could be trusted.
        equal = all(centre == landscape.loss for centre in landscape.centres)
        report.check(f"{name}: the loss at the centre is the network's own, to the bit", equal)
        row = {"network": name, "training error (%)": f"{100 * errors[name]:.1f}"}
        row["loss (nats)"] = f"{landscape.loss:.3f}"
        row["curves downwards"] = f"{shares['running'][name]:.1%}"
        row["with BN statistics recomputed"] = f"{shares['recomputed'][name]:.1%}"
        rows.append(row)
    report.table(rows)
    report.say(f"Error: of the first {analysis.features.PROBE_FITTED} training images, or of all.")
    report.say("Curves downwards: where the Hessian in the plane, by second differences, has a")
    report.say("negative eigenvalue, as it also has where the loss levels off. The deviation is")
    report.say("over pairs of directions.")
    if set(models.TWINS) <= set(landscapes):
        for statistics, share in shares.items():
            sentence = "less of the plane curves downwards around residual than around plain"
            sentence = f"{sentence}, {statistics} BN"
            plain, residual = share["plain"], share["residual"]
            report.claim(sentence, residual, "<", plain, LI_2018, "{:.1%} against {:.1%}")
    planes = {name: f.grids | {"plain": f.loss} for name, f in landscapes.items()}
    return {"training_errors": errors, "landscapes": planes, "curves_downwards": shares}


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
    return {"architecture": counts}


def report_features(report, features: dict[str, analysis.features.Features]) -> dict:
    """Separability by depth and similarity between blocks; is residual's end more separable?"""
    rows, entries = [], {}
    for name, found in features.items():
        shares = [f"{100 * share:.1f}" for share in found.probes.accuracies]
        row = {"network": name, "probe, mean colour (%)": shares[0]}
        row["at half depth (%)"] = shares[len(shares) // 2]
        row["after the last block (%)"] = shares[-1]
        row["CKA between blocks"] = f"{found.cka_between_blocks:.2f}"
        rows.append(row)
        response = {"class": found.response.predicted, "p": found.response.probability}
        entries[name] = {**vars(found.probes), "cka": found.cka, **response}
    report.table(rows)
    report.say("Probe: validation accuracy of a linear classifier. CKA: over thirds of the images.")
    if set(models.TWINS) <= set(features):
        claim_separability(report, features["residual"].probes, features["plain"].probes)
    similarity = {name: found.cka_between_blocks for name, found in features.items()}
    return {"cka_between_blocks": similarity, "features": entries}


def claim_separability(report, residual, plain) -> None:
    """Compare the probes of two networks after their last blocks."""
    sentence = "classes are linearly more separable after residual's last block than after plain's"
    source = "plain networks of this depth train worse (He et al. 2015, section 4.2; lesson 3)"
    better, worse = Seeds(residual.accuracies[-1:]), Seeds(plain.accuracies[-1:])
    # One network each, so there is no spread over seeds: chance is in the choice of the images.
    first, second = residual.standard_errors[-1], plain.standard_errors[-1]
    errors = f" (standard errors {100 * first:.1f} and {100 * second:.1f} %)"
    measured = "{:.1%} against {:.1%}" + errors
    report.claim(sentence, better, ">", worse, source, measured, noise=math.hypot(first, second))


if __name__ == "__main__":
    lesson.run(main)
