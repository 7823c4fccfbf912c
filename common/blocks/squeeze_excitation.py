"""Squeeze-and-excitation: a gate for every channel, computed from the whole image."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class SqueezeExcitation(nn.Module):
    """y = x * sigmoid(fc2(relu(fc1(mean of x over H and W)))): each channel scaled by its gate.

    fc1 reduces to channels // reduction units, at least one: with 16 channels and reduction 16
    one number steers all gates. At initialisation the gates lie near 0.5.
    Source: Hu et al. 2018 (arXiv:1709.01507), equations 2 to 4.
    Deviation: with biases, as in the official code; the ablations of section 6 leave them out.
    Shapes: N channels H W -> N channels H W.
    Raises: RuntimeError, from fc1, if the input has not `channels` channels.
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = max(1, channels // reduction)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Linear(channels, hidden)
        self.activation = nn.ReLU()
        self.fc2 = nn.Linear(hidden, channels)
        self.scale_activation = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(x)[:, :, None, None]

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """The factor of each channel, N channels, between 0 and 1."""
        squeezed = self.avgpool(x).flatten(1)  # N channels
        return self.scale_activation(self.fc2(self.activation(self.fc1(squeezed))))


class SEBasicBlock(nn.Module):
    """BasicBlock with squeeze-and-excitation on F(x), before the addition.

    Needs: SqueezeExcitation.
    Source: Hu et al. 2018 (arXiv:1709.01507), section 3.3, figure 3.
    Shapes: N in_channels H W -> N channels ceil(H/stride) ceil(W/stride).
    Raises: ValueError for a shortcut other than A, B, C, or if A would have to drop channels;
    RuntimeError, from the first convolution, if the input has not `in_channels` channels.
    """

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        shortcut: str = "B",
        reduction: int = 16,
    ):
        super().__init__()
        if shortcut not in ("A", "B", "C") or (shortcut == "A" and in_channels > channels):
            raise ValueError(f"shortcut {shortcut!r} cannot join {in_channels} to {channels}")
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.se = SqueezeExcitation(channels, reduction)
        self.stride, self.new_channels = stride, channels - in_channels
        changes = stride != 1 or in_channels != channels
        self.downsample = None
        if shortcut == "C" or (shortcut == "B" and changes):
            project = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(project, nn.BatchNorm2d(channels))
        self.relu2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))  # N channels H/stride W/stride
        out = self.se(self.bn2(self.conv2(out)))  # no ReLU in between
        return self.relu2(out + self.shortcut(x))

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        """x, N in_channels H W, in the shape of F(x)."""
        if self.downsample is not None:
            return self.downsample(x)  # options B and C
        if self.stride == 1 and self.new_channels == 0:
            return x  # the identity
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.new_channels))  # option A


class SEBottleneck(nn.Module):
    """Bottleneck with squeeze-and-excitation on F(x), before the addition.

    Needs: SqueezeExcitation.
    Source: Hu et al. 2018 (arXiv:1709.01507), section 3.3, figure 3.
    Shapes: N in_channels H W -> N 4*channels ceil(H/stride) ceil(W/stride).
    Deviation: the stride sits on the 3x3 convolution, as in Bottleneck.
    Raises: ValueError for a shortcut other than A, B, C, or if A would have to drop channels;
    RuntimeError, from the first convolution, if the input has not `in_channels` channels.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        shortcut: str = "B",
        reduction: int = 16,
    ):
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
        self.se = SqueezeExcitation(out_channels, reduction)
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
        out = self.se(self.bn3(self.conv3(out)))  # N 4*channels H/stride W/stride
        return self.relu3(out + self.shortcut(x))

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        """x, N in_channels H W, in the shape of F(x)."""
        if self.downsample is not None:
            return self.downsample(x)  # options B and C
        if self.stride == 1 and self.new_channels == 0:
            return x  # the identity
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.new_channels))  # option A
