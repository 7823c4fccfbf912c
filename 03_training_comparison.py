"""Lesson 3: plain against residual: same parameters, initial values, batches, learning rates.

You will learn
    what "degradation" is: a deeper plain network has a higher *training* error
    that its twin with shortcuts does not, and that it needs fewer steps
    that this happens although the plain network starts with the larger gradients
    what single blocks are worth: one deleted at a time, without retraining
Builds on: lessons 1 and 2. Papers: He et al. 2015 (arXiv:1512.03385), sections 4.1 and 4.2; Veit et
al. 2016 (arXiv:1605.06431), section 4.1.
Takes about a minute on two cores (12 networks on the built-in Shapes-10, at 16x16 pixels).
Writes training_curves.png, gradients.png, lesions.png, report.txt and results.json to
outputs/03_training_comparison/.

    python 03_training_comparison.py --sweep
    python 03_training_comparison.py --data-dir DIR --images 10000 --epochs 4 --batch-size 128
"""

import copy
import statistics
from dataclasses import dataclass, replace
from functools import partial

from common import analysis, data, lesson, models, plotting, training
from common.analysis import Seeds

import numpy as np
import torch
import torch.nn.functional as F

SETTINGS = {  # name: (value, value with --quick; None leaves it as it is)
    "depths": ([20, 56], [8, 14]),
    "epochs": (3, 1),
    "seeds": (3, 2),
    "width": (8, None),
    "image_size": (16, 8),
    "images": (3000, 600),
    "batch_size": (48, None),
    "lr": (0.015, None),
}
WINDOW = 10  # steps over which losses and errors are averaged: single batches are too noisy
LESION_IMAGES = 200  # of the test split: every deleted block takes another pass over them


def main(argv: list[str] | None = None) -> dict:
    """Run the lesson; returns what it measured."""
    args = arguments(argv)
    plotting.use_theme(args.show)
    dataset = data.load(args.data, args.data_dir, args.data_url, args.image_size, args.images)
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
    end = args.epochs * training.steps_per_epoch(dataset, args.batch_size)
    steps = sorted({0, min(1, end), min(10, end), end})  # most happens early, so look there
    with training.progress(f"{len(runs)} networks", end * len(runs), "step") as bar:
        job = partial(train, dataset=dataset, args=args, steps=steps, device=report.device, bar=bar)
        results = training.by_name(runs, training.side_by_side(job, runs, report.device))
    # By network and seed: test accuracy as trained, then without block 1, without block 2 ...
    lesions = analysis.lesions.accuracies(runs, dataset, LESION_IMAGES, report.device)
    overview(report, results, lesions)

    # Vanishing gradients are the usual explanation. Then the plain network's should be smaller.
    report.section(f"3. Gradients and updates: plain-{deep} over residual-{deep}")
    deep_twins = {f"{kind}-{deep}": results[f"{kind}-{deep}"] for kind in models.TWINS}
    ratios = compare_gradients(report, *deep_twins.values(), steps)

    # A claim holds if the means differ by more than the larger standard deviation over seeds, does
    # not hold if they do so the other way round, and is not reproduced in between.
    report.section("4. Findings")
    errors = {name: training_error(seeds) for name, seeds in results.items()}
    degradation(report, errors, shallow, deep)
    measured |= {"errors": errors, "results": results, "test_accuracy_without_blocks": lesions}
    measured |= judge_training(report, results, ratios, shallow, deep)
    measured |= judge_lesions(report, lesions, shallow, deep, 1 / args.classes)
    draw(report, args, results, lesions, deep_twins)

    if args.sweep:  # one learning rate for all might favour one kind
        report.section("5. Sweep of the learning rate: each network at its best (validation)")
        measured["sweep"] = sweep(report, dataset, args, steps)
        degradation(report, measured["sweep"], shallow, deep)
    return report.save(measured)


