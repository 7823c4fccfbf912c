"""Networks by name, and back from the checkpoints that lesson 6 writes."""

import inspect
import re
from pathlib import Path

import torch
import torch.nn as nn

from common import UserError, models

EXAMPLES = {"cifar_wide_resnet": "16-4", "cifar_resnext": "29-8-64", "cifar_densenet": "40-12"}
EXAMPLES = dict.fromkeys(models.NAMES, "20") | EXAMPLES
KEYS = ("model", "model_name", "classes", "epoch", "val_accuracy")


def build_model(text: str, classes: int, image_size: int = 32) -> nn.Module:
    """The network that --model names: a function of common/models and its whole numbers.

    ImageNet networks get the CIFAR stem for images up to 64 pixels: theirs would leave nothing.
    """
    name, *numbers = text.split("-")
    if name not in models.NAMES or not all(re.fullmatch(r"\d+", n) for n in numbers):
        names = ", ".join(models.NAMES)
        raise UserError(f"--model {text}: choose from {names}; numbers as in cifar_resnet-56")
    function = getattr(models, name)
    options = {"num_classes": classes}
    if "stem" in inspect.signature(function).parameters:
        options["stem"] = "cifar" if image_size <= 64 else "imagenet"
    try:
        return function(*map(int, numbers), **options)
    except TypeError as error:
        raise UserError(f"--model {text}: numbers as in {name}-{EXAMPLES[name]}") from error
    except ValueError as error:
        raise UserError(f"--model {text}: {error}") from error


def load_model(path: Path) -> tuple[nn.Module, dict]:
    """The network of a checkpoint, in eval mode, and the entries beside its weights.

    The stem is the one that fits the weights; `image_size` among the entries is what it is for.
    Raises: UserError if the file is not there, is no checkpoint of lesson 6, or does not fit.
    """
    if not path.is_file():
        raise UserError(f"--checkpoint {path} does not exist")
    try:
        entries = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a dozen types for a file that is no checkpoint
        raise UserError(f"--checkpoint {path} is no checkpoint of plain tensors") from error
    if not isinstance(entries, dict) or any(key not in entries for key in KEYS):
        raise UserError(f"--checkpoint {path} was not written by 06_practical_example.py")
    name, state = entries["model_name"], entries.pop("model")
    for image_size in (32, 224):
        model = build_model(name, len(entries["classes"]), image_size)
        try:
            model.load_state_dict(state, strict=True)
        except (TypeError, RuntimeError):
            continue
        return model.eval(), entries | {"image_size": image_size}
    raise UserError(f"--checkpoint {path}: its weights do not fit {name}")


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
