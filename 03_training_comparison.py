"""Lesson 3: plain against residual: same parameters, initial values, batches, learning rates.

You will learn
    what "degradation" is: 56 plain layers do not learn by heart what 20 nearly do
    that their twins with shortcuts learn it, at 56 layers as at 20, and in fewer steps
    how to tell "hard to optimise" from "slow" and from "the wrong learning rate"
    that the plain network starts with the larger gradients, and the larger updates
    what single blocks are worth: one deleted at a time, without retraining
Builds on: lessons 1 and 2. Papers: He et al. 2015 (arXiv:1512.03385), section 4; Veit et al. 2016
(arXiv:1605.06431), section 4.1; Yang et al. 2019 (arXiv:1902.08129), section 4.
Takes about three minutes on two cores (20 networks on 256 images of Shapes-10, at 12x12 pixels).
Writes training_curves.png, gradients.png, lesions.png, report.txt and results.json to
outputs/03_training_comparison/; with --rates also rates.png.

    python 03_training_comparison.py --epochs 216
    python 03_training_comparison.py --rates 0.0125 0.025 0.05 0.1 0.2
    python 03_training_comparison.py --data-dir DIR --images 600 --width 16 --epochs 48
The first trains three times as long (He et al. 2015, section 4.1, footnote 3): what is slow gets
there. The second judges every network at its own best rate. The third takes your own images.
"""

import copy
import statistics
from dataclasses import replace

from common import analysis, data, lesson, models, plotting, training
from common.analysis import Seeds, comparison, lesions, published, rates

import torch
import torch.nn.functional as F

SETTINGS = {  # name: (value, value with --quick; None leaves it as it is), type, meaning
    "depths": ([20, 56], [8, 14]),
    "epochs": (72, 2),
    "seeds": (5, 2),
    "width": (8, None),
    "image_size": (12, 8),
    # So few that a network which can be optimised learns them by heart: the error that is left
    # then measures the optimisation alone.
    "images": (256, 64, lesson.positive, "training images; validation has all of its own"),
    "batch_size": (32, None),
    "lr": (0.05, None),
    "rates": ([], None, lesson.rate, "also train all networks at these peak learning rates"),
}
WARMUP = 0.3  # share of the steps: without a slow start the higher rates of a grid diverge
EARLY = (0, 1, 10)  # updates made: what goes wrong in a deep plain network goes wrong early
MARGIN = 0.03  # of the training images: so small a difference is no degradation
COLUMNS = """\
Gradients: norms behind the blocks, plain / residual, mean over blocks and seeds.
Next update: as a share of the weights (norms), plain / residual, median of seeds.
First / last: the gradient behind the first block over that behind the last one.
"""
PAPERS = """\
He et al. 2015, section 4.1, leave open why deep plain networks fail. Yang et al. 2019, section 4:
batch norm makes gradients explode with depth, which limits the depth that can be trained; after
one step the gradients of the blocks are far less apart."""