def arguments(argv: list[str] | None):
    """The shared flags and this lesson's own."""
    flags = lesson.parser(__doc__, SETTINGS)
    rates = "also try other learning rates for each network"
    flags.add_argument("--sweep", action="store_true", help=rates)
    args = flags.parse_args(argv)
    args.depths = sorted(set(args.depths))
    if len(args.depths) < 2:
        flags.error("--depths needs two different depths")
    return args


def twins(args, lr: float) -> list[training.Run]:
    """Plain and residual networks of every depth and seed, each beside its twin."""
    runs = []
    for depth in args.depths:
        for seed in range(args.seed, args.seed + args.seeds):
            for kind in models.TWINS:
                model = models.build_twin(kind, depth, args.classes, args.width, seed)
                runs.append(training.Run(f"{kind}-{depth}", seed, model, {"lr": lr}))
    return runs


def check_twins(report, runs: list[training.Run]) -> None:
    """Equal parameter counts, equal initial tensors, or the comparison means nothing."""
    rows = []
    for plain, residual in zip(runs[::2], runs[1::2], strict=True):  # as `twins` orders them
        ours, theirs = plain.model.state_dict(), residual.model.state_dict()
        equal = list(ours) == list(theirs) and all(torch.equal(ours[n], theirs[n]) for n in ours)
        row = {"twins": f"{plain.name}, {residual.name}", "seed": plain.seed}
        row["parameters"] = f"{analysis.parameter_count(plain.model):,}"
        row["and"] = f"{analysis.parameter_count(residual.model):,}"
        rows.append(row | {"same initial values": "yes" if equal else "no"})
    report.table(rows)
    equal = all(row["same initial values"] == "yes" for row in rows)
    report.check("twins differ in the shortcut alone", equal)


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


@dataclass
class Measured:
    """What one training showed: errors are shares of images, losses in nats."""

    val_error: list[float]  # after each epoch
    seconds: float
    train_error: float  # after training, on the images as they are
    step_loss: list[float]  # smoothed
    largest_rise: float  # of the smoothed loss, in one step
    step_error: list[float]  # smoothed, on the augmented images as they passed
    gradients: dict[int, list[float]]  # after so many updates: norm at the output of each block
    updates: dict[int, float]  # after so many updates: |new - old| / |old| of the next


def train(run: training.Run, dataset, args, steps, device: str, bar) -> Measured | None:
    """Train one network, watched at `steps`; None if its loss stopped being a number."""
    # The seed alone decides on order and augmentation of the batches: twins see the same.
    options = {"batch_size": args.batch_size, "seed": run.seed, "device": device} | run.options
    trainer = training.Trainer(run.model, dataset, args.epochs, **options)
    x, y = next(dataset.batches("train", 64))  # the same images for all: their gradients compare
    recorder = analysis.Recorder(run.model, models.block_names(run.model), x, y, steps)
    try:
        rows = list(trainer.run(bar, on_step=recorder))
    except training.Diverged:
        return None
    step_loss, step_error = recorder.curves(WINDOW)
    return Measured(
        val_error=[1 - row["val_accuracy"] for row in rows],
        seconds=rows[-1]["seconds"],
        train_error=1 - training.evaluate(run.model, dataset, "train", device)[1],
        step_loss=step_loss,
        largest_rise=float(np.diff(step_loss).max(initial=0.0)),
        step_error=step_error,
        gradients=recorder.gradients,
        updates=recorder.updates,
    )


def training_error(runs: list[Measured | None]) -> Seeds:
    """After training, by seed."""
    return Seeds.of(runs, lambda run: run.train_error)


def validation_error(runs: list[Measured | None]) -> Seeds:
    """After the last epoch, by seed."""
    return Seeds.of(runs, lambda run: run.val_error[-1])


