"""Folders of one's own images: what lies in them, and splits by class."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from common import UserError

import torch

from .dataset import SPLITS, Dataset, Split
from .images import few, read_images, suffixes

EXPECTED = "train/CLASS/IMAGE and test/CLASS/IMAGE (and val/CLASS/IMAGE), or CLASS/IMAGE alone"
HIDDEN = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found", "System Volume Information"}
HELD_OUT = "there is no folder test: a fifth of each class is kept for the test"
NO_CLASSES = {*SPLITS, "training", "valid", "validation", "testing"}  # in capitals, too
VAL, TEST = 0.1, 0.2  # shares of each class that are held out where there is no such folder


class Part(NamedTuple):
    """Image files and their labels (int64, N)."""

    paths: list[Path]
    labels: torch.Tensor

    def take(self, index: torch.Tensor) -> "Part":
        """The images of these indices, in their order."""
        return Part([self.paths[i] for i in index.tolist()], self.labels[index])

    def first(self, count: int | None) -> "Part":
        """At most so many images, from the beginning."""
        return Part(self.paths[:count], self.labels[:count])

    def places(self) -> torch.Tensor:
        """Of each image its number among those of its class, from 0."""
        places, counts = torch.empty_like(self.labels), self.labels.bincount().tolist()
        places[self.labels.argsort(stable=True)] = torch.cat([torch.arange(n) for n in counts])
        return places

    def shuffled(self) -> "Part":
        """In a fixed random order of which every beginning holds the classes in their shares."""
        generator = torch.Generator().manual_seed(0)
        part = self.take(torch.randperm(len(self.paths), generator=generator))
        return part.take((part.places() / part.labels.bincount()[part.labels]).argsort(stable=True))

    def hold_out(self, share: float) -> tuple["Part", "Part"]:
        """Two parts: the second has a share of each class, an image at least where it has two."""
        counts = self.labels.bincount()
        held = (share * counts).round().long().clamp(min=1).minimum(counts - 1)
        chosen = self.places() < held[self.labels]
        return self.take((~chosen).nonzero()[:, 0]), self.take(chosen.nonzero()[:, 0])


def load(root: Path, size: int, limit: int | None, skip_unreadable: bool) -> Dataset:
    """The images of a folder in three splits, cut to squares of `size` pixels (see sources.load).

    A folder `val` is the validation split; without one a tenth of each class is held out. Without
    `test` a fifth of each class is tested on; then `train` may be left out: CLASS/IMAGE.
    """
    classes, parts, notes = _scan(root, _layout(root))
    if "test" not in parts:
        parts["train"], parts["test"] = parts["train"].hold_out(TEST)
        notes.append(HELD_OUT)
    if "val" in parts:
        held = limit and limit // 10
        train, val = parts["train"].first(limit and limit - held), parts["val"].first(held)
    else:
        train, val = parts["train"].first(limit).hold_out(VAL)
    parts = {"train": train, "val": val, "test": parts["test"].first(limit and limit // 5)}
    name, names = _names(root, classes)
    if len(classes) < 2 or len(train.paths) + len(val.paths) < 10:
        needed = f"{name}: at least 2 classes and 10 training images are needed"
        raise UserError(f"{needed}; there is {_tree(root)}")
    splits, note = _read(parts, size, skip_unreadable)
    notes += [note, *_missing(names, splits)]
    return Dataset(name, names, **splits, why="\n".join(filter(None, notes)))


def load_test(
    root: Path, size: int, limit: int | None, skip_unreadable: bool
) -> tuple[str, list[str], Split, str]:
    """Name, classes, images and notes of test/CLASS/IMAGE, or of CLASS/IMAGE without a `test`; of
    train/CLASS/IMAGE the fifth that `load` tests on."""
    names = {entry.name for entry in _entries(root) if entry.is_dir()}
    held_out = "train" in names and names <= {"train", "val"}  # as in `_layout`
    top = "test" if "test" in names else "train" if held_out else ""
    classes, parts, notes = _scan(root, {"test": root / top})
    if held_out:
        parts["test"] = parts["test"].hold_out(TEST)[1]
        notes.append(HELD_OUT)
    parts["test"] = parts["test"].first(limit and limit // 5)
    splits, note = _read(parts, size, skip_unreadable)
    if not top:
        notes.append("there is no folder test: all images are tested on, trained on before or not")
    return *_names(root, classes), splits["test"], "\n".join(filter(None, [*notes, note]))


def image_files(paths: list[Path]) -> list[Path]:
    """These files, and for a folder among them the image files in it and below.

    Raises: UserError for a folder without any.
    """
    found = []
    for path in paths:
        below = _images(_files(path, {path.resolve()}), Counter()) if path.is_dir() else []
        if path.is_dir() and not below:
            raise UserError(f"{path} holds no image; there is {_tree(path)}")
        found += below or [path]
    return found


def _layout(root: Path) -> dict[str, Path]:
    """The folder of each part that is there: {"train": ..., "test": ...}."""
    names = {entry.name for entry in _entries(root) if entry.is_dir()}
    if "train" in names and ("test" in names or names <= {*SPLITS}):
        return {part: root / part for part in SPLITS if part in names}
    direct = any(_images(_entries(root / name), Counter()) for name in names)
    if direct and not {name.lower() for name in names} & NO_CLASSES:
        return {"train": root}
    raise UserError(f"{root}: expected {EXPECTED}; there is {_tree(root)}")


def _scan(root: Path, tops: dict[str, Path]) -> tuple[list[str], dict[str, Part], list[str]]:
    """The classes, the image files of each part in `shuffled` order, and notes on what is left out.

    Raises: UserError for a class without images in `train`, and for a part without any.
    """
    classes = _classes(root, tops)
    folders = {top / name: (top / name).resolve() for top in tops.values() for name in classes}
    met = Counter(folders.values())
    if twice := [str(folder) for folder, real in folders.items() if met[real] > 1]:
        raise UserError(f"{few(twice, 3, ' and ')} are one and the same folder")
    seen = {*met, *(folder.resolve() for folder in (root, *tops.values()))}
    parts, others = {}, Counter()
    for part, top in tops.items():
        others.update("beside the classes" for entry in _entries(top) if not entry.is_dir())
        images = [_images(_files(top / name, seen), others) for name in classes]
        empty = [name for name, inside in zip(classes, images, strict=True) if not inside]
        if len(empty) == len(classes) or (empty and part == "train"):
            left_out = f" (left out: {_kinds(others)})" if others else ""
            raise UserError(f"{top} holds no image of {few(empty, 3)}{left_out}")
        counts = torch.tensor([len(inside) for inside in images])
        labels = torch.arange(len(classes)).repeat_interleave(counts)
        parts[part] = Part([file for inside in images for file in inside], labels).shuffled()
    return classes, parts, _notes(root, tops, others)


def _images(files: Iterable[Path], others: Counter) -> list[Path]:
    """Those of the files that are images, by their names; `others` counts the rest by kind."""
    found = []
    for file in files:
        kind = file.suffix.lower() if file.is_file() else "broken links or pipes"
        if kind in suffixes():
            found.append(file)
        else:
            others[kind or "without an ending"] += 1
    return found


def _notes(root: Path, tops: dict[str, Path], others: Counter) -> list[str]:
    """What is said of files and folders that are not read."""
    notes = [f"files left out: {_kinds(others)}"] if others else []
    names = [entry.name for entry in _entries(root) if entry.is_dir()]
    if root not in tops.values() and (beside := [f"{n}/" for n in names if n not in SPLITS]):
        notes.append(f"not read: {few(beside, 3)}")
    return notes


def _classes(root: Path, tops: dict[str, Path]) -> list[str]:
    """The names of the class folders, which all parts have in common.

    Raises: UserError if they have not, or if there are none.
    """
    by_part = [[e.name for e in _entries(top) if e.is_dir()] for top in tops.values()]
    for part, classes in zip(tops, by_part, strict=True):
        if odd := sorted({*classes} ^ {*by_part[0]}):
            both = f"{next(iter(tops))} and {part} must hold the same classes"
            raise UserError(f"{root}: {both}; only in one: {few(odd, 3)}; there is {_tree(root)}")
    if not by_part[0]:
        raise UserError(f"{root}: expected {EXPECTED}; there is {_tree(root)}")
    return by_part[0]


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, but for what systems, file servers and Jupyter hide there."""
    try:
        entries = sorted(folder.iterdir())
    except FileNotFoundError as error:
        raise UserError(f"{folder} does not exist") from error
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from error
    return [e for e in entries if e.name[0] != "." and e.name not in HIDDEN]


