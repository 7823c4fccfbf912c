"""Changes that turn a network into another one: batch norm, initial values, the classifier."""

import torch.nn as nn


def without_batch_norm(model: nn.Module) -> nn.Module:
    """The same network, changed in place, with the identity wherever it had batch norm."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    return model


def default_init(model: nn.Module) -> nn.Module:
    """The same network, changed in place, with PyTorch's default convolution weights."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    return model


def zero_last_gamma(model: nn.Module) -> nn.Module:
    """The same network, changed in place, with each block's last batch-norm scale at zero.

    Each block then starts as relu(shortcut(x)) (Goyal et al. 2017, arXiv:1706.02677, 5.1).
    Raises: ValueError, with nothing changed, if no block has a shortcut, or if F ends in a
    convolution (pre-activation), whose scale is not a batch norm's.
    """
    blocks = [module for module in model.modules() if hasattr(module, "downsample")]
    kinds = nn.Conv2d | nn.BatchNorm2d  # children stand in the order of use: the last one ends F
    last = [[c for c in block.children() if isinstance(c, kinds)][-1] for block in blocks]
    if not last or not all(isinstance(layer, nn.BatchNorm2d) for layer in last):
        raise ValueError("needs blocks with a shortcut, whose F ends in a batch norm")
    for norm in last:
        nn.init.zeros_(norm.weight)
    return model


def classifier_name(model: nn.Module) -> str:
    """The name of the last linear layer: "fc", in a DenseNet "classifier".

    Raises: IndexError for a network without one.
    """
    return [name for name, part in model.named_modules() if isinstance(part, nn.Linear)][-1]


def new_classifier(model: nn.Module, num_classes: int) -> nn.Module:
    """The same network, changed in place, with an untrained classifier for so many classes."""
    parent, _, name = (path := classifier_name(model)).rpartition(".")
    features = model.get_submodule(path).in_features
    setattr(model.get_submodule(parent), name, nn.Linear(features, num_classes))
    return model


def freeze_body(model: nn.Module, frozen: bool) -> None:
    """Let the classifier alone learn, and batch norm use its running statistics as in evaluation;
    or (not `frozen`) all again."""
    model.requires_grad_(not frozen).train(not frozen)
    model.get_submodule(classifier_name(model)).requires_grad_()
