"""What does each trick of lesson 6's shortest recipe bring? Does so shallow a network need skips?

    python -m tests.tricks tricks --data-dir DIR --epochs 2    each trick left out or added
    python -m tests.tricks both --data-dir DIR    two additions at once
    python -m tests.tricks skips --data-dir DIR    {skip, none} x {identity start, default}
    ... --record "one core of a laptop"    keep what was measured for .github/results.md

Every run trains a `cifar_pool_resnet` and counts right validation images; the test images are not
read. All runs of a seed start from the same weights, but for what is compared, and see the same
batches. A run that has ended is kept under outputs/tricks/ and not repeated: delete its file there
if you change what it does.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from common import data, lesson, models, training
from common.blocks import PoolBlock
from common.data import Dataset

import torch
import torch.nn as nn

RUNS = Path("outputs") / "tricks"
RECORDED = Path(__file__).resolve().parent.parent / ".github" / "recorded"
RECIPE = {"batch_size": 512, "lr": 0.05, "smoothing": 0.2, "muon": 0.12}
RATES = (0.2, 0.4, 0.8, 1.6)  # of SGD for all, instead of Muon: the best by RATE_SEED is taken
RATE_SEED = 100  # which no comparison uses


class NoSkipBlock(PoolBlock):
    """A PoolBlock without the addition: the same convolutions, one after the other."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.conv1(x))  # N channels H/2 W/2
        x = self.relu1(self.bn1(x))
        for branch in self.residual:
            x = branch(x)
        return x


def without_skips(model: nn.Module, dataset: Dataset) -> None:
    """The same weights, and no block adds."""
    for module in model.modules():
        if isinstance(module, PoolBlock):
            module.__class__ = NoSkipBlock


def identity_start(model: nn.Module, dataset: Dataset) -> None:
    """As many filters of a block's convolution as it has inputs begin by copying one each
    (airbench94)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module is not model.conv1:
            nn.init.dirac_(module.weight[: module.in_channels])


def whitening_stem(model: nn.Module, dataset: Dataset) -> None:
    """Instead of the stem: patches of 2x2 pixels along their principal components, each scaled to
    variance 1, and the negatives: 24 channels that do not learn, then ReLU (Page 2019; airbench94).

    Deviation: a border of one pixel, without which images of 16 pixels would end as a single one.
    """
    images = next(dataset.batches("train", 5_000))[0]
    patches = nn.functional.unfold(images, 2).transpose(1, 2).flatten(0, 1)  # patches 12
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values + 5e-4).sqrt()).T.reshape(12, 3, 2, 2)
    model.conv1 = nn.Conv2d(3, 24, 2, padding=1, bias=False).requires_grad_(False)
    model.conv1.weight.copy_(torch.cat([filters, -filters]))
    model.bn1 = nn.Identity()
    block = model.layer1[0]
    block.conv1 = nn.Conv2d(24, block.conv1.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(block.conv1.weight, mode="fan_out", nonlinearity="relu")


def faster_biases(model: nn.Module, dataset: Dataset) -> None:
    """Batch norm's biases learn at 16 times the rate (airbench94 has 64 times): under SGD that is
    16 times the gradient."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.register_hook(lambda gradient: 16 * gradient)


@dataclass(frozen=True)
class Run:
    """What differs from the recipe: options of the Trainer, changes of the untrained network."""

    options: dict = field(default_factory=dict)
    changes: tuple[Callable, ...] = ()
    residual: int = 1


TRICKS = {
    "the recipe": Run(),
    "without Muon": Run({"muon": 0.0}),  # at the best of RATES
    "without label smoothing": Run({"smoothing": 0.0}),
    "growing images": Run({"sizes": ()}),  # at 3/4 of their size, then whole
    "average of the weights": Run({"ema": 0.95}),
    "whitening stem": Run(changes=(whitening_stem,)),
    "identity start": Run(changes=(identity_start,)),
    "faster biases": Run(changes=(faster_biases,)),
}
BOTH = {"whitening stem, identity start": Run(changes=(whitening_stem, identity_start))}
SKIPS = {
    f"{residual}, {skip}, {start}": Run(changes=(*skips, *starts), residual=residual)
    for residual in (1, 3)
    for skip, skips in (("skip", ()), ("no skip", (without_skips,)))
    for start, starts in (("default", ()), ("identity", (identity_start,)))
}


