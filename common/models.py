"""Networks assembled from the blocks.

Names and parameter names are torchvision's where torchvision has the network.
"""

import warnings
from functools import partial

import torch
import torch.fx
import torch.nn as nn
import torch.nn.functional as F

from common.blocks import BasicBlock, Bottleneck, PlainBlock

__all__ = ["cifar_plain", "cifar_resnet"]
__all__ += ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]


class ResNet(nn.Module):
    """The ImageNet networks of He et al. 2015 (arXiv:1512.03385), table 1.

    Shapes: N 3 H W -> N num_classes; any H and W, 224 in the paper.
    `stem="imagenet"` is the paper's 7x7 stride-2 convolution and max-pool, which divide the
    resolution by four; `stem="cifar"` is one 3x3 convolution at full resolution, for images
    of 32x32 to 64x64.
    Raises: ValueError for another stem.
    """

    def __init__(self, block, layers, num_classes: int = 1000, stem: str = "imagenet"):
        super().__init__()
        if stem not in ("imagenet", "cifar"):
            raise ValueError(f"stem must be 'imagenet' or 'cifar', not {stem!r}")
        self.stem = stem
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        else:
            self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(block, 64, 64, layers[0], stride=1)
        self.layer2 = _stage(block, 64 * block.expansion, 128, layers[1], stride=2)
        self.layer3 = _stage(block, 128 * block.expansion, 256, layers[2], stride=2)
        self.layer4 = _stage(block, 256 * block.expansion, 512, layers[3], stride=2)
        self.fc = nn.Linear(512 * block.expansion, num_classes)
        _kaiming(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        if self.stem == "imagenet":
            _warn_if_small(x)
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean(dim=(2, 3)))  # N num_classes


class CifarNet(nn.Module):
    """The CIFAR networks of He et al. 2015 (arXiv:1512.03385), section 4.2: depth 6n + 2.

    A 3x3 stem, three stages of n blocks at width, 2 * width and 4 * width channels (16, 32
    and 64 in the paper), global average pooling, a linear classifier.
    Shapes: N 3 H W -> N num_classes; any H and W, 32 in the paper.
    Raises: ValueError for a depth that is not 6n + 2.
    """

    def __init__(self, block, depth: int, num_classes: int = 10, width: int = 16):
        super().__init__()
        n, rest = divmod(depth - 2, 6)
        if n < 1 or rest:
            raise ValueError(f"depth must be 6n + 2 (8, 14, 20, 32, 44, 56, 110 ...), not {depth}")
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(block, width, width, n, stride=1)
        self.layer2 = _stage(block, width, 2 * width, n, stride=2)
        self.layer3 = _stage(block, 2 * width, 4 * width, n, stride=2)
        self.fc = nn.Linear(4 * width, num_classes)
        _kaiming(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))  # N width H W
        x = self.layer3(self.layer2(self.layer1(x)))  # N 4*width H/4 W/4
        return self.fc(x.mean(dim=(2, 3)))  # N num_classes


def _stage(block, in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    """`blocks` blocks, the first of which changes the resolution and the channels."""
    first = block(in_channels, channels, stride)
    rest = [block(channels * first.expansion, channels) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def _kaiming(model: nn.Module) -> None:
    """Initialise every convolution after He et al. 2015 (arXiv:1502.01852), mode fan-out."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


@torch.fx.wrap
def _warn_if_small(stem_output: torch.Tensor) -> None:
    """Warn when the ImageNet stem meets an image under 64 pixels: layer4 would see 1x1."""
    if min(stem_output.shape[-2:]) < 32:
        message = "the ImageNet stem leaves almost nothing of an image this small: use stem='cifar'"
        warnings.warn(message, stacklevel=3)


def resnet18(num_classes: int = 1000, stem: str = "imagenet") -> ResNet:
    """ResNet-18: 11,689,512 parameters, 11,173,962 with the CIFAR stem and 10 classes."""
    return ResNet(BasicBlock, [2, 2, 2, 2], num_classes, stem)


def resnet34(num_classes: int = 1000, stem: str = "imagenet") -> ResNet:
    """ResNet-34: 21,797,672 parameters."""
    return ResNet(BasicBlock, [3, 4, 6, 3], num_classes, stem)


def resnet50(num_classes: int = 1000, stem: str = "imagenet") -> ResNet:
    """ResNet-50: 25,557,032 parameters."""
    return ResNet(Bottleneck, [3, 4, 6, 3], num_classes, stem)


def resnet101(num_classes: int = 1000, stem: str = "imagenet") -> ResNet:
    """ResNet-101: 44,549,160 parameters."""
    return ResNet(Bottleneck, [3, 4, 23, 3], num_classes, stem)


def resnet152(num_classes: int = 1000, stem: str = "imagenet") -> ResNet:
    """ResNet-152: 60,192,808 parameters."""
    return ResNet(Bottleneck, [3, 8, 36, 3], num_classes, stem)


def cifar_resnet(depth: int, shortcut: str = "A", num_classes: int = 10, width: int = 16):
    """CIFAR ResNet of depth 6n + 2: 269,722 parameters at 20, 853,018 at 56 (option A)."""
    return CifarNet(partial(BasicBlock, shortcut=shortcut), depth, num_classes, width)


def cifar_plain(depth: int, num_classes: int = 10, width: int = 16):
    """The twin of `cifar_resnet(depth)`: the same parameters in the same order, no shortcut."""
    return CifarNet(PlainBlock, depth, num_classes, width)


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
    """
    for module in model.modules():
        if isinstance(module, BasicBlock | Bottleneck):
            last = module.bn2 if isinstance(module, BasicBlock) else module.bn3
            nn.init.zeros_(last.weight)
    return model
