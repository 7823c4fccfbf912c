"""Lesson 4: what it compares, measures, says and draws."""

import importlib
import json
import math
import statistics

from common import analysis, data, lesson, models, training
from common.analysis import Seeds, costs, features, gradients
from common.blocks import BasicBlock, PreActBlock, PreActBottleneck
from common.plotting import curves, maps

import pytest
import torch

script = importlib.import_module("04_residual_variants")
VARIANTS = script.VARIANTS


@pytest.fixture(scope="module")
def tiny():
    return data.load("shapes", size=8, limit=300)


@pytest.fixture
def report(tmp_path):
    args = lesson.parser("doc").parse_args(["--out-dir", str(tmp_path)])
    return lesson.Report("04_residual_variants.py", args, "made up")


def table(**accuracies):
    """What `compare` measures, with these accuracies."""
    shares = {name: [0.5, 0.51] for name in VARIANTS} | accuracies
    made_up = {"parameters": 1000, "multiply_adds": 10**6, "step": [0.01, 0.02, 0.03]}
    made_up |= {"peak": 10**6, "seconds": Seeds([1.0, 2.0])}
    return {n: script.Result(**made_up, accuracy=Seeds(values)) for n, values in shares.items()}


def test_networks_have_equal_parameters_and_the_small_one_a_third():
    counts = {n: analysis.parameter_count(b()) for n, b in script.networks(10, 8).items()}
    assert list(counts) == list(VARIANTS)
    assert counts["resnet-20"] == 68_050
    for name, variant in VARIANTS.items():
        tolerance = 0.06 if variant.fraction == 1 else 0.15
        assert counts[name] == pytest.approx(68_050 / variant.fraction, rel=tolerance)
    assert [name for name, v in VARIANTS.items() if v.fraction == 3] == ["dense-22 (1/3)"]


def test_width_is_the_nearest():
    build = VARIANTS["wide-10"].build
    chosen = analysis.parameter_count(script.at_parameters(build, 50_000)())
    others = [analysis.parameter_count(build(width=width)) for width in range(4, 30)]
    assert abs(chosen - 50_000) == min(abs(other - 50_000) for other in others)


def test_published_networks_are_those_that_their_names_build():
    for variant in VARIANTS.values():
        if variant.published:
            name, millions, error = variant.published
            with torch.device("meta"):
                counted = analysis.parameter_count(models.build(name, 10))
            assert f"{counted / 1e6:.1f}" == f"{millions}"
            assert 3 < error < 7


def test_comparison_changes_the_network_alone(tiny, monkeypatch):
    """Equal options and seeds for each network; equal batches follow from the seed."""
    seen = []
    train_all = training.train_all

    def spy(runs, *rest, **options):
        seen.extend(runs)
        return train_all(runs, *rest, **options)

    monkeypatch.setattr(training, "train_all", spy)
    args = script.arguments(["--quick", "--width", "4"])
    measured, trained = script.compare(args, tiny, range(2), "cpu")
    assert [run.name for run in seen] == [name for name in VARIANTS for _ in range(2)]
    assert [run.seed for run in seen] == [0, 1] * len(VARIANTS)
    assert all(run.options == {"lr": 0.1} for run in seen)
    assert list(measured) == list(trained) == list(VARIANTS)
    for name, result in measured.items():
        assert len(result.accuracy) == len(result.seconds) == 2
        expected = [training.evaluate(model, tiny, "test")[1] for model in trained[name]]
        assert result.accuracy == pytest.approx(expected)


