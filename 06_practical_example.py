"""Lesson 6: a training pipeline, from images to a trained network.

You will learn
    how data, model, schedule and loop fit together, in the order in which they are needed
    why choices belong to the validation split, and the test split is read once, at the end
    what to watch while a network trains: loss, two accuracies, speed, learning rate
    what a checkpoint must hold for a training to continue as if it had never stopped
Builds on: lessons 1 and 2. Papers: He et al. 2015 (arXiv:1512.03385), section 4.2; Loshchilov &
Hutter 2017 (arXiv:1608.03983) for the cosine schedule.
Takes about a minute on two cores (a small ResNet on the built-in Shapes-10).
Writes curves.png, confusion.png, calibration.png, mistakes.png, best.pt, last.pt, report.txt and
results.json to outputs/06_practical_example/; with --evaluate all but curves and networks to
outputs/06_practical_example_evaluation/; with --predict nothing.

    python 06_practical_example.py --data cifar10 --epochs 100 --cutout 16 --smoothing 0.1
    python 06_practical_example.py --data cifar10 --epochs 10 --sizes 16 24 32
    python 06_practical_example.py --data-dir MY_PHOTOS --image-size 64 --batch-size 16 --lr 0.03
    python 06_practical_example.py --resume outputs/06_practical_example/last.pt
    torchrun --nproc-per-node 2 06_practical_example.py --data cifar10 --epochs 100
    python 06_practical_example.py --checkpoint FOLDER/best.pt --predict CAT.jpg DOG.jpg
    python 06_practical_example.py --checkpoint FOLDER/best.pt --evaluate --data-dir MY_PHOTOS
"""

import shlex
import signal
from argparse import BooleanOptionalAction
from pathlib import Path

import torch
import torch.nn as nn

from common import (
    UserError,
    analysis,
    checkpoints,
    data,
    evaluation,
    lesson,
    optim,
    parallel,
    plotting,
    signals,
    training,
)
from common import evaluation_figures as figures
from common.checkpoints import build_model

RECIPE = (
    "batch_size",
    "lr",
    "weight_decay",
    "sizes",
    "cutout",
    "smoothing",
    "ema",
    "muon",
    "accumulate",
)
SETTINGS = ("model", "epochs", "image_size", "quick", *RECIPE, "seed")
SOURCES = ("data", "data_dir", "data_url", "save_every", "compile")


def describe(report, dataset: data.Dataset, model: nn.Module) -> None:
    """What goes in."""
    report.section("1. Data and model")
    for split in data.SPLITS:
        images, _ = getattr(dataset, split)
        report.say(f"{split:<5}  {len(images):>6} images of {images.shape[2]}x{images.shape[3]}")
    count = analysis.parameter_count(model)
    for size in (*(report.args.sizes or ()), dataset.train.images.shape[3]):
        try:
            macs = analysis.multiply_adds(model, 3, size, size) / 1e6
        except RuntimeError as error:
            raise UserError(f"{report.args.model} cannot take images of {size} pixels") from error
    report.say(f"{report.args.model}: {count:,} parameters, {macs:.0f} M multiply-adds an image")


ROW = "{epoch:>5}  {pixels:>6}  {train_loss:>10.3f}  {train:>13.1f}  {val:>11.1f}  "
ROW += "{images_per_s:>8.0f}  {lr:>7.4f}  {seconds:>7.0f}"


def say_row(report, row: dict) -> None:
    """One line of the table of epochs."""
    percent = {"train": 100 * row["train_accuracy"], "val": 100 * row["val_accuracy"]}
    report.say(ROW.format(**row, **percent))


def settings_of(args, names: tuple = SETTINGS) -> dict:
    """Flags as plain values; the default: those that change the result, and bind a --resume."""
    values = {name: getattr(args, name) for name in names}
    return {name: str(v) if isinstance(v, Path) else v for name, v in values.items()}


def save(path: Path, trainer: training.Trainer, args) -> None:
    """A checkpoint of the training, whole or not at all."""
    entries = checkpoints.training_entries(trainer, settings_of(args))
    if parallel.rank() == 0:
        checkpoints.save_checkpoint(path, entries | {"sources": settings_of(args, SOURCES)})


