import warnings

import pytest
import torch
import torchvision

from common import models
from common.analysis import activations, depth, multiply_adds, parameter_count, parity
from common.blocks import BasicBlock, Bottleneck, PlainBlock

COUNTS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}
CIFAR_COUNTS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}


@pytest.mark.parametrize("name", COUNTS)
def test_resnets_equal_torchvisions(name):
    ours, theirs = getattr(models, name)(), getattr(torchvision.models, name)()
    assert parameter_count(ours) == COUNTS[name] == parameter_count(theirs)
    assert depth(ours) == int(name[6:])
    logits, gradients = parity(ours, theirs, torch.randn(4, 3, 64, 64), torch.arange(4))
    assert logits < 1e-5
    assert gradients < 1e-5


def test_parity_sees_a_missing_relu():
    class NoReLU(BasicBlock):
        def forward(self, x):
            out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return out + self.shortcut(x)

    wrong = models.ResNet(NoReLU, [2, 2, 2, 2])
    assert parameter_count(wrong) == COUNTS["resnet18"]  # counts alone prove nothing
    x, y = torch.randn(4, 3, 64, 64), torch.arange(4)
    logits, gradients = parity(wrong, torchvision.models.resnet18(), x, y)
    assert logits > 1e-3
    assert gradients > 1e-3


def test_stage_shapes():
    stages = ["conv1", "layer1", "layer2", "layer3", "layer4"]
    model = models.resnet50().eval()
    maps = activations(model, stages, torch.zeros(1, 3, 224, 224))
    sizes = [(64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7)]
    assert [tuple(m.shape[1:]) for m in maps.values()] == [(c, s, s) for c, s in sizes]
    model = models.resnet18(10, stem="cifar").eval()
    maps = activations(model, stages, torch.zeros(1, 3, 32, 32))
    assert [m.shape[-1] for m in maps.values()] == [32, 32, 16, 8, 4]
    assert parameter_count(model) == 11_173_962


def test_multiply_adds_of_resnet50():
    assert multiply_adds(models.resnet50(), 3, 224, 224) == 4_089_184_256


def test_imagenet_stem_warns_about_small_images():
    model = models.resnet18().eval()
    with pytest.warns(UserWarning, match="stem='cifar'"):
        model(torch.zeros(1, 3, 32, 32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(torch.zeros(1, 3, 64, 64))
        models.resnet18(stem="cifar").eval()(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("layers", CIFAR_COUNTS)
def test_cifar_twins(layers):
    torch.manual_seed(5)
    residual = models.cifar_resnet(layers)
    torch.manual_seed(5)
    plain = models.cifar_plain(layers)
    assert parameter_count(residual) == parameter_count(plain) == CIFAR_COUNTS[layers]
    assert CIFAR_COUNTS[layers] == 97_216 * (layers - 2) // 6 - 21_926
    assert depth(residual) == layers
    with_projections = models.cifar_resnet(layers, shortcut="B")
    assert parameter_count(with_projections) - CIFAR_COUNTS[layers] == 2_752
    ours, twins = residual.state_dict(), plain.state_dict()
    assert list(ours) == list(twins)
    assert all(torch.equal(ours[key], twins[key]) for key in ours)


def test_cifar_blocks_and_shapes():
    model = models.cifar_resnet(20, width=8).eval()
    maps = activations(model, ["layer1", "layer2", "layer3"], torch.zeros(1, 3, 32, 32))
    assert [tuple(m.shape[1:]) for m in maps.values()] == [(8, 32, 32), (16, 16, 16), (32, 8, 8)]
    assert sum(isinstance(m, BasicBlock) for m in model.modules()) == 9
    assert sum(isinstance(m, PlainBlock) for m in models.cifar_plain(56).modules()) == 27
    assert sum(isinstance(m, Bottleneck) for m in models.resnet152().modules()) == 50


def test_errors():
    for wrong in (2, 21, 0, -4):
        with pytest.raises(ValueError, match="6n"):
            models.cifar_resnet(wrong)
    with pytest.raises(ValueError, match="stem"):
        models.resnet18(stem="small")


def test_networks_can_be_traced():
    for model in (models.resnet18(), models.cifar_resnet(20)):
        traced = torch.fx.symbolic_trace(model.eval())
        x = torch.randn(1, 3, 64, 64)
        assert torch.equal(traced(x), model(x))
