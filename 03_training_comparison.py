"""Lesson 3: plain against residual: same parameters, initial values, batches, learning rates.

You will learn
    what "degradation" is: a deeper plain network has a higher *training* error
    that the same network with shortcuts does not, and trains in fewer steps
    that this happens although the plain network's gradients are not small
    what single blocks are worth: one deleted at a time, without retraining
Builds on: lessons 1 and 2. Papers: He et al. 2015 (arXiv:1512.03385), section 4.2; Veit et al.
2016 (arXiv:1605.06431), section 4.1.
Takes about a minute on two cores (12 networks on the built-in Shapes-10, at 16x16 pixels).
Writes training_curves.png, gradients.png, lesions.png, report.txt and results.json to
outputs/03_training_comparison/.

    python 03_training_comparison.py --ablate --sweep
    python 03_training_comparison.py --data-dir DIR --images 10000 --epochs 4 --batch-size 128
"""

import statistics

import torch

from common import ablations, analysis, data, experiment, lesson, plotting, training
from common import comparison_figures as figures
from common.experiment import KINDS, Run, pick


def build(args, kind: str, depth: int, seed: int) -> torch.nn.Module:
    """A network whose initial values are a function of seed and depth, not of its kind."""
    return experiment.build_twin(kind, depth, args.classes, args.width, seed)


def twins(args, lr: float) -> list[Run]:
    """Plain and residual networks of every depth and seed."""
    return [
        Run(f"{kind}-{depth}", seed, build(args, kind, depth, seed), {"lr": lr})
        for depth in args.depths
        for seed in range(args.seed, args.seed + args.seeds)
        for kind in KINDS
    ]


def check_twins(report, runs: list[Run]) -> None:
    """Equal parameter counts, equal initial tensors, or the comparison means nothing."""
    report.section("1. Twins")
    rows, alike = [], True
    for plain, residual in zip(runs[::2], runs[1::2], strict=True):
        states = plain.model.state_dict(), residual.model.state_dict()
        equal = all(torch.equal(states[0][name], states[1][name]) for name in states[1])
        counts = [analysis.parameter_count(run.model) for run in (plain, residual)]
        numbers = [plain.seed, *(f"{count:,}" for count in counts), "yes" if equal else "no"]
        rows.append([f"{plain.name}, {residual.name}", *numbers])
        alike = alike and equal and counts[0] == counts[1]
    report.table(["twins", "seed", "parameters", "and", "same initial values"], rows)
    report.check("twins differ in the shortcut alone", alike)


def overview(report, results, lesions) -> None:
    """One row a network: errors, test accuracy, stability."""
    report.section("2. After training: mean +- standard deviation over seeds")
    rows = []
    for name, found in results.items():
        shares = pick(found, "train_error"), pick(found, "val_error", -1)
        tested = [accuracies[0] for accuracies in lesions[name]]
        rise = lesson.summary(pick(found, "largest_rise"), 2)
        rows.append([name, *map(lesson.percent, (*shares, tested)), rise, found.count(None)])
    header = ["network", "training error (%)", "validation error (%)", "test accuracy (%)"]
    report.table([*header, "largest rise of loss (nats)", "diverged"], rows)
    n, window = experiment.LESION_IMAGES, experiment.WINDOW
    report.say(f"Test: the first {n} images. Rise: in one step, of the mean over {window} steps.")


def gradients(report, results, deep: int, end: int) -> None:
    """The deep twins' activation gradients and updates compared, through training."""
    report.section(f"3. Gradients and updates: plain-{deep} over residual-{deep}")
    plain, residual, rows = results[f"plain-{deep}"], results[f"residual-{deep}"], []
    for step in experiment.recorded_steps(end):
        ratio = 10 ** statistics.fmean(experiment.log_gradient_ratio(plain, residual, step))
        update = f"{experiment.update_ratio(plain, residual, step):.1f}" if step < end else ""
        rows.append([step, f"{ratio:.1f}", update])
    report.table(["updates made", "activation gradient", "relative update"], rows)
    report.say(
        "Gradient: norm at the blocks' outputs, geometric mean over blocks and seeds. Update:"
    )
    report.say(
        "the norm of the change of all weights over the norm of the weights, median over seeds."
    )


