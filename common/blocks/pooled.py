"""The block of the fastest networks on CIFAR-10: pool first, then one residual convolution."""

import torch
import torch.nn as nn


class PoolBlock(nn.Module):
    """x = relu(bn(max_pool(conv(x)))), then y = x + relu(bn(conv(x))), `residual` times.

    Max-pooling comes before batch norm and ReLU, which therefore work on a quarter of the values;
    nothing but the first convolution sees the higher resolution. The sum is not activated again.
    Source: the group of hlb-CIFAR10 (github.com/tysam-code/hlb-CIFAR10, version 0.6), after
    ResNet-9 (Page 2018, github.com/davidcpage/cifar10-fast), whose residual part has two
    convolutions; without the sum it is that of airbench94 (Jordan 2024, arXiv:2404.00498).
    Deviations: ReLU, where hlb-CIFAR10 and airbench94 have GELU; the scale of batch norm learns.
    Shapes: N in_channels H W -> N channels floor(H/2) floor(W/2).
    Raises: RuntimeError, from the first convolution, if the input has not `in_channels` channels.
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, residual: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.residual = nn.ModuleList()
        for _ in range(residual):
            convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            branch = nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU())
            self.residual.append(branch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.conv1(x))  # N channels H/2 W/2
        x = self.relu1(self.bn1(x))
        for branch in self.residual:
            x = x + branch(x)
        return x
