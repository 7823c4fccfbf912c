"""The networks for CIFAR: 32x32 pixels, ten classes, small enough to train on a laptop.

All take N 3 H W and give N num_classes.
"""

from functools import partial

from common.blocks import (
    BasicBlock,
    PlainBlock,
    PreActBlock,
    PreActBottleneck,
    SEBasicBlock,
    SimpleDenseLayer,
    SkipInitBlock,
    WideBlock,
)

from .changes import without_batch_norm
from .imagenet import grouped
from .networks import CifarNet, DenseNet, PoolNet, PreActNet

__all__ = ["cifar_densenet", "cifar_plain", "cifar_preact_resnet", "cifar_resnet"]
__all__ += ["cifar_pool_resnet", "cifar_resnext", "cifar_se_resnet", "cifar_skipinit"]
__all__ += ["cifar_wide_resnet"]


def _blocks(depth: int, step: int, rest: int) -> int:
    """n of depth = step * n + rest.

    Raises: ValueError for a depth of another form.
    """
    n, left = divmod(depth - rest, step)
    if n < 1 or left:
        examples = ", ".join(str(step * i + rest) for i in (1, 2, 3, 6, 9, 18))
        raise ValueError(f"depth must be {step}n + {rest} ({examples} ...), not {depth}")
    return n


def cifar_resnet(depth: int, shortcut: str = "A", num_classes: int = 10, width: int = 16):
    """CIFAR ResNet of depth 6n + 2: 269,722 parameters at 20, 853,018 at 56 (option A).

    Source: He et al. 2015 (arXiv:1512.03385), section 4.2.
    Raises: ValueError for another depth, here and below, or another shortcut.
    """
    block = partial(BasicBlock, shortcut=shortcut)
    return CifarNet(block, _blocks(depth, 6, 2), num_classes, width)


def cifar_plain(depth: int, num_classes: int = 10, width: int = 16):
    """The twin of `cifar_resnet(depth)`: the same parameters in the same order, no shortcut."""
    return CifarNet(PlainBlock, _blocks(depth, 6, 2), num_classes, width)


def cifar_se_resnet(depth: int, num_classes: int = 10, width: int = 16):
    """`cifar_resnet(depth)` with squeeze-and-excitation (Hu et al. 2018, section 5.1).

    The reduction of 16 leaves the 16 channels of the first stage one hidden unit.
    Deviation: post-activation blocks; on CIFAR the paper's are pre-activation networks.
    """
    block = partial(SEBasicBlock, shortcut="A")
    return CifarNet(block, _blocks(depth, 6, 2), num_classes, width)


def cifar_skipinit(depth: int, num_classes: int = 10, width: int = 16):
    """`cifar_resnet(depth)` without batch norm, of SkipInitBlocks (De & Smith 2020): 269,027
    parameters at 20.

    Deviation: the stem has no bias.
    """
    block = partial(SkipInitBlock, shortcut="A")
    model = CifarNet(block, _blocks(depth, 6, 2), num_classes, width)
    return without_batch_norm(model)  # the stem's; the blocks have none


def cifar_preact_resnet(depth: int, num_classes: int = 10, width: int = 16):
    """Pre-activation ResNet (He et al. 2016, arXiv:1603.05027, table 3).

    Below depth 164 of basic blocks, depth 6n + 2; from 164 on of bottlenecks, depth 9n + 2, as in
    the paper: 1,703,258 parameters at 164, 10,327,706 at 1001.
    """
    if depth < 164:
        return PreActNet(PreActBlock, _blocks(depth, 6, 2), num_classes, width)
    return PreActNet(PreActBottleneck, _blocks(depth, 9, 2), num_classes, width)


def cifar_wide_resnet(depth: int, widen_factor: int, dropout: float = 0.0, num_classes: int = 10):
    """WRN-depth-widen_factor (Zagoruyko & Komodakis 2016, arXiv:1605.07146, table 1), depth 6n + 4.

    Stages of 16, 32 and 64 channels, each times `widen_factor`: 36,479,194 parameters at 28 and 10.
    """
    block = partial(WideBlock, dropout=dropout)
    return PreActNet(block, _blocks(depth, 6, 4), num_classes, 16 * widen_factor, stem=16)


def cifar_resnext(
    depth: int, cardinality: int, base_width: int, num_classes: int = 10, width: int = 64
):
    """ResNeXt-depth, cardinality x base_width d (Xie et al. 2017, section 5.3), depth 9n + 2.

    34,426,698 parameters at 29, 8, 64.
    Raises: ValueError where the first stage's groups would have no channel.
    """
    if cardinality < 1 or width * base_width < 64:
        raise ValueError("the first stage needs a group, and a channel in it")
    return CifarNet(grouped(cardinality, base_width), _blocks(depth, 9, 2), num_classes, width)


def cifar_pool_resnet(
    width1: int, width2: int, width3: int, residual: int = 1, num_classes: int = 10
):
    """Three groups of a pooling convolution and `residual` residual ones: 574,890 parameters at
    64, 128, 128. Made to be trained in minutes; for its sources see PoolBlock and PoolNet.
    """
    return PoolNet((width1, width2, width3), residual, num_classes)


def cifar_densenet(depth: int, growth_rate: int, bottleneck: bool = True, num_classes: int = 10):
    """DenseNet-BC-depth-growth_rate (Huang et al. 2017, table 2): 769,162 parameters at 100, 12.

    With the bottleneck also compression 0.5, a stem of 2 * growth_rate channels and depth 6n + 4;
    without either the plain DenseNet: a stem of 16 channels and depth 3n + 4.
    """
    if bottleneck:
        layers = [_blocks(depth, 6, 4)] * 3
        return DenseNet(layers, growth_rate, 2 * growth_rate, num_classes, "cifar")
    layers, plain = [_blocks(depth, 3, 4)] * 3, {"layer": SimpleDenseLayer, "compression": 1.0}
    return DenseNet(layers, growth_rate, 16, num_classes, "cifar", **plain)
