"""Lesson 6: a training pipeline, from images to a trained network.

You will learn
    how data, model, schedule and loop fit together, in the order in which they are needed
    why choices belong to the validation split, and the test split is read once, at the end
    what to watch while a network trains: loss, two accuracies, speed, learning rate
    what a checkpoint must hold for a training to continue as if it had never stopped
Builds on: lessons 1 and 2. Papers: He et al. 2015 (arXiv:1512.03385), section 4.2; Loshchilov &
Hutter 2017 (arXiv:1608.03983) for the cosine schedule.
On CIFAR-10 the default is a recipe for a network of seven convolutions, unless one of its flags is
given: --model, --epochs, --batch-size, --lr, --smoothing, --muon. What a skip is worth in so few
layers, and each trick, is measured in .github/results.md, "Do so few layers need skips?".
Takes about two minutes on two cores (a small ResNet on the built-in Shapes-10).
Writes curves.png, confusion.png, calibration.png, mistakes.png, best.pt, last.pt, report.txt and
results.json to outputs/06_practical_example/; with --evaluate all but curves and networks to
outputs/06_practical_example_evaluation/; with --predict nothing. A training renames the networks
that it finds there to earlier_best.pt and earlier_last.pt, then earlier2_best.pt and so on.

    python 06_practical_example.py --data cifar10 --epochs 100 --cutout 16 --smoothing 0.1
    python 06_practical_example.py --data cifar10 --epochs 10 --sizes 16 24 32
    python 06_practical_example.py --data-dir MY_PHOTOS --image-size 64 --batch-size 16 --lr 0.03
    python 06_practical_example.py --weights resnet18.pth --model resnet18 --data-dir MY_PHOTOS
    python 06_practical_example.py --resume outputs/06_practical_example/last.pt
    torchrun --nproc-per-node 2 06_practical_example.py --data cifar10 --epochs 100
    python 06_practical_example.py --checkpoint FOLDER/best.pt --predict CAT.jpg DOG.jpg
    python 06_practical_example.py --checkpoint FOLDER/best.pt --evaluate --data-dir MY_PHOTOS
"""

import math
import shlex
from argparse import BooleanOptionalAction, Namespace
from dataclasses import replace
from pathlib import Path

from common import UserError, analysis, data, lesson, models, plotting, training

import torch
import torch.nn as nn
import torch.nn.functional as F

SETTINGS = {  # value, value with --quick (None: the same); type and meaning of this lesson's own
    "model": ("cifar_resnet-20", None, str, "a function of common/models, numbers behind dashes"),
    "epochs": (5, 1),
    "batch_size": (128, None),
    "lr": (0.2, None),
    "weight_decay": (5e-4, None, lesson.decay, "pulls weights towards zero, not biases"),
    "cutout": (0, None, lesson.natural, "side in pixels of a square that is hidden; 0: none"),
    "smoothing": (0.0, None, lesson.share, "share of each label that all classes get"),
    "ema": (0.0, None, lesson.share, "decay of the averaged weights, which are tested; 0: none"),
    "muon": (0.0, None, lesson.decay, "peak rate of convolutions under Muon; 0: SGD for all"),
    "accumulate": (1, None, lesson.positive, "parts of a batch, one after the other: less memory"),
    "frozen": (0, None, lesson.natural, "epochs of the classifier alone; then all, at 0.3 lr"),
    "image_size": (32, None),
    "sizes": ([], None, lesson.positive, "of the images in training, each for its share of epochs"),
    "save_every": (0, None, lesson.natural, "steps between two checkpoints; 0: after each epoch"),
}
RECIPE = ("batch_size", "lr", "weight_decay", "sizes", "cutout", "smoothing", "ema", "muon")
RECIPE += ("accumulate", "balance", "frozen")
BINDING = ("model", "weights", "epochs", "image_size", "quick", *RECIPE, "seed")  # for a --resume
SOURCES = ("data", "data_dir", "data_url", "skip_unreadable", "save_every", "compile")
# On CIFAR-10, unless a flag says otherwise: about six minutes on two cores with bfloat16 units.
FIVE_MINUTES = {"model": "cifar_pool_resnet-64-256-256", "epochs": 5, "batch_size": 512}
FIVE_MINUTES |= {"lr": 0.05, "smoothing": 0.2, "muon": 0.12}
# With --weights: for about a hundred photographs. Few steps are enough, and many would overfit.
FINE_TUNING = {"image_size": 224, "epochs": 20, "frozen": 5, "batch_size": 16, "lr": 0.01}

