"""Pre-activation: batch norm and ReLU before each convolution, nothing after the addition."""

import torch
import torch.nn as nn


class PreActBlock(nn.Module):
    """y = F(x) + shortcut(x), with F twice batch norm, ReLU, 3x3 convolution.

    Where the shape stays, the shortcut is x itself, raw: no operation lies on the identity path.
    Where it changes, the shortcut is a bare 1x1 convolution behind the first batch norm and ReLU,
    which it shares with F.
    Source: He et al. 2016 (arXiv:1603.05027), equation 9, figure 4e.
    Shapes: N in_channels H W -> N channels ceil(H/stride) ceil(W/stride).
    Raises: RuntimeError, from the first batch norm, if the input has not `in_channels` channels.
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu1(self.bn1(x))  # N in_channels H W
        shortcut = x if self.downsample is None else self.downsample(out)
        out = self.conv1(out)  # N channels H/stride W/stride
        out = self.conv2(self.relu2(self.bn2(out)))
        return out + shortcut


class PreActBottleneck(nn.Module):
    """y = F(x) + shortcut(x), with F three times batch norm, ReLU, convolution: 1x1, 3x3, 1x1.

    The shortcut is that of PreActBlock. Depth 9n + 2 on CIFAR: 164 and 1001 in the paper.
    Source: He et al. 2016 (arXiv:1603.05027), equation 9 and section 4.2.
    Deviation: the stride is that of the 3x3 convolution, as in torchvision's bottlenecks; in the
    authors' code (KaimingHe/resnet-1k-layers) it is that of the first 1x1.
    Shapes: N in_channels H W -> N 4*channels ceil(H/stride) ceil(W/stride).
    Raises: RuntimeError, from the first batch norm, if the input has not `in_channels` channels.
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.relu3 = nn.ReLU()
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.downsample = None
        if stride != 1 or in_channels != 4 * channels:
            self.downsample = nn.Conv2d(in_channels, 4 * channels, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu1(self.bn1(x))  # N in_channels H W
        shortcut = x if self.downsample is None else self.downsample(out)
        out = self.conv1(out)  # N channels H W
        out = self.conv2(self.relu2(self.bn2(out)))  # N channels H/stride W/stride
        out = self.conv3(self.relu3(self.bn3(out)))  # N 4*channels H/stride W/stride
        return out + shortcut


class WideBlock(nn.Module):
    """PreActBlock with dropout between its convolutions, behind the second ReLU.

    The width is the network's matter: 16k, 32k and 64k channels. Dropout never touches the
    shortcut, on which it would erase the identity.
    Source: Zagoruyko & Komodakis 2016 (arXiv:1605.07146), section 2.4, figure 1d.
    Shapes: N in_channels H W -> N channels ceil(H/stride) ceil(W/stride).
    Raises: RuntimeError, from the first batch norm, if the input has not `in_channels` channels.
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1, dropout: float = 0.0):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu1(self.bn1(x))  # N in_channels H W
        shortcut = x if self.downsample is None else self.downsample(out)
        out = self.conv1(out)  # N channels H/stride W/stride
        out = self.dropout(self.relu2(self.bn2(out)))
        out = self.conv2(out)
        return out + shortcut
