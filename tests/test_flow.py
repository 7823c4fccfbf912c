import pytest

from common import flow, models
from common.flow import CONDITIONS, THEORY, factor_per_layer, first_over_last, word


def test_words_for_a_gradient():
    """Norms at twenty blocks, the first next to the input, by their growth towards it."""
    words = {1.0: "stays level", 1.05: "stays level", 1.15: "grows slowly", 1.3: "explodes"}
    words |= {0.95: "stays level", 0.85: "fades slowly", 0.7: "vanishes"}
    for growth, expected in words.items():
        assert word([[growth**i for i in range(19, -1, -1)]]) == expected, growth
    assert word([[1.3, 1.0]]) == "stays level"  # what two blocks do is too little for a word


def test_ratios_and_factors():
    assert first_over_last([[8.0, 3.0, 1.0], [2.0, 9.0, 1.0]]) == pytest.approx(4)
    assert factor_per_layer([16.0, 4.0, 1.0]) == pytest.approx(2)
    expected = {"no BN, default init": 0.408, "no BN, Kaiming init": 1.0, "BN": 1.211}
    assert pytest.approx(expected, abs=5e-4) == THEORY


def test_conditions_change_what_they_say():
    def kinds(condition):
        model = flow.CHANGES[condition](models.cifar_resnet(8))
        names = {type(module).__name__ for module in model.modules()}
        bound = (3 * 9) ** -0.5  # PyTorch's default: uniform within 1 / sqrt(fan-in)
        return "BatchNorm2d" in names, model.conv1.weight.abs().max().item() <= bound

    assert [kinds(c) for c in CONDITIONS] == [(False, True), (False, False), (True, False)]
