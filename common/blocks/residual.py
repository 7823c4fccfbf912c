"""The blocks of He et al. 2015 (arXiv:1512.03385): plain, basic, bottleneck.

Shortcut options, as compared by He et al. 2015, section 4.1:
    A  subsample and pad the new channels with zeros: no parameters
    B  1x1 convolution and batch norm where the shape changes, else the identity
    C  1x1 convolution and batch norm in every block

The paper does not say on which side option A pads; here the zeros stand behind x's channels. Public
CIFAR checkpoints may be of networks with half of the zeros in front: their weights load without an
error, and the accuracy is near chance.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F


class PlainBlock(nn.Module):
    """y = relu(F(x)): the two convolutions of a BasicBlock without its shortcut.

    Source: He et al. 2015 (arXiv:1512.03385), section 3.3, "Plain Network".
    Shapes: N in_channels H W -> N channels ceil(H/stride) ceil(W/stride).
    Raises: RuntimeError, from the first convolution, if the input has not `in_channels` channels.
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))  # N channels H/stride W/stride
        out = self.bn2(self.conv2(out))
        return self.relu2(out)


class BasicBlock(nn.Module):
    """y = relu(F(x) + shortcut(x)), with F two 3x3 convolutions.

    Source: He et al. 2015 (arXiv:1512.03385), equations 1 and 2, figure 5 left.
    Shapes: N in_channels H W -> N channels ceil(H/stride) ceil(W/stride).
    Raises: ValueError for a shortcut other than A, B, C, or if A would have to drop channels;
    RuntimeError, from the first convolution, if the input has not `in_channels` channels.
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1, shortcut: str = "B"):
        super().__init__()
        if shortcut not in ("A", "B", "C") or (shortcut == "A" and in_channels > channels):
            raise ValueError(f"shortcut {shortcut!r} cannot join {in_channels} to {channels}")
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.new_channels = stride, channels - in_channels
        changes = stride != 1 or in_channels != channels
        self.downsample = None
        if shortcut == "C" or (shortcut == "B" and changes):
            project = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(project, nn.BatchNorm2d(channels))
        self.relu2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))  # N channels H/stride W/stride
        out = self.bn2(self.conv2(out))
        return self.relu2(out + self.shortcut(x))

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        """x, N in_channels H W, in the shape of F(x)."""
        if self.downsample is not None:
            return self.downsample(x)  # options B and C
        if self.stride == 1 and self.new_channels == 0:
            return x  # the identity
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.new_channels))  # option A


class Bottleneck(nn.Module):
    """y = relu(F(x) + shortcut(x)), with F a 1x1, a 3x3 and a 1x1 convolution.

    The first 1x1 reduces to `channels`, the last restores 4 * `channels`.
    Source: He et al. 2015 (arXiv:1512.03385), section 4.1, figure 5 right.
    Shapes: N in_channels H W -> N 4*channels ceil(H/stride) ceil(W/stride).
    Deviation: the stride sits on the 3x3 convolution, as in torchvision ("v1.5"); the paper has
    it on the first 1x1, which has the same parameters and drops three inputs in four.
    Raises: ValueError for a shortcut other than A, B, C, or if A would have to drop channels;
    RuntimeError, from the first convolution, if the input has not `in_channels` channels.
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1, shortcut: str = "B"):
        super().__init__()
        out_channels = 4 * channels
        if shortcut not in ("A", "B", "C") or (shortcut == "A" and in_channels > out_channels):
            raise ValueError(f"shortcut {shortcut!r} cannot join {in_channels} to {out_channels}")
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.stride, self.new_channels = stride, out_channels - in_channels
        changes = stride != 1 or in_channels != out_channels
        self.downsample = None
        if shortcut == "C" or (shortcut == "B" and changes):
            project = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(project, nn.BatchNorm2d(out_channels))
        self.relu3 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))  # N channels H W
        out = self.relu2(self.bn2(self.conv2(out)))  # N channels H/stride W/stride
        out = self.bn3(self.conv3(out))  # N 4*channels H/stride W/stride
        return self.relu3(out + self.shortcut(x))

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        """x, N in_channels H W, in the shape of F(x)."""
        if self.downsample is not None:
            return self.downsample(x)  # options B and C
        if self.stride == 1 and self.new_channels == 0:
            return x  # the identity
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.new_channels))  # option A
