"""Lesson 3: plain against residual: same parameters, initial values, batches, learning rates.

You will learn
    what "degradation" is: 56 plain layers learn less than 20, even of their training images
    that with shortcuts both depths learn almost all of them, in fewer steps
    how to tell "hard to optimise" from "slow", by --epochs, and from a wrong rate, by --rates
    that gradients do not vanish here: the plain network starts with the larger ones
    what one block is worth: delete it, train nothing anew, and look at the accuracy
Builds on: lessons 1 and 2. Papers: He et al. 2015 (arXiv:1512.03385), section 4; Veit et al. 2016
(arXiv:1605.06431), section 4.1; Yang et al. 2019 (arXiv:1902.08129), section 4.
Takes about four minutes on two cores (20 networks on 256 images of Shapes-10, 12x12 pixels).
Writes training_curves.png, gradients.png, lesions.png, report.txt and results.json to
outputs/03_training_comparison/; with --rates also rates.png.

    python 03_training_comparison.py --epochs 216
    python 03_training_comparison.py --rates 0.0125 0.025 0.05 0.1 0.2
    python 03_training_comparison.py --data-dir DIR --images 600 --width 16 --epochs 48
The first trains three times as long (as He et al. 2015, section 4.1, footnote 3): what is only slow
gets there. The second finds the best rate of each network. The third takes your own images.
"""

import copy
import statistics
from dataclasses import replace

from common import UserError, analysis, data, lesson, models, plotting, training
from common.analysis import Seeds, comparison, gradients, lesions, published, rates

import torch
import torch.nn.functional as F

SETTINGS = {  # name: (value, value with --quick; None leaves it as it is), type, meaning
    "depths": ([20, 56], [8, 14]),
    "epochs": (72, 2),
    "seeds": (5, 2),
    "width": (8, None),
    "image_size": (12, 8),
    # So few that a network which can be optimised learns them by heart: the error that is left
    # measures what so many steps of optimisation did not reach.
    "images": (256, 64, lesson.several, "training images; validation has all of its own"),
    "batch_size": (32, None),
    "lr": (0.05, None),
    "rates": ([], None, lesson.rate, "also train all networks at each of these peak rates"),
}
WARMUP = 0.3  # share of the steps: without a slow start the higher rates of a grid diverge
EARLY = (0, 1, 10)  # updates made: what goes wrong in a deep plain network goes wrong early
MARGIN = 0.03  # of the training images: so small a difference is no degradation
QUESTION = """You train {} layers and {} layers, without shortcuts, on the same images. Which has
the lower error on the images it was trained on? And why?"""
ANSWER = """Without shortcuts {0} layers end with {plain[0]:.1%} training error, {1} layers with
{plain[1]:.1%}. {found} With shortcuts it is {residual[0]:.1%} and {residual[1]:.1%}. The larger
network could do as well: its other layers need only pass on what they get. If it does worse,
training has not found such weights."""
EXPERIMENT = """python 03_training_comparison.py --depths 20 32 44 trains depths in between. From
how many layers on do plain networks fail?"""
ERRORS = """\
Training error: how many of the {} training images the trained network gets wrong. Guessing gets
{:.0%} wrong. Validation: images new to it. Diverged: trainings whose loss is no number any more."""
COLUMNS = """
Gradient: its size behind a block, mean over blocks and seeds. Change: how much the next update
changes the weights, as a share of their size, median of seeds. Both are plain / residual: above 1
the plain network's is larger. First / last: the gradient behind the first block over that behind
the last one. A gradient that grows like this on its way back to the input is said to explode."""
PAPERS = """
He et al. 2015, section 4.1, leave open why deep plain networks fail. Yang et al. 2019, section 4,
blame batch norm: with it gradients explode with depth, so that very deep networks cannot be
trained. After one step, they say, the gradients of the blocks are far less apart. Ours is no test
of that: in the warm-up the first step has about 1/{} of the full rate."""
RECIPE = """SGD, batches of {}. The learning rate rises to {} over {:.0%} of the steps, then falls
to 0. The images are shifted and mirrored. A network of {} layers has {} blocks of two, a first and
a last layer."""
DELETED = """\
Taken out: the trained network runs without a block, which hands on what it gets. Where the shape
changes that is every second pixel, and zeros for the new channels. The images are those of the
training, which the networks know best."""


