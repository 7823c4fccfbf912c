"""Lesson 4: what it compares, measures, says and draws."""

import importlib
import json
import math
import statistics

import pytest
import torch
from matplotlib import pyplot

from common import analysis, data, deep, experiment, lesson, models, probes, training, variants
from common import variant_figures as figures
from common.blocks import BasicBlock, PreActBlock, PreActBottleneck

NAMES = ["resnet-20", "preact-20", "wide-10", "resnext-20", "dense-22", "se-20", "dense-22 (1/3)"]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def script():
    return importlib.import_module("04_residual_variants")


@pytest.fixture(scope="module")
def tiny():
    return data.load("shapes", size=8, limit=300)


@pytest.fixture
def report(tmp_path):
    args = lesson.parser("doc").parse_args(["--out-dir", str(tmp_path)])
    return lesson.Report("04_residual_variants.py", args, "made up")


def table(**accuracies):
    """A table as `variants.compare` gives it, with these accuracies in per cent."""
    made_up = {"step": [0.01, 0.02, 0.03], "peak": 10**6, "multiply_adds": 10**6}
    made_up |= {"parameters": 1000, "seconds": [1.0, 2.0]}
    shares = {name: [0.5, 0.51] for name in NAMES} | accuracies
    return {name: made_up | {"accuracy": values} for name, values in shares.items()}


def test_networks_have_equal_parameters_and_the_small_one_a_third():
    counts = {n: analysis.parameter_count(b()) for n, b in variants.networks(10, 8).items()}
    assert list(counts) == NAMES
    assert counts["resnet-20"] == 68_050
    for name in NAMES[:-1]:
        assert counts[name] == pytest.approx(68_050, rel=0.06)
    assert counts["dense-22 (1/3)"] == pytest.approx(68_050 / 3, rel=0.15)


def test_width_is_the_nearest():
    build = variants.family(10)["wide-10"]
    chosen = analysis.parameter_count(variants.at_parameters(build, 50_000)())
    others = [analysis.parameter_count(build(width)) for width in range(4, 30)]
    assert abs(chosen - 50_000) == min(abs(other - 50_000) for other in others)


def test_comparison_changes_the_network_alone(script, tiny, monkeypatch):
    """Equal options and seeds for each network; equal batches follow from the seed."""
    seen = []
    train_all = experiment.train_all

    def spy(runs, *rest, **options):
        seen.extend(runs)
        return train_all(runs, *rest, **options)

    monkeypatch.setattr(experiment, "train_all", spy)
    args = script.arguments(["--quick", "--width", "4"])
    args.device = "cpu"
    measured, trained = variants.compare(args, tiny)
    assert [run.name for run in seen] == [name for name in NAMES for _ in range(2)]
    assert [run.seed for run in seen] == [0, 1] * len(NAMES)
    assert all(run.options == {"lr": 0.1} for run in seen)
    assert list(measured) == list(trained) == NAMES
    for found in measured.values():
        assert len(found["accuracy"]) == len(found["seconds"]) == 2
        assert all(0 <= accuracy <= 1 for accuracy in found["accuracy"])


def test_a_diverged_network_has_no_accuracy(tiny):
    good, bad = (models.cifar_resnet(8, width=4) for _ in range(2))
    runs = [experiment.Run("good", 0, good), experiment.Run("bad", 0, bad)]
    tested = experiment.test_all(runs, {"good": [{"any": 1}], "bad": [None]}, tiny)
    assert tested["good"] == [training.evaluate(good, tiny, "test")[1]]
    assert math.isnan(tested["bad"][0])


def test_judgement_and_advice_follow_the_numbers():
    words = variants.judge(table(**{"wide-10": [0.7, 0.71], "se-20": [0.3, 0.31]}))
    assert words["resnet-20"] == ""
    assert words["wide-10"] == "better"
    assert words["se-20"] == "worse"
    assert words["preact-20"] == "no difference beyond the spread"
    numbers = table(**{"wide-10": [0.7, 0.71], "se-20": [0.3, 0.31]})
    numbers["se-20"] |= {"peak": 1, "step": [1e-9]}  # cheap, but worse: not to be recommended
    numbers["preact-20"]["peak"] = 2
    numbers["dense-22"]["step"] = [1e-3]
    text = " ".join(variants.advice(numbers, variants.judge(numbers)))
    assert "accuracy: wide-10, beyond the spread" in text
    assert "least time a step: dense-22" in text
    assert "least memory: preact-20" in text
    text = " ".join(variants.advice(table(), variants.judge(table())))
    assert "not beyond the spread of" in text