def main(argv: list[str] | None = None) -> dict:
    """Run the lesson; returns what it measured."""
    args = arguments(argv)
    plotting.use_theme(args.show)
    dataset = few_images(args)
    args.classes = len(dataset.classes)
    shallow, deep = args.depths[0], args.depths[-1]
    runs = twins(args, args.lr)
    report = lesson.Report(__file__, args, dataset.name, dataset.why)
    dataset = dataset.to(report.device)

    # Whatever else the twins differ in could explain all that follows, so it must be nothing.
    report.section("1. Twins")
    check_twins(report, runs)
    measured = {"by_hand_difference": check_by_hand(report, runs[0], runs[1], dataset)}

    # One network on each core, in threads: afterwards `runs` holds the trained networks. All that
    # is random follows from a run's seed, so it does not matter which one is first.
    report.section("2. After training: mean ± standard deviation over seeds")
    images, window = len(dataset.train.labels), training.steps_per_epoch(dataset, args.batch_size)
    last = args.epochs * window - 1
    peak = round(WARMUP * last)  # updates until the rate is the highest
    steps = sorted({step for step in (*EARLY, peak, last) if step <= last})
    trained = comparison.train_all(runs, dataset, args.epochs, steps, report.device)
    results = training.by_name(runs, trained)
    overview(report, results, images, args.classes)

    # Vanishing gradients are the usual explanation. Then the plain network's should be smaller.
    report.section(f"3. Gradients and updates of plain-{deep} and residual-{deep}")
    deep_twins = {f"{kind}-{deep}": results[f"{kind}-{deep}"] for kind in models.TWINS}
    compare_gradients(report, deep_twins, steps, peak)

    report.section("4. Findings")
    errors = comparison.errors(results, "train")
    degradation(report, errors, shallow, deep)
    measured |= {"results": results, "errors": errors}
    measured["steps_to_plain_loss"] = judge_speed(report, results, shallow, window)
    measured |= judge_gradients(report, deep_twins, steps, peak)
    # Veit et al. take test images; on those that were learnt nothing but the deletion is new.
    without = lesions.accuracies(runs, dataset, "train", report.device)
    measured["accuracy_without_blocks"] = without
    measured["lost_shares"] = judge_lesions(report, without, shallow, 1 / args.classes)
    setup = f"{images} images of {report.data}, {args.image_size}x{args.image_size} pixels, width "
    setup += f"{args.width}, {args.epochs} epochs; {args.seeds} seeds: mean"
    draw(report, results, without, deep_twins, peak, 1 / args.classes, setup)

    if args.rates:  # one rate for all might favour one kind
        report.section("5. Every network at its own best learning rate")
        more = [run for lr in sorted({*args.rates} - {args.lr}) for run in twins(args, lr)]
        trained += comparison.train_all(more, dataset, args.epochs, [], report.device)
        measured["rates"] = rates.collect(runs + more, trained)
        judge_rates(report, measured["rates"], shallow, deep, setup)
    return report.save(measured)


def arguments(argv: list[str] | None):
    """The shared flags and this lesson's own."""
    flags = lesson.parser(__doc__, SETTINGS)
    args = flags.parse_args(argv)
    args.depths = sorted(set(args.depths))
    if len(args.depths) < 2:
        flags.error("--depths needs two different depths")
    return args