def main(argv: list[str] | None = None) -> dict:
    """Run the lesson; returns what it measured."""
    args = arguments(argv)
    plotting.use_theme(args.show)
    dataset = few_images(args)
    args.classes = len(dataset.classes)
    shallow, deep = args.depths[0], args.depths[-1]
    runs = twins(args, args.lr)
    report = lesson.Report(__file__, args, dataset.name, dataset.why)
    report.ask(QUESTION.format(shallow, deep))
    dataset = dataset.to(report.device)

    # Whatever else the twins differ in could explain all that follows, so it must be nothing.
    report.section("1. Twins")
    check_twins(report, runs)
    measured = {"by_hand_difference": check_by_hand(report, runs[0], runs[1], dataset)}

    # One network on each core. All that is random follows from a run's seed, not from their order.
    report.section("2. After training: mean ± standard deviation over seeds")
    recipe = args.batch_size, args.lr, WARMUP, shallow, (shallow - 2) // 2
    report.explain(RECIPE.format(*recipe))
    images, an_epoch = len(dataset.train.labels), training.steps_per_epoch(dataset, args.batch_size)
    last = args.epochs * an_epoch - 1  # the last update is watched, too
    peak = max(1, round(WARMUP * last))  # updates until the rate is the highest
    steps = sorted({step for step in (*EARLY, peak, last) if step <= last})
    trained = comparison.train_all(runs, dataset, args.epochs, steps, report.device)
    results = training.by_name(runs, trained)
    report.table(comparison.error_table(results))
    report.say(ERRORS.format(images, 1 - 1 / args.classes))

    # Vanishing gradients are the usual explanation. Then the plain network's should be smaller.
    report.section(f"3. Do gradients vanish? plain-{deep} against residual-{deep}")
    deep_twins = {f"{kind}-{deep}": results[f"{kind}-{deep}"] for kind in models.TWINS}
    compare_gradients(report, deep_twins, steps, peak)

    report.section("4. Findings")
    errors = comparison.errors(results, "train")
    degradation(report, errors, shallow, deep)
    measured |= {"results": results, "errors": errors}
    measured["steps_to_plain_loss"] = judge_speed(report, results, shallow, an_epoch)
    measured |= judge_gradients(report, deep_twins, steps, peak)
    # Shallow twins: the deep plain network has learnt too little to lose any of it.
    report.explain(DELETED)
    without = lesions.accuracies(runs, dataset, "train", report.device)
    measured["accuracy_without_blocks"] = without
    measured["lost_shares"] = judge_lesions(report, without, shallow, 1 / args.classes)
    setup = f"{images} images of {report.data}, {args.image_size}x{args.image_size} pixels, width "
    setup += f"{args.width}, {args.epochs} epochs; {args.seeds} seeds: mean"
    curves, chance = plotting.curves, 1 / args.classes
    report.figure(curves.training_curves(results, 1 - chance, setup), "training_curves")
    if all(any(runs) for runs in deep_twins.values()):  # each has a run that did not diverge
        report.figure(plotting.maps.gradient_maps(deep_twins, peak, setup), "gradients")
    report.figure(curves.lesion_curves(without, chance, setup), "lesions")

    if args.rates:  # one rate for all might favour one kind
        report.section("5. Every network at its own best learning rate")
        more = [run for lr in sorted({*args.rates} - {args.lr}) for run in twins(args, lr)]
        trained += comparison.train_all(more, dataset, args.epochs, [], report.device)
        measured["rates"] = rates.collect(runs + more, trained)
        judge_rates(report, measured["rates"], shallow, deep, setup)
    answer(report, errors, shallow, deep)
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
    few = replace(dataset, train=data.Split(*(part[: args.images] for part in dataset.train)))
    if args.epochs * training.steps_per_epoch(few, args.batch_size) < 2:
        raise UserError("this is a single update: more --epochs, or a smaller --batch-size")
    return few


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
    counts, equal = {}, []
    for plain, residual in zip(runs[::2], runs[1::2], strict=True):  # as `twins` orders them
        ours, theirs = plain.model.state_dict(), residual.model.state_dict()
        same = all(map(torch.equal, ours.values(), theirs.values()))
        equal.append(list(ours) == list(theirs) and same)
        for run in (plain, residual):
            counts[run.name] = f"{analysis.parameter_count(run.model):,}"
    report.table([{"network": name, "parameters": count} for name, count in counts.items()])
    report.say("Twins have the same layers. One of the two also adds x to what each block gives.")
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
    apart = f"at most {difference:.1e} apart" if difference else "equal to the last bit"
    report.say(f"Both twins by hand, one addition apart, against the classes: {apart}.")
    report.check("by hand equals PlainBlock and BasicBlock networks", difference < 1e-5)
    return difference