QUESTION = """\
How many of 100 new images will the network name right in the end? Guessing gets {:.0f}. And which
accuracy is higher, that while training or that on validation images: at first, in the end?"""
ANSWER = """\
It named {:.1f} of 100 right. Epoch by epoch, while training and on validation images: {}.
The second was the higher one in {} of {} epochs. The first is a mean over the whole epoch, from its
first step on, and of shifted, flipped images. The second is of unchanged images, at its end."""
COLUMNS = """\
In batches of {}. The learning rate, lr, {}. Shown is the highest of an
epoch. While training: of the images as they pass, shifted and flipped, while the weights still
move. Validation: of other images, after each epoch{}. If the loss is no number, the rate is too
high. If the first accuracy rises and the second falls, the network overfits: it learns its images
by heart."""
EXPERIMENT = """\
python 06_practical_example.py --data shapes --ema 0.99 averages the weights of the last steps and
tests the average. Does it help in so short a training?"""


def main(argv: list[str] | None = None) -> dict:
    """Run the lesson; returns what it measured."""
    args, resumed = resumed_arguments(argv, arguments(argv))
    plotting.use_theme(args.show)
    with training.parallel.processes(lesson.device(args.device)):
        if args.predict:
            return classify(args)
        return evaluate(args) if args.evaluate else pipeline(args, resumed, argv)


def pipeline(args: Namespace, resumed: dict, argv: list[str] | None = None) -> dict:
    """From the images to the tested network."""
    # 1. Data and model. A wrong name or file is refused before any image is read.
    require_memory(args, images=10)  # there are never fewer
    build(args, 10, resumed)
    limit = 1_000 if args.quick else None
    where = (args.data, args.data_dir, args.data_url)
    options = {"limit": limit, "skip_unreadable": args.skip_unreadable}
    options["download"] = training.parallel.rank() == 0
    with training.parallel.first_alone():  # one process downloads, the others find it there
        dataset = data.load(*where, size=args.image_size, **options)
    if dataset.name == "CIFAR-10" and not (resumed or args.weights):
        args = five_minutes(args, argv)
    if not args.data_dir:  # so that a --resume takes the same ones, whatever is there by then
        args.data = {"CIFAR-10": "cifar10", "CIFAR-100": "cifar100"}.get(dataset.name, "shapes")
    if args.weights and args.image_size > 64:  # with ImageNet's stem: learnt with its statistics
        dataset = replace(dataset, normalisation=data.IMAGENET)
    report = lesson.Report(__file__, args, dataset.name, dataset.why)
    report.ask(QUESTION.format(100 / len(dataset.classes)))
    require_memory(args, len(dataset.train.labels))
    torch.manual_seed(args.seed)  # of the initial weights
    model = build(args, len(dataset.classes), resumed)
    describe(report, dataset, model)

    # 2. Training: first in fifteen lines, on a small network, then by `training.Trainer`, which can
    # also be interrupted, resumed and shared between processes. Both give the same weights.
    report.section("2. Training")
    if not (resumed or args.weights) and training.parallel.world() == 1:
        check_loop(report, dataset, args.seed)
    dataset = dataset.to(report.device)
    trainer = train(report, dataset, model, resumed)

    # 3. Test. Nothing below changes the network: a choice made on these images would spoil them.
    report.section("3. Test: on images that nothing above has seen")
    with training.signals.advised(f"the network is trained: {advice(report)}"):
        tested = test(report, dataset, trainer.evaluated_model)
        draw_curves(report, dataset, trainer.rows, tested["test_accuracy"])
        report.say(f"last network, the one tested: {report.folder / 'last.pt'}")
        best = report.folder / "best.pt"  # of a training resumed elsewhere it may be another's
        ours = training.checkpoints.is_of(best, trainer.rows)
        highest = max(row["val_accuracy"] for row in trainer.rows)
        where = best if ours else "before it was resumed here"
        report.say(f"that of the highest validation accuracy, {highest:.1%}: {where}")
        say_answer(report, trainer.rows, tested["test_accuracy"])
        return report.save({"epochs": trainer.rows, **tested})


