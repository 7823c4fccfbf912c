"""Where images come from: CIFAR-10, folders of one's own images, or the built-in Shapes-10."""

import contextlib
import os
import socket
import tempfile
from dataclasses import replace
from pathlib import Path

from common import UserError

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.datasets import CIFAR10, ImageFolder
from tqdm import tqdm

from . import shapes
from .dataset import Dataset, Split

DEFAULT_DIR = Path("data")


def load(
    source: str = "auto",
    folder: Path | None = None,
    url: str | None = None,
    size: int = 32,
    limit: int | None = None,
    download: bool = False,
) -> Dataset:
    """Choose and read a data set.

    `source`: "shapes"; "cifar10", which downloads what is missing; or "auto", which takes the
    folder if one is named, else CIFAR-10 under ./data, else (if `download`) the network, else
    Shapes-10. `size` is in pixels; `limit` bounds the training and validation images together,
    and a fifth of it the test images. `url` is where CIFAR-10 is downloaded from.
    Raises: UserError for a folder without images or with fewer than 2 classes or 10 training
    images, for other classes in test than in train, for an unreadable image, a damaged copy, a
    failed download, and for a folder named beside "shapes".
    """
    if source == "shapes" and folder:
        raise UserError("--data shapes and --data-dir contradict each other: give one of them")
    root = Path(folder or DEFAULT_DIR)
    if root.name == CIFAR10.base_folder:
        root = root.parent
    if source == "shapes":
        dataset = _shapes10(limit)
    elif (root / CIFAR10.base_folder).is_dir():
        dataset = _cifar10(root, limit)
    elif source == "cifar10":
        _download(root, url)
        dataset = _cifar10(root, limit)
    elif folder:
        return _folders(root, size, limit)
    else:
        dataset = _fallback(root, url, limit, download)
    return dataset if size == 32 else dataset.resized(size)


def _fallback(root: Path, url: str | None, limit: int | None, download: bool) -> Dataset:
    """CIFAR-10 by download if that is asked for and possible, else Shapes-10 and the reason."""
    why = f"there is no CIFAR-10 in {root.resolve()}"
    if download:
        try:
            _download(root, url)
            return _cifar10(root, limit)
        except UserError as error:
            why += f", and {error}"
    return replace(_shapes10(limit), why=why)


def _download(root: Path, url: str | None) -> None:
    """Fetch and verify CIFAR-10 in a temporary folder; it appears under `root` whole or not."""
    source = type("Source", (CIFAR10,), {"url": url} if url else {})
    existed = root.exists()
    timeout = socket.getdefaulttimeout()
    try:
        root.mkdir(parents=True, exist_ok=True)
        socket.setdefaulttimeout(15)
        with tempfile.TemporaryDirectory(dir=root) as scratch:
            source(scratch, download=True)
            (Path(scratch) / CIFAR10.base_folder).replace(root / CIFAR10.base_folder)
    except (OSError, RuntimeError, ValueError) as error:
        if not existed:
            with contextlib.suppress(OSError):
                root.rmdir()
        raise UserError(f"CIFAR-10 could not be fetched from {source.url} ({error})") from error
    finally:
        socket.setdefaulttimeout(timeout)


def _cifar10(root: Path, limit: int | None) -> Dataset:
    """The original CIFAR-10 (Krizhevsky 2009) from torchvision's layout, checksums verified."""
    try:
        parts = [CIFAR10(str(root), train=train) for train in (True, False)]
    except RuntimeError as error:
        message = f"{root / CIFAR10.base_folder} is damaged: delete it and start again"
        raise UserError(message) from error
    splits = []
    for part, chosen in zip(parts, _choose(50_000, 10_000, limit), strict=True):
        images = torch.from_numpy(part.data)[chosen].permute(0, 3, 1, 2)  # N 3 32 32
        splits.append(Split(images, torch.tensor(part.targets)[chosen]))
    return _with_validation("CIFAR-10", parts[0].classes, *splits)


def _folders(root: Path, size: int, limit: int | None) -> Dataset:
    """Images under root/train/CLASS and root/test/CLASS, cut to squares of `size` pixels."""
    expected = "train/CLASS/IMAGE and test/CLASS/IMAGE"
    train, test = _class_folders(root, expected, root / "train", root / "test")
    if train.classes != test.classes:
        odd = ", ".join(sorted(set(train.classes) ^ set(test.classes)))
        raise UserError(f"{root}: train and test must hold the same classes; only in one: {odd}")
    chosen = _choose(len(train), len(test), limit)
    splits = [_read_all(*pair, size) for pair in zip((train, test), chosen, strict=True)]
    return _with_validation(*_names(root, train), *splits)