def overview(report, results: dict[str, list[Measured | None]], lesions: dict) -> None:
    """One row a network: errors, test accuracy, stability."""
    rows = []
    for name, runs in results.items():
        row = {"network": name, "training error": f"{training_error(runs):.1%}"}
        row["validation error"] = f"{validation_error(runs):.1%}"
        row["test accuracy"] = f"{Seeds(intact for intact, *_ in lesions[name]):.1%}"
        rises = Seeds.of(runs, lambda run: run.largest_rise)
        row["largest rise of loss (nats)"] = f"{rises:.2f}"
        rows.append(row | {"diverged": runs.count(None)})
    report.table(rows)
    report.say(f"Test: the first {LESION_IMAGES} images.")
    report.say(f"Rise: in one step, of the mean over {WINDOW} steps.")


def compare_gradients(report, plain: list, residual: list, steps: list[int]) -> dict[int, Seeds]:
    """Gradients and updates, plain over residual; returns log10 of the gradients' ratio by step."""
    rows, ratios = [], {}
    for step in steps:
        ratios[step] = analysis.gradients.log_ratio(plain, residual, step)
        row = {"updates made": step, "ratio of gradients": f"{10 ** ratios[step].mean:.1f}"}
        if step < steps[-1]:  # no update follows the last one
            update = analysis.gradients.update_ratio(plain, residual, step)
            row["ratio of updates"] = f"{update:.1f}"
        rows.append(row)
    report.table(rows)
    report.say("Both: the plain network's value divided by the residual one's.")
    report.say("Gradient: norm at the blocks' outputs, geometric mean over blocks and seeds.")
    report.say("Update: the change of all weights as a share of them (norms), median of seeds.")
    return ratios


def degradation(report, errors: dict[str, Seeds], shallow: int, deep: int) -> None:
    """Does depth cost training error?"""
    text = "{1:.1%} -> {0:.1%}"  # from shallow to deep; the claims name the deep one first
    claim = f"plain: depth {deep} has a higher training error than depth {shallow}"
    source = "0.7 -> 3.3 % from depth 20 to 56, fully trained on CIFAR-10 (a-martyn/resnet)"
    report.claim(claim, errors[f"plain-{deep}"], ">", errors[f"plain-{shallow}"], source, text)
    claim = f"residual: depth {deep} has no higher training error than depth {shallow}"
    source = "0.04 % at depth 56, fully trained on CIFAR-10 (a-martyn/resnet)"
    ends = errors[f"residual-{deep}"], errors[f"residual-{shallow}"]
    report.claim(claim, ends[0], "<=", ends[1], source, text)


def judge_training(report, results, ratios: dict[int, Seeds], shallow: int, deep: int) -> dict:
    """Convergence, and two suspects for the failure of deep plain networks."""
    target = Seeds.of(results[f"plain-{shallow}"], lambda run: run.step_loss[-1]).mean
    steps, rises = {}, {}  # steps of the shallow twins: the deep plain network gets nowhere
    for kind in models.TWINS:
        runs = results[f"{kind}-{shallow}"]
        steps[kind] = Seeds.of(runs, lambda run: steps_to(run.step_loss, target))
        rises[kind] = Seeds.of(results[f"{kind}-{deep}"], lambda run: run.largest_rise)
    *early, at_end = ratios.values()
    early = Seeds(map(statistics.fmean, zip(*early, strict=True)))  # mean over steps, by seed

    claim = f"residual-{shallow} needs fewer steps than plain-{shallow} to "
    claim += f"plain-{shallow}'s final loss"
    source = "faster early convergence (He et al. 2015, section 4.1, for 18 layers)"
    text = "{:.0f} against {:.0f} steps"
    report.claim(claim, steps["residual"], "<", steps["plain"], source, text)
    claim = f"not vanishing: plain-{deep}'s early gradients are larger than residual-{deep}'s"
    source = "with BN, backward signals have healthy norms (He et al. 2015, section 4.1)"
    report.claim(claim, early, ">", 0, source, "log10 of plain / residual: {:.2f}")
    claim = f"not instability: plain-{deep}'s loss rises less on its way than residual-{deep}'s"
    source, text = "none found in the literature", "{:.2f} against {:.2f} nats"
    report.claim(claim, rises["plain"], "<", rises["residual"], source, text)
    measured = {"steps_to_plain_loss": steps, "largest_rises": rises}
    return measured | {"log_ratios": early, "log_ratios_at_end": at_end}


