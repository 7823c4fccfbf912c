"""The building blocks, one class each.

Every class stands alone: paste it under

    import torch, torch.nn as nn, torch.nn.functional as F

and it works; a class made of another one of its file says so ("Needs"). Parameter names are
torchvision's, so pretrained weights load with `strict=True`. No operation works in place, so that
hooks see the activations as they were, and every ReLU and pooling is a module that is used once, as
tools for attribution and quantisation ask for: relu1 behind bn1, and so on.
"""

from .densenet import DenseBlock, DenseLayer, SimpleDenseLayer, Transition
from .pooled import PoolBlock
from .preactivation import PreActBlock, PreActBottleneck, WideBlock
from .residual import BasicBlock, Bottleneck, PlainBlock
from .resnext import ResNeXtBlock
from .skipinit import SkipInitBlock
from .squeeze_excitation import SEBasicBlock, SEBottleneck, SqueezeExcitation

__all__ = ["BasicBlock", "Bottleneck", "PlainBlock"]
__all__ += ["PreActBlock", "PreActBottleneck", "WideBlock"]
__all__ += ["ResNeXtBlock", "SEBasicBlock", "SEBottleneck", "SqueezeExcitation"]
__all__ += ["DenseBlock", "DenseLayer", "SimpleDenseLayer", "Transition"]
__all__ += ["PoolBlock", "SkipInitBlock"]