def train(report, dataset: data.Dataset, model: nn.Module, resumed: dict) -> training.Trainer:
    """Train, print a row per epoch, keep the last network and the best on validation data."""
    report.section("2. Training")
    report.say("epoch  pixels  train loss  train acc (%)  val acc (%)  images/s  peak lr  seconds")
    args, device = report.args, report.results["device"]
    options = settings_of(args, (*RECIPE, "seed"))
    model = optim.compiled(model.to(device)) if args.compile else model
    trainer = training.Trainer(model, dataset, args.epochs, device=device, **options)
    if resumed:
        checkpoints.resume(args.resume, resumed, trainer)
        for row in trainer.rows:
            say_row(report, row)
    last, best = report.folder / "last.pt", report.folder / "best.pt"
    how = f"continue with python {report.folder.name}.py --resume {shlex.quote(str(last))}"
    pause = 20 if parallel.world() > 1 and device == "cuda" else 1  # asking makes GPUs wait
    with signals.noted() as stop:

        def on_step(step: int, batch) -> None:
            """Between two updates: save if it is time, or if someone wants us to stop."""
            wanted = step % pause == 0 and parallel.any_of(bool(stop), device)
            if wanted or (args.save_every and batch and step % args.save_every == 0):
                save(last, trainer, args)
            if wanted:
                raise signals.Stopped(
                    f"stopped after step {step} of {trainer.steps}; {how}",
                    (stop or [signal.SIGTERM])[0],
                )

        for row in trainer.run(on_step=on_step):
            say_row(report, row)
            if row["val_accuracy"] == max(r["val_accuracy"] for r in trainer.rows):
                save(best, trainer, args)
            save(last, trainer, args)
        on_step(trainer.steps, None)
    return trainer


def test(report, dataset: data.Dataset, model: nn.Module) -> dict:
    """The test images, once: overall and by class, with 95 % intervals; confusion, calibration."""
    report.section("3. Test: every test image once")
    logits = training.predict(model, dataset, "test", report.results["device"])
    probabilities, labels = logits.softmax(1).cpu(), dataset.test.labels.cpu()
    counts = evaluation.confusion(probabilities.argmax(1), labels, len(dataset.classes))
    found, rows = evaluation.accuracies(counts, dataset.classes), []
    for name, row in found.items():
        low, high = (f"{100 * limit:.1f}" for limit in row["interval"])
        rows.append([name, row["images"], f"{100 * row['accuracy']:.1f}", f"{low} to {high}"])
    report.table(["class", "images", "accuracy (%)", "95 % interval (%, Wilson)"], rows)
    calibrated = evaluation.calibration(probabilities, labels)
    accuracy, images = found["all"]["accuracy"], len(labels)
    report.say(f"test accuracy {100 * accuracy:.2f} % of {images} images of {dataset.name}")
    mirrored = training.predict(model, dataset, "test", report.results["device"], mirror=True)
    both = (mirrored.argmax(1).cpu() == labels).double().mean().item()
    report.say(f"logits averaged with the mirror image's: {100 * both:.2f} % (not in the table)")
    report.say(f"expected calibration error {100 * calibrated['ece']:.2f} %")
    report.say()
    what = f"{report.args.model} on {dataset.name}, one seed"
    report.figure(
        figures.confusion(counts, dataset.classes, f"{what}; {images} images"), "confusion"
    )
    report.figure(figures.reliability(calibrated, images, what), "calibration")
    thumbnails = figures.mistakes(dataset.test, probabilities, dataset.classes, what)
    report.figure(thumbnails, "mistakes")
    measured = {"test_accuracy": accuracy, "mirror_accuracy": both, "test_images": images}
    return measured | {"per_class": found, "confusion": counts, "calibration": calibrated}


def classify(args) -> dict:
    """--predict: the likeliest classes of each picture."""
    model, entries = checkpoints.load_model(args.checkpoint)
    device = lesson.device(args.device)
    dataset = evaluation.pictures(args.predict, entries).to(device)
    shares = training.predict(model.to(device), dataset, "test", device).softmax(1).cpu()
    found = dict(zip(args.predict, evaluation.likeliest(shares, dataset.classes), strict=True))
    if parallel.rank() == 0:
        for path, classes in found.items():
            print(f"{path}: " + ", ".join(f"{name} {100 * p:.1f} %" for name, p in classes))
    return {"failed_checks": [], "measured": {str(path): row for path, row in found.items()}}


def evaluate(args) -> dict:
    """--evaluate: the test section alone, on other images, into a folder of its own."""
    model, entries = checkpoints.load_model(args.checkpoint)
    args.model, limit = entries["model_name"], 1_000 if args.quick else None
    where = (args.data, args.data_dir, args.data_url)
    dataset = evaluation.test_images(entries, *where, limit)
    name = f"{Path(__file__).stem}_evaluation"
    report = lesson.Report(name, args, dataset.name, dataset.why)
    report.say(f"{args.checkpoint}: {args.model} after epoch {entries['epoch']}")
    device = report.results["device"]
    return report.save(test(report, dataset.to(device), model.to(device)))