def test_a_diverged_network_is_neither_better_nor_recommended():
    numbers = table(**{"wide-10": [0.9, math.nan]})
    numbers["wide-10"] |= {"peak": 1, "step": [1e-9], "parameters": 1}
    words = variants.judge(numbers)
    assert words["wide-10"] == "diverged"
    assert "wide-10" not in " ".join(variants.advice(numbers, words))
    numbers = table(**{"resnet-20": [math.nan, math.nan]})
    assert "smaller --lr" in variants.advice(numbers, variants.judge(numbers))[0]


def test_deep_twins_share_their_values_and_differ_by_the_shortcut():
    pair = []
    for block in (PreActBottleneck, deep.PlainPreActBottleneck):
        torch.manual_seed(3)
        pair.append(models.PreActNet(block, 2, 10, 4))
    states = [model.state_dict() for model in pair]
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    residual, plain = (model.layer1[1] for model in pair)
    x = torch.randn(4, 16, 8, 8)
    assert torch.allclose(residual(x), plain(x) + x, atol=1e-6)
    with torch.device("meta"):
        assert analysis.depth(models.PreActNet(PreActBottleneck, 111, 10, 8)) == 1001


def test_a_thousand_plain_layers_overflow_and_residual_ones_do_not(tiny):
    """The gradient itself, at initialisation, where the lesson watches the loss."""
    x, y = next(tiny.batches("train", 32))
    finite = {}
    for kind, block in (("residual", PreActBottleneck), ("plain", deep.PlainPreActBottleneck)):
        torch.manual_seed(0)
        model = models.PreActNet(block, 111, 10, 4)
        (norm,) = analysis.activation_gradients(model, ["conv1"], x, y)
        finite[kind] = math.isfinite(norm) and norm > 0
    assert finite == {"residual": True, "plain": False}


def test_losses_end_at_the_first_that_is_no_number(tiny):
    model = models.cifar_resnet(8, width=4)
    fine = deep.losses_of(model, tiny)
    assert len(fine) == training.steps_per_epoch(tiny, deep.BATCH)
    assert all(map(math.isfinite, fine))
    torch.nn.init.constant_(model.fc.weight, math.nan)
    assert [math.isnan(loss) for loss in deep.losses_of(model, tiny)] == [True]


def test_falling_is_a_matter_of_windows_and_spread():
    down = [2.4 + 0.01 * (-1) ** i - 0.01 * i for i in range(30)]
    assert deep.falls(down)
    assert not deep.falls(down[::-1])
    assert not deep.falls([2.3 + 0.1 * (-1) ** i - 0.001 * i for i in range(30)])
    assert not deep.falls([*down, math.nan])
    assert not deep.falls(down[:12])


@pytest.mark.parametrize("block", [BasicBlock, PreActBlock])
def test_open_paths_are_the_product_of_the_gates(block):
    tower = torch.nn.Sequential(*(block(8, 8) for _ in range(4)))
    x = torch.randn(4, 8, 6, 6)
    measured = deep.open_paths(tower, x)
    outputs, hidden = [], x
    for module in tower:
        hidden = module(hidden)
        outputs.append(hidden)
    gates = [
        out > 0 if block is BasicBlock else torch.ones_like(out, dtype=bool) for out in outputs
    ]
    expected = [torch.stack(gates[i:]).all(dim=0).float().mean().item() for i in range(4)]
    assert measured == pytest.approx(expected)
    assert not any(module._forward_hooks for module in tower.modules())
    assert 0 < expected[0] < expected[-1] < 1 or block is PreActBlock


def test_gates_are_class_means(tiny):
    model = models.cifar_se_resnet(8, width=8)
    x, y = next(tiny.batches("train", 100))
    found = probes.class_gates(model, x, y)
    assert list(found) == ["layer1.0", "layer2.0", "layer3.0"]
    seen = []
    hook = model.layer1[0].se.register_forward_hook(lambda m, inputs, out: seen.append(inputs[0]))
    with torch.no_grad():
        model.eval()(x)
        gate = model.layer1[0].se.gate(seen[0])
    hook.remove()
    for label in range(10):
        assert torch.allclose(found["layer1.0"][label], gate[y == label].mean(0), atol=1e-6)
    assert probes.class_dependence(torch.ones(10, 8)) == 0
    assert probes.class_dependence(torch.eye(2)) == pytest.approx(math.sqrt(0.5))


