"""Networks in the hands of tools: on ours they find what they find on torchvision's."""

import types

from common import models

import pytest
import torch
import torch.nn as nn
import torchvision
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.feature_extraction import create_feature_extractor

SMALL = ["resnet18", "resnext50_32x4d", "densenet121", "seresnet18", "cifar_resnet-8"]
SMALL += ["cifar_plain-8", "cifar_preact_resnet-8", "cifar_wide_resnet-10-1", "cifar_se_resnet-8"]
SMALL += ["cifar_resnext-11-2-64", "cifar_densenet-10-4", "cifar_pool_resnet-8-8-8"]
SIZES = [(name, 32) for name in SMALL] + [("resnet18", 96), ("densenet121", 96)]  # either stem


@pytest.fixture(scope="module")
def pair():
    """Our ResNet-18 and torchvision's, of the same weights and running statistics."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=10)
    with torch.no_grad():
        theirs.train()(torch.randn(8, 3, 64, 64))
    ours = models.resnet18(10)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours.eval(), with_own_relus(theirs.eval())


def with_own_relus(net: nn.Module) -> nn.Module:
    """Torchvision's network as attribution tools ask for it: no ReLU in place or used twice."""

    def forward(block, x):
        out = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x)))))
        return block.relu2(out + (block.downsample(x) if block.downsample else x))

    for block in net.modules():
        if isinstance(block, torchvision.models.resnet.BasicBlock):
            block.relu, block.relu2 = nn.ReLU(), nn.ReLU()
            block.forward = types.MethodType(forward, block)
    net.relu = nn.ReLU()
    return net


def images(count=2, size=64):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_children_in_their_order_are_the_network(name, size):
    """The most copied way to features: all children but the classifier, as a Sequential."""
    model = models.build(name, 10, size).eval()
    *body, classifier = model.children()
    x = images(size=size)
    with torch.no_grad():
        assert torch.equal(nn.Sequential(*body, nn.Flatten(), classifier)(x), model(x))


@pytest.mark.parametrize("name", SMALL)
def test_every_relu_is_a_module_used_once_and_not_in_place(name):
    model, used = models.build(name, 10).eval(), []
    relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    for relu in relus:
        assert not relu.inplace
        relu.register_forward_hook(lambda module, i, o: used.append(module))
    traced = torch.fx.symbolic_trace(model)
    functions = {n.target for n in traced.graph.nodes if n.op in ("call_function", "call_method")}
    names = {f if isinstance(f, str) else f.__name__ for f in functions}
    assert not {n for n in names if "relu" in n or "pool" in n or "mean" in n or "sigmoid" in n}
    with torch.no_grad():
        model(images(size=32))
    assert len(used) == len(relus) == len(set(used)) > 0


def test_children_give_torchvisions_features(pair):
    ours, theirs = (nn.Sequential(*list(net.children())[:-1]) for net in pair)
    assert [name for name, _ in pair[0].named_children()] == [
        name for name, _ in pair[1].named_children()
    ]
    with torch.no_grad():
        assert ours(images()).shape == (2, 512, 1, 1)
        assert torch.allclose(ours(images()), theirs(images()), atol=1e-5)


def test_intermediate_layers_are_torchvisions(pair):
    layers = {"layer1": "a", "layer4": "b"}
    with torch.no_grad():
        ours, theirs = (IntermediateLayerGetter(net, layers)(images()) for net in pair)
    for name in ("a", "b"):
        assert torch.allclose(ours[name], theirs[name], atol=1e-4)


def test_intermediate_layers_behind_the_cifar_stem():
    model, seen = models.resnet18(10, "cifar").eval(), []
    model.layer1.register_forward_hook(lambda module, i, out: seen.append(out))
    with torch.no_grad():
        model(images(size=32))
        found = IntermediateLayerGetter(model, {"layer1": "a"})(images(size=32))["a"]
    assert torch.equal(found, seen[0])


def test_a_feature_pyramid_is_torchvisions(pair):
    layers = {f"layer{i}": str(i) for i in range(1, 5)}
    pyramids = []
    for net in pair:
        channels = [net.inplanes // 8 * 2**i for i in range(4)]
        assert channels == [64, 128, 256, 512]
        pyramids.append(BackboneWithFPN(net, layers, channels, 16).eval())
    pyramids[0].load_state_dict(pyramids[1].state_dict(), strict=True)
    with torch.no_grad():
        ours, theirs = (pyramid(images()) for pyramid in pyramids)
    assert list(ours) == list(theirs) == ["1", "2", "3", "4", "pool"]
    for name in theirs:
        assert torch.allclose(ours[name], theirs[name], atol=1e-4)


def test_extracted_features_are_torchvisions(pair):
    nodes = ["maxpool", "layer1.0.add", "layer2", "avgpool", "flatten"]
    with torch.no_grad():
        ours, theirs = (create_feature_extractor(net, nodes)(images()) for net in pair)
    for name in nodes:
        assert torch.allclose(ours[name], theirs[name], atol=1e-4)


def test_guided_backpropagation_is_torchvisions(pair):
    """It lets positive gradients alone through every ReLU that is a module."""
    gradients = []
    for net in pair:
        x = images().requires_grad_()
        hooks = [
            module.register_full_backward_hook(lambda m, gi, go: (gi[0].clamp(min=0),))
            for module in net.modules()
            if isinstance(module, nn.ReLU)
        ]
        net(x)[:, 3].sum().backward()
        gradients.append(x.grad)
        for hook in hooks:
            hook.remove()
    x = images().requires_grad_()
    pair[0](x)[:, 3].sum().backward()
    scale = gradients[1].abs().max()
    assert (gradients[0] - gradients[1]).abs().max() < 1e-4 * scale
    assert (gradients[0] - x.grad).abs().max() > 0.1 * scale


def test_grad_cam_is_torchvisions(pair):
    heat = []
    for net in pair:
        seen = []
        hook = net.layer4.register_forward_hook(lambda m, i, out, seen=seen: seen.append(out))
        logits = net(images())
        hook.remove()
        (gradient,) = torch.autograd.grad(logits[:, 3].sum(), seen)
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        heat.append((weights * seen[0]).sum(1).relu())
    assert torch.allclose(*heat, atol=1e-4)
    assert heat[1].max() > 0


def test_captum_gives_what_it_gives_on_torchvisions(pair):
    captum = pytest.importorskip("captum.attr")
    x, black = images(1), torch.zeros(1, 3, 64, 64)
    for method, options in (("DeepLift", {"baselines": black}), ("GuidedBackprop", {})):
        ours, theirs = (
            getattr(captum, method)(net).attribute(x.clone().requires_grad_(), target=3, **options)
            for net in pair
        )
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()