def test_a_diverged_network_has_no_accuracy(tiny, monkeypatch):
    names = ["resnet-20", "wide-10"]
    monkeypatch.setattr(script, "VARIANTS", {name: VARIANTS[name] for name in names})
    init = training.Run.__init__

    def broken(run, name, seed, *rest):
        """A Run; one of the four starts from a weight that is no number."""
        init(run, name, seed, *rest)
        if (name, seed) == ("wide-10", 1):
            torch.nn.init.constant_(run.model.fc.weight, math.nan)

    monkeypatch.setattr(training.Run, "__init__", broken)
    args = script.arguments(["--quick", "--width", "4"])
    measured, _ = script.compare(args, tiny, range(2), "cpu")
    good, bad = measured["resnet-20"], measured["wide-10"]
    assert all(map(math.isfinite, [*good.accuracy, *good.seconds, bad.accuracy[0]]))
    assert math.isnan(bad.accuracy[1])
    assert math.isnan(bad.seconds[1])
    assert script.judge(measured) == {"resnet-20": "", "wide-10": "diverged"}


def test_judgement_and_advice_follow_the_numbers():
    numbers = table(**{"wide-10": [0.7, 0.71], "se-20": [0.3, 0.31]})
    words = script.judge(numbers)
    assert words["resnet-20"] == ""
    assert words["wide-10"] == "better"
    assert words["se-20"] == "worse"
    assert words["preact-20"] == "no difference beyond the spread"
    numbers["se-20"].peak = 1  # cheap, but worse: not to be recommended
    numbers["se-20"].step = [1e-9]
    numbers["preact-20"].peak = 2
    numbers["dense-22"].step = [1e-3]
    text = " ".join(script.advice(numbers, script.judge(numbers)))
    assert "accuracy: wide-10, beyond the spread" in text
    assert "least time a step: dense-22" in text
    assert "least memory: preact-20" in text
    text = " ".join(script.advice(table(), script.judge(table())))
    assert "not beyond the spread of" in text


def test_a_diverged_network_is_neither_better_nor_recommended():
    numbers = table(**{"wide-10": [0.9, math.nan]})
    numbers["wide-10"].peak = numbers["wide-10"].parameters = 1
    numbers["wide-10"].step = [1e-9]
    words = script.judge(numbers)
    assert words["wide-10"] == "diverged"
    assert "wide-10" not in " ".join(script.advice(numbers, words))
    numbers = table(**{"resnet-20": [math.nan, math.nan]})
    assert "smaller --lr" in script.advice(numbers, script.judge(numbers))[0]


def test_deep_twins_share_their_values_and_differ_by_the_shortcut():
    pair = []
    for block in (PreActBottleneck, script.PlainPreActBottleneck):
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
    for kind, block in (("residual", PreActBottleneck), ("plain", script.PlainPreActBottleneck)):
        torch.manual_seed(0)
        model = models.PreActNet(block, 111, 10, 4)
        (norm,) = analysis.activation_gradients(model, ["conv1"], x, y)
        finite[kind] = math.isfinite(norm) and norm > 0
    assert finite == {"residual": True, "plain": False}


def test_losses_end_at_the_first_that_is_no_number(tiny):
    model = models.cifar_resnet(8, width=4)
    run = training.Run("any", 0, model, script.DEEP)
    fine = script.step_losses(run, tiny, "cpu")
    assert len(fine) == training.steps_per_epoch(tiny, script.DEEP["batch_size"])
    assert all(map(math.isfinite, fine))
    torch.nn.init.constant_(model.fc.weight, math.nan)
    assert [math.isnan(loss) for loss in script.step_losses(run, tiny, "cpu")] == [True]


def test_falling_is_a_matter_of_windows_and_spread():
    down = [2.4 + 0.01 * (-1) ** i - 0.01 * i for i in range(30)]
    assert script.falls(down)
    assert not script.falls(down[::-1])
    assert not script.falls([2.3 + 0.1 * (-1) ** i - 0.001 * i for i in range(30)])
    assert not script.falls([*down, math.nan])
    assert not script.falls(down[:12])


