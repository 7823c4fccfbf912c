from common import models, plotting
from common.analysis import gradients
from common.analysis.gradients import CONDITIONS, THEORY, course, factor_per_layer, first_over_last

import pytest
import torch


def test_words_for_a_gradient():
    """Norms at twenty blocks, the first next to the input, by their growth towards it."""
    words = {1.0: "stays level", 1.05: "stays level", 1.15: "grows slowly", 1.3: "explodes"}
    words |= {0.95: "stays level", 0.85: "fades slowly", 0.7: "vanishes"}
    for growth, expected in words.items():
        assert course([[growth**i for i in range(19, -1, -1)]]) == expected, growth
    assert course([[1.3, 1.0]]) == "stays level"  # what two blocks do is too little for a word


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


def test_the_figure_of_towers_says_what_it_is_given():
    def runs(growth):
        return [[growth ** (2 * i) for i in range(9, -1, -1)]] * 2

    growths = dict(zip(CONDITIONS, (0.4, 1.0, 1.2), strict=True))
    norms = {("plain", c): runs(growth) for c, growth in growths.items()}
    norms |= {("residual", c): runs(1.02) for c in CONDITIONS}
    factors = {key: [factor_per_layer(run) for run in values] for key, values in norms.items()}
    figure = plotting.flow.towers(norms, factors, "5 images")
    title, subtitle = (text.get_text().replace("\n", " ") for text in figure.texts)
    for part in ("x0.40 with the default init", "x1.20 with BN", "residual with BN: x1.02"):
        assert part in title
    assert "10 blocks of two layers (3x3, 16 channels), 5 images" in subtitle
    assert [ax.get_title() for ax in figure.axes] == list(CONDITIONS)
    for ax in figure.axes:
        assert {text.get_text() for text in ax.texts} == {"plain", "residual", "theory"}
    theory, plain, _ = figure.axes[0].lines
    assert theory.get_ydata()[-1] == pytest.approx(6.0**-9)  # nine blocks of two layers away
    assert plain.get_ydata()[[0, -1]] == pytest.approx([1, 0.4**18])