def few_images(args) -> data.Dataset:
    """The data with the first `--images` training images, and no fewer validation images for it."""
    limit = max(5000, args.images * 10 // 9 + 10)  # a tenth of these is for validation
    dataset = data.load(args.data, args.data_dir, args.data_url, args.image_size, limit)
    return replace(dataset, train=data.Split(*(part[: args.images] for part in dataset.train)))


def twins(args, lr: float) -> list[training.Run]:
    """Plain and residual networks of every depth and seed, each beside its twin."""
    options = {"lr": lr, "warmup": WARMUP, "batch_size": args.batch_size}
    runs = []
    for depth in args.depths:
        for seed in range(args.seed, args.seed + args.seeds):
            for kind in models.TWINS:
                model = models.build_twin(kind, depth, args.classes, args.width, seed)
                runs.append(training.Run(f"{kind}-{depth}", seed, model, options))
    return runs


def check_twins(report, runs: list[training.Run]) -> None:
    """Equal parameter counts, equal initial tensors, or the comparison means nothing."""
    rows, equal = {}, []
    for plain, residual in zip(runs[::2], runs[1::2], strict=True):  # as `twins` orders them
        ours, theirs = plain.model.state_dict(), residual.model.state_dict()
        equal.append(
            list(ours) == list(theirs) and all(map(torch.equal, ours.values(), theirs.values()))
        )
        row = {"twins": f"{plain.name}, {residual.name}"}
        row["parameters"] = f"{analysis.parameter_count(plain.model):,}"
        rows[plain.name] = row | {"and": f"{analysis.parameter_count(residual.model):,}"}
    report.table(list(rows.values()))
    report.say(f"{sum(equal)} of {len(equal)} pairs of twins have the same initial values.")
    report.check("twins differ in the shortcut alone", all(equal))


def twin_by_hand(x: torch.Tensor, state: dict, shortcut: bool) -> torch.Tensor:
    """Logits (N classes) of images x (N 3 H W) in raw tensor operations, with batch statistics.

    One state_dict serves both twins: all that `shortcut` switches is an addition.
    """

    def convolve(x, conv: str, bn: str, stride: int = 1):
        x = F.conv2d(x, state[f"{conv}.weight"], stride=stride, padding=1)
        weight, bias = state[f"{bn}.weight"], state[f"{bn}.bias"]
        return F.batch_norm(x, None, None, weight, bias, training=True)

    x = F.relu(convolve(x, "conv1", "bn1"))  # N width H W
    ending = ".conv2.weight"  # one in each block; a state_dict keeps the order of the signal
    for block in [name.removesuffix(ending) for name in state if name.endswith(ending)]:
        stride = 2 if block in ("layer2.0", "layer3.0") else 1
        out = F.relu(convolve(x, f"{block}.conv1", f"{block}.bn1", stride))
        out = convolve(out, f"{block}.conv2", f"{block}.bn2")  # N C H/stride W/stride
        if shortcut:
            # Where shapes change: every second pixel, and zeros for the new channels ("option A").
            # It learns nothing, so the twins keep the same parameters.
            x = x[:, :, ::stride, ::stride]
            out = out + F.pad(x, (0, 0, 0, 0, 0, out.shape[1] - x.shape[1]))
        x = F.relu(out)
    return F.linear(x.mean(dim=(2, 3)), state["fc.weight"], state["fc.bias"])  # N classes


def check_by_hand(report, plain: training.Run, residual: training.Run, dataset) -> float:
    """Largest relative difference of the lines above and the two classes of common.blocks, with
    the plain network's initial values for both twins."""
    x, _ = next(dataset.batches("train", 64))
    # Copies: in train mode a forward pass moves the running statistics of batch norm.
    networks = [copy.deepcopy(run.model).to(x.device).train() for run in (plain, residual)]
    state = networks[0].state_dict()
    with torch.no_grad():
        ours = [twin_by_hand(x, state, shortcut) for shortcut in (False, True)]
        difference = analysis.relative_difference(ours, [network(x) for network in networks])
    report.say(f"both by hand, one addition apart: largest relative difference {difference:.1e}")
    report.check("by hand equals PlainBlock and BasicBlock networks", difference < 1e-5)
    return difference


def overview(report, results: dict[str, list], images: int, classes: int) -> None:
    """One row a network: does it learn the images by heart, and what is that worth on others?"""
    train, val = comparison.errors(results, "train"), comparison.errors(results, "val")
    rows = []
    for name, runs in results.items():
        row = {"network": name, "training error": f"{train[name]:.1%}"}
        rows.append(row | {"validation error": f"{val[name]:.1%}", "diverged": runs.count(None)})
    report.table(rows)
    chance = 1 - 1 / classes
    report.say(f"Training error: of the {images} images as they are. Guessing: {chance:.0%}.")


def compare_gradients(report, deep_twins: dict[str, list], steps: list[int], peak: int) -> None:
    """Gradients and updates by step, what they speak for, and what papers say."""
    report.table(comparison.gradient_table(deep_twins, steps))
    report.say(COLUMNS)
    ratios = {step: analysis.gradients.update_ratio(*deep_twins.values(), step) for step in steps}
    first = [ratio for step, ratio in ratios.items() if step in EARLY]
    plain, residual = deep_twins
    size = f"{min(first):.1f} to {max(first):.1f} times as large as {residual}'s"
    speaks = "speaks" if min(first) > 2 else "does not speak"
    report.say(f"The first updates of {plain} are {size}, which {speaks} for")
    report.say(f"instability at the start. At the highest rate: {ratios[peak]:.2f} times as large.")
    report.say(PAPERS)


def degradation(report, errors: dict, shallow: int, deep: int, where: str = "") -> None:
    """Does depth cost training error? Where a network has none (None), nothing is claimed."""
    higher = f"depth {deep} has a higher training error than depth {shallow}"
    close = f"depth {deep} has a training error at most {100 * MARGIN:.0f} points above that of "
    close += f"depth {shallow}"
    for kind, claim, relation, margin, source in (
        ("plain", higher, ">", 0.0, published.PLAIN_DEGRADES),
        ("residual", close, "<=", MARGIN, published.RESIDUAL_DOES_NOT),
    ):
        left, right = errors[f"{kind}-{deep}"], errors[f"{kind}-{shallow}"]
        if left is not None and right is not None:
            text = "{1:.1%} -> {0:.1%}"  # from shallow to deep; the claims name the deep one first
            report.claim(f"{kind}: {claim}{where}", left, relation, right, source, text, margin)


def judge_speed(report, results: dict[str, list], shallow: int, window: int) -> dict[str, Seeds]:
    """Steps of the shallow twins to plain's final loss: the deep plain network gets nowhere."""
    names = {kind: f"{kind}-{shallow}" for kind in models.TWINS}
    goals = Seeds.of(results[names["plain"]], lambda run: run.step_loss[-1])  # a seed has its own
    steps = {k: comparison.steps_to(results[name], goals, window) for k, name in names.items()}
    claim = "{residual} needs fewer steps than {plain} to {plain}'s final loss".format(**names)
    source = "faster early convergence (He et al. 2015, section 4.1, for 18 layers)"
    words = {kind: comparison.steps_in_words(seeds) for kind, seeds in steps.items()}
    text = "{residual} against {plain} steps".format(**words)
    report.claim(claim, steps["residual"], "<", steps["plain"], source, text)
    return steps


def judge_gradients(report, deep_twins: dict[str, list], steps: list[int], peak: int) -> dict:
    """Do they vanish? And does plain's explosion last? Claims about logarithms, base 10."""
    plain, residual = deep_twins
    early = [step for step in steps if step in EARLY]
    early = [analysis.gradients.log_ratio(*deep_twins.values(), step) for step in early]
    early = Seeds(map(statistics.fmean, zip(*early, strict=True)))
    claim = f"not vanishing: {plain}'s early gradients are larger than {residual}'s"
    source = "with BN, backward signals have healthy norms (He et al. 2015, section 4.1)"
    report.claim(claim, early, ">", 0, source, "log10 of plain / residual: {:.2f}")
    late, start = (comparison.explosion(deep_twins[plain], step) for step in (peak, 0))
    claim = f"{plain}'s gradients explode less after {peak} updates than at the start"
    source = "after one step their range is far smaller (Yang et al. 2019, abstract)"
    once = comparison.explosion(deep_twins[plain], steps[1])  # the source speaks of one step
    text = "log10 of first block / last block: {:.2f} against {:.2f}"
    text += f"; after {steps[1]}: {once:.2f}"
    report.claim(claim, late, "<", start, source, text)
    return {"log_ratios": early, "explosion": {peak: late, 0: start}}


def judge_lesions(report, without, shallow: int, chance: float) -> dict[str, Seeds]:
    """What a block is worth: the share of the accuracy above chance that is lost with it."""
    lost = {}
    for kind in models.TWINS:
        seeds = without[f"{kind}-{shallow}"]
        lost[kind] = Seeds(lesions.lost_share(one, chance) for one in seeds)
    claim = f"residual-{shallow} loses less than plain-{shallow} when one block is deleted"
    source = "residual: little; plain: everything (Veit et al. 2016, section 4.1, trained fully)"
    text = "of the training accuracy above chance {:.1%} against {:.1%}"
    report.claim(claim, lost["residual"], "<", lost["plain"], source, text)
    return lost


def draw(report, results, without, deep_twins, peak: int, chance: float, setup: str) -> None:
    """Three figures; their titles are formatted from the numbers."""
    figure = plotting.curves.training_curves(results, 1 - chance, setup)
    report.figure(figure, "training_curves")
    if all(any(runs) for runs in deep_twins.values()):  # each has a run that did not diverge
        report.figure(plotting.maps.gradient_maps(deep_twins, peak, setup), "gradients")
    report.figure(plotting.curves.lesion_curves(without, chance, setup), "lesions")


def judge_rates(report, grid: dict, shallow: int, deep: int, setup: str) -> None:
    """Does it depend on the learning rate? For a recorded grid see `rates.from_json`."""
    report.table(rates.table(grid))
    report.say("Training errors by peak learning rate. *: the network's best, by validation error.")
    edge = ", ".join(name for name, by_rate in grid.items() if rates.at_edge(by_rate))
    report.say(f"Best at the grid's edge, so that a better one may lie beyond: {edge or 'none'}.")
    for factor, where in rates.FACTORS.items():
        errors = rates.around_best(grid, factor)
        missing = [name for name, seeds in errors.items() if seeds is None]
        if missing:
            report.say(f"{where}: outside the grid for {', '.join(missing)}")
        degradation(report, errors, shallow, deep, f", each at {where}")
    report.figure(plotting.curves.rate_curves(grid, setup), "rates")


if __name__ == "__main__":
    lesson.run(main)