def compare_gradients(report, deep_twins: dict[str, list], steps: list[int], peak: int) -> None:
    """Gradients and updates by step, what they speak for, and what papers say."""
    report.table(comparison.gradient_table(deep_twins, steps))
    report.say(COLUMNS)
    ratios = {step: gradients.update_ratio(*deep_twins.values(), step) for step in steps}
    first = [ratio for step, ratio in ratios.items() if step in EARLY]
    plain, residual = deep_twins
    size = f"{min(first):.1f} to {max(first):.1f} times as much as {residual}'s"
    report.say(f"\nThe first updates change {plain}'s weights {size}.")
    report.say(f"At the highest rate, after {peak} updates, they change them {ratios[peak]:.2f}")
    report.say("times as much. Whether large first steps are why it fails is not tested here.")
    report.say("Rows with a gradient below 1: then the plain network's is the smaller one.")
    report.say(PAPERS.format(peak))


def degradation(report, errors: dict, shallow: int, deep: int, where: str = "") -> None:
    """Does depth cost training error? Where a network has none (None), nothing is claimed."""
    higher = f"networks: {deep} layers have a higher training error than {shallow}"
    close = f"networks: {deep} layers have at most {100 * MARGIN:.0f} points more training error "
    close += f"than {shallow}"
    for kind, claim, relation, margin, source in (
        ("plain", higher, ">", 0.0, published.PLAIN_DEGRADES),
        ("residual", close, "<=", MARGIN, published.RESIDUAL_DOES_NOT),
    ):
        left, right = errors[f"{kind}-{deep}"], errors[f"{kind}-{shallow}"]
        if left is not None and right is not None:
            text = "{1:.1%} -> {0:.1%}"  # from shallow to deep; the claims name the deep one first
            report.claim(f"{kind} {claim}{where}", left, relation, right, source, text, margin)


def judge_speed(report, results: dict[str, list], shallow: int, an_epoch: int) -> dict[str, Seeds]:
    """Steps of the shallow twins to plain's final loss: the deep plain network hardly learns."""
    names = {kind: f"{kind}-{shallow}" for kind in models.TWINS}
    goals = Seeds.of(results[names["plain"]], lambda run: run.step_loss[-1])  # a seed has its own
    steps = {k: comparison.steps_to(results[name], goals, an_epoch) for k, name in names.items()}
    claim = "{residual} gets to {plain}'s final loss in fewer steps".format(**names)
    source = "residual networks of 18 layers learn faster at first (He et al. 2015, section 4.1)"
    words = {kind: comparison.steps_in_words(seeds) for kind, seeds in steps.items()}
    text = "{residual} against {plain} steps".format(**words)
    report.claim(claim, steps["residual"], "<", steps["plain"], source, text)
    return steps


