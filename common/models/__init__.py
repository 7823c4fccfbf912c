"""Networks assembled from the blocks, by the name under which `--model` knows them (`NAMES`).

Names and parameter names are torchvision's where torchvision has the network.
"""

from . import cifar, imagenet
from .changes import default_init, without_batch_norm, zero_last_gamma
from .cifar import (
    cifar_densenet,
    cifar_plain,
    cifar_pool_resnet,
    cifar_preact_resnet,
    cifar_resnet,
    cifar_resnext,
    cifar_se_resnet,
    cifar_wide_resnet,
)
from .imagenet import (
    densenet121,
    densenet161,
    densenet169,
    densenet201,
    grouped,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    seresnet18,
    seresnet34,
    seresnet50,
    seresnet101,
    seresnet152,
    wide_resnet50_2,
    wide_resnet101_2,
)
from .networks import CifarNet, DenseNet, PoolNet, PreActNet, ResNet

NAMES = [*cifar.__all__, *imagenet.__all__]

__all__ = ["NAMES", "CifarNet", "DenseNet", "PoolNet", "PreActNet", "ResNet"]
__all__ += ["default_init", "grouped", "without_batch_norm", "zero_last_gamma"]
__all__ += ["cifar_densenet", "cifar_plain", "cifar_preact_resnet", "cifar_resnet"]
__all__ += ["cifar_pool_resnet", "cifar_resnext", "cifar_se_resnet", "cifar_wide_resnet"]
__all__ += ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
__all__ += ["resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"]
__all__ += ["densenet121", "densenet161", "densenet169", "densenet201"]
__all__ += ["seresnet18", "seresnet34", "seresnet50", "seresnet101", "seresnet152"]
