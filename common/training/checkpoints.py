"""The checkpoints that lesson 6 writes and reads, and weights that other programs wrote."""

import contextlib
import io
import os
import re
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

from common import UserError, models

import torch
import torch.nn as nn

from .entries import check, check_numbers

KEYS = ("model", "model_name", "classes", "epoch", "val_accuracy")
WRAPPINGS = ("state_dict", "model_state_dict", "model", "net")  # entries that hold the weights
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.")  # DataParallel, compile ...


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a scratch file's path, to be written inside the `with`; at its end it becomes `path`.

    Raises: UserError if the disk refuses; what was at `path` before is then still there.
    """
    scratch = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        yield scratch
        with scratch.open("rb+") as file:
            os.fsync(file.fileno())
        _replace(scratch, path)
    except OSError as error:
        raise UserError(f"{path} could not be written ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def _replace(scratch: Path, path: Path) -> None:
    """Give a file its name. Windows refuses while another program reads the old one: wait a bit."""
    for seconds in (0.1, 1, 10) if os.name == "nt" else ():
        try:
            scratch.replace(path)
        except PermissionError:
            time.sleep(seconds)
        else:
            return
    scratch.replace(path)


def set_aside(path: Path) -> None:
    """Rename a file, if it is there, so that nothing is lost: hours may have gone into it."""
    names = (f"earlier{number}_{path.name}" for number in ("", *range(2, 1_000)))
    if path.exists():
        path.replace(next(p for p in map(path.with_name, names) if not p.exists()))


def save_checkpoint(path: Path, entries: dict) -> None:
    """Write tensors and plain values to `path` whole or not at all.

    Raises: UserError if the disk refuses; what was at `path` before is then still there.
    """
    content = io.BytesIO()  # of a full disk torch.save would not say that it is full
    torch.save(entries, content)
    with atomic_write(path) as scratch:
        scratch.write_bytes(content.getvalue())  # getbuffer() fails in Python 3.12 and 3.13


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
    """Size, number, normalisation (of pixels from 0 to 255) and a hash of the images."""
    counts = [len(split.labels) for split in (dataset.train, dataset.val)]
    mean, std = (tensor.flatten().tolist() for tensor in dataset.statistics)
    size = dataset.train.images.shape[2]
    found = {"image_size": size, "image_counts": counts, "mean": mean, "std": std}
    return found | {"images": dataset.fingerprint}


def read(path: Path, flag: str = "--checkpoint") -> dict:
    """The entries of one of lesson 6's checkpoints.

    Raises: UserError if it is another file, and what `read_tensors` and `entries.check` raise.
    """
    entries = read_tensors(path, flag)
    if _is_ours(entries):
        check(entries, f"{flag} {path}")
        return entries
    hint = "; 02_resnet_implementation.py --weights reads torchvision's" * bool(_weights(entries))
    raise UserError(f"{flag} {path} was not written by 06_practical_example.py{hint}")


def _is_ours(entries) -> bool:
    """Whether lesson 6 wrote this."""
    return isinstance(entries, dict) and all(key in entries for key in KEYS)


def read_tensors(path: Path, flag: str):
    """What torch.save wrote to a file, on the CPU; no code in it is run.

    Raises: UserError, naming the flag, if it is not there, damaged, or more than plain values.
    """
    if not path.is_file():  # opening a pipe would wait for ever
        raise UserError(f"{flag} {path} {'is no file' if path.exists() else 'does not exist'}")
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{flag} {path} cannot be read ({error.strerror})") from error
    try:
        if zipfile.is_zipfile(path):  # torch.load does not look at its checksums
            with zipfile.ZipFile(path) as parts:
                packed = any(part.file_size > part.compress_size for part in parts.infolist())
                if packed or parts.testzip():  # torch.save packs nothing: a small file stays small
                    raise zipfile.BadZipFile
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file that is refused in a moment
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a dozen types for a file that is no checkpoint
        held = re.search(r"GLOBAL ([\w.]+)|(TorchScript)", str(error))
        hint = f": it holds {held[1] or held[2]}; save the state_dict() alone" if held else ""
        raise UserError(f"{flag} {path} is no checkpoint of plain tensors{hint}") from error


def read_training(path: Path) -> dict:
    """The entries of a checkpoint that --resume can continue.

    Raises: UserError if it is none.
    """
    entries = read(path, "--resume")
    if not all(key in entries for key in ("settings", "training")):
        raise UserError(f"--resume {path} holds a network, but no training to continue")
    return entries


def same_settings(path: Path, entries: dict, settings: dict) -> None:
    """Raises: UserError if the checkpoint was trained with other settings than these, or is of
    another network than they say."""
    for key, value in settings.items():
        flag, old = f"--{key.replace('_', '-')}", entries["settings"]
        if key not in old:
            raise UserError(f"--resume {path} is of an older kind, without {flag}: train again")
        if old[key] != value:
            raise UserError(f"--resume {path} was trained with {flag} {old[key]}, not {value}")
    name, classes, size = settings["model"], len(entries["classes"]), settings["image_size"]
    if difference := _misfit(name, classes, size, entries["model"]):
        raise UserError(f"--resume {path}: its state does not fit its settings ({difference})")


def resume(path: Path, entries: dict, trainer) -> None:
    """Bring a trainer, built from the checkpoint's settings, to where it was written.

    Raises: UserError if classes or images are others, or the state does not fit.
    """
    name = trainer.dataset.name
    if list(entries["classes"]) != list(trainer.dataset.classes):
        raise UserError(f"--resume {path} is for other classes than those of {name}")
    if any(entries.get(key) != value for key, value in _images_of(trainer.dataset).items()):
        other = f"on other images than {name}, or in other order"
        raise UserError(f"--resume {path} was trained {other}")
    try:
        trainer.model.load_state_dict(entries["model"], strict=True)
        trainer.restore(entries["training"])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"--resume {path}: its state does not fit its settings") from error


def is_of(path: Path, rows: list[dict]) -> bool:
    """Whether a file is a checkpoint of the training with these rows; their seconds tell it."""
    try:
        found = read(path)["training"]["rows"]
    except (KeyError, UserError):
        return False
    return bool(found) and found == rows[: len(found)]


def load_model(path: Path) -> tuple[nn.Module, dict]:
    """The network of a checkpoint, in eval mode, and the entries beside its weights.

    Where the weights were averaged it is the averaged network, as it was validated and tested.
    Files of before `image_size` was recorded get the stem that fits the weights.
    Raises: UserError if the file is not there, is no checkpoint of lesson 6, or does not fit.
    """
    entries = read(path)
    name, state, classes = entries["model_name"], entries.pop("model"), len(entries["classes"])
    state = entries.pop("training", {}).get("average") or state
    for image_size in [entries["image_size"]] if "image_size" in entries else [32, 224]:
        if not _misfit(name, classes, image_size, state):  # then it is no larger than the file
            model = models.build(name, classes, image_size)
            model.load_state_dict(state, strict=True)
            return model.eval(), entries | {"image_size": image_size}
    raise UserError(f"--checkpoint {path}: its weights do not fit {name}")


def load_torchvision(name: str, path: Path, image_size: int = 224) -> nn.Module:
    """Our network `name`, with the stem for that size, and the weights of a checkpoint in
    torchvision's format, in eval mode.

    Raises: UserError if they do not fit or are no numbers, and what `read_weights` raises.
    """
    where = f"--weights {path}"
    state = read_weights(path)
    bias = state.get("fc.bias", state.get("classifier.bias"))
    classes = 1000 if bias is None else max(1, bias.numel())
    if difference := _misfit(name, classes, image_size, state):
        sizes = classes, image_size, state
        others = [other for other in models.TORCHVISION if not _misfit(other, *sizes)]
        hint = f"; it fits --model {others[0]}" if others else ""
        raise UserError(f"{where} does not fit {name}: {difference}{hint}")
    check_numbers(state, where)
    model = models.build(name, classes, image_size)
    model.load_state_dict(state, strict=True)
    return model.eval()


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint of another program, by the names that torchvision gives them.

    Raises: UserError if it holds none or is lesson 6's, and what `read_tensors` raises.
    """
    entries = read_tensors(path, "--weights")
    if _is_ours(entries):
        name = "06_practical_example.py"
        raise UserError(f"--weights {path} was written by {name}, which reads it as --checkpoint")
    state = _weights(entries)
    if not state:
        expected = "a state_dict, or just one as its entry " + ", ".join(WRAPPINGS)
        raise UserError(f"--weights {path} holds no weights: expected {expected}")
    return state