def require_memory(args: Namespace, images: int) -> None:
    """Raises: UserError if network and batch do not fit into the memory; that of a GPU says so
    itself."""
    if lesson.device(args.device) != "cpu":
        return
    with torch.device("meta"):  # shapes without values, whatever their size
        model = models.build(args.model, 10, args.image_size)
    parts = args.accumulate * training.parallel.world()  # of a batch, one after and beside another
    part = math.ceil(min(args.batch_size, images) / parts)
    training.step.require_memory(model, part, max([*args.sizes, args.image_size]))


def build(args: Namespace, classes: int, resumed: dict) -> nn.Module:
    """The network for so many classes, with new weights or, but for its classifier, --weights."""
    if resumed or not args.weights:  # of a --resume the checkpoint has all weights
        return models.build(args.model, classes, args.image_size)
    load = training.checkpoints.load_torchvision
    return models.new_classifier(load(args.model, args.weights, args.image_size), classes)


def describe(report, dataset: data.Dataset, model: nn.Module) -> None:
    """Print what goes in: images of each split, size and cost of the network."""
    report.section("1. Data and model")
    for split in data.SPLITS:
        images, _ = getattr(dataset, split)
        report.say(f"{split:<5}  {len(images):>6} images of {images.shape[2]}x{images.shape[3]}")
    for size in (*report.args.sizes, dataset.train.images.shape[3]):
        try:
            macs = analysis.multiply_adds(model, 3, size, size) / 1e6
        except RuntimeError as error:
            raise UserError(f"{report.args.model} cannot take images of {size} pixels") from error
    count = analysis.parameter_count(model)
    report.say(f"{report.args.model}: {count:,} parameters, {macs:.0f} M multiply-adds an image")
    if report.args.weights:
        report.say(f"all but the classifier's start from {report.args.weights}")


def train_by_hand(model: nn.Module, dataset: data.Dataset, epochs: int, batch_size: int, seed: int):
    """A whole training: what `training.Trainer` does when nothing goes wrong."""
    optimizer = training.sgd(model, lr=0.1)  # Nesterov momentum 0.9, weight decay 5e-4
    steps = epochs * training.steps_per_epoch(dataset, batch_size)
    schedule = training.warmup_cosine(optimizer, steps, warmup=round(0.15 * steps))
    for epoch in range(1, epochs + 1):
        model.train()  # validation has set eval mode: batch norm must see each batch's statistics
        # Another seed in each epoch: another order, other shifts and flips. The factor is larger
        # than any number of epochs, so that two trainings have no epoch in common.
        for x, y in dataset.batches("train", batch_size, seed=seed * 10_007 + epoch):
            with training.autocast("cpu"):  # bfloat16 where the processor has it
                logits = model(x).float()  # N classes; the softmax wants float32
                loss = F.cross_entropy(logits, y)
            optimizer.zero_grad()  # `backward` adds to what is there: the last step's gradients
            loss.backward()
            optimizer.step()
            schedule.step()  # once a step, not once an epoch: the warm-up is short
        training.evaluate(model, dataset, "val")


def check_loop(report, dataset: data.Dataset, seed: int) -> None:
    """The loop above and `training.Trainer`, on a small network and the first images, on the CPU
    (a GPU adds in another order each time)."""
    few = dataset.first(256)
    few = few.resized(min(32, few.train.images.shape[3]))
    states = []
    for by_hand in (True, False):
        torch.manual_seed(seed)
        model = models.cifar_resnet(8, num_classes=len(dataset.classes))
        model = model.to(memory_format=torch.channels_last)  # as Trainer does: another order of
        # the numbers in memory is another order of additions, and so another last digit
        if by_hand:
            train_by_hand(model, few, epochs=2, batch_size=64, seed=seed)
        else:
            list(training.Trainer(model, few, epochs=2, batch_size=64, seed=seed).run())
        states.append(model.state_dict())
    equal = all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    what = "on a small network train_by_hand, above in this file, and training.Trainer give equal"
    report.check(f"{what} weights", equal)


