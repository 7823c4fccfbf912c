"""What a trained network is worth: accuracy with its interval, confusion, calibration, mistakes."""

import math
from pathlib import Path

from common import UserError, data

import torch

LIKELIEST, BINS = 3, 10


def dataset_for(
    entries: dict, images: torch.Tensor, labels: torch.Tensor, name: str, why: str = ""
) -> data.Dataset:
    """A Dataset whose test split is these images, normalised as a checkpoint's network wants.

    Raises: UserError if the checkpoint does not say how.
    """
    split = data.Split(images, labels)
    if "mean" not in entries or "std" not in entries:
        raise UserError("--checkpoint is of an older kind, without the images' mean: train again")
    none = data.Split(images[:0], labels[:0])
    normalisation = (entries["mean"], entries["std"])
    return data.Dataset(name, list(entries["classes"]), none, none, split, why, normalisation)


def pictures(
    paths: list[Path], entries: dict, skip_unreadable: bool = False
) -> tuple[list[Path], data.Dataset]:
    """Image files, those in folders too, and the same as a test split, cut as the training images
    were; all labels are 0.

    Raises: UserError, naming the files, if some cannot be read (and are not left out), or all.
    """
    files = data.image_files(paths)
    images, kept, note = data.read_images(files, entries["image_size"], skip_unreadable)
    if not kept:
        raise UserError(note)
    labels = torch.zeros(len(kept), dtype=torch.int64)
    return [files[i] for i in kept], dataset_for(entries, images, labels, "pictures", note)


def test_images(entries: dict, where: tuple, limit: int | None, skip: bool) -> data.Dataset:
    """The test images of `where` (source, folder, url), with the labels of a checkpoint's classes.

    Raises: UserError if there is a class that the checkpoint does not know.
    """
    name, classes, split, why = data.load_test(*where, entries["image_size"], limit, skip)
    if unknown := [c for c in classes if c not in entries["classes"]]:
        raise UserError(f"--checkpoint knows no class {unknown[0]}, which {name} has")
    index = torch.tensor([list(entries["classes"]).index(c) for c in classes])
    return dataset_for(entries, split.images, index[split.labels], name, why)


def likeliest(
    probabilities: torch.Tensor, classes: list[str], count: int = LIKELIEST
) -> list[list[tuple[str, float]]]:
    """For each row of N classes the `count` most probable classes and their probabilities."""
    shares, indices = probabilities.topk(min(count, len(classes)))
    pairs = zip(shares.tolist(), indices.tolist(), strict=True)
    return [[(classes[i], p) for p, i in zip(*row, strict=True)] for row in pairs]


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927); unlike the textbook's it stays within 0 and 1
    and has a width at 0 and 100 %. NaN without trials."""
    if not trials:
        return math.nan, math.nan
    z = 1.959964  # of the normal distribution, 95 %
    share, spread = hits / trials, z**2 / trials
    centre = share + spread / 2
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    low, high = ((centre + sign * half) / (1 + spread) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def interval(row: dict) -> str:
    """The 95 % interval of an `accuracy`, in percent."""
    low, high = (f"{100 * limit:.1f}" for limit in row["interval"])
    return f"{low} to {high}"


def with_interval(row: dict) -> str:
    """An `accuracy` in words, with its interval."""
    return f"{100 * row['accuracy']:.2f} % (95 % interval {interval(row)} %)"


def accuracy_row(name: str, row: dict) -> dict:
    """One line of a table of `accuracies` by class."""
    cells = {"class": name, "images": row["images"]}
    cells["accuracy (%)"] = f"{100 * row['accuracy']:.1f}"
    return cells | {"95 % interval (%, Wilson)": interval(row)}


def confusion(guesses: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Number of images by true class (rows) and guessed class (columns)."""
    return torch.bincount(labels * classes + guesses, minlength=classes**2).view(classes, classes)


def accuracies(counts: torch.Tensor, classes: list[str]) -> dict[str, dict]:
    """Of each class, from a confusion: number of images, accuracy (share) and its 95 % interval;
    NaN for a class without images."""
    rows = map(accuracy, counts.diag().tolist(), counts.sum(1).tolist())
    return dict(zip(classes, rows, strict=True))


def accuracy(hits: int, images: int) -> dict:
    """Number of images, share of hits and its 95 % interval."""
    share = hits / images if images else math.nan
    return {"images": images, "accuracy": share, "interval": wilson(hits, images)}


def calibration(probabilities: torch.Tensor, labels: torch.Tensor) -> dict:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, equation 3).

    `probabilities` are N classes. Images are sorted by their highest probability into BINS of equal
    width; the error is the mean over images of |accuracy - mean confidence| of their bin. `bins`
    in the result lists (confidence, accuracy, images) of those that are not empty.
    """
    confidence, guesses = probabilities.double().max(1)
    correct = (guesses == labels).double()
    index = (confidence * BINS).long().clamp(max=BINS - 1)
    filled, error = [], 0.0
    for chosen in (index == i for i in range(BINS)):
        if count := int(chosen.sum()):
            means = [values[chosen].mean().item() for values in (confidence, correct)]
            error += count / len(labels) * abs(means[0] - means[1])
            filled.append((*means, count))
    return {"ece": error, "bins": filled}


def surest_mistakes(probabilities: torch.Tensor, labels: torch.Tensor, most: int) -> list[int]:
    """Indices of wrongly classified images, the most confident first, `most` at most."""
    confidence, guesses = probabilities.max(1)
    order = confidence.argsort(descending=True, stable=True)
    return order[(guesses != labels)[order]][:most].tolist()
