"""Lesson 6: a training pipeline, from images to a trained network.

You will learn
    how data, model, schedule and loop fit together, in the order in which they are needed
    why choices belong to the validation split, and the test split is read once, at the end
    what to watch while a network trains: loss, two accuracies, speed, learning rate
    what a checkpoint must hold for a training to continue as if it had never stopped
Builds on: lessons 1 and 2. Papers: He et al. 2015 (arXiv:1512.03385), section 4.2; Loshchilov &
Hutter 2017 (arXiv:1608.03983) for the cosine schedule.
Takes about a minute on two cores (a small ResNet on the built-in Shapes-10).
Writes curves.png, best.pt, last.pt, report.txt and results.json to
outputs/06_practical_example/.

    python 06_practical_example.py --data cifar10 --epochs 30
    python 06_practical_example.py --data-dir MY_PHOTOS --image-size 64 --epochs 20 --lr 0.05
    python 06_practical_example.py --resume outputs/06_practical_example/last.pt
"""

import shlex
from pathlib import Path

import torch
import torch.nn as nn

from common import analysis, checkpoints, data, lesson, plotting, signals, training
from common.checkpoints import build_model

RECIPE = ("batch_size", "lr", "weight_decay", "cutout", "seed")
SETTINGS = ("model", "epochs", "image_size", "quick", *RECIPE)
SOURCES = ("data", "data_dir", "data_url", "save_every")


def describe(report, dataset: data.Dataset, model: nn.Module) -> None:
    """What goes in."""
    report.section("Data and model")
    for split in data.SPLITS:
        images, _ = getattr(dataset, split)
        report.say(f"{split:<5}  {len(images):>6} images of {images.shape[2]}x{images.shape[3]}")
    count = analysis.parameter_count(model)
    macs = analysis.multiply_adds(model, *dataset.train.images.shape[1:]) / 1e6
    report.say(f"{report.args.model}: {count:,} parameters, {macs:.0f} M multiply-adds an image")


ROW = "{epoch:>5}  {train_loss:>10.3f}  {train:>10.1f}  {val:>8.1f}  {images_per_s:>8.0f}  "
ROW += "{lr:>7.4f}  {left:>8.0f}"


def say_row(report, row: dict) -> None:
    """One line of the table of epochs."""
    left = row["seconds"] / row["epoch"] * (report.args.epochs - row["epoch"])
    percent = {"train": 100 * row["train_accuracy"], "val": 100 * row["val_accuracy"]}
    report.say(ROW.format(**row, **percent, left=left))


def settings_of(args, names: tuple = SETTINGS) -> dict:
    """Flags as plain values; the default: those that change the result, and bind a --resume."""
    values = {name: getattr(args, name) for name in names}
    return {name: str(v) if isinstance(v, Path) else v for name, v in values.items()}


def save(path: Path, trainer: training.Trainer, args) -> None:
    """A checkpoint of the training, whole or not at all."""
    entries = checkpoints.training_entries(trainer, settings_of(args))
    checkpoints.save_checkpoint(path, entries | {"sources": settings_of(args, SOURCES)})


def train(report, dataset: data.Dataset, model: nn.Module, resumed: dict) -> list[dict]:
    """Train, print a row per epoch, keep the last network and the best on validation data."""
    report.section("Training")
    report.say("epoch  train loss  train acc%  val acc%  images/s  peak lr  left (s)")
    args, device = report.args, report.results["device"]
    options = settings_of(args, RECIPE)
    trainer = training.Trainer(model, dataset, args.epochs, device=device, **options)
    if resumed:
        checkpoints.resume(args.resume, resumed, trainer)
        for row in trainer.rows:
            say_row(report, row)
    last, best = report.folder / "last.pt", report.folder / "best.pt"
    how = f"continue with python {report.folder.name}.py --resume {shlex.quote(str(last))}"
    if args.out_dir != lesson.OUTPUTS:
        how += f" --out-dir {shlex.quote(str(args.out_dir))}"
    with signals.noted() as stop:

        def on_step(step: int, batch) -> None:
            """Between two updates: save if it is time, or if someone wants us to stop."""
            if stop or (args.save_every and batch and step % args.save_every == 0):
                save(last, trainer, args)
            if stop:
                raise signals.Stopped(
                    f"stopped after step {step} of {trainer.steps}; {how}", stop[0]
                )

        for row in trainer.run(on_step=on_step):
            say_row(report, row)
            if row["val_accuracy"] == max(r["val_accuracy"] for r in trainer.rows):
                save(best, trainer, args)
            save(last, trainer, args)
        on_step(trainer.steps, None)
    return trainer.rows


