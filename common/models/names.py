"""Networks by the names that flags give them."""

import inspect
import re

from common import UserError

import torch
import torch.nn as nn

from . import cifar, imagenet

NETWORKS = {name: getattr(module, name) for module in (cifar, imagenet) for name in module.__all__}
TORCHVISION = [name for name in imagenet.__all__ if not name.startswith("se")]  # shared with it
EXAMPLES = {name: "-20" for name in NETWORKS if name.startswith("cifar")}
EXAMPLES |= {"cifar_wide_resnet": "-16-4", "cifar_resnext": "-29-8-64"}
EXAMPLES |= {"cifar_densenet": "-40-12", "cifar_pool_resnet": "-64-128-128"}
TWINS = {"plain": cifar.cifar_plain, "residual": cifar.cifar_resnet}
MOST = 10_000  # layers: the objects of more would fill the memory
STAGE = re.compile(r"layer\d|features\.denseblock\d")


def build(text: str, classes: int, image_size: int = 32) -> nn.Module:
    """The network that --model names: a function of this package and its whole numbers.

    ImageNet networks get the CIFAR stem for images up to 64 pixels: theirs would leave nothing.
    Raises: UserError for an unknown name, and for other numbers than the function takes.
    """
    name, *numbers = text.split("-")
    if name not in NETWORKS or not all(re.fullmatch(r"\d{1,6}", n) for n in numbers):
        names = ", ".join(NETWORKS)
        raise UserError(f"--model {text}: choose from {names}; numbers as in cifar_resnet-56")
    function = NETWORKS[name]
    options = {"num_classes": classes}
    if "depth" in inspect.signature(function).parameters and int([*numbers, 0][0]) > MOST:
        raise UserError(f"--model {text}: no network here is deeper than {MOST:,} layers")
    if "stem" in inspect.signature(function).parameters:
        options["stem"] = "cifar" if image_size <= 64 else "imagenet"
    try:
        model = function(*map(int, numbers), **options)
    except TypeError as error:
        example = name + EXAMPLES.get(name, "")
        raise UserError(f"--model {text}: write it like {example}") from error
    except ValueError as error:
        raise UserError(f"--model {text}: {error}") from error
    if not all(parameter.numel() for parameter in model.parameters()):
        raise UserError(f"--model {text} has a layer without channels")
    return model


def build_twin(kind: str, depth: int, classes: int, width: int, seed: int) -> nn.Module:
    """A "plain" or "residual" network whose initial values are a function of seed and size alone.

    Raises: UserError for a depth that is not 6n + 2.
    """
    torch.manual_seed(seed)
    try:
        return TWINS[kind](depth, num_classes=classes, width=width)
    except ValueError as error:
        raise UserError(str(error)) from error


def block_names(model: nn.Module) -> list[str]:
    """The blocks of a network (of a DenseNet the layers), in the order of the signal."""
    stages = [name for name, _ in model.named_modules() if STAGE.fullmatch(name)]
    return [f"{s}.{child}" for s in stages for child, _ in model.get_submodule(s).named_children()]