@pytest.mark.parametrize("block", [BasicBlock, PreActBlock])
def test_open_paths_are_the_product_of_the_gates(block):
    tower = torch.nn.Sequential(*(block(8, 8) for _ in range(4)))
    x = torch.randn(4, 8, 6, 6)
    measured = gradients.open_paths(tower, x)
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
    found = features.class_gates(model, x, y)
    assert list(found) == ["layer1.0", "layer2.0", "layer3.0"]
    seen = []
    hook = model.layer1[0].se.register_forward_hook(lambda m, inputs, out: seen.append(inputs[0]))
    with torch.no_grad():
        model.eval()(x)
        gate = model.layer1[0].se.gate(seen[0])
    hook.remove()
    for label in range(10):
        assert torch.allclose(found["layer1.0"][label], gate[y == label].mean(0), atol=1e-6)
    assert features.class_dependence(torch.ones(10, 8)) == 0
    assert features.class_dependence(torch.eye(2)) == pytest.approx(math.sqrt(0.5))


def test_reuse_is_the_loss_without_a_source(tiny):
    torch.manual_seed(0)
    model = models.cifar_densenet(16, 4)  # two layers in each of three blocks
    list(training.Trainer(model, tiny, 1, batch_size=32).run())
    second = model.features.denseblock1.denselayer2
    with torch.no_grad():
        second.conv1.weight[:, 8:] = 0  # layer 2 does not read layer 1
    found = features.reuse(model, tiny)
    assert [[len(row) for row in block] for block in found] == [[1, 2, 3]] * 3
    assert found[0][1][1] == 0
    assert found[0][1][0] != 0
    assert not any(module._forward_pre_hooks for module in model.modules())
    whole = training.evaluate(model, tiny, "val")[0]
    with features.hidden_channels(second.norm1, 0, 8):
        blind = training.evaluate(model, tiny, "val")[0]
    assert found[0][1][0] == pytest.approx(blind - whole)
    old, newest = features.by_age(found)
    rows = [row for block in found for row in block[1:]]
    assert newest == pytest.approx(statistics.fmean(row[-1] for row in rows))
    assert old == pytest.approx(statistics.fmean(r for row in rows for r in row[:-1]))


def test_exponent():
    assert costs.exponent({n: 3 * n**1.5 for n in (10, 20, 40)}) == pytest.approx(1.5)


def test_costs_are_those_of_the_single_measurements(tiny):
    networks = {"any": models.cifar_resnet(8, width=4)}
    x, y = next(tiny.batches("train", 16))
    measured = costs.measure(networks, x, y)["any"]
    assert measured.parameters == analysis.parameter_count(networks["any"])
    assert measured.multiply_adds == analysis.multiply_adds(networks["any"], 3, 8, 8)
    assert measured.peak == analysis.peak_bytes(networks["any"], x, y)
    assert measured.milliseconds == pytest.approx(1e3 * statistics.median(measured.step))


def test_equal_cost_family_costs_the_same():
    family = costs.equal_cost_family("cpu")
    assert list(family) == ["1x64d", "2x40d", "4x24d", "8x14d", "32x4d"]
    for member in family.values():
        assert member["parameters"] == pytest.approx(25.3e6, rel=0.02)
        assert member["multiply_adds"] == pytest.approx(4.18e9, rel=0.03)
        assert len(member["seconds"]) == 7
    assert family["1x64d"]["parameters"] == 25_557_032  # the same network as ResNet-50
    assert family["32x4d"]["parameters"] == 25_028_904