def test(report, dataset: data.Dataset, model: nn.Module) -> dict:
    """The test images, once: the network of the last epoch, overall and by class."""
    report.section("Test (last epoch, every test image once)")
    logits = training.predict(model, dataset, "test", report.results["device"])
    correct = (logits.argmax(1) == dataset.test.labels).cpu()
    labels = dataset.test.labels.cpu()
    rows, per_class = [], {}
    for index, name in enumerate(dataset.classes):
        chosen = correct[labels == index]
        share = chosen.double().mean().item()  # NaN where a limit left the class out
        per_class[name] = share
        rows.append([name, len(chosen), f"{100 * share:.1f}"])
    report.table(["class", "images", "accuracy (%)"], rows)
    accuracy = correct.double().mean().item()
    report.say(f"test accuracy {100 * accuracy:.2f} % of {len(correct)} images of {dataset.name}")
    return {"test_accuracy": accuracy, "test_images": len(correct), "per_class": per_class}


def draw_curves(rows: list[dict], model_name: str, dataset: data.Dataset, accuracy: float):
    """Loss and accuracy by epoch."""
    title = f"{model_name}: {100 * accuracy:.1f} % test accuracy on {dataset.name} "
    title += f"after {len(rows)} epochs"
    subtitle = f"{len(dataset.train.labels)} training images; training values are measured on the "
    subtitle += "augmented images as they pass, validation values after each epoch; one seed"
    figure, axes = plotting.new_figure(title, subtitle, 10, 4.6, ncols=2)
    epochs = [row["epoch"] for row in rows]
    looks = {"train": (plotting.GREY, "-"), "val": (plotting.RESIDUAL, "-")}
    for ax, quantity, scale in zip(axes, ("loss", "accuracy"), (1, 100), strict=True):
        ends = []
        ax.set_yscale("log" if quantity == "loss" else "linear")
        for split, (colour, dash) in looks.items():
            values = [scale * row[f"{split}_{quantity}"] for row in rows]
            ax.plot(epochs, values, dash, color=colour, marker="o", markersize=4)
            ends.append((values[-1], {"train": "training", "val": "validation"}[split], colour))
        ax.set(xlabel="epoch", xlim=(min(epochs) - 0.2, max(epochs)))
        ax.xaxis.get_major_locator().set_params(integer=True)
        plotting.label_ends(ax, ends)
    axes[0].set_ylabel("mean cross-entropy (nats)")
    axes[1].set_ylabel("accuracy (%)")
    return figure


def arguments(argv: list[str] | None, defaults: dict | None = None):
    """The shared flags and this lesson's own, with other defaults if some are given."""
    flags = lesson.parser(__doc__)
    add = flags.add_argument
    add("--model", default="cifar_resnet-20", help="a function of common/models, its numbers "
        "behind dashes (default: %(default)s)")  # fmt: skip
    add("--epochs", type=lesson.positive, default=5, help="(default: %(default)s)")
    add("--batch-size", type=lesson.positive, default=128, help="images (default: %(default)s)")
    add("--lr", type=float, default=0.2, help="peak learning rate (default: %(default)s)")
    add("--weight-decay", type=float, default=5e-4, help="(default: %(default)s)")
    add("--cutout", type=lesson.natural, default=0, help="pixels (default: %(default)s, none)")
    add("--image-size", type=lesson.positive, default=32, help="pixels (default: %(default)s)")
    add("--save-every", type=lesson.natural, default=0, metavar="STEPS",
        help="checkpoint within the epoch (default: %(default)s, only after it)")  # fmt: skip
    add("--resume", type=Path, metavar="FILE", help="continue the training of a checkpoint, "
        "exactly; its settings need not be repeated")  # fmt: skip
    flags.set_defaults(**(defaults or {}))
    args = flags.parse_args(argv)
    args.epochs = 1 if args.quick else args.epochs
    return args


def resumed_arguments(argv: list[str] | None, args) -> tuple:
    """The arguments with a checkpoint's settings and data as defaults, and its entries."""
    if not args.resume:
        return args, {}
    entries = checkpoints.read_training(args.resume)
    known = entries["settings"] | entries.get("sources", {})
    args = arguments(argv, {name: known[name] for name in SETTINGS + SOURCES if name in known})
    checkpoints.same_settings(args.resume, entries, settings_of(args))
    return args, entries


def main(argv: list[str] | None = None) -> dict:
    """Run the lesson; returns what it measured."""
    args, resumed = resumed_arguments(argv, arguments(argv))
    plotting.use_theme(args.show)
    build_model(args.model, 10)  # refuse an unknown name before any image is read
    limit = 1_000 if args.quick else None
    where = (args.data, args.data_dir, args.data_url)
    dataset = data.load(*where, size=args.image_size, limit=limit, download=True)
    report = lesson.Report(__file__, args, dataset.name, dataset.why)
    torch.manual_seed(args.seed)
    model = build_model(args.model, len(dataset.classes), args.image_size)
    describe(report, dataset, model)
    dataset = dataset.to(report.results["device"])
    rows = train(report, dataset, model, resumed)
    tested = test(report, dataset, model)
    figure = draw_curves(rows, args.model, dataset, tested["test_accuracy"])
    report.figure(figure, "curves")
    report.say(f"last network: {report.folder / 'last.pt'}")
    report.say(f"best validation accuracy: {report.folder / 'best.pt'}")
    return report.save({"epochs": rows, **tested})


if __name__ == "__main__":
    lesson.run(main)
