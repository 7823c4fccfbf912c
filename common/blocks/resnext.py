"""ResNeXt: a bottleneck with a grouped convolution."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class ResNeXtBlock(nn.Module):
    """Bottleneck whose 3x3 convolution works on `cardinality` separate groups of channels.

    Both 1x1 convolutions join all channels. The 3x3 has floor(channels * base_width / 64) channels
    a group: `base_width` itself in the first stage of an ImageNet network, where channels = 64.
    Source: Xie et al. 2017 (arXiv:1611.05431), section 3.3, figure 3c, table 1.
    Shapes: N in_channels H W -> N 4*channels ceil(H/stride) ceil(W/stride).
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
        cardinality: int = 32,
        base_width: int = 4,
    ):
        super().__init__()
        out_channels = 4 * channels
        width = channels * base_width // 64 * cardinality
        if shortcut not in ("A", "B", "C") or (shortcut == "A" and in_channels > out_channels):
            raise ValueError(f"shortcut {shortcut!r} cannot join {in_channels} to {out_channels}")
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=cardinality, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.stride, self.new_channels = stride, out_channels - in_channels
        changes = stride != 1 or in_channels != out_channels
        self.downsample = None
        if shortcut == "C" or (shortcut == "B" and changes):
            project = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(project, nn.BatchNorm2d(out_channels))
        self.relu3 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))  # N width H W
        out = self.relu2(self.bn2(self.conv2(out)))  # N width H/stride W/stride
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
