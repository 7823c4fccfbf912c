"""The networks for ImageNet, with torchvision's names where torchvision has them.

All take N 3 H W and give N num_classes. In their papers H and W are 224; with `stem="cifar"` they
are 32 to 64. ResNet-18 to 152 are those of He et al. 2015 (arXiv:1512.03385), table 1.
"""

from functools import partial

from common.blocks import BasicBlock, Bottleneck, ResNeXtBlock, SEBasicBlock, SEBottleneck

from .networks import DenseNet, ResNet

__all__ = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
__all__ += ["resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"]
__all__ += ["densenet121", "densenet161", "densenet169", "densenet201"]
__all__ += ["seresnet18", "seresnet34", "seresnet50", "seresnet101", "seresnet152"]


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


def resnext50_32x4d(num_classes: int = 1000, stem: str = "imagenet") -> ResNet:
    """ResNeXt-50 (Xie et al. 2017, arXiv:1611.05431, table 1): 25,028,904 parameters."""
    return ResNet(grouped(32, 4), [3, 4, 6, 3], num_classes, stem)


def resnext101_32x8d(num_classes: int = 1000, stem: str = "imagenet") -> ResNet:
    """ResNeXt-101, 32 groups of 8 channels at first, by torchvision: 88,791,336 parameters."""
    return ResNet(grouped(32, 8), [3, 4, 23, 3], num_classes, stem)


def wide_resnet50_2(num_classes: int = 1000, stem: str = "imagenet") -> ResNet:
    """ResNet-50 with twice the channels in the 3x3 convolutions alone: 68,883,240 parameters.

    Source: Zagoruyko & Komodakis 2016 (arXiv:1605.07146), section 3. One group of base width 128.
    """
    return ResNet(grouped(1, 128), [3, 4, 6, 3], num_classes, stem)


def wide_resnet101_2(num_classes: int = 1000, stem: str = "imagenet") -> ResNet:
    """ResNet-101, widened like `wide_resnet50_2`, by torchvision: 126,886,696 parameters."""
    return ResNet(grouped(1, 128), [3, 4, 23, 3], num_classes, stem)


def densenet121(num_classes: int = 1000, stem: str = "imagenet") -> DenseNet:
    """DenseNet-121 (Huang et al. 2017, arXiv:1608.06993, table 1): 7,978,856 parameters."""
    return DenseNet([6, 12, 24, 16], 32, 64, num_classes, stem)


def densenet161(num_classes: int = 1000, stem: str = "imagenet") -> DenseNet:
    """DenseNet-161, growth rate 48, a size of torchvision: 28,681,000 parameters."""
    return DenseNet([6, 12, 36, 24], 48, 96, num_classes, stem)


def densenet169(num_classes: int = 1000, stem: str = "imagenet") -> DenseNet:
    """DenseNet-169: 14,149,480 parameters."""
    return DenseNet([6, 12, 32, 32], 32, 64, num_classes, stem)


def densenet201(num_classes: int = 1000, stem: str = "imagenet") -> DenseNet:
    """DenseNet-201: 20,013,928 parameters."""
    return DenseNet([6, 12, 48, 32], 32, 64, num_classes, stem)


def seresnet18(num_classes: int = 1000, stem: str = "imagenet") -> ResNet:
    """ResNet-18 with squeeze-and-excitation; the paper, see `seresnet50`, begins at 50 layers."""
    return ResNet(SEBasicBlock, [2, 2, 2, 2], num_classes, stem)


def seresnet34(num_classes: int = 1000, stem: str = "imagenet") -> ResNet:
    """ResNet-34 with squeeze-and-excitation; the paper begins at 50 layers."""
    return ResNet(SEBasicBlock, [3, 4, 6, 3], num_classes, stem)


def seresnet50(num_classes: int = 1000, stem: str = "imagenet") -> ResNet:
    """ResNet-50 with squeeze-and-excitation: 28,088,024 parameters.

    Source: Hu et al. 2018 (arXiv:1709.01507), table 1.
    """
    return ResNet(SEBottleneck, [3, 4, 6, 3], num_classes, stem)


def seresnet101(num_classes: int = 1000, stem: str = "imagenet") -> ResNet:
    """ResNet-101 with squeeze-and-excitation."""
    return ResNet(SEBottleneck, [3, 4, 23, 3], num_classes, stem)


def seresnet152(num_classes: int = 1000, stem: str = "imagenet") -> ResNet:
    """ResNet-152 with squeeze-and-excitation."""
    return ResNet(SEBottleneck, [3, 8, 36, 3], num_classes, stem)


def grouped(cardinality: int, base_width: int, shortcut: str = "B"):
    """A ResNeXtBlock with these settings, for `ResNet` or `CifarNet`."""
    settings = {"cardinality": cardinality, "base_width": base_width, "shortcut": shortcut}
    return partial(ResNeXtBlock, **settings)