def _class_folders(root: Path, expected: str, *folders: Path) -> list[ImageFolder]:
    """Each of the folders below `root`; the error says what was expected there."""
    if not root.is_dir():
        raise UserError(f"{root} does not exist")
    try:
        return [ImageFolder(folder) for folder in folders]
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{root}: expected {expected} ({reason})") from error


def _names(root: Path, part: ImageFolder) -> tuple[str, list[str]]:
    """What a folder and its classes are called, readable in a locale without their letters, too."""
    names = [root.resolve().name, *part.classes]
    name, *classes = (os.fsencode(name).decode("utf-8", "backslashreplace") for name in names)
    return f"image folder {name}", classes


def _read_all(part: ImageFolder, chosen: list[int], size: int) -> Split:
    """The chosen images of a folder of classes, cut to squares of `size` pixels."""
    paths, labels = zip(*(part.samples[i] for i in chosen), strict=True)
    images = np.empty((len(paths), size, size, 3), np.uint8)
    for i, path in enumerate(tqdm(paths, "reading images", disable=None, leave=False)):
        images[i] = read_image(path, size)
    return Split(torch.from_numpy(images).permute(0, 3, 1, 2), torch.tensor(labels))  # N 3 H W


def load_test(
    source: str, folder: Path | None, url: str | None, size: int, limit: int | None = None
) -> tuple[str, list[str], Split]:
    """Name, classes and test images alone: those of `load`, or a folder of one's own with
    test/CLASS/IMAGE, or CLASS/IMAGE where it has no `test`.

    Raises: UserError as `load` does.
    """
    root = Path(folder or DEFAULT_DIR)
    if (
        source != "auto"
        or not folder
        or (root / CIFAR10.base_folder).is_dir()
        or root.name == CIFAR10.base_folder
    ):
        dataset = load(source, folder, url, size, limit)
        return dataset.name, dataset.classes, dataset.test
    inner = root / "test" if (root / "test").is_dir() else root
    (part,) = _class_folders(root, "test/CLASS/IMAGE or CLASS/IMAGE", inner)
    _, chosen = _choose(0, len(part), limit)
    return *_names(root, part), _read_all(part, chosen, size)


def open_image(path: str | Path) -> Image.Image:
    """An image file as RGB, upright whatever its EXIF orientation.

    Raises: UserError, naming the file, if it cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a readable image") from error


def read_image(path: str | Path, size: int) -> np.ndarray:
    """The central square of an image file, scaled to `size` pixels: uint8 size size 3."""
    image = open_image(path)
    return np.asarray(image if image.size == (size, size) else ImageOps.fit(image, (size, size)))


def _choose(train: int, test: int, limit: int | None) -> tuple[list[int], list[int]]:
    """A fixed random order of both parts, at most `limit` and `limit // 5` of them."""
    generator = torch.Generator().manual_seed(0)
    chosen_train = torch.randperm(train, generator=generator)[:limit]
    chosen_test = torch.randperm(test, generator=generator)[: limit and limit // 5]
    return chosen_train.tolist(), chosen_test.tolist()


def _with_validation(name: str, classes: list[str], rest: Split, test: Split) -> Dataset:
    """Hold out the first tenth of the (already shuffled) training images."""
    held_out = len(rest.labels) // 10
    if held_out < 1 or len(classes) < 2:
        raise UserError(f"{name}: at least 2 classes and 10 training images are needed")
    val = Split(rest.images[:held_out], rest.labels[:held_out])
    train = Split(rest.images[held_out:], rest.labels[held_out:])
    return Dataset(name, list(classes), train, val, test)


def _shapes10(limit: int | None) -> Dataset:
    """Shapes-10, a fifth of CIFAR-10's size."""
    images, labels = shapes.images(12_000, seed=10)
    splits = []
    for first, chosen in zip((0, 10_000), _choose(10_000, 2_000, limit), strict=True):
        index = first + torch.tensor(chosen)
        chosen = images[index].contiguous(memory_format=torch.channels_last)
        splits.append(Split(chosen, labels[index]))
    return _with_validation("Shapes-10 (built in)", shapes.CLASSES, *splits)
