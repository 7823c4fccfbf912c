"""DenseNet: the input is kept beside the output instead of being added to it."""

import torch
import torch.nn as nn


class DenseLayer(nn.Module):
    """y = [x, F(x)], concatenated: F makes `growth_rate` new channels out of all earlier ones.

    F is batch norm, ReLU, 1x1 convolution to 4 * growth_rate channels (the bottleneck), batch
    norm, ReLU, 3x3 convolution.
    Source: Huang et al. 2017 (arXiv:1608.06993), equation 2 and section 3, "Bottleneck layers".
    Shapes: N in_channels H W -> N in_channels+growth_rate H W; the input comes first.
    Raises: RuntimeError, from the first batch norm, if the input has not `in_channels` channels.
    """

    def __init__(self, in_channels: int, growth_rate: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, 4 * growth_rate, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth_rate)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(4 * growth_rate, growth_rate, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv1(self.relu1(self.norm1(x)))  # N 4*growth_rate H W
        out = self.conv2(self.relu2(self.norm2(out)))  # N growth_rate H W
        return torch.cat([x, out], dim=1)


class SimpleDenseLayer(nn.Module):
    """y = [x, F(x)], concatenated, with F batch norm, ReLU and one 3x3 convolution.

    Source: Huang et al. 2017 (arXiv:1608.06993), section 3, "Composite function".
    Shapes: N in_channels H W -> N in_channels+growth_rate H W; the input comes first.
    Raises: RuntimeError, from the batch norm, if the input has not `in_channels` channels.
    """

    def __init__(self, in_channels: int, growth_rate: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, growth_rate, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv1(self.relu1(self.norm1(x)))  # N growth_rate H W
        return torch.cat([x, out], dim=1)


class DenseBlock(nn.Sequential):
    """`layers` dense layers, each fed with the block's input and all earlier layers' output.

    Needs: DenseLayer.
    Source: Huang et al. 2017 (arXiv:1608.06993), equation 2, figure 1.
    Shapes: N in_channels H W -> N in_channels+layers*growth_rate H W.
    Raises: RuntimeError, from the first batch norm, if the input has not `in_channels` channels.
    """

    def __init__(self, layers: int, in_channels: int, growth_rate: int, layer=DenseLayer):
        super().__init__()
        for i in range(layers):
            name = f"denselayer{i + 1}"
            self.add_module(name, layer(in_channels + i * growth_rate, growth_rate))


class Transition(nn.Module):
    """Between two dense blocks: batch norm, ReLU, 1x1 convolution, 2x2 average pooling.

    Source: Huang et al. 2017 (arXiv:1608.06993), section 3, "Pooling layers" and "Compression".
    Shapes: N in_channels H W -> N out_channels floor(H/2) floor(W/2).
    Raises: RuntimeError, from the batch norm, if the input has not `in_channels` channels.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv(self.relu(self.norm(x)))  # N out_channels H W
        return self.pool(out)
