import math
import weakref
from typing import ClassVar

from common import models, plotting
from common.analysis import gradients, growth
from common.analysis.gradients import CONDITIONS
from common.analysis.growth import THEORY, factor_per_layer, first_over_last, is_level
from common.blocks import BasicBlock, PlainBlock, SkipInitBlock

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F


def test_which_gradients_are_level():
    """Norms at twenty blocks, the first next to the input, by their growth towards it."""
    growths = {1.0: True, 1.05: True, 0.95: True, 1.15: False, 1.3: False, 0.85: False, 0.7: False}
    for factor, expected in growths.items():
        assert is_level([[factor**i for i in range(19, -1, -1)]]) == expected, factor
    assert is_level([[1.3, 1.0]])


def test_ratios_and_factors():
    assert first_over_last([[8.0, 3.0, 1.0], [2.0, 9.0, 1.0]]) == pytest.approx(4)
    assert factor_per_layer([16.0, 4.0, 1.0]) == pytest.approx(2)
    expected = {"no BN, default init": 0.408, "no BN, Kaiming init": 1.0, "BN": 1.211}
    assert pytest.approx(expected, abs=5e-4) == THEORY


def test_conditions_change_what_they_say():
    def kinds(condition):
        model = gradients.start(models.cifar_resnet(8), condition)
        names = {type(module).__name__ for module in model.modules()}
        bound = (3 * 9) ** -0.5  # PyTorch's default: uniform within 1 / sqrt(fan-in)
        return "BatchNorm2d" in names, model.conv1.weight.abs().max().item() <= bound

    assert [kinds(c) for c in CONDITIONS] == [(False, True), (False, False), (True, False)]


@pytest.mark.parametrize(("mode", "fan"), [("fan_in", 64), ("fan_out", 256)])
def test_kaiming_init_has_the_variance_of_its_fan(mode, fan):
    model = torch.nn.Sequential(torch.nn.Conv2d(64, 256, 1), torch.nn.Linear(4, 4))
    linear = model[1].weight.clone()
    assert models.kaiming_init(model, mode) is model
    assert model[0].weight.var().item() == pytest.approx(2 / fan, rel=0.05)
    assert torch.equal(model[1].weight, linear)


def test_at_start_measures_every_network_once_in_float64():
    built = []

    def build(kind, condition, seed):
        built.append((kind, condition, seed))
        model = models.build_twin(kind, 8, 10, 4, seed)
        return gradients.start(model, condition)

    x, y = torch.randn(8, 3, 8, 8), torch.arange(8)
    norms = gradients.at_start(build, range(2), x, y)
    assert list(norms) == [(kind, c) for kind in ("plain", "residual") for c in CONDITIONS]
    assert built == [(*key, seed) for key in norms for seed in range(2)]
    model = build("residual", "BN", 1).double()
    assert norms["residual", "BN"][1] == gradients.by_block(model, x.double(), y)
    assert [len(runs[0]) for runs in norms.values()] == [3] * 6
    stages = gradients.at_start(build, range(1), x, y, ["conv1", "layer3"])
    assert len(stages["plain", "BN"][0]) == 2


def test_what_underflows_still_has_a_logarithm():
    model = models.cifar_plain(8, width=4).double()
    torch.nn.init.zeros_(model.fc.weight)  # no gradient reaches the blocks
    norms = gradients.by_block(model, torch.randn(4, 3, 8, 8).double(), torch.arange(4))
    assert all(0 < norm < 1e-300 for norm in norms)


def tower(block, blocks=3):
    """A small one, with a stem and a head."""
    stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    return nn.Sequential(stem, *(block(4, 4) for _ in range(blocks)), head)


@pytest.mark.parametrize("block", [PlainBlock, BasicBlock, SkipInitBlock])
def test_block_by_block_equals_one_graph(block):
    torch.manual_seed(1)
    model = tower(block)
    for part in model[1:-1]:
        if block is SkipInitBlock:
            nn.init.constant_(part.alpha, 0.5)
    x, y = torch.randn(8, 3, 6, 6), torch.arange(8)
    before = [tensor.clone() for tensor in model.state_dict().values()]
    found = gradients.through_blocks(model.eval(), x, y)
    assert all(map(torch.equal, before, model.state_dict().values()))
    assert not model.training
    assert not x.requires_grad
    whole = model.double().train()
    expected = gradients.activation_gradients(whole, ["1", "2", "3"], x.double(), y)
    assert found.outputs == pytest.approx(expected, rel=1e-9)
    F.cross_entropy(whole(x.double()), y).backward()
    for part, relative in zip(whole[1:-1], found.weights, strict=True):
        pairs = [(p.grad.norm() ** 2, p.norm() ** 2) for p in part.parameters() if p.ndim == 4]
        of_gradient, of_weights = map(sum, zip(*pairs, strict=True))
        assert relative == pytest.approx((of_gradient / of_weights).sqrt().item(), rel=1e-9)
    scalars = [part.alpha.grad.item() for part in whole[1:-1] if block is SkipInitBlock]
    assert found.scalars == pytest.approx(scalars, rel=1e-9)


