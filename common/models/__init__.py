"""Networks made of the blocks; names and parameter names are torchvision's where it has them.

The functions of `cifar` and `imagenet` are names of this package, too: `models.resnet18()`.
"""

from .changes import default_init, freeze_body, new_classifier, without_batch_norm, zero_last_gamma
from .imagenet import grouped
from .names import NETWORKS, TORCHVISION, TWINS, block_names, build, build_twin
from .networks import CifarNet, DenseNet, PoolNet, PreActNet, ResNet, kaiming_init

globals().update(NETWORKS)  # a network is named once, in the file that defines it

__all__ = ["NETWORKS", "TORCHVISION", "TWINS", "CifarNet", "DenseNet", "PoolNet", "PreActNet"]
__all__ += ["ResNet", "block_names", "build", "build_twin", "default_init", "freeze_body"]
__all__ += ["grouped", "kaiming_init", "new_classifier", "without_batch_norm"]
__all__ += ["zero_last_gamma", *NETWORKS]
