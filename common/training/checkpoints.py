"""The checkpoints that lesson 6 writes, continues and reads."""

import contextlib
import os
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from common import UserError, models

import torch
import torch.nn as nn

KEYS = ("model", "model_name", "classes", "epoch", "val_accuracy")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a scratch file's path, to be written inside the `with`; at its end it becomes `path`.
    What writers that were killed an hour ago have left beside it is removed.

    Raises: UserError if the disk refuses; what was at `path` before is then still there.
    """
    scratch = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        yield scratch
        with scratch.open("rb+") as file:
            os.fsync(file.fileno())
        scratch.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save raises the latter
        raise UserError(f"{path} could not be written ({error})") from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
            for leftover in path.parent.glob(f".{path.name}-*"):
                if leftover.stat().st_mtime < time.time() - 3600:
                    leftover.unlink(missing_ok=True)


def save_checkpoint(path: Path, entries: dict) -> None:
    """Write tensors and plain values to `path` whole or not at all.

    Raises: UserError if the disk refuses; what was at `path` before is then still there.
    """
    with atomic_write(path) as scratch:
        torch.save(entries, scratch)


def training_entries(trainer, settings: dict) -> dict:
    """What a checkpoint of a running training holds: the network, what it is for, how it was
    trained (`settings`, which change the result) and where the training stands.

    Raises: training.Diverged if a loss of this epoch was not a number.
    """
    dataset, model = trainer.dataset, trainer.model.state_dict()
    entries = {"model": model, "model_name": settings["model"], "classes": dataset.classes}
    accuracy = trainer.rows[-1]["val_accuracy"] if trainer.rows else 0.0
    entries |= {"epoch": len(trainer.rows), "val_accuracy": accuracy, "settings": settings}
    return entries | _images_of(dataset) | {"training": trainer.state()}


def _images_of(dataset) -> dict:
    """Size, number and normalisation (of pixels from 0 to 255) of the images."""
    counts = [len(split.labels) for split in (dataset.train, dataset.val)]
    mean, std = (tensor.flatten().tolist() for tensor in dataset.statistics)
    size = dataset.train.images.shape[2]
    return {"image_size": size, "image_counts": counts, "mean": mean, "std": std}


def read(path: Path, flag: str = "--checkpoint") -> dict:
    """The entries of one of lesson 6's checkpoints.

    Raises: UserError if it is another file, and what `read_tensors` raises.
    """
    entries = read_tensors(path, flag)
    if not isinstance(entries, dict) or any(key not in entries for key in KEYS):
        raise UserError(f"{flag} {path} was not written by 06_practical_example.py")
    return entries


def read_tensors(path: Path, flag: str):
    """What torch.save wrote to a file, on the CPU; no code in it is run.

    Raises: UserError, naming the flag, if it is not there, damaged, or more than plain values.
    """
    if not path.is_file():
        raise UserError(f"{flag} {path} does not exist")
    try:
        if zipfile.is_zipfile(path):  # torch.load does not look at its checksums
            with zipfile.ZipFile(path) as parts:
                if damaged := parts.testzip():
                    raise zipfile.BadZipFile(damaged)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a dozen types for a file that is no checkpoint
        raise UserError(f"{flag} {path} is no checkpoint of plain tensors") from error


def read_training(path: Path) -> dict:
    """The entries of a checkpoint that --resume can continue.

    Raises: UserError if it is none.
    """
    entries = read(path, "--resume")
    if not all(isinstance(entries.get(key), dict) for key in ("settings", "training")):
        raise UserError(f"--resume {path} holds a network, but no training to continue")
    return entries


def same_settings(path: Path, entries: dict, settings: dict) -> None:
    """Raises: UserError if the checkpoint was trained with other settings than these."""
    for key, value in settings.items():
        flag, old = f"--{key.replace('_', '-')}", entries["settings"]
        if key not in old:
            raise UserError(f"--resume {path} is of an older kind, without {flag}: train again")
        if old[key] != value:
            raise UserError(f"--resume {path} was trained with {flag} {old[key]}, not {value}")


def resume(path: Path, entries: dict, trainer) -> None:
    """Bring a trainer, built from the checkpoint's settings, to where it was written.

    Raises: UserError if classes or images are others, or the state does not fit.
    """
    name = trainer.dataset.name
    if list(entries["classes"]) != list(trainer.dataset.classes):
        raise UserError(f"--resume {path} is for other classes than those of {name}")
    if any(entries.get(key) != value for key, value in _images_of(trainer.dataset).items()):
        raise UserError(f"--resume {path} was trained on other images than {name}")
    try:
        trainer.model.load_state_dict(entries["model"], strict=True)
        trainer.restore(entries["training"])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"--resume {path}: its state does not fit its settings") from error


def load_model(path: Path) -> tuple[nn.Module, dict]:
    """The network of a checkpoint, in eval mode, and the entries beside its weights.

    Where the weights were averaged it is the averaged network, as it was validated and tested.
    Files of before `image_size` was recorded get the stem that fits the weights.
    Raises: UserError if the file is not there, is no checkpoint of lesson 6, or does not fit.
    """
    entries = read(path)
    name, state = entries["model_name"], entries.pop("model")
    state = entries.pop("training", {}).get("average") or state
    for image_size in [entries["image_size"]] if "image_size" in entries else [32, 224]:
        model = models.build(name, len(entries["classes"]), image_size)
        try:
            model.load_state_dict(state, strict=True)
        except (TypeError, RuntimeError):
            continue
        return model.eval(), entries | {"image_size": image_size}
    raise UserError(f"--checkpoint {path}: its weights do not fit {name}")


def load_torchvision(name: str, path: Path, image_size: int = 224) -> nn.Module:
    """Our network `name`, with the stem for that size, and the weights of a checkpoint in
    torchvision's format, in eval mode.

    Raises: UserError if they do not fit, and what `read_tensors` raises.
    """
    state = read_tensors(path, "--weights")
    try:
        bias = "fc.bias" if "fc.bias" in state else "classifier.bias"
        model = models.build(name, len(state[bias]), image_size)
        model.load_state_dict(state, strict=True)
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"--weights {path} does not fit {name}: try another --model") from error
    return model.eval()


def load_models(paths: list[Path]) -> tuple[dict[str, nn.Module], dict]:
    """The networks of several checkpoints by name, and the entries of the last.

    Raises: UserError if they are for different classes or stems, and what `load_model` raises.
    """
    nets: dict[str, nn.Module] = {}
    last: dict = {}
    for path in paths:
        model, entries = load_model(path)
        name = entries["model_name"]
        nets[f"{name}, {path.stem}" if name in nets else name] = model
        if last and any(last[key] != entries[key] for key in ("classes", "image_size")):
            raise UserError(f"--checkpoint {path} is for other images than {paths[0]}")
        last = entries
    return nets, last