def _files(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """All files in a folder and below, in folders that are not among the real ones `seen`."""
    for entry in _entries(folder):
        if not entry.is_dir():
            yield entry
        elif (real := entry.resolve()) not in seen:
            seen.add(real)
            yield from _files(entry, seen)


def _kinds(others: Counter) -> str:
    """Such as "3 .heic, 2 .txt"."""
    return few([f"{count} {kind}" for kind, count in others.most_common()], 10)


def _tree(folder: Path, levels: int = 2) -> str:
    """What lies in a folder and in its folders, in a line."""
    names = []
    for entry in sorted(_entries(folder), key=lambda entry: not entry.is_dir()):
        inner = f" ({_tree(entry, 1)})" if entry.is_dir() and levels > 1 and len(names) < 4 else ""
        names.append(f"{entry.name}{'/' * entry.is_dir()}{inner}")
    return few(names, levels + 2) or "nothing"


def _names(root: Path, classes: list[str]) -> tuple[str, list[str]]:
    """What a folder and its classes are called, readable in a locale without their letters, too,
    and in one line."""
    found = []
    for name in (root.resolve().name, *classes):
        text = os.fsencode(name).decode("utf-8", "backslashreplace")
        controls = r"[\x00-\x1f\x7f-\x9f\u2028\u2029]"
        found.append(re.sub(controls, lambda c: c[0].encode("unicode_escape").decode(), text))
    return f"image folder {found[0]}", found[1:]


def _read(parts: dict[str, Part], size: int, skip: bool) -> tuple[dict[str, Split], str]:
    """The images of all parts, and a note on those left out.

    Raises: UserError for a part of which nothing is left, and as read_images does.
    """
    images, kept, note = read_images([p for part in parts.values() for p in part.paths], size, skip)
    labels = torch.cat([part.labels for part in parts.values()])[kept]
    owner = torch.repeat_interleave(torch.tensor([len(part.paths) for part in parts.values()]))
    sizes = owner[kept].bincount(minlength=len(parts)).tolist()
    if not all(sizes):
        missing = list(parts)[sizes.index(0)]
        raise UserError(f"too few images: none is left for {missing}{'; ' * bool(note)}{note}")
    pairs = zip(images.split(sizes), labels.split(sizes), strict=True)
    return {part: Split(*pair) for part, pair in zip(parts, pairs, strict=True)}, note


def _missing(classes: list[str], splits: dict[str, Split]) -> list[str]:
    """A note for each split without an image of some classes."""
    notes = []
    for split, (_, labels) in splits.items():
        counts = labels.bincount(minlength=len(classes)).tolist()
        if none := [name for name, n in zip(classes, counts, strict=True) if not n]:
            notes.append(f"{split} has no image of {few(none, 3)}")
    return notes