def test_reuse_is_the_loss_without_a_source(tiny):
    torch.manual_seed(0)
    model = models.cifar_densenet(16, 4)  # two layers in each of three blocks
    list(training.fit(model, tiny, 1, batch_size=32))
    second = model.features.denseblock1.denselayer2
    with torch.no_grad():
        second.conv1.weight[:, 8:] = 0  # layer 2 does not read layer 1
    found = probes.reuse(model, tiny)
    assert [[len(row) for row in block] for block in found] == [[1, 2, 3]] * 3
    assert found[0][1][1] == 0
    assert found[0][1][0] != 0
    assert not any(module._forward_pre_hooks for module in model.modules())
    whole = training.evaluate(model, tiny, "val")[0]
    with probes._hidden(second.norm1, 0, 8):
        blind = training.evaluate(model, tiny, "val")[0]
    assert found[0][1][0] == pytest.approx(blind - whole)
    old, newest = probes.by_age(found)
    rows = [row for block in found for row in block[1:]]
    assert newest == pytest.approx(statistics.fmean(row[-1] for row in rows))
    assert old == pytest.approx(statistics.fmean(r for row in rows for r in row[:-1]))


def test_exponent():
    assert variants.exponent([10, 20, 40], [3 * n**1.5 for n in (10, 20, 40)]) == pytest.approx(1.5)


def test_equal_cost_family_costs_the_same():
    found = variants.equal_cost_family("cpu")
    assert list(found) == ["1x64d", "2x40d", "4x24d", "8x14d", "32x4d"]
    for parameters, macs, seconds in found.values():
        assert parameters == pytest.approx(25.3e6, rel=0.02)
        assert macs == pytest.approx(4.18e9, rel=0.03)
        assert len(seconds) == 7
    assert found["1x64d"][0] == 25_557_032  # the same network as ResNet-50
    assert found["32x4d"][0] == 25_028_904


def test_lesson_can_contradict_its_claims(script, report, tiny, monkeypatch):
    args = script.arguments(["--quick"])
    args.device = "cpu"
    down, up = [3 - 0.1 * i for i in range(25)], [1 + 0.1 * i for i in range(25)]
    monkeypatch.setattr(deep, "twins", lambda *_: {"residual": [up, up], "plain": [down, down]})
    script.thousand_layers(report, args, tiny)
    shut = {"post": [[0.9] * 4, [0.91] * 4], "pre": [[0.1] * 4, [0.11] * 4]}
    monkeypatch.setattr(deep, "identity_paths", lambda *_: shut)
    script.identity_paths(report, args, None)
    numbers = table(**{"preact-20": [0.9, 0.91]})
    numbers["wide-10"]["step"] = [1.0, 1.001]
    script.width(report, numbers)
    assert [f["verdict"] for f in report.findings] == ["does not hold"] * 4


def title(figure):
    return figure.texts[0].get_text().replace("\n", " ")


def test_figures_can_contradict_the_story():
    down, broken = [2.402 - 0.01 * i for i in range(30)], [2.3, math.nan]
    paths = {"post": [[0.9, 0.8], [0.9, 0.7]], "pre": [[1.0, 1.0], [1.0, 1.0]]}
    figure = figures.deep_training({"residual": [down], "plain": [broken]}, paths, 1001, 10, "x")
    assert "with shortcuts the loss goes from 2.36 to 2.16, without them" in title(figure)
    assert "without them it is NaN after step 1" in title(figure)
    figure = figures.deep_training({"residual": [broken], "plain": [down]}, paths, 1001, 10, "x")
    assert "with shortcuts the loss is NaN after step 1, without them it goes" in title(figure)
    memory = {"dense": {22: 10**6, 44: 2 * 10**6}, "resnet": {22: 10**6, 44: 4 * 10**6}}
    figure = figures.dense_reuse(memory, [[[[0.5], [0.25, 0.5]]] * 3] * 2, "x")
    assert "depth^1.00 (ResNet: 2.00)" in title(figure)
    assert "costs 0.25 nats, the newest 0.50" in title(figure)
    gates = {"layer1.0": torch.eye(10), "layer3.0": torch.zeros(10, 10)}
    assert "0.316 in the first block, by 0.000" in title(
        figures.gate_maps([gates], ["c"] * 10, "x")
    )
    figure = figures.trade_off(table(**{"dense-22": [0.8, 0.9]}), "x")
    assert title(figure).startswith("Most accurate: dense-22, 85 % (resnet-20: 50 %)")
    figure = figures.trade_off(table(**{"resnet-20": [math.nan, 0.9]}), "x")
    assert "resnet-20" not in title(figure)
    figure = figures.trade_off({"resnet-20": {"accuracy": [math.nan]}}, "x")
    assert title(figure) == "Every network diverged with one seed or more"


def test_results_hold_the_numbers_behind_the_figures(script, tmp_path):
    arguments = ["--quick", "--data", "shapes", "--out-dir", str(tmp_path)]
    script.main(arguments)
    path = tmp_path / "04_residual_variants" / "results.json"
    measured = json.loads(path.read_text(encoding="utf-8"))["measured"]
    assert list(measured["networks"]) == NAMES
    assert set(measured["thousand_layers"]) == {"residual", "plain"}
    assert len(measured["gates"]) == len(measured["density"]["reuse"]) == 2