def degradation(report, errors: dict[str, list[float]], shallow: int, deep: int) -> None:
    """Does depth cost training error?"""
    plain, residual = ([errors[f"{k}-{d}"] for d in (shallow, deep)] for k in KINDS)
    report.finding(
        f"plain: depth {deep} has a higher training error than depth {shallow}",
        "0.7 -> 3.3 % from depth 20 to 56, fully trained on CIFAR-10 (a-martyn/resnet)",
        f"{lesson.percent(plain[0])} -> {lesson.percent(plain[1])} %",
        lesson.greater(plain[1], plain[0]),
    )
    report.finding(
        f"residual: depth {deep} has no higher training error than depth {shallow}",
        "0.04 % at depth 56, fully trained on CIFAR-10 (a-martyn/resnet)",
        f"{lesson.percent(residual[0])} -> {lesson.percent(residual[1])} %",
        lesson.not_greater(residual[1], residual[0]),
    )


def training_findings(report, depth: int, steps: dict, deep: int, ratios, rises: dict) -> None:
    """Convergence, and two things that are not the reason why deep plain networks fail."""
    report.finding(
        f"residual-{depth} needs fewer steps than plain-{depth} to plain-{depth}'s final loss",
        "faster early convergence (He et al. 2015, section 4.1, for 18 layers)",
        f"{lesson.summary(steps['residual'], 0)} against {lesson.summary(steps['plain'], 0)} steps",
        lesson.greater(steps["plain"], steps["residual"]),
    )
    report.finding(
        f"not vanishing: plain-{deep}'s early gradients are larger than residual-{deep}'s",
        "with BN, backward signals have healthy norms (He et al. 2015, section 4.1)",
        f"log10 of plain / residual: {lesson.summary(ratios, 2)}",
        lesson.greater(ratios, [0.0] * len(ratios)),
    )
    report.finding(
        f"not instability: plain-{deep}'s loss rises less on its way than residual-{deep}'s",
        "none found in the literature",
        f"{lesson.summary(rises['plain'], 2)} against {lesson.summary(rises['residual'], 2)} nats",
        lesson.greater(rises["residual"], rises["plain"]),
    )


def lesion_findings(report, shallow: int, lost: dict, deep: int, at_change, elsewhere) -> None:
    """What a block is worth: shares of the accuracy above chance, and test accuracies."""
    report.finding(
        f"residual-{shallow} loses less than plain-{shallow} when one block is deleted",
        "residual: little; plain: everything (Veit et al. 2016, section 4.1, trained fully)",
        f"of the accuracy above chance {lesson.percent(lost['residual'])} % against "
        f"{lesson.percent(lost['plain'])} %",
        lesson.greater(lost["plain"], lost["residual"]),
    )
    report.finding(
        f"residual-{deep}: a block that changes the resolution is missed more than another",
        "accuracy falls there (Veit et al. 2016, figure 3)",
        f"test accuracy {lesson.percent(at_change)} % against {lesson.percent(elsewhere)} %",
        lesson.greater(elsewhere, at_change),
    )


def arguments(argv: list[str] | None):
    """The shared flags and this lesson's own."""
    flags = lesson.parser(__doc__)
    add, whole = flags.add_argument, lesson.positive
    depths = "of the twins, 6n + 2 (default: 20 56)"
    add("--depths", type=whole, nargs="+", default=[20, 56], metavar="N", help=depths)
    lesson.training_flags(flags, lr=0.015, image_size=16, images=3000)
    add("--ablate", action="store_true", help="also change one thing at a time")
    add("--sweep", action="store_true", help="also try other learning rates for each network")
    args = flags.parse_args(argv)
    if args.quick:
        args.depths, args.epochs, args.images, args.image_size = [8, 14], 1, 600, 8
    args.seeds = 2 if args.quick else args.seeds
    args.depths = sorted(set(args.depths))
    if len(args.depths) < 2:
        flags.error("--depths needs two different depths")
    return args