def test_lesson_can_contradict_its_claims(report):
    """Fed the opposite numbers, every claim says so."""
    args = script.arguments(["--quick"])
    down, up = [3 - 0.1 * i for i in range(25)], [1 + 0.1 * i for i in range(25)]
    script.report_depth(report, args, {"residual": [up, up], "plain": [down, down]})
    script.report_paths(report, [[0.9] * 4, [0.91] * 4], [[0.1] * 4, [0.11] * 4])
    numbers = table(**{"preact-20": [0.9, 0.91], "dense-22 (1/3)": [0.1, 0.11]})
    numbers["wide-10"].step = [1.0, 1.001]
    script.report_width(report, numbers)
    counted = {"parameters": 1, "multiply_adds": 1}
    family = {
        "1x64d": counted | {"seconds": [2.0, 2.1]},
        "32x4d": counted | {"seconds": [1.0, 1.1]},
    }
    script.report_cardinality(report, family)
    memory = {"dense": {22: 10, 44: 20}, "resnet": {22: 10, 44: 40}}
    reuse = [[[[0.1], [-0.1, 0.1]]] * 3, [[[0.1], [-0.11, 0.1]]] * 3]  # blind to old ones: better
    script.report_density(report, memory, numbers, reuse)
    gates = [
        {"layer1.0": scale * torch.eye(10), "layer3.0": torch.zeros(10, 10)} for scale in (1, 1.1)
    ]
    script.report_gates(report, gates)
    assert [f["verdict"] for f in report.findings] == ["does not hold"] * 9


def test_report_says_what_each_idea_is_and_is_for(report):
    script.show_idea(report, 6, "se-20", BasicBlock, script.blocks.SEBasicBlock)
    text = "\n".join(report.lines)
    assert f"6. SEBasicBlock: {VARIANTS['se-20'].idea}" in text
    assert VARIANTS["se-20"].purpose in text
    assert "+        out = self.se(self.bn2(self.conv2(out)))" in text


def title(figure):
    return figure.texts[0].get_text().replace("\n", " ")


def test_figures_can_contradict_the_story():
    down, broken = [2.402 - 0.01 * i for i in range(30)], [2.3, math.nan]
    paths = {"post": [[0.9, 0.8], [0.9, 0.7]], "pre": [[1.0, 1.0], [1.0, 1.0]]}
    ends = {True: script.ends(down), False: script.ends(broken)}

    def draw(residual, plain):
        losses = {"residual": [residual], "plain": [plain]}
        means = {kind: ends[run is down] for kind, (run,) in losses.items()}
        return title(curves.deep_training(losses, means, paths, 1001, 10, "x"))

    text = draw(down, broken)
    assert "with shortcuts the loss goes from 2.36 to 2.16, without them" in text
    assert "without them it is NaN after step 1" in text
    assert "with shortcuts the loss is NaN after step 1, without them it goes" in draw(broken, down)
    memory = {"dense": {22: 10**6, 44: 2 * 10**6}, "resnet": {22: 10**6, 44: 4 * 10**6}}
    figure = maps.dense_reuse(memory, [[[[0.5], [0.25, 0.5]]] * 3] * 2, "x")
    assert "depth^1.00 (ResNet: 2.00)" in title(figure)
    assert "costs 0.25 nats, the newest 0.50" in title(figure)
    gates = {"layer1.0": torch.eye(10), "layer3.0": torch.zeros(10, 10)}
    text = title(maps.gate_maps([gates], ["c"] * 10, "x"))
    assert "0.316 in the first block, by 0.000" in text
    figure = curves.trade_off(table(**{"dense-22": [0.8, 0.9]}), "resnet-20", "x")
    assert title(figure).startswith("Most accurate: dense-22, 85 % (resnet-20: 50 %)")
    figure = curves.trade_off(table(**{"resnet-20": [math.nan, 0.9]}), "resnet-20", "x")
    assert "resnet-20" not in title(figure)
    diverged = {"resnet-20": table(**{"resnet-20": [math.nan]})["resnet-20"]}
    figure = curves.trade_off(diverged, "resnet-20", "x")
    assert title(figure) == "Every network diverged with one seed or more"


def test_results_hold_the_numbers_behind_the_figures(tmp_path):
    arguments = ["--quick", "--data", "shapes", "--out-dir", str(tmp_path)]
    script.main(arguments)
    path = tmp_path / "04_residual_variants" / "results.json"
    measured = json.loads(path.read_text(encoding="utf-8"))["measured"]
    assert list(measured["networks"]) == list(VARIANTS)
    assert set(measured["thousand_layers"]) == {"residual", "plain"}
    assert len(measured["gates"]) == len(measured["density"]["reuse"]) == 2