def judge_gradients(report, deep_twins: dict[str, list], steps: list[int], peak: int) -> dict:
    """Do they vanish? And does plain's explosion last? Claims about logarithms, base 10."""
    plain, residual = deep_twins
    early = [gradients.log_ratio(*deep_twins.values(), step) for step in steps if step in EARLY]
    early = Seeds(map(statistics.fmean, zip(*early, strict=True)))  # a geometric mean of ratios
    claim = f"{plain}'s first gradients are not the smaller ones: they are larger than {residual}'s"
    source = "He et al. 2015, section 4.1: they do not vanish, and their norms are healthy (which "
    source += "is not asked here)"
    after = ", ".join(str(step) for step in steps if step in EARLY)
    text = f"{comparison.times(early, 'times as large')}, mean after {after} updates"
    report.claim(claim, early, ">", 0, source, text)
    late, start = (comparison.explosion(deep_twins[plain], step) for step in (peak, 0))
    claim = f"{plain}'s gradient explodes less after {peak} updates than at the start"
    source = "none: a question of our own. Yang et al. 2019, abstract, say so of a single step"
    once = comparison.explosion(deep_twins[plain], steps[1])  # the source speaks of one step
    text = f"first / last block: {comparison.times(late)}, at the start "
    text += f"{comparison.times(start)}, after {steps[1]} update {comparison.times(once)}"
    report.claim(claim, late, "<", start, source, text)
    return {"log_ratios": early, "explosion": {peak: late, 0: start}}


def judge_lesions(report, without, shallow: int, chance: float) -> dict[str, Seeds]:
    """What a block is worth: the share of the accuracy above chance that is lost with it."""
    seeds = {kind: without[f"{kind}-{shallow}"] for kind in models.TWINS}
    lost = {k: Seeds(lesions.lost_share(one, chance) for one in seeds[k]) for k in seeds}
    claim = f"residual-{shallow} loses less accuracy than plain-{shallow} if one block is taken out"
    source = "a residual network of 110 layers loses little of its test accuracy, a VGG all that "
    source += "is above guessing (Veit et al. 2016, section 4.1)"
    text = "{:.1%} against {:.1%} of its lead over guessing, mean over blocks"
    report.claim(claim, lost["residual"], "<", lost["plain"], source, text)
    return lost


def judge_rates(report, grid: dict, shallow: int, deep: int, setup: str) -> None:
    """Does it depend on the learning rate? `grid` is as `rates` has it."""
    report.table(rates.table(grid))
    report.say("Training error at each peak learning rate. *: the lowest validation error.")
    edge = ", ".join(name for name, by_rate in grid.items() if rates.at_edge(by_rate))
    report.say(f"Their best rate is at the edge, a better one may lie beyond: {edge or 'none'}.")
    for factor, where in rates.FACTORS.items():
        errors = rates.around_best(grid, factor)
        if missing := ", ".join(name for name, seeds in errors.items() if seeds is None):
            report.say(f"{where}: outside the grid for {missing}.")
        degradation(report, errors, shallow, deep, f", each at {where}")
    report.figure(plotting.curves.rate_curves(grid, setup), "rates")


def answer(report, errors: dict[str, Seeds], shallow: int, deep: int) -> None:
    """The question of the beginning, answered by the numbers."""
    by_depth = {kind: [errors[f"{kind}-{n}"] for n in (shallow, deep)] for kind in models.TWINS}
    judged = analysis.verdict(by_depth["plain"][1], ">", by_depth["plain"][0])
    found = {"holds": "More layers do worse.", "does not hold": "More layers do no worse."}
    found = found.get(judged, "These seeds do not settle what is worse.")
    report.answer(ANSWER.format(shallow, deep, found=found, **by_depth), EXPERIMENT)


if __name__ == "__main__":
    lesson.run(main)