def arguments(argv: list[str] | None, defaults: dict | None = None):
    """The shared flags and this lesson's own, with other defaults if some are given."""
    flags = lesson.parser(__doc__)
    add = flags.add_argument
    add("--model", default="cifar_resnet-20", help="a function of common/models, its numbers "
        "behind dashes (default: %(default)s)")  # fmt: skip
    add("--epochs", type=lesson.positive, default=5,
        help="passes over the training images (default: %(default)s)")  # fmt: skip
    add("--batch-size", type=lesson.positive, default=128, help="images (default: %(default)s)")
    add("--lr", type=lesson.rate, default=0.2, help="peak learning rate (default: %(default)s)")
    add("--weight-decay", type=lesson.decay, default=5e-4, help="(default: %(default)s)")
    add("--cutout", type=lesson.natural, default=0, help="pixels (default: %(default)s, none)")
    add("--smoothing", type=lesson.share, default=0.0, help="of labels (default: %(default)s)")
    add("--ema", type=lesson.share, default=0.0, metavar="DECAY",
        help="test the moving average of the weights (default: %(default)s, none)")  # fmt: skip
    add("--muon", type=lesson.decay, default=0.0, metavar="RATE", help="peak learning rate of the "
        "convolutions under Muon (default: %(default)s, SGD for all)")  # fmt: skip
    add("--accumulate", type=lesson.positive, default=1, metavar="PARTS", help="split each batch "
        "into this many parts, to save memory (default: %(default)s)")  # fmt: skip
    add("--image-size", type=lesson.positive, default=32, help="pixels (default: %(default)s)")
    add("--sizes", type=lesson.positive, nargs="+", metavar="PIXELS", help="train on images of "
        "these sizes in turn, the epochs shared out (default: --image-size alone)")  # fmt: skip
    add("--save-every", type=lesson.natural, default=0, metavar="STEPS",
        help="checkpoint within the epoch (default: %(default)s, only after it)")  # fmt: skip
    add("--compile", action=BooleanOptionalAction, default=False,
        help="compile the network with torch.compile")  # fmt: skip
    add("--resume", type=Path, metavar="FILE", help="continue the training of a checkpoint, "
        "exactly, with its settings, in its folder")  # fmt: skip
    add("--checkpoint", type=Path, metavar="FILE", help="the network for --predict or --evaluate")
    add("--predict", type=Path, nargs="+", metavar="IMAGE", help="name what is on these pictures")
    add("--evaluate", action="store_true", help="test on the images of --data or --data-dir")
    flags.set_defaults(**(defaults or {}))
    args = flags.parse_args(argv)
    if (args.checkpoint is None) == (bool(args.predict) or args.evaluate):
        flags.error("--checkpoint goes with --predict or --evaluate, and they with it")
    if args.sizes and args.epochs < len(args.sizes) and not (args.quick or args.resume):
        flags.error("--sizes: every size needs an epoch")
    args.epochs = 1 if args.quick else args.epochs
    return args


def resumed_arguments(argv: list[str] | None, args) -> tuple:
    """The arguments with a checkpoint's settings and data as defaults, and its entries."""
    if not args.resume:
        return args, {}
    entries = checkpoints.read_training(args.resume)
    known = entries["settings"] | entries.get("sources", {})
    defaults = {name: known[name] for name in SETTINGS + SOURCES if name in known}
    if args.resume.resolve().parent.name == Path(__file__).stem:  # go on where it stopped
        defaults["out_dir"] = args.resume.resolve().parent.parent
    args = arguments(argv, defaults)
    checkpoints.same_settings(args.resume, entries, settings_of(args))
    return args, entries


def main(argv: list[str] | None = None) -> dict:
    """Run the lesson; returns what it measured."""
    args, resumed = resumed_arguments(argv, arguments(argv))
    plotting.use_theme(args.show)
    with parallel.processes(lesson.device(args.device)):
        return pipeline(args, resumed)


def pipeline(args, resumed: dict) -> dict:
    """From the images to the tested network."""
    if args.checkpoint:
        return classify(args) if args.predict else evaluate(args)
    build_model(args.model, 10)  # refuse an unknown name before any image is read
    limit = 1_000 if args.quick else None
    where = (args.data, args.data_dir, args.data_url)
    with parallel.first_alone():
        dataset = data.load(*where, size=args.image_size, limit=limit, download=True)
    report = lesson.Report(__file__, args, dataset.name, dataset.why)
    torch.manual_seed(args.seed)
    model = build_model(args.model, len(dataset.classes), args.image_size)
    describe(report, dataset, model)
    dataset = dataset.to(report.results["device"])
    trainer = train(report, dataset, model, resumed)
    rows, tested = trainer.rows, test(report, dataset, trainer.evaluated_model)
    what = f"{args.model} on {dataset.name}"
    subtitle = f"{len(dataset.train.labels)} training images; training values are measured on the "
    subtitle += "augmented images as they pass, validation values after each epoch; one seed"
    subtitle += "; training loss of smoothed labels" if args.smoothing else ""
    subtitle += f"; trained at {args.sizes} pixels in turn" if args.sizes else ""
    report.figure(figures.curves(rows, what, subtitle, tested["test_accuracy"]), "curves")
    report.say(f"last network: {report.folder / 'last.pt'}")
    report.say(f"best validation accuracy: {report.folder / 'best.pt'}")
    return report.save({"epochs": rows, **tested})


if __name__ == "__main__":
    lesson.run(main)
