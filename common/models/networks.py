"""Networks assembled from the blocks; the functions beside this file give them their sizes."""

import warnings

from common.blocks import DenseBlock, DenseLayer, PoolBlock, Transition

import torch
import torch.fx
import torch.nn as nn


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
        large = stem == "imagenet"
        size, stride = (7, 2) if large else (3, 1)
        self.conv1 = nn.Conv2d(3, 64, size, stride, padding=size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()
        self.layer1 = _stage(block, 64, 64, layers[0], stride=1)
        expansion = self.layer1[0].expansion
        self.layer2 = _stage(block, 64 * expansion, 128, layers[1], stride=2)
        self.layer3 = _stage(block, 128 * expansion, 256, layers[2], stride=2)
        self.layer4 = _stage(block, 256 * expansion, 512, layers[3], stride=2)
        self.inplanes = 512 * expansion  # of layer4; torchvision's detectors ask for it
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * expansion, num_classes)
        kaiming_init(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _warn_if_small(x, self.stem)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))  # N num_classes


class CifarNet(nn.Module):
    """The CIFAR networks of He et al. 2015 (arXiv:1512.03385), section 4.2.

    A 3x3 stem, three stages of `blocks` blocks at width, 2 * width and 4 * width channels (16, 32
    and 64 in the paper, times the block's expansion), global average pooling, a linear classifier.
    Shapes: N 3 H W -> N num_classes; any H and W, 32 in the paper.
    """

    def __init__(self, block, blocks: int, num_classes: int = 10, width: int = 16):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.layer1 = _stage(block, width, width, blocks, stride=1)
        expansion = self.layer1[0].expansion
        self.layer2 = _stage(block, width * expansion, 2 * width, blocks, stride=2)
        self.layer3 = _stage(block, 2 * width * expansion, 4 * width, blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width * expansion, num_classes)
        kaiming_init(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))  # N width H W
        x = self.layer3(self.layer2(self.layer1(x)))  # N 4*width*expansion H/4 W/4
        return self.fc(self.avgpool(x).flatten(1))  # N num_classes


class PreActNet(nn.Module):
    """The CIFAR networks of He et al. 2016 (arXiv:1603.05027) and of Wide ResNet.

    A bare 3x3 stem of `stem` channels, three stages of pre-activation blocks as in CifarNet, a
    last batch norm and ReLU (the identity path had none), global average pooling, a classifier.
    Shapes: N 3 H W -> N num_classes; any H and W, 32 in the papers.
    Deviation: the paper (appendix) activates before the first split; here the first identity sees
    the stem's output as it is. It matters only where the first block keeps its channels.
    """

    def __init__(
        self, block, blocks: int, num_classes: int = 10, width: int = 16, stem: int | None = None
    ):
        super().__init__()
        stem = stem or width
        self.conv1 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.layer1 = _stage(block, stem, width, blocks, stride=1)
        expansion = self.layer1[0].expansion
        self.layer2 = _stage(block, width * expansion, 2 * width, blocks, stride=2)
        self.layer3 = _stage(block, 2 * width * expansion, 4 * width, blocks, stride=2)
        self.bn = nn.BatchNorm2d(4 * width * expansion)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width * expansion, num_classes)
        kaiming_init(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)  # N stem H W
        x = self.layer3(self.layer2(self.layer1(x)))  # N 4*width*expansion H/4 W/4
        x = self.relu(self.bn(x))
        return self.fc(self.avgpool(x).flatten(1))  # N num_classes