def train(report, dataset: data.Dataset, model: nn.Module, resumed: dict) -> training.Trainer:
    """Train, print a row per epoch, keep the last network and the best on validation data."""
    args = report.args
    peak = f"{args.lr}, for convolutions to {args.muon}," if args.muon else args.lr
    course = f"rises to {peak} over 15 % of the steps, then falls to 0"
    if args.frozen:
        course = f"is {args.lr} while the classifier learns alone, then at most 0.3 of that"
    weights = ", with the averaged weights" if args.ema else ""
    report.explain(COLUMNS.format(args.batch_size, course, weights))
    report.say(f"{'':<15}{' while training ':-^24}")
    report.say("epoch  pixels        loss  accuracy (%)  val acc (%)  images/s       lr  seconds")
    model = model.to(report.device)
    model = training.step.compiled(model) if args.compile else model
    options = settings_of(args, (*RECIPE, "seed"))
    trainer = training.Trainer(model, dataset, args.epochs, device=report.device, **options)
    if resumed:
        training.checkpoints.resume(args.resume, resumed, trainer)
        for row in trainer.rows:
            say_row(report, row)
    last, best = report.folder / "last.pt", report.folder / "best.pt"
    here = resumed and last.resolve() == args.resume.resolve()
    for path in (last, best):
        ours = (here and path == last) or training.checkpoints.is_of(path, trainer.rows)
        if report.writes and not ours:
            training.checkpoints.set_aside(path)

    def save_last() -> None:
        save(last, trainer, args)

    if resumed and not here:  # perhaps no step is left, after which it would be saved
        save_last()
    # A checkpoint holds all that the next step depends on: weights, running averages, momentum, the
    # place in schedule and epoch, random state, settings. So what is resumed gives equal weights.
    pauses = (args.save_every, trainer.steps, report.device, advice(report))
    with training.signals.interruptible(save_last, *pauses) as on_step:
        for row in trainer.run(on_step=on_step):
            # Chosen by validation images, for the test images may choose nothing. What is tested
            # below is the last network: the best of many epochs on few images is partly luck.
            if row["val_accuracy"] == max(r["val_accuracy"] for r in trainer.rows):
                save(best, trainer, args)
            save_last()
            say_row(report, row)  # last: a terminal that is gone must not cost the epoch
            if row["epoch"] == args.frozen:
                report.say("From here on not the classifier alone, but the whole network learns.")
    return trainer


def say_answer(report, rows: list[dict], accuracy: float) -> None:
    """What became of the QUESTION, and what to try next."""
    pairs = [f"{r['train_accuracy']:.1%} and {r['val_accuracy']:.1%}" for r in rows]
    shown = pairs if len(pairs) < 7 else [pairs[0], "...", pairs[-1]]
    last = shlex.quote((report.folder / "last.pt").as_posix())
    ask = f"python {Path(__file__).name} --checkpoint {last} --predict PICTURE asks the network "
    ask += "about a picture. Take one that it has not learnt from."
    experiment = ask if report.args.data_dir else EXPERIMENT
    higher = sum(row["val_accuracy"] > row["train_accuracy"] for row in rows)
    found = 100 * accuracy, ", ".join(shown), higher, len(rows)
    report.answer(ANSWER.format(*found), experiment)


def advice(report) -> str:
    """How to go on after a signal."""
    last = shlex.quote((report.folder / "last.pt").as_posix())
    return f"continue with python {Path(__file__).name} --resume {last}"


ROW = "{epoch:>5}  {pixels:>6}  {train_loss:>10.3f}  {train:>12.1f}  {val:>11.1f}  "
ROW += "{images_per_s:>8.0f}  {lr:>7.4f}  {seconds:>7.0f}"


def say_row(report, row: dict) -> None:
    """Print one line of the table of epochs."""
    percent = {"train": 100 * row["train_accuracy"], "val": 100 * row["val_accuracy"]}
    report.say(ROW.format(**row, **percent))


def settings_of(args: Namespace, names: tuple = BINDING) -> dict:
    """Flags as plain values; by default those that change the result, and bind a --resume."""
    values = {name: getattr(args, name) for name in names}
    return {name: str(v) if isinstance(v, Path) else v for name, v in values.items()}