def judge(report, numbers: dict, shallow: int, deep: int) -> None:
    """Every claim, with the numbers that decide it."""
    report.section("4. Findings")
    degradation(report, numbers["errors"], shallow, deep)
    steps, rises = numbers["steps_to_plain_loss"], numbers["largest_rises"]
    training_findings(report, shallow, steps, deep, numbers["log_ratios"], rises)
    lesion_findings(report, shallow, numbers["lost_shares"], deep, *numbers["split_lesions"])


def draw(report, args, results, lesions, numbers) -> None:
    """The three figures; their titles are formatted from the numbers."""
    shallow, deep = args.depths[0], args.depths[-1]
    setup = f"{report.results['data']}, {args.image_size}x{args.image_size} pixels, width "
    setup += f"{args.width}, {args.epochs} epochs; {args.seeds} seeds: mean"
    mean = {n: f"{100 * statistics.fmean(errors):.0f} %" for n, errors in numbers["errors"].items()}
    pairs = [f"{k} {mean[f'{k}-{shallow}']} to {mean[f'{k}-{deep}']}" for k in KINDS]
    title = f"Training error from depth {shallow} to {deep}: {', '.join(pairs)}"
    fine = {name: [run for run in found if run] for name, found in results.items()}
    note = f"{setup} and range. Title: measured after training; curves: augmented, as they pass"
    guessing = 1 - 1 / args.classes
    figure = figures.training_curves(fine, experiment.WINDOW, guessing, title, note)
    report.figure(figure, "training_curves")
    logs = [statistics.fmean(numbers[key]) for key in ("log_ratios", "log_ratios_at_end")]
    title = f"plain-{deep}'s gradients are {10 ** logs[0]:.1f} times residual-{deep}'s early on, "
    title += f"{10 ** logs[1]:.1f} times after training"
    pair = {f"{kind}-{deep}": fine[f"{kind}-{deep}"] for kind in KINDS}
    if all(pair.values()):
        report.figure(figures.gradient_maps(pair, title, setup), "gradients")
    runs = torch.tensor(lesions[f"residual-{deep}"])  # seeds, whole + one a block
    whole, kept = 100 * runs[:, 0].mean().item(), 100 * runs[:, 1:].mean().item()
    title = f"residual-{deep}: {whole:.0f} % test accuracy, {kept:.0f} % without one block (mean)"
    setup += " and range. Dotted: the resolution changes"
    figure = figures.lesion_curves(lesions, (shallow, deep), 1 / args.classes, title, setup)
    report.figure(figure, "lesions")


def main(argv: list[str] | None = None) -> dict:
    """Run the lesson; returns what it measured."""
    args = arguments(argv)
    plotting.use_theme(args.show)
    dataset = data.load(args.data, args.data_dir, args.data_url, args.image_size, args.images)
    args.classes = len(dataset.classes)
    args.steps = args.epochs * training.steps_per_epoch(dataset, args.batch_size)
    runs = twins(args, args.lr)
    report = lesson.Report(__file__, args, dataset.name, dataset.why)
    args.device = report.results["device"]
    dataset = dataset.to(args.device)
    check_twins(report, runs)
    results = experiment.train_all(runs, dataset, args.epochs, args.batch_size, args.device)
    lesions = experiment.lesions(runs, dataset, args.device)
    overview(report, results, lesions)
    gradients(report, results, args.depths[-1], args.steps)
    ends = args.depths[0], args.depths[-1]
    measured = experiment.compare_twins(results, lesions, *ends, 1 / args.classes, args.steps)
    judge(report, measured, *ends)
    draw(report, args, results, lesions, measured)
    measured |= {"results": results, "test_accuracy_without_blocks": lesions}
    if args.ablate:
        report.section(f"5. Ablations of residual-{ends[0]}: one change at a time")
        measured["ablations"] = ablations.ablate(report, dataset, args, ends[0])
    if args.sweep:
        report.section("6. Sweep of the learning rate: each network at its best (validation)")
        measured["sweep"] = ablations.sweep(report, dataset, args, twins)
        degradation(report, measured["sweep"], *ends)
    return report.save(measured)


if __name__ == "__main__":
    lesson.run(main)