class Kept:
    """What a graph keeps for its backward pass."""


class KeepsOne(torch.autograd.Function):
    alive: ClassVar[weakref.WeakSet] = weakref.WeakSet()

    @staticmethod
    def forward(ctx, x):
        ctx.kept = Kept()
        KeepsOne.alive.add(ctx.kept)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Watched(nn.Module):
    """A block that notes how many graphs of blocks are alive."""

    seen: ClassVar[list[int]] = []

    def __init__(self, *_):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        y = KeepsOne.apply(self.conv(x))
        self.seen.append(len(KeepsOne.alive))
        return y


def test_memory_holds_the_graph_of_one_block():
    x, y = torch.randn(4, 3, 6, 6), torch.arange(4)
    gradients.through_blocks(tower(Watched, 8), x, y)
    assert max(Watched.seen) == 1
    gradients.activation_gradients(tower(Watched, 8), ["1"], x, y)
    assert max(Watched.seen) == 8  # one graph for all is what it is compared with


def test_towers_are_measured_in_order_and_as_built():
    def build(kind, seed):
        torch.manual_seed(seed)
        return tower({"plain": PlainBlock, "SkipInit": SkipInitBlock}[kind])

    x, y = torch.randn(8, 3, 6, 6), torch.arange(8)
    found = gradients.of_towers(build, [("plain",), ("SkipInit",)], range(3, 5), x, y)
    assert list(found) == [("plain",), ("SkipInit",)]
    again = gradients.through_blocks(build("plain", 4), x, y)
    assert found["plain",][1].outputs == pytest.approx(again.outputs)
    for run in found["SkipInit",]:
        assert run.outputs[0] == run.outputs[1] < run.outputs[2]  # the last ReLU masks nothing yet
        assert run.weights == [0, 0, 0]
        assert all(run.scalars)


def test_fits_find_the_law_that_made_the_norms():
    exponential = [3 * 1.2 ** (2 * i) for i in range(20, 0, -1)]
    power = [5 * block**-0.9 for block in range(1, 21)]
    assert growth.fit(exponential, "exponential") == pytest.approx((-2 * math.log(1.2), 0))
    assert growth.fit(power, "power law") == pytest.approx((-0.9, 0))
    assert growth.exponent(power) == pytest.approx(-0.9)
    assert growth.misfit(power, "exponential") > 0.01
    assert growth.misfit(exponential, "power law") > 0.01
    assert growth.law_of([exponential, exponential]) == "x1.200 ± 0.000 a layer"
    assert growth.law_of([power, power]) == "l ** -0.90 ± 0.00"
    assert growth.law_of([power]) == "l ** -0.90"
    assert growth.law_of([exponential, power]) == "neither: exponential in 1 of 2"
    assert growth.law_of([[1.5, 1.2, 1.0]]) == "level"
    with pytest.raises(ValueError, match="'linear'"):
        growth.fit(power, "linear")


def test_a_block_that_multiplies_by_one_and_a_share_of_its_number_makes_a_power_law():
    norms = [1.0]
    for block in range(400, 1, -1):
        norms.insert(0, norms[0] * (1 + 0.7 / block))
    assert growth.exponent(norms) == pytest.approx(-0.7, abs=0.03)
    assert growth.law_of([norms]).startswith("l ** -0.")


def test_the_figure_of_towers_says_what_it_is_given():
    def runs(growth):
        return [[growth ** (2 * i) for i in range(9, -1, -1)]] * 2

    growths = dict(zip(CONDITIONS, (0.4, 1.0, 1.2), strict=True))
    outputs = {("plain", c): runs(growth) for c, growth in growths.items()}
    outputs |= {("residual", c): [[block**-1.0 for block in range(1, 11)]] * 2 for c in CONDITIONS}
    outputs["SkipInit", CONDITIONS[1]] = runs(1.0)
    weights = outputs | {("SkipInit", CONDITIONS[1]): [[0.0] * 10] * 2}
    figure = plotting.flow.towers(outputs, weights, "5 images")
    title, subtitle = (text.get_text().replace("\n", " ") for text in figure.texts)
    assert "block 10 to block 1" in title
    assert "grows 27 times in plain, 10 times in residual" in title
    assert "5 images; geometric mean, range of 2 seeds" in subtitle
    above, below = figure.axes[:3], figure.axes[3:]
    assert [ax.get_title() for ax in above] == [CONDITIONS[-1], *CONDITIONS[:-1]]
    labels = [{text.get_text() for text in ax.texts} for ax in figure.axes]
    assert labels[1] == {"plain\nx0.400 a layer", "residual\nl ** -1.00", "theory\nx0.408 a layer"}
    assert "SkipInit\nlevel" in labels[2]
    assert labels[5] == {"plain", "residual", "SkipInit: zero\nin the first step"}
    theory, plain, _ = above[1].lines
    assert theory.get_ydata()[-1] == pytest.approx(6.0**-9)  # nine blocks of two layers away
    assert plain.get_ydata()[[0, -1]] == pytest.approx([1, 0.4**18])
    assert below[2].lines[1].get_ydata()[[0, -1]] == pytest.approx([0.1, 1])  # as they are