def save(path: Path, trainer: training.Trainer, args: Namespace) -> None:
    """Write a checkpoint of the training, whole or not at all."""
    # A sum over the epoch is spread over the processes, so all of them must ask; one writes.
    entries = training.checkpoints.training_entries(trainer, settings_of(args))
    if training.parallel.rank() == 0:
        sources = {"sources": settings_of(args, SOURCES)}
        training.checkpoints.save_checkpoint(path, entries | sources)


def test(report, dataset: data.Dataset, model: nn.Module) -> dict:
    """The test images: accuracy overall and by class, with 95 % intervals; three figures."""
    logits = training.predict(model, dataset, "test", report.device)
    probabilities, labels = logits.softmax(1).cpu(), dataset.test.labels.cpu()
    judged = analysis.predictions
    counts = judged.confusion(probabilities.argmax(1), labels, len(dataset.classes))
    by_class = judged.accuracies(counts, dataset.classes)
    report.table([judged.accuracy_row(name, row) for name, row in by_class.items()])
    overall = judged.accuracy(int(counts.diag().sum()), len(labels))
    report.say(f"test accuracy {judged.with_interval(overall)}")
    report.say(f"of {len(labels)} images of {dataset.name}. With other images it would be another")
    report.say("number. Of 100 such intervals, each from other test images, about 95 would hold")
    report.say("the accuracy on endlessly many images (Wilson's formula).")
    mirrored = training.predict(model, dataset, "test", report.device, mirror=True)
    guesses = ((logits + mirrored) / 2).argmax(1).cpu()
    both = judged.accuracy(int((guesses == labels).sum()), len(labels))
    report.say(f"averaged with the mirror images, at twice the cost: {judged.with_interval(both)}")
    report.say("The first is the result. Which of the two to report was fixed before the test.")
    calibrated = judged.calibration(probabilities, labels)
    error = f"{100 * calibrated['ece']:.2f} points"
    report.say("When the network says 90 %, is it right in 90 of 100 cases? On average it is off")
    report.say(f"by {error}: the expected calibration error, see calibration.png.")
    report.say()
    what = f"{report.args.model} on {dataset.name}, one seed"
    draw, names = plotting.predictions, dataset.classes
    report.figure(draw.confusion(counts, names, f"{what}; {len(labels)} images"), "confusion")
    report.figure(draw.reliability(calibrated, len(labels), what), "calibration")
    report.figure(draw.mistakes(dataset.test, probabilities, names, what), "mistakes")
    measured = {"test_accuracy": overall["accuracy"], "test_interval": overall["interval"]}
    measured |= {"mirror_accuracy": both["accuracy"], "mirror_interval": both["interval"]}
    measured["test_images"] = len(labels)
    return measured | {"per_class": by_class, "confusion": counts, "calibration": calibrated}


def draw_curves(report, dataset: data.Dataset, rows: list[dict], accuracy: float) -> None:
    """Loss and accuracy by epoch."""
    args, images = report.args, len(dataset.train.labels)
    what = f"{args.model} on {dataset.name}"
    figure = plotting.curves.epochs(rows, what, images, accuracy, args.sizes, args.smoothing)
    report.figure(figure, "curves")


def classify(args: Namespace) -> dict:
    """--predict: the likeliest classes of each picture, also of those in folders."""
    model, entries = training.checkpoints.load_model(args.checkpoint)
    device = lesson.device(args.device)
    paths, dataset = analysis.predictions.pictures(args.predict, entries, args.skip_unreadable)
    dataset = dataset.to(device)
    shares = training.predict(model.to(device), dataset, "test", device).softmax(1).cpu()
    likeliest = analysis.predictions.likeliest(shares, dataset.classes)
    if training.parallel.rank() == 0:
        for path, classes in zip(paths, likeliest, strict=True):
            print(f"{path}: " + ", ".join(f"{name} {100 * p:.1f} %" for name, p in classes))
        print(dataset.why, end="\n" * bool(dataset.why))
    measured = dict(zip(map(str, paths), likeliest, strict=True))
    return {"failed_checks": [], "measured": measured}


