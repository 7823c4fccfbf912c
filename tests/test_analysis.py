import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from common import analysis, models
from common.blocks import BasicBlock, Bottleneck


def test_activation_gradients_are_the_derivatives():
    torch.manual_seed(0)
    model = models.cifar_resnet(8, width=4).double()
    x, y = torch.randn(32, 3, 8, 8, dtype=torch.float64), torch.randint(10, (32,))
    measured = analysis.activation_gradients(model, ["layer1", "layer3"], x, y)
    hidden = model.layer1(F.relu(model.bn1(model.conv1(x)))).detach().requires_grad_()
    logits = model.fc(model.layer3(model.layer2(hidden)).mean(dim=(2, 3)))
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, y), [hidden])
    assert measured[0] == pytest.approx(expected.norm().item(), rel=1e-9)
    assert len(measured) == 2


def test_hooks_are_removed_even_after_an_error():
    model = models.cifar_resnet(8, width=4)
    analysis.activations(model, ["layer1"], torch.randn(2, 3, 8, 8))
    with pytest.raises(RuntimeError):
        analysis.activations(model, ["layer1"], torch.randn(2, 4, 8, 8))
    assert not any(module._forward_hooks for module in model.modules())


def test_receptive_fields():
    assert analysis.receptive_field(BasicBlock(8, 8), 8) == 5
    assert analysis.receptive_field(Bottleneck(8, 2), 8) == 3
    assert analysis.receptive_field(nn.Conv2d(1, 1, 7, padding=3), 1) == 7


def test_counts():
    layer = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    assert analysis.parameter_count(layer) == 216
    assert analysis.multiply_adds(layer, 3, 10, 10) == 21_600
    assert analysis.depth(nn.Sequential(layer, nn.BatchNorm2d(8), nn.ReLU())) == 1


def test_relative_difference():
    a, b = torch.tensor([1.0, 10.0]), torch.tensor([1.0, 8.0])
    assert analysis.relative_difference([a, b], [a, b]) == 0
    assert analysis.relative_difference([a], [b]) == 0.25