def train(dataset: Dataset, widths: list[int], epochs: int, seed: int, run: Run) -> dict:
    """Shares of right validation images after a training, with one, two and six views of each."""
    torch.manual_seed(seed)
    model = models.cifar_pool_resnet(*widths, run.residual)
    with torch.no_grad():
        for change in run.changes:
            change(model, dataset)
    trainer = training.Trainer(model, dataset, epochs, **RECIPE | run.options, seed=seed)
    rows = list(trainer.run())
    views, size = [], dataset.val.images.shape[3]
    for shift in (0, -1, 1):
        pixels = (torch.arange(size) + shift).clamp(0, size - 1)
        images = dataset.val.images[:, :, pixels][:, :, :, pixels]
        moved = replace(dataset, val=dataset.val._replace(images=images))
        for mirror in (False, True):
            views.append(training.predict(trainer.evaluated_model, moved, "val", mirror=mirror))
    right = {n: (sum(views[:n]).argmax(1) == dataset.val.labels) for n in (1, 2, 6)}
    accuracies = {f"views {n}": hits.float().mean().item() for n, hits in right.items()}
    return accuracies | {"train": rows[-1]["train_accuracy"], "seconds": rows[-1]["seconds"]}


def kept(path: Path, measure: Callable[[], dict]) -> dict:
    """What stands in a file, which `measure` fills if it is not there yet."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(measure()), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def by_rate(measure: Callable[[str, Run, int], dict]) -> dict[float, float]:
    """The share of right validation images with SGD alone, at each of RATES."""
    runs = {rate: Run({"muon": 0.0, "lr": rate}) for rate in RATES}
    return {r: measure(f"rate {r}", run, RATE_SEED)["views 1"] for r, run in runs.items()}


def main(argv: list[str] | None = None) -> dict:
    """Measure what is not measured yet; perhaps record all."""
    flags = lesson.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = flags.add_argument
    add("what", choices=("tricks", "both", "skips"), help="what is compared")
    add("--data-dir", type=Path, help="folders of images; else torchvision's CIFAR-10")
    add("--seeds", type=lesson.natural, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    add("--widths", type=lesson.positive, nargs=3, default=[32, 64, 64], help="of the groups")
    add("--size", type=lesson.positive, default=16, help="pixels (default: %(default)s)")
    add("--epochs", type=lesson.positive, default=3, help="(default: %(default)s)")
    add("--data", metavar="NAME", help="what the record calls the images")
    add("--record", metavar="DEVICE", help="keep what was measured for .github/results.md")
    args = flags.parse_args(argv)
    dataset = data.load("auto" if args.data_dir else "cifar10", args.data_dir, size=args.size)
    parts = [*args.widths, args.size, args.epochs, dataset.fingerprint[:8]]
    folder = RUNS / "-".join(map(str, parts))

    def measure(name: str, run: Run, seed: int) -> dict:
        path = folder / f"{name.replace(' ', '-').replace(',', '')}-{seed}.json"
        found = kept(path, lambda: train(dataset, args.widths, args.epochs, seed, run))
        print(f"seed {seed}, {name}: " + ", ".join(f"{k} {v:.4g}" for k, v in found.items()))
        return found

    runs, more = SKIPS if args.what == "skips" else BOTH, {}
    if args.what == "tricks":
        growing = Run({"sizes": (3 * args.size // 4, args.size)})
        sgd = by_rate(measure)
        best = Run({"muon": 0.0, "lr": max(sgd, key=sgd.get)})
        runs = TRICKS | {"without Muon": best, "growing images": growing}
        more = {"sgd": sgd}
    found = {name: {} for name in runs}
    for seed in args.seeds:
        for name, run in runs.items():
            found[name][seed] = measure(name, run, seed)
    if args.record:
        where = {"device": args.record, "data": args.data or dataset.name}
        where["torch"] = torch.__version__
        where |= {key: vars(args)[key] for key in ("widths", "size", "epochs", "seeds")}
        text = json.dumps(where | more | {"runs": found}, indent=1)
        (RECORDED / f"{args.what}.json").write_text(f"{text}\n", encoding="utf-8")
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
