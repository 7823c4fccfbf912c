"""Is a network that was trained on other images the better start for a hundred of one's own?

    python -m tests.finetune --record "one core of an Intel Xeon"    for the README

For each seed lesson 6 trains a network on Shapes-10; its weights, saved as torchvision saves them,
are then fine-tuned by lesson 6's `--weights` on a folder of a hundred images of other shapes, and
compared with the same network trained on that folder from scratch, by the flags that README.md
gives for one's own images, for as many epochs, and for five times as many.
"""

import argparse
import json
import shlex
import tempfile
from importlib import import_module
from pathlib import Path
from unittest import mock

from common import lesson, training
from common.analysis import Seeds
from common.data import shapes

import torch
from PIL import Image

RECORD = Path(__file__).resolve().parent.parent / ".github" / "recorded" / "finetune.json"
MODEL, EPOCHS = "cifar_resnet-8", 3  # of the network that is trained on Shapes-10
TRAIN, TEST = 111, 600  # images of the small set; of the former a tenth is for validation
OTHERS = ["saltire", "arrow", "diamond", "letter-t", "letter-l", "dots"]
SCRATCH = "--batch-size 16 --lr 0.03"


def other_distances(u: torch.Tensor, v: torch.Tensor) -> list[torch.Tensor]:
    """For each of OTHERS what `shapes._distances` gives for Shapes-10."""
    near = torch.minimum
    a, b, r = u.abs(), v.abs(), torch.hypot(u, v)
    diagonal, other = (u + v).abs() / 2**0.5, (u - v).abs() / 2**0.5

    def box(x, y, width, height):
        return near(width - (u - x).abs(), height - (v - y).abs())

    return [
        near(torch.maximum(0.22 - diagonal, 0.22 - other), 0.95 - r),  # saltire
        torch.maximum(near(-0.1 - v, 0.65 * v + 0.6 - 0.75 * a), box(0, 0.35, 0.2, 0.5)),  # arrow
        0.8 - a - 0.7 * b,  # diamond
        torch.maximum(box(0, -0.65, 0.75, 0.22), box(0, 0.1, 0.22, 0.85)),  # letter T
        torch.maximum(box(-0.5, 0, 0.22, 0.85), box(0.05, 0.65, 0.75, 0.22)),  # letter L
        0.4 - torch.hypot(a - 0.5, v),  # two dots
    ]


def write_folder(root: Path, seed: int) -> None:
    """A folder of the other shapes, as a reader would have it: train/CLASS/*, test/CLASS/*."""
    patches = {"_distances": other_distances, "CLASSES": OTHERS}
    with mock.patch.multiple(shapes, **patches):
        images, labels = shapes.images(TRAIN + TEST, seed=1_000 + seed)
    for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        folder = root / ("train" if i < TRAIN else "test") / OTHERS[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")


def quoted(path: Path) -> str:
    """A path as one would type it."""
    return shlex.quote(path.as_posix())


def accuracy(flags: str, seed: int, out: Path) -> float:
    """Test accuracy of a run of lesson 6."""
    more = f"--model {MODEL} --seed {seed} --device cpu --out-dir {quoted(out)}"
    results = import_module("06_practical_example").main(shlex.split(f"{flags} {more}"))
    return results["measured"]["test_accuracy"]


def pretrain(path: Path, seed: int, out: Path) -> None:
    """Train on Shapes-10, and write the weights alone, under torchvision's names."""
    accuracy(f"--data shapes --epochs {EPOCHS}", seed, out)
    model, _ = training.checkpoints.load_model(out / "06_practical_example" / "last.pt")
    torch.save(model.state_dict(), path)


def compare(seed: int, root: Path) -> dict[str, float]:
    """Test accuracies on the other shapes, by how the network began."""
    write_folder(root / "photos", seed)
    pretrain(root / "weights.pth", seed, root / "out")
    where = f"--data-dir {quoted(root / 'photos')} --image-size 32"
    epochs = import_module("06_practical_example").FINE_TUNING["epochs"]
    runs = {"fine-tuned": f"--weights {quoted(root / 'weights.pth')}"}
    runs |= {"from scratch": f"{SCRATCH} --epochs {epochs}"}
    runs |= {"from scratch, longer": f"{SCRATCH} --epochs {5 * epochs}"}
    return {key: accuracy(f"{where} {run}", seed, root / "out") for key, run in runs.items()}


def main() -> None:
    """Measure, print and perhaps record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=lesson.positive, default=5, help="(default: %(default)s)")
    parser.add_argument("--record", metavar="DEVICE", help="write the accuracies for the README")
    args = parser.parse_args()
    found: dict[str, Seeds] = {}
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as scratch:
            for key, share in compare(seed, Path(scratch)).items():
                found.setdefault(key, Seeds()).append(share)
    for key, shares in found.items():
        print(f"{key}: {shares:.1%}, of {[f'{share:.3f}' for share in shares]}")
    if args.record:
        where = {"device": args.record, "torch": torch.__version__, "model": MODEL}
        RECORD.write_text(json.dumps(where | found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
