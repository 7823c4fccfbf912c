import math

from common import analysis, models, training
from common.blocks import BasicBlock, Bottleneck

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F


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
    with pytest.raises(AttributeError):
        analysis.activations(model, ["layer1", "no such layer"], torch.randn(2, 3, 8, 8))
    assert not any(module._forward_hooks for module in model.modules())


def test_activations_are_reduced_as_they_appear():
    model, x = models.cifar_resnet(8, width=4), torch.randn(2, 3, 8, 8)
    means = analysis.activations(model, ["layer3", "layer1"], x, lambda out: out.mean(dim=(2, 3)))
    assert {name: tuple(m.shape) for name, m in means.items()} == {
        "layer1": (2, 4),
        "layer3": (2, 16),
    }


def test_what_a_hook_returns_replaces_the_output():
    model, x = nn.Sequential(nn.ReLU(), nn.Flatten()), torch.randn(2, 3)
    seen = []

    def double(name, inputs, output):
        seen.append((name, inputs[0] is x))
        return 2 * output

    with analysis.gradients.forward_hooks(model, ["0"], double):
        assert torch.equal(model(x), 2 * x.relu())
    assert torch.equal(model(x), x.relu())
    assert seen == [("0", True)]


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


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_nan_and_infinity_equal_nothing(place, wrong):
    good = [torch.ones(2), torch.ones(3), torch.ones(1)]
    bad = [tensor.clone() for tensor in good]
    bad[place][-1] = wrong
    for ours, theirs in ((bad, good), (good, bad), (bad, bad)):
        assert analysis.relative_difference(ours, theirs) == math.inf


def test_unequal_shapes_are_refused():
    for ours, theirs in (((3, 1), (1, 3)), ((3,), ()), ((2, 3), (3, 2))):
        with pytest.raises(ValueError, match="cannot compare"):
            analysis.relative_difference([torch.ones(ours)], [torch.ones(theirs)])
    with pytest.raises(ValueError, match="longer"):
        analysis.relative_difference([torch.ones(1)], [torch.ones(1), torch.ones(1)])


def test_parity_sees_a_gradient_that_is_no_number():
    """In one layer, and not the first: Python's max would drop it."""
    ours, reference = (models.cifar_resnet(8, width=4) for _ in range(2))
    ours.layer2[0].conv1.weight.register_hook(lambda gradient: gradient * math.nan)
    logits, gradients = analysis.parity(ours, reference, torch.randn(4, 3, 8, 8), torch.arange(4))
    assert (logits, gradients) == (0, math.inf)


def test_peak_bytes_are_what_a_step_holds_after_the_forward_pass():
    """All that the allocator hands out and keeps, against what is counted."""
    model = models.cifar_resnet(8, width=16)
    x, y = torch.randn(32, 3, 8, 8), torch.randint(10, (32,))
    counted = analysis.peak_bytes(model, x, y)
    optimizer, gradients = training.sgd(model, 0.01), []
    hook = model.register_forward_hook(lambda *_: gradients.extend(map(grad, model.parameters())))
    for _ in range(2):  # after the first one momentum and gradients are there
        training.train_step(model, x, y, optimizer, "cpu")
    hook.remove()
    assert not any(gradients)  # the step frees them before its forward pass
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        loss = F.cross_entropy(model(x), y)
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = 2 * sum(p.nbytes for p in model.parameters()) + x.nbytes + y.nbytes
    assert counted == pytest.approx(held + sum(e.nbytes() for e in events), rel=0.03)
    assert loss.isfinite()
    assert list(model.buffers())[-1] == 3  # steps taken: the count ran on a copy


def grad(parameter):
    """Whether it has a gradient."""
    return parameter.grad is not None


def test_step_seconds_alternate_and_restore_the_threads():
    order, threads = [], torch.get_num_threads()
    nets = {name: models.cifar_resnet(8, width=4) for name in ("one", "two")}
    for name, net in nets.items():
        net.register_forward_hook(lambda *_, name=name: order.append(name))
    before = [p.clone() for p in nets["one"].parameters()]
    x, y = torch.randn(4, 3, 8, 8), torch.arange(4)
    seconds = analysis.step_seconds(nets, x, y, rounds=3)
    assert order == ["one", "two"] * 4
    assert [len(found) for found in seconds.values()] == [3, 3]
    assert torch.get_num_threads() == threads
    assert all(torch.equal(a, b) for a, b in zip(before, nets["one"].parameters(), strict=True))
