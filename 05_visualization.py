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
from pathlib import Path

import torch

from common import UserError, analysis, blocks, data, diagram, experiment, flow, landscape, lesson
from common import inspection_figures as figures
from common.checkpoints import load_models
from common.experiment import KINDS, Run
from common.plotting import use_theme
from common.similarity import FITTED, look_inside, off_diagonal

BLOCKS = ["PlainBlock", "BasicBlock", "Bottleneck", "PreActBlock"]


def direction_by_hand(weight: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Filter normalisation in raw tensor operations: each filter of the noise gets w's norm."""
    filters, moves = weight.flatten(1), noise.flatten(1)  # C_out C_in*k*k
    norms = (filters**2).sum(dim=1, keepdim=True).sqrt()  # C_out 1
    moves = moves / (moves**2).sum(dim=1, keepdim=True).sqrt()  # C_out C_in*k*k, length 1
    return (norms * moves).view_as(weight)  # C_out C_in k k


def by_hand(report, model) -> float:
    """The lines above against common.landscape.direction, on every layer of a network."""
    report.section("1. A random direction, each filter scaled to the norm of the trained one")
    parts, generator, gaps = landscape.direction(model, 0), torch.Generator().manual_seed(0), []
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            noise = torch.randn(weight.shape, generator=generator)
            expected = direction_by_hand(weight.detach().cpu(), noise)
            gaps.append(analysis.relative_difference([expected], [parts[name].cpu()]))
    report.say(f"largest relative difference: {max(gaps):.1e}")
    report.say(f"{len(gaps)} tensors move; {len(parts) - len(gaps)}, biases and batch norm, stay")
    report.check("by hand equals common.landscape.direction", max(gaps) < 1e-5)
    return max(gaps)


def trained_twins(args, dataset: data.Dataset) -> dict[str, torch.nn.Module]:
    """A plain and a residual network: same initial values, same batches, same schedule.

    Raises: UserError if one diverges.
    """
    size = args.depth, args.classes, args.width
    nets = {kind: experiment.build_twin(kind, *size, args.seed) for kind in KINDS}
    runs = [Run(k, args.seed, model, {"lr": args.lr}) for k, model in nets.items()]
    results = experiment.train_all(runs, dataset, args.epochs, args.batch_size, args.device)
    if [None] in results.values():
        raise UserError("the loss of one network stopped being a number: try a smaller --lr")
    return nets


def report_gradients(report, start: dict, trained: dict) -> dict[str, list[float]]:
    """Factors per layer and words; findings about plain networks at the start."""
    report.section("2. Gradient flow: vanishing, exploding, level")
    factors = {key: [flow.factor_per_layer(run) for run in runs] for key, runs in start.items()}
    rows = []
    for key, runs in [*start.items(), *(((name, None), [run]) for name, run in trained.items())]:
        label = f"{key[0]}, {key[1] or 'BN, after training'}"
        factor = lesson.summary(factors[key]) if key in factors else ""
        rows.append([label, factor, f"{flow.first_over_last(runs):.1e}", flow.word(runs)])
    header = ["network", "gradient factor per layer, towards the input", "first / last block"]
    report.table([*header, "its gradient"], rows)
    report.say(f"Level: the ends differ by less than a factor of {flow.LEVEL}. Explodes: by more")
    report.say(f"than {flow.GROWS} a block; vanishes: by less than {flow.FADES}; else slowly.")
    vanish, explode = factors["plain", flow.CONDITIONS[0]], factors["plain", "BN"]
    report.finding(
        "plain, PyTorch's default init, no BN: the gradient vanishes towards the input",
        flow.PREDICTED[flow.CONDITIONS[0]],
        lesson.summary(vanish),
        lesson.greater([1.0] * len(vanish), vanish),
    )
    report.finding(
        "BN, at the start: plain's gradient grows faster towards the input than residual's",
        flow.PREDICTED["BN"],
        f"{lesson.summary(explode)} against {lesson.summary(factors['residual', 'BN'])}",
        lesson.greater(explode, factors["residual", "BN"]),
    )
    return {", ".join(key): values for key, values in factors.items()}


def roughness(planes: dict) -> dict[str, dict[str, list[float]]]:
    """Share of each plane that curves downwards: {statistics: {network: one share a seed}}."""
    share = landscape.negative_curvature
    return {m: {n: [share(g) for g in planes[n][m]] for n in planes} for m in landscape.STATISTICS}


def report_landscape(report, planes: dict, errors: dict, rough: dict, images: int) -> None:
    """Training error and roughness of every network; is the residual one smoother?"""
    report.section("3. Loss landscape around the trained weights")
    rows = []
    for name, found in planes.items():
        half = len(found["running"][0]) // 2
        centres = {grid[half][half] for grid in found["running"]}
        report.check(
            f"{name}: the loss at the centre is the network's own, to the bit",
            centres == {found["plain"]},
        )
        shares = [lesson.percent(rough[mode][name]) for mode in landscape.STATISTICS]
        rows.append([name, f"{100 * errors[name]:.1f}", f"{found['plain']:.3f}", *shares])
    header = ["network", "training error (%)", "loss (nats)", "curves downwards (% of the plane)"]
    report.table([*header, "with BN statistics recomputed"], rows)
    report.say(f"Error: of {images} training images. Downwards: by second differences, the Hessian")
    report.say("in the plane has a negative eigenvalue, as it also has where the loss levels off.")
    report.say("Spread: over pairs of directions.")
    if not set(KINDS) <= set(planes):
        return
    for mode in landscape.STATISTICS:
        plain, residual = rough[mode]["plain"], rough[mode]["residual"]
        report.finding(
            f"less of the plane curves downwards around residual than around plain, {mode} BN",
            "deep networks: chaotic without shortcuts, nearly convex with (Li et al. 2018, sec. 6)",
            f"{lesson.percent(residual)} % against {lesson.percent(plain)} %",
            lesson.greater(plain, residual),
        )


def architecture(report, names: list[str]) -> dict[str, diagram.Graph]:
    """Trace every block at 64 channels (bottlenecks: 256) and 56x56 pixels."""
    report.section("4. Architecture: the blocks' own code as graphs")
    graphs, rows = {}, []
    for name in names:
        cls = getattr(blocks, name)
        channels = 64 * getattr(cls, "expansion", 1)
        graphs[name] = diagram.trace(cls(channels, 64), channels, 56, 56)
        rows.append([name, *("none" if n is None else n for n in graphs[name].counts().values())])
    report.table(["block", "operations", "on the shortcut", "after the join"], rows)
    return graphs


def report_features(report, seen: dict[str, dict]) -> dict[str, list[float]]:
    """Separability by depth and similarity between blocks, by network."""
    report.section("5. Features: where classes separate, which blocks are alike")
    alike = {n: [off_diagonal(m) for m in found["cka"]] for n, found in seen.items()}
    rows = []
    for name, found in seen.items():
        accuracies = found["accuracies"]
        picked = [f"{100 * accuracies[i]:.1f}" for i in (0, len(accuracies) // 2, -1)]
        rows.append([name, *picked, lesson.summary(alike[name], 2)])
    header = ["network", "probe, mean colour (%)", "at half depth (%)", "after the last block (%)"]
    report.table([*header, "CKA between blocks"], rows)
    report.say("Probe: validation accuracy of a linear classifier. CKA: over thirds of the images.")
    if set(KINDS) <= set(seen):
        ends = {k: (f["accuracies"][-1], f["standard_errors"][-1]) for k, f in seen.items()}
        (a, da), (b, db) = ends["residual"], ends["plain"]
        report.finding(
            "classes are linearly more separable after residual's last block than after plain's",
            "plain networks of this depth train worse (He et al. 2015, section 4.2; lesson 3)",
            f"{100 * a:.1f} +- {100 * da:.1f} % against {100 * b:.1f} +- {100 * db:.1f} %",
            lesson.verdict(a - b, math.hypot(da, db)),
        )
    return alike


def arguments(argv: list[str] | None):
    """The shared flags and this lesson's own."""
    flags = lesson.parser(__doc__)
    add, whole, several = flags.add_argument, lesson.positive, lesson.several
    default = "(default: %(default)s)"
    files = "written by lesson 6: look at these networks instead of training two"
    add("--checkpoint", type=Path, nargs="+", metavar="FILE", help=files)
    add("--image", type=Path, metavar="FILE", help="a picture to send through the networks")
    add("--resolution", type=whole, default=15, help=f"of a landscape, odd {default}")
    add("--radius", type=lesson.rate, default=1.0, help=f"of a landscape {default}")
    add("--directions", type=several, default=3, help=f"random pairs, 2 or more {default}")
    add("--landscape-images", type=several, default=128, help=f"for its loss, 2 or more {default}")
    drawn = f"blocks to draw, of {', '.join(diagram.DRAWABLE)} (default: {' '.join(BLOCKS)})"
    draw = {"default": BLOCKS, "choices": diagram.DRAWABLE, "help": drawn}
    add("--diagrams", nargs="+", metavar="BLOCK", **draw)
    add("--depth", type=whole, default=32, help=f"6n + 2 {default}")
    add("--seeds", type=several, default=3, help=f"gradients at the start, 2 or more {default}")
    add("--epochs", type=whole, default=6, help=f"passes over the training images {default}")
    add("--width", type=whole, default=8, help=f"channels, first stage {default}")
    add("--image-size", type=whole, help="pixels (default: 16, or a checkpoint's, at most 64)")
    add("--images", type=whole, help="train and val (default: 3000, or all with --checkpoint)")
    add("--batch-size", type=whole, default=32, help=f"images {default}")
    add("--lr", type=lesson.rate, default=0.05, help=f"peak learning rate {default}")
    args = flags.parse_args(argv)
    if args.quick:
        args.depth, args.epochs, args.resolution, args.landscape_images = 14, 1, 5, 32
        args.images, args.directions, args.seeds = args.images or 400, 2, 2
    if args.resolution < 3 or args.resolution % 2 == 0:
        flags.error("--resolution must be odd, and 3 or more")
    return args


def main(argv: list[str] | None = None) -> dict:
    """Run the lesson; returns what it measured."""
    args = arguments(argv)
    use_theme(args.show)
    nets, entries = load_models(args.checkpoint or [])
    args.image_size = args.image_size or min(entries.get("image_size", 16), 64)
    args.images = args.images or (None if nets else 3_000)
    dataset = data.load(args.data, args.data_dir, args.data_url, args.image_size, args.images)
    if nets and list(entries["classes"]) != dataset.classes:
        raise UserError(f"--checkpoint is for other classes than those of {dataset.name}")
    if len(dataset.train.labels) < 12:
        raise UserError(f"{dataset.name}: at least 12 training images are needed")
    args.classes = len(dataset.classes)
    size = args.depth, args.classes, args.width
    experiment.build_twin("plain", *size, args.seed)  # refuses a wrong depth before all else
    image = dataset.val.images[0].permute(1, 2, 0).numpy()  # H W 3
    image = data.read_image(args.image, args.image_size) if args.image else image
    name = f"{Path(__file__).stem}_checkpoint" if nets else __file__
    report = lesson.Report(name, args, dataset.name, dataset.why)
    args.device = report.results["device"]
    dataset = dataset.to(args.device)
    nets = {n: m.to(args.device) for n, m in nets.items()} or trained_twins(args, dataset)
    return report.save(four_pictures(report, args, nets, dataset, image))


def four_pictures(report, args, nets, dataset: data.Dataset, image) -> dict:
    """Measure, report and draw, one section after the other."""
    setup = f"{dataset.name}, {args.image_size}x{args.image_size} pixels; "
    twins = f"networks of depth {args.depth}, width {args.width}, trained {args.epochs} epochs"
    setup += "networks from checkpoints" if args.checkpoint else twins
    measured = {"by_hand_difference": by_hand(report, next(iter(nets.values())))}
    measured |= gradients(report, args, nets, dataset, setup)
    seen = look_inside(nets, dataset, image)
    errors = {name: found["training_error"] for name, found in seen.items()}
    measured |= {"training_errors": errors}
    measured |= landscapes(report, args, nets, dataset, errors, setup)
    graphs = architecture(report, args.diagrams)
    report.figure(diagram.draw(graphs), "architecture")
    measured["architecture"] = {name: graph.counts() for name, graph in graphs.items()}
    measured["cka_between_blocks"] = report_features(report, seen)
    note = f"Four strongest channels a stage; probes on pooled features, standard error. {setup}"
    figure = figures.feature_evolution(image, dataset.classes, seen, note)
    report.figure(figure, "feature_evolution")
    features = {n: {k: v for k, v in f.items() if k != "channels"} for n, f in seen.items()}
    return measured | {"features": features}


def gradients(report, args, nets, dataset: data.Dataset, setup: str) -> dict:
    """Gradients by depth: of fresh networks under three conditions, and of the trained ones."""
    x, y = next(dataset.batches("train", 64))
    seeds, size = range(args.seed, args.seed + args.seeds), (args.depth, args.classes, args.width)
    start = flow.at_start(lambda k, s: experiment.build_twin(k, *size, s), KINDS, seeds, x, y)
    trained = {name: flow.at_blocks(model, x, y) for name, model in nets.items()}
    factors = report_gradients(report, start, trained)
    note = f"At the start: depth {args.depth}, mean and range of {args.seeds} seeds; grey: theory "
    note += f"for wide plain networks. {len(y)} images of {setup}"
    report.figure(figures.gradient_flow(start, trained, note), "gradient_flow")
    norms = {", ".join(key): runs for key, runs in start.items()}
    measured = {"gradient_norms": norms, "gradient_norms_after_training": trained}
    return measured | {"factor_per_layer": factors}


def landscapes(report, args, nets, dataset: data.Dataset, errors: dict, setup: str) -> dict:
    """The loss on planes through the trained weights."""
    x, y = next(dataset.batches("train", args.landscape_images))
    steps = landscape.axis(args.radius, args.resolution)
    seeds = range(args.seed, args.seed + args.directions)
    planes = landscape.survey(nets, x, y, steps, seeds, args.device)
    rough = roughness(planes)
    report_landscape(report, planes, errors, rough, min(FITTED, len(dataset.train.labels)))
    note = f"{args.resolution}x{args.resolution} points; mean +- deviation of {args.directions} "
    note += f"pairs of directions, the first is drawn. {len(y)} images of {setup}"
    report.figure(figures.loss_landscape(planes, errors, rough, steps, note), "loss_landscape")
    return {"landscape_steps": steps, "landscapes": planes, "curves_downwards": rough}


if __name__ == "__main__":
    lesson.run(main)