def _weights(entries) -> dict[str, torch.Tensor]:
    """The state dict in what another program saved: without wrapping, without a prefix that all
    names share, DenseNet's names as torchvision has them since 2017. Empty if there is none."""
    for _ in range(3):  # wrapped twice, at most
        if not isinstance(entries, dict):
            return {}
        inner = [entries[key] for key in WRAPPINGS if isinstance(entries.get(key), dict)]
        if len(inner) == 1:  # of two networks none is meant
            entries = inner[0]
    state = {key: value for key, value in entries.items() if key != "n_averaged"}
    if not all(isinstance(key, str) and torch.is_tensor(state[key]) for key in state):
        return {}
    for prefix in PREFIXES * 2:  # in any order
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    old = r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"  # "norm.1" became "norm1"
    return {re.sub(old, r"\1\2", key): value for key, value in state.items()}


def _misfit(name: str, classes: int, image_size: int, state: dict[str, torch.Tensor]) -> str:
    """The first weight that a network and a state dict do not share; "" if there is none."""
    with torch.device("meta"):  # sizes alone
        expected = models.build(name, classes, image_size).state_dict()
    surplus = next((key for key in state if key not in expected), None)
    for key, value in expected.items():
        if key in state and state[key].shape != value.shape:
            return f"{key} is {list(state[key].shape)}, not {list(value.shape)}"
        if key not in state and not key.endswith("num_batches_tracked"):  # old files have none
            return f"it has no {key}" + (f", but {surplus}" if surplus else "")
    return f"{surplus} has no place in it" if surplus else ""


def load_models(paths: list[Path]) -> tuple[dict[str, nn.Module], dict]:
    """The networks of several checkpoints by name, and the entries of the last.

    Raises: UserError if they are for different images, and what `load_model` raises.
    """
    nets: dict[str, nn.Module] = {}
    last: dict = {}
    for path in paths:
        model, entries = load_model(path)
        name = entries["model_name"]
        name += f", {path.stem}" * (name in nets)
        name += f" {len(nets) + 1}" * (name in nets)
        nets[name] = model
        images = "classes", "image_size", "mean", "std"  # the same numbers go into all networks
        if last and any(last.get(key) != entries.get(key) for key in images):
            raise UserError(f"--checkpoint {path} is for other images than {paths[0]}")
        last = entries
    return nets, last