def evaluate(args: Namespace) -> dict:
    """--evaluate: the test section alone, on other images, into a folder of its own."""
    model, entries = training.checkpoints.load_model(args.checkpoint)
    args.model = entries["model_name"]
    limit = 1_000 if args.quick else None
    where = (args.data, args.data_dir, args.data_url)
    with training.parallel.first_alone():
        dataset = analysis.predictions.test_images(entries, where, limit, args.skip_unreadable)
    name = f"{Path(__file__).stem}_evaluation"
    report = lesson.Report(name, args, dataset.name, dataset.why)
    report.say(f"{args.checkpoint}: {args.model} after epoch {entries['epoch']}")
    report.section("Test: in two passes, every image and its mirror image")
    return report.save(test(report, dataset.to(report.device), model.to(report.device)))


def arguments(argv: list[str] | None, defaults: dict | None = None) -> Namespace:
    """The shared flags and this lesson's own, with other defaults if some are given."""
    flags = lesson.parser(__doc__, SETTINGS)
    add = flags.add_argument
    faster = "compile the network with torch.compile"
    add("--compile", action=BooleanOptionalAction, default=False, help=faster)
    equally = "draw the images of all classes equally often, those of rare ones again and again"
    add("--balance", action="store_true", help=equally)
    add("--skip-unreadable", action="store_true", help="leave out image files that are damaged")
    again = "continue the training of a checkpoint, exactly, with its settings, in its folder"
    known = ", ".join(f"--{name.replace('_', '-')} {n}" for name, n in FINE_TUNING.items())
    start = f"fine-tune this file in torchvision's format; the defaults become {known} (up to 64 "
    start += "pixels a network has the CIFAR stem)"
    add("--weights", type=Path, metavar="FILE", help=start)
    add("--resume", type=Path, metavar="FILE", help=again)
    add("--checkpoint", type=Path, metavar="FILE", help="the network for --predict or --evaluate")
    pictures = "name what is on these pictures, or on all in a folder"
    add("--predict", type=Path, nargs="+", metavar="IMAGE", help=pictures)
    add("--evaluate", action="store_true", help="test on the images of --data or --data-dir")
    flags.set_defaults(**(defaults or {}))
    args = flags.parse_args(argv)
    if args.weights and defaults is None:
        return arguments(argv, FINE_TUNING)
    if (args.checkpoint is None) == (bool(args.predict) or args.evaluate):
        flags.error("--checkpoint goes with --predict or --evaluate, and they with it")
    if args.resume and args.checkpoint:
        flags.error("--resume goes on training: it has no --predict and no --evaluate")
    if args.sizes and args.epochs < len(args.sizes) and not (args.quick or args.resume):
        flags.error("--sizes: every size needs an epoch")
    return args


def five_minutes(args: Namespace, argv: list[str] | None) -> Namespace:
    """The arguments of the recipe for CIFAR-10; but as they are, if one of its flags was given."""
    typed = {text.partition("=")[0] for text in argv or []}
    own = {"--quick", *(f"--{name.replace('_', '-')}" for name in FIVE_MINUTES)}
    return args if typed & own else arguments(argv, FIVE_MINUTES)


def resumed_arguments(argv: list[str] | None, args: Namespace) -> tuple[Namespace, dict]:
    """The arguments with a checkpoint's settings and data as defaults, and its entries."""
    if not args.resume:
        return args, {}
    entries = training.checkpoints.read_training(args.resume)
    known = entries["settings"] | entries.get("sources", {})
    defaults = {name: known[name] for name in BINDING + SOURCES if name in known}
    if args.data_dir:  # looked at anew, whatever was there before
        defaults.pop("data", None)
    if args.resume.resolve().parent.name == Path(__file__).stem:  # go on where it stopped
        defaults["out_dir"] = args.resume.resolve().parent.parent
    args = arguments(argv, defaults)
    training.checkpoints.same_settings(args.resume, entries, settings_of(args))
    kept = defaults.get("data_dir")
    if kept and str(args.data_dir) == kept and not args.data_dir.exists():
        raise UserError(f"--resume {args.resume} names images in {kept}: give --data-dir anew")
    return args, entries


if __name__ == "__main__":
    lesson.run(main)