def steps_to(smoothed: list[float], target: float) -> float:
    """Steps until a smoothed loss is at most `target`; all of them if it never is.

    Its first value is the mean of WINDOW steps, so they have passed by then.
    """
    reached = (i for i, loss in enumerate(smoothed) if loss <= target)
    return float(next(reached, len(smoothed) - 1) + WINDOW)


def judge_lesions(report, lesions, shallow: int, deep: int, chance: float) -> dict:
    """What a block is worth: shares of the accuracy above chance, and test accuracies."""
    lost = {}
    for kind in models.TWINS:
        seeds = lesions[f"{kind}-{shallow}"]
        lost[kind] = Seeds(analysis.lesions.lost_share(one, chance) for one in seeds)
    at_change, elsewhere = analysis.lesions.by_resolution(lesions[f"residual-{deep}"])

    claim = f"residual-{shallow} loses less than plain-{shallow} when one block is deleted"
    source = "residual: little; plain: everything (Veit et al. 2016, section 4.1, trained fully)"
    text = "of the accuracy above chance {:.1%} against {:.1%}"
    report.claim(claim, lost["residual"], "<", lost["plain"], source, text)
    claim = f"residual-{deep}: a block that changes the resolution is missed more than another"
    source = "accuracy falls there (Veit et al. 2016, figure 3)"
    text = "test accuracy {:.1%} against {:.1%}"
    report.claim(claim, at_change, "<", elsewhere, source, text)
    return {"lost_shares": lost, "split_lesions": [at_change, elsewhere]}


def draw(report, args, results, lesions, deep_twins: dict[str, list[Measured | None]]) -> None:
    """The three figures; their titles are formatted from the numbers."""
    setup = f"{report.data}, {args.image_size}x{args.image_size} pixels, width {args.width}, "
    setup += f"{args.epochs} epochs; {args.seeds} seeds: mean"
    chance, depths = 1 / args.classes, (args.depths[0], args.depths[-1])
    figure = plotting.curves.training_curves(results, WINDOW, 1 - chance, setup)
    report.figure(figure, "training_curves")
    if all(any(runs) for runs in deep_twins.values()):  # each has a run that did not diverge
        report.figure(plotting.maps.gradient_maps(deep_twins, setup), "gradients")
    report.figure(plotting.curves.lesion_curves(lesions, depths, chance, setup), "lesions")


def sweep(report, dataset, args, steps) -> dict[str, Seeds]:
    """Training errors of each network at its own best of three rates, by validation error."""
    rates = args.lr / 5, args.lr, args.lr * 5
    runs = [replace(run, name=f"{run.name} at {lr:g}") for lr in rates for run in twins(args, lr)]
    with training.progress(f"{len(runs)} networks", steps[-1] * len(runs), "step") as bar:
        job = partial(train, dataset=dataset, args=args, steps=steps, device=report.device, bar=bar)
        results = training.by_name(runs, training.side_by_side(job, runs, report.device))
    rows = []
    for name, seeds in results.items():
        row = {"network": name, "training error": f"{training_error(seeds):.1%}"}
        rows.append(row | {"validation error": f"{validation_error(seeds):.1%}"})
    report.table(rows)
    names, best = list(results), {}
    means = [validation_error(results[name]).mean for name in names]
    for i in np.argsort(means, kind="stable"):  # best first, diverged (NaN) last
        best.setdefault(names[i].split()[0], training_error(results[names[i]]))
    return best


if __name__ == "__main__":
    lesson.run(main)
