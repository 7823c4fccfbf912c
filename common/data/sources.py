"""Where images come from: CIFAR-10 or 100, folders of one's own, or the built-in Shapes-10."""

import contextlib
import http.client
import shutil
from dataclasses import replace
from pathlib import Path

from common import UserError, lock, unlock

import torch
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from . import folders, shapes
from .dataset import Dataset, Split
from .download import fetch

DEFAULT_DIR = Path("data")
CIFAR = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def load(
    source: str = "auto",
    folder: Path | None = None,
    url: str | None = None,
    size: int = 32,
    limit: int | None = None,
    download: bool = False,
    skip_unreadable: bool = False,
) -> Dataset:
    """Choose and read a data set.

    `source`: "shapes"; "cifar10" or "cifar100", which download what is missing; or "auto", which
    takes the folder if one is named, else CIFAR-10 or 100 under ./data, else (if `download`)
    CIFAR-10 from the network, else Shapes-10. `size` is in pixels; `limit` bounds the training and
    validation images together, and a fifth of it the test images. `url` is where CIFAR is
    downloaded from. `skip_unreadable` leaves out files of a folder that cannot be read.
    Raises: UserError for a folder without images or with fewer than 2 classes or 10 training
    images, for other classes in test than in train, for unreadable images, for more images than
    memory, for a damaged copy, a failed download, and for a folder named beside "shapes".
    """
    if source == "shapes" and folder:
        raise UserError("--data shapes and --data-dir contradict each other: give one of them")
    root, kind = _cifar_in(source, Path(folder or DEFAULT_DIR))
    if source == "shapes":
        dataset = _shapes10(limit)
    elif source in CIFAR and not kind:
        kind = CIFAR[source]
        _download(kind, root, url)
        dataset = _cifar(kind, root, limit)
    elif kind:
        dataset = _cifar(kind, root, limit)
    elif folder:
        return folders.load(root, size, limit, skip_unreadable)
    else:
        dataset = _fallback(root, url, limit, download)
    return dataset if size == 32 else dataset.resized(size)


def _cifar_in(source: str, folder: Path) -> tuple[Path, type[CIFAR10] | None]:
    """The folder in which CIFAR is looked for, and the class of the one that lies there, if any."""
    kinds = [CIFAR[source]] if source in CIFAR else list(CIFAR.values())
    for kind in kinds:
        if folder.name == kind.base_folder:
            return folder.parent, kind if folder.is_dir() else None
    return folder, next((k for k in kinds if (folder / k.base_folder).is_dir()), None)


def _fallback(root: Path, url: str | None, limit: int | None, download: bool) -> Dataset:
    """CIFAR-10 by download if that is asked for and possible, else Shapes-10 and the reason."""
    dataset, why = _shapes10(limit), f"there is no CIFAR-10 in {root.resolve()}"
    if download:
        try:
            _download(CIFAR10, root, url)
            return _cifar(CIFAR10, root, limit)
        except UserError as error:
            why += f", and {error}"
    return replace(dataset, why=f"{dataset.name}, because {why}")


def _download(kind: type[CIFAR10], root: Path, url: str | None) -> None:
    """Fetch and verify CIFAR in a temporary folder; it appears under `root` whole or not."""
    existed, scratch, url = root.exists(), root / ".download", url or kind.url
    try:
        root.mkdir(parents=True, exist_ok=True)
        mine = lock(root)
        try:
            if mine:  # what a download that was killed has left
                shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            fetch(url, scratch / kind.filename)
            if not check_integrity(scratch / kind.filename, kind.tgz_md5):
                raise ValueError("the file that came is not CIFAR's")
            kind(scratch, download=True)  # finds the file there: unpacks and verifies
            (scratch / kind.base_folder).replace(root / kind.base_folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            unlock(root)
    except (UserError, OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
        if not existed:
            with contextlib.suppress(OSError):
                root.rmdir()
        why = f"could not be fetched from {url} ({str(error) or type(error).__name__})"
        raise UserError(" ".join(f"{_name(kind)} {why}".split())) from error


def _name(kind: type[CIFAR10]) -> str:
    """CIFAR-10 or CIFAR-100."""
    return kind.base_folder.removesuffix("-batches-py").removesuffix("-python").upper()


def _cifar(kind: type[CIFAR10], root: Path, limit: int | None) -> Dataset:
    """The original CIFAR (Krizhevsky 2009) from torchvision's layout, checksums verified."""
    try:
        parts = [kind(str(root), train=train) for train in (True, False)]
    except RuntimeError as error:
        message = f"{root / kind.base_folder} is damaged: delete it and start again"
        raise UserError(message) from error
    splits = []
    for part, chosen in zip(parts, _choose(50_000, 10_000, limit), strict=True):
        images = torch.from_numpy(part.data)[chosen].permute(0, 3, 1, 2)  # N 3 32 32
        splits.append(Split(images, torch.tensor(part.targets)[chosen]))
    return _with_validation(_name(kind), parts[0].classes, *splits)


def load_test(
    source: str,
    folder: Path | None,
    url: str | None,
    size: int,
    limit: int | None = None,
    skip_unreadable: bool = False,
) -> tuple[str, list[str], Split, str]:
    """Name, classes, test images alone, and notes: those of `load`, or a folder of one's own with
    test/CLASS/IMAGE; without it the fifth of train/CLASS/IMAGE that `load` tests on, or all of
    CLASS/IMAGE.

    Raises: UserError as `load` does.
    """
    root, kind = _cifar_in(source, Path(folder or DEFAULT_DIR))
    if source == "auto" and folder and not kind:
        return folders.load_test(root, size, limit, skip_unreadable)
    dataset = load(source, folder, url, size, limit)
    return dataset.name, dataset.classes, dataset.test, dataset.why


def _choose(train: int, test: int, limit: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """A fixed random order of both parts, at most `limit` and `limit // 5` of them."""
    generator = torch.Generator().manual_seed(0)
    chosen_train = torch.randperm(train, generator=generator)[:limit]
    chosen_test = torch.randperm(test, generator=generator)[: limit and limit // 5]
    return chosen_train, chosen_test


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
        index = first + chosen
        chosen = images[index].contiguous(memory_format=torch.channels_last)
        splits.append(Split(chosen, labels[index]))
    return _with_validation("Shapes-10 (built in)", shapes.CLASSES, *splits)