class PoolNet(nn.Module):
    """A 3x3 stem and three PoolBlocks of `widths` channels: made to be trained in minutes.

    Sources: hlb-CIFAR10 and ResNet-9, see PoolBlock.
    Shapes: N 3 H W -> N num_classes; any H and W from 8 on, 32 in the sources.
    Deviations: the stem learns, with batch norm, where hlb-CIFAR10 whitens patches of 2x2; global
    average pooling, where both have max-pooling and scale the logits down.
    """

    def __init__(self, widths, residual: int = 1, num_classes: int = 10, stem: int = 32):
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(PoolBlock(stem, widths[0], residual))
        self.layer2 = nn.Sequential(PoolBlock(widths[0], widths[1], residual))
        self.layer3 = nn.Sequential(PoolBlock(widths[1], widths[2], residual))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[2], num_classes)
        kaiming_init(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))  # N stem H W
        x = self.layer3(self.layer2(self.layer1(x)))  # N widths[2] H/8 W/8
        return self.fc(self.avgpool(x).flatten(1))  # N num_classes


class DenseNet(nn.Module):
    """The networks of Huang et al. 2017 (arXiv:1608.06993), table 1 and section 3.

    Dense blocks of `layers` layers, a transition after each but the last, a last batch norm and
    ReLU, global average pooling, a linear classifier.
    Shapes: N 3 H W -> N num_classes; H and W 224 or 32 in the paper, at least 29 for four dense
    blocks behind ImageNet's stem, behind CIFAR's 8 for four and 4 for three.
    `stem="imagenet"` is a 7x7 stride-2 convolution, batch norm, ReLU and max-pool; `stem="cifar"`
    one bare 3x3 convolution at full resolution.
    Raises: ValueError for another stem; RuntimeError for smaller images.
    """

    def __init__(
        self,
        layers: list[int],
        growth_rate: int,
        stem_channels: int,
        num_classes: int = 1000,
        stem: str = "imagenet",
        layer=DenseLayer,
        compression: float = 0.5,
    ):
        super().__init__()
        self.features = _dense_stem(stem, stem_channels)
        channels = stem_channels
        for i, count in enumerate(layers, 1):
            if i > 1:
                out = int(channels * compression)
                self.features.add_module(f"transition{i - 1}", Transition(channels, out))
                channels = out
            block = DenseBlock(count, channels, growth_rate, layer)
            self.features.add_module(f"denseblock{i}", block)
            channels += count * growth_rate
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        kaiming_init(self)
        self.stem = stem

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _warn_if_small(x, self.stem)
        x = self.relu(self.features(x))  # N channels H/32 W/32; H/4 W/4 of 3 blocks, CIFAR stem
        return self.classifier(self.avgpool(x).flatten(1))  # N num_classes


def _dense_stem(stem: str, channels: int) -> nn.Sequential:
    """What comes before the first dense block, under torchvision's names."""
    if stem not in ("imagenet", "cifar"):
        raise ValueError(f"stem must be 'imagenet' or 'cifar', not {stem!r}")
    stages = nn.Sequential()
    if stem == "cifar":
        stages.add_module("conv0", nn.Conv2d(3, channels, 3, padding=1, bias=False))
        return stages
    stages.add_module("conv0", nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False))
    stages.add_module("norm0", nn.BatchNorm2d(channels))
    stages.add_module("relu0", nn.ReLU())
    stages.add_module("pool0", nn.MaxPool2d(3, stride=2, padding=1))
    return stages


def _stage(block, in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    """`blocks` blocks, the first of which changes the resolution and the channels."""
    first = block(in_channels, channels, stride)
    rest = [block(channels * first.expansion, channels) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def kaiming_init(model: nn.Module, mode: str = "fan_out") -> nn.Module:
    """The same network, changed in place: every convolution initialised for ReLU.

    Source: He et al. 2015b, Delving Deep into Rectifiers (arXiv:1502.01852). Mode "fan_in" keeps
    the variance of activations, "fan_out" that of gradients; where a convolution has as many
    channels in as out the two agree.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
    return model


@torch.fx.wrap
def _warn_if_small(images: torch.Tensor, stem: str) -> None:
    """Warn when the ImageNet stem meets an image under 64 pixels: its end is 2x2 or less."""
    if stem == "imagenet" and min(images.shape[-2:]) < 64:
        message = "the ImageNet stem leaves almost nothing of an image this small: use stem='cifar'"
        warnings.warn(message, stacklevel=3)
