"""A residual block without batch norm: a learnable scalar keeps the branch out at the start."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class SkipInitBlock(nn.Module):
    """y = relu(alpha * F(x) + shortcut(x)), with F two 3x3 convolutions and no batch norm.

    The scalar alpha is learnt and starts at zero, so that a fresh block is relu(shortcut(x)). The
    convolutions have biases, which start at zero, too: no batch norm follows that would bring its
    own. In the first step alpha alone gets a gradient; as soon as it is not zero, F does, too.
    Source: De & Smith 2020 (arXiv:2002.10444), "SkipInit". ReZero (Bachlechner et al. 2020,
    arXiv:2003.04887) is the same scalar; Fixup (Zhang et al. 2019, arXiv:1901.09321) starts F's
    last convolution at zero instead, and scales the others down by depth.
    Deviation: a ReLU follows the sum, as in BasicBlock; the paper's networks are Wide ResNets.
    Shapes: N in_channels H W -> N channels ceil(H/stride) ceil(W/stride).
    Shortcut options: A, B and C as in BasicBlock; the 1x1 convolution has a bias, no batch norm.
    Raises: ValueError for a shortcut other than A, B, C, or if A would have to drop channels;
    RuntimeError, from the first convolution, if the input has not `in_channels` channels.
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1, shortcut: str = "B"):
        super().__init__()
        if shortcut not in ("A", "B", "C") or (shortcut == "A" and in_channels > channels):
            raise ValueError(f"shortcut {shortcut!r} cannot join {in_channels} to {channels}")
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.alpha = nn.Parameter(torch.zeros(1))
        self.stride, self.new_channels = stride, channels - in_channels
        changes = stride != 1 or in_channels != channels
        self.downsample = None
        if shortcut == "C" or (shortcut == "B" and changes):
            self.downsample = nn.Conv2d(in_channels, channels, 1, stride)
        self.relu2 = nn.ReLU()
        for module in self.children():
            if isinstance(module, nn.Conv2d):
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu1(self.conv1(x))  # N channels H/stride W/stride
        out = self.alpha * self.conv2(out)
        return self.relu2(out + self.shortcut(x))

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        """x, N in_channels H W, in the shape of F(x)."""
        if self.downsample is not None:
            return self.downsample(x)  # options B and C
        if self.stride == 1 and self.new_channels == 0:
            return x  # the identity
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.new_channels))  # option A
