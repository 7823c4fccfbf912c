"""Lesson 6: a training pipeline, from images to a trained network.

You will learn
    how data, model, schedule and loop fit together, in the order in which they are needed
    why choices belong to the validation split, and the test split is read once, at the end
    what to watch while a network trains: loss, two accuracies, speed, learning rate
Builds on: lessons 1 and 2. Papers: He et al. 2015 (arXiv:1512.03385), section 4.2; Loshchilov &
Hutter 2017 (arXiv:1608.03983) for the cosine schedule.
Takes about a minute on two cores (a small ResNet on the built-in Shapes-10).
Writes curves.png, best.pt, last.pt, report.txt and results.json to
outputs/06_practical_example/.

    python 06_practical_example.py --data cifar10 --epochs 30
    python 06_practical_example.py --data-dir MY_PHOTOS --image-size 64 --epochs 20 --lr 0.05
"""

import torch
import torch.nn as nn

from common import analysis, data, lesson, plotting, training
from common.checkpoints import build_model


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


def train(report, dataset: data.Dataset, model: nn.Module) -> list[dict]:
    """Train, print a row per epoch, keep the last network and the best on validation data."""
    report.section("Training")
    report.say("epoch  train loss  train acc%  val acc%  images/s  peak lr  left (s)")
    args, rows = report.args, []
    options = {"batch_size": args.batch_size, "lr": args.lr, "weight_decay": args.weight_decay}
    options |= {"cutout": args.cutout, "seed": args.seed, "device": report.results["device"]}
    for row in training.fit(model, dataset, args.epochs, **options):
        left = row["seconds"] / row["epoch"] * (args.epochs - row["epoch"])
        percent = {"train": 100 * row["train_accuracy"], "val": 100 * row["val_accuracy"]}
        report.say(ROW.format(**row, **percent, left=left))
        rows.append(row)
        entries = {"model": model.state_dict(), "model_name": args.model, "epoch": row["epoch"]}
        entries |= {"val_accuracy": row["val_accuracy"], "classes": dataset.classes}
        training.save_checkpoint(report.folder / "last.pt", entries)
        if row["val_accuracy"] == max(r["val_accuracy"] for r in rows):
            training.save_checkpoint(report.folder / "best.pt", entries)
    return rows


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


def arguments(argv: list[str] | None):
    """The shared flags and this lesson's own."""
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
    return flags.parse_args(argv)


def main(argv: list[str] | None = None) -> dict:
    """Run the lesson; returns what it measured."""
    args = arguments(argv)
    plotting.use_theme(args.show)
    build_model(args.model, 10)  # refuse an unknown name before any image is read
    limit = 1_000 if args.quick else None
    if args.quick:
        args.epochs = 1
    where = (args.data, args.data_dir, args.data_url)
    dataset = data.load(*where, size=args.image_size, limit=limit, download=True)
    report = lesson.Report(__file__, args, dataset.name, dataset.why)
    torch.manual_seed(args.seed)
    model = build_model(args.model, len(dataset.classes), args.image_size)
    describe(report, dataset, model)
    dataset = dataset.to(report.results["device"])
    rows = train(report, dataset, model)
    tested = test(report, dataset, model)
    figure = draw_curves(rows, args.model, dataset, tested["test_accuracy"])
    report.figure(figure, "curves")
    report.say(f"last network: {report.folder / 'last.pt'}")
    report.say(f"best validation accuracy: {report.folder / 'best.pt'}")
    return report.save({"epochs": rows, **tested})


if __name__ == "__main__":
    lesson.run(main)
