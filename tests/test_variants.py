"""Lesson 4: what it compares, measures, says and draws."""

import copy
import importlib
import json
import math
import statistics

from common import analysis, data, lesson, models, training
from common.analysis import Seeds, costs, deep, features, published, variants
from common.blocks import BasicBlock, PreActBlock, PreActBottleneck
from common.plotting import curves

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
    """What `compare` measures, with these accuracies on validation and test images."""
    shares = {name: [0.5, 0.51, 0.5, 0.51, 0.5] for name in VARIANTS} | accuracies
    made_up = {"parameters": 1000, "multiply_adds": 10**6, "step": [0.01, 0.02, 0.03]}
    made_up |= {"peak": 10**6, "loss": Seeds([1.0, 2.0])}
    return {
        name: variants.Result(**made_up, validation=Seeds(values), accuracy=Seeds(values))
        for name, values in shares.items()
    }


def test_networks_have_about_equal_parameters():
    counts = {n: analysis.parameter_count(b()) for n, b in script.networks(10, 8).items()}
    assert list(counts) == list(VARIANTS)
    assert counts["resnet-20"] == 68_050
    assert all(count == pytest.approx(68_050, rel=0.06) for count in counts.values())


def test_width_is_the_nearest():
    build = VARIANTS["wide-10"].build
    chosen = analysis.parameter_count(variants.at_parameters(build, 50_000)())
    others = [analysis.parameter_count(build(width=width)) for width in range(4, 30)]
    assert abs(chosen - 50_000) == min(abs(other - 50_000) for other in others)


def test_published_networks_are_those_that_their_names_build():
    for variant in VARIANTS.values():
        if variant.published:
            with torch.device("meta"):
                models.build(variant.published, 10)
            assert 3 < published.ERRORS[variant.published] < 7


def test_rates_are_those_of_the_grid():
    assert all(variant.lr in script.RATES for variant in VARIANTS.values())


def compare(names, tiny):
    """The comparison of these variants, each at a rate of its own."""
    builds = {name: build for name, build in script.networks(10, 4).items() if name in names}
    rates = {name: 0.1 + 0.01 * i for i, name in enumerate(builds)}
    return rates, *variants.compare(builds, rates, (tiny, 1, 48), range(2), "cpu")


def test_comparison_changes_the_network_and_its_rate_alone(tiny, monkeypatch):
    """Equal options and seeds for each network; equal batches follow from the seed."""
    seen = []
    train_all = training.train_all

    def spy(runs, *rest, **options):
        seen.extend(runs)
        return train_all(runs, *rest, **options)

    monkeypatch.setattr(training, "train_all", spy)
    names = ["resnet-20", "wide-10"]
    rates, measured, trained = compare(names, tiny)
    assert [run.name for run in seen] == [name for name in names for _ in range(2)]
    assert [run.seed for run in seen] == [0, 1] * 2
    assert all(run.options == {"lr": rates[run.name]} for run in seen)
    assert list(measured) == list(trained) == names
    for name, result in measured.items():
        for split, accuracy in (("val", result.validation), ("test", result.accuracy)):
            expected = [training.evaluate(model, tiny, split)[1] for model in trained[name]]
            assert accuracy == pytest.approx(expected)


def test_a_diverged_network_has_no_accuracy(tiny, monkeypatch):
    init = training.Run.__init__

    def broken(run, name, seed, *rest):
        """A Run; one of the four starts from a weight that is no number."""
        init(run, name, seed, *rest)
        if (name, seed) == ("wide-10", 1):
            torch.nn.init.constant_(run.model.fc.weight, math.nan)

    monkeypatch.setattr(training.Run, "__init__", broken)
    _, measured, _ = compare(["resnet-20", "wide-10"], tiny)
    good, bad = measured["resnet-20"], measured["wide-10"]
    assert all(map(math.isfinite, [*good.accuracy, *good.loss, bad.accuracy[0]]))
    assert math.isnan(bad.accuracy[1])
    assert math.isnan(bad.validation[1])
    assert variants.judge(measured, "resnet-20") == {"resnet-20": "", "wide-10": "diverged"}


def test_judgement_and_advice_follow_validation():
    above, below = [0.7, 0.71, 0.7, 0.71, 0.7], [0.3, 0.31, 0.3, 0.31, 0.3]
    numbers = table(**{"wide-10": above, "se-20": below})
    words = variants.judge(numbers, "resnet-20")
    assert words["resnet-20"] == ""
    assert words["wide-10"] == "better"
    assert words["se-20"] == "worse"
    assert words["preact-20"] == "unclear: 0 of 5 better"  # ties are neither
    numbers["wide-10"].accuracy = Seeds(below)  # the test only reports
    assert variants.judge(numbers, "resnet-20") == words
    numbers["se-20"].peak = 1  # cheap, but worse: not to be recommended
    numbers["se-20"].step = [1e-9]
    numbers["preact-20"].peak = 2
    numbers["dense-22"].step = [1e-3]
    text = " ".join(script.advice(numbers, words))
    assert "validation accuracy: wide-10 (30.4 ± 0.5 % on test images)" in text
    assert "fastest step: dense-22" in text
    assert "The least memory: preact-20" in text


def test_a_diverged_network_is_neither_better_nor_recommended():
    numbers = table(**{"wide-10": [0.9, math.nan, 0.9, 0.9, 0.9]})
    numbers["wide-10"].peak = 1
    numbers["wide-10"].step = [1e-9]
    words = variants.judge(numbers, "resnet-20")
    assert words["wide-10"] == "diverged"
    assert "wide-10" not in " ".join(script.advice(numbers, words))
    numbers = table(**{"resnet-20": 5 * [math.nan]})
    assert "smaller --lr" in script.advice(numbers, variants.judge(numbers, "resnet-20"))[0]


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


def test_a_batch_is_learnt_by_heart_and_losses_end_at_the_first_that_is_no_number(tiny):
    def broken():
        model = models.cifar_resnet(8, width=4)
        torch.nn.init.constant_(model.fc.weight, math.nan)
        return model

    def build():
        return models.cifar_resnet(8, width=4)

    trials = {"sound": deep.Trial(build, training.sgd, 0.1, steps=25, warmup=2)}
    trials["broken"] = trials["sound"]._replace(build=broken)
    losses = deep.by_heart(trials, tiny, range(2), "cpu")
    last = deep.ends(losses)
    assert all(len(run) == 25 and run[0] > 2 for run in losses["sound"])
    assert max(last["sound"]) < 1.5
    assert last["sound"][1] == pytest.approx(sum(losses["sound"][1][-10:]) / 10)
    assert [[math.isnan(loss) for loss in run] for run in losses["broken"]] == [[True]] * 2
    assert [len(deep.first_images(tiny.first(n), 0)[1]) for n in (20, 33, 100)] == [20, 32, 32]
    rows = deep.summary("any", trials, losses)
    assert [row["diverged"] for row in rows] == ["0 of 2", "2 of 2"]
    assert rows[1]["mean, last 10 steps"] == "diverged"


def test_trials_of_a_kind_differ_in_what_they_say():
    thousand = deep.thousand_layers(11, 10)
    zero = thousand["post, last gamma 0"].build().layer1[0].bn3.weight
    assert not zero.any()
    assert thousand["post-activation"].build().layer1[0].bn3.weight.all()
    for name, trial in deep.without_batch_norm(14, 10).items():
        model = trial.build()
        assert float(name[-1]) == model.layer1[0].alpha == model.layer3[1].alpha
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
        assert analysis.depth(model) == 14
    for name, trial in deep.transformers(3, 10).items():
        model = trial.build()
        assert len(model.layers) == 3
        assert all(layer.norm_first == (name == "pre-norm") for layer in model.layers)
        first, second = (layer.linear1.weight for layer in model.layers[:2])
        assert not torch.equal(first, second)  # as copies of one layer they would be
        assert model(torch.randn(2, 3, 12, 12)).shape == (2, 10)


def test_gradients_of_the_last_layer_shrink_with_depth_where_the_norm_comes_first(tiny):
    flow = deep.transformer_gradients(16, 10, tiny.resized(12), range(2), "cpu")
    assert {kind: list(runs) for kind, runs in flow.items()} == {
        "pre-norm": [4, 16],
        "post-norm": [4, 16],
    }
    assert [len(run) for run in flow["pre-norm"][16]] == [16, 16]
    for shallow, layers in zip(*flow["pre-norm"].values(), strict=True):
        assert layers[-1] < shallow[-1]


@pytest.mark.parametrize("block", [BasicBlock, PreActBlock])
def test_open_paths_are_the_product_of_the_gates(block):
    tower = torch.nn.Sequential(*(block(8, 8) for _ in range(4)))
    x = torch.randn(4, 8, 6, 6)
    measured = deep.open_paths(tower, x)
    gates, hidden = [], x
    for module in tower:
        hidden = module(hidden)
        gates.append(hidden > 0 if block is BasicBlock else torch.ones_like(x, dtype=bool))
    expected = [torch.stack(gates[:n]).all(dim=0).float().mean().item() for n in (1, 2, 3, 4)]
    assert measured == pytest.approx(expected)
    assert not any(module._forward_hooks for module in tower.modules())
    assert 0 < expected[-1] < expected[0] < 1 or block is PreActBlock


def test_gates_depend_on_the_class_more_than_by_chance_only_if_they_do(tiny):
    model = models.cifar_se_resnet(8, width=8)
    x, y = next(tiny.batches("train", 100))
    found = features.gates(model, x)
    assert list(found) == ["layer1.0", "layer2.0", "layer3.0"]
    seen = []
    hook = model.layer1[0].se.register_forward_hook(lambda m, inputs, out: seen.append(inputs[0]))
    with torch.no_grad():
        model.eval()(x)
        assert torch.allclose(found["layer1.0"], model.layer1[0].se.gate(seen[0]), atol=1e-6)
    hook.remove()
    means = torch.stack([found["layer3.0"][y == label].mean(0) for label in range(10)])
    expected = means.std(dim=0).mean().item()
    assert features.class_dependence(found["layer3.0"], y) == pytest.approx(expected, abs=1e-6)
    assert features.class_dependence(torch.ones(len(y), 8), y) == pytest.approx(0, abs=1e-6)
    some = y < 9  # of the last class there is no image
    expected_of_some = means[:9].std(dim=0).mean().item()
    dependence = features.class_dependence(found["layer3.0"][some], y[some] + (y[some] == 8))
    assert dependence == pytest.approx(expected_of_some, abs=1e-6)
    by_class = torch.nn.functional.one_hot(y, 10).float()
    assert features.chance_dependence(by_class, y) < 0.5 * features.class_dependence(by_class, y)
    noise = torch.randn(len(y), 50, generator=torch.Generator().manual_seed(0))
    ratio = features.class_dependence(noise, y) / features.chance_dependence(noise, y)
    assert ratio == pytest.approx(1, rel=0.2)
    dependence = features.gate_dependence(model, x, y)["layer3.0"]
    assert dependence[0] == pytest.approx(expected, abs=1e-6)


def test_exponent():
    assert costs.exponent({n: 3 * n**1.5 for n in (10, 20, 40)}) == pytest.approx(1.5)


def test_costs_are_those_of_the_single_measurements(tiny):
    rates, plan = {"any": 0.1}, ((tiny, 1, 16), range(2), "cpu")
    model = models.cifar_resnet(8, width=4)
    measured = variants.compare({"any": lambda: copy.deepcopy(model)}, rates, *plan)[0]["any"]
    x, y = next(tiny.batches("train", 16))
    assert measured.parameters == analysis.parameter_count(model)
    assert measured.multiply_adds == analysis.multiply_adds(model, 3, 8, 8)
    assert measured.peak == analysis.peak_bytes(model, x, y)
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


def seeds(*values):
    """Five seeds that differ by little."""
    return [[value + 0.001 * seed for value in values] for seed in range(5)]


def test_lesson_can_contradict_its_claims(report):
    """Fed the opposite numbers, every claim says so."""
    thousand = deep.thousand_layers(11, 10)
    losses = dict.fromkeys(thousand, seeds(2.5, 2.3)) | {"post-activation": seeds(2.4, 0.5)}
    script.report_thousand(report, 11, thousand, losses, 1.8)
    bare = deep.without_batch_norm(14, 10)
    script.report_bare(report, 14, bare, dict.fromkeys(bare, seeds(2.5, 2.3)), 1.8)
    script.report_paths(report, post=seeds(0.9, 0.9), pre=seeds(0.1, 0.1))
    numbers = table(**{"preact-20": [0.9, 0.91, 0.9, 0.91, 0.9]})
    script.report_width(report, numbers["preact-20"], numbers["wide-10"])
    script.report_memory(report, {"dense": {22: 10, 44: 20}, "resnet": {22: 10, 44: 40}})
    script.report_gates(report, [{"layer3.2": (a, b)} for a, b in seeds(0.1, 0.2)])
    flow = {"pre-norm": {1: seeds(0.2), 4: seeds(0.4)}, "post-norm": {1: seeds(0.2), 4: seeds(0.1)}}
    script.report_flow(report, 4, flow)
    trials = deep.transformers(4, 10)
    losses = {name: seeds(2.5, 2.0) for name in trials} | {"post-norm": seeds(2.5, 1.0)}
    script.report_attention(report, 4, trials, losses)
    assert [f["verdict"] for f in report.findings] == ["does not hold"] * 11
    assert "Where alpha starts at 1, 0 of 5 networks begin to learn at that rate." in report.lines


def test_the_search_of_rates_prints_the_validation_loss(report, tiny, monkeypatch):
    monkeypatch.setattr(script, "RATES", (0.1, 0.2))
    builds = {"resnet-20": script.networks(10, 4)["resnet-20"]}
    found = script.search_rates(report, builds, (tiny, 1, 48), 0)
    assert list(found["resnet-20"]) == ["0.1", "0.2"]
    assert len(found["resnet-20"]["0.1"]["loss"]) == 2
    assert "rate 0.2" in report.lines[-2]


def test_report_says_what_each_idea_is_and_is_for(report):
    script.show_idea(report, 6, "se-20", BasicBlock, script.blocks.SEBasicBlock)
    text = "\n".join(report.lines)
    assert f"6. SEBasicBlock: {VARIANTS['se-20'].idea}" in text
    assert VARIANTS["se-20"].purpose in text
    assert "+    out = self.se(self.bn2(self.conv2(out)))" in text
    assert "__init__" not in text


def title(figure):
    return figure.texts[0].get_text().replace("\n", " ")


def test_figures_can_contradict_the_story():
    down, broken = [[2.4, 1.0] + 10 * [0.4]], [[2.3, math.nan]]
    paths = {"post": [[0.9, 0.8], [0.9, 0.7]], "pre": [[1.0, 1.0], [1.0, 1.0]]}

    def draw(pre, plain):
        losses = dict.fromkeys(deep.thousand_layers(11, 10), down)
        losses |= {"pre-activation": pre, "plain": plain}
        return title(curves.deep_training(losses, paths, 1001, 2.3, "x"))

    told = draw(down, broken)
    assert "loss goes from 2.40 to 0.40, without shortcuts it diverges after step 1" in told
    told = draw(broken, down)
    assert "loss diverges after step 1, without shortcuts it goes from 2.40" in told
    flow = {"pre-norm": [[0.1, 0.4]], "post-norm": [[0.1, 0.2]]}
    losses = dict.fromkeys(deep.transformers(2, 10), down)
    assert "0.5 times" in title(curves.transformer(flow, losses, 2.3, "x"))
    figure = curves.trade_off(table(**{"dense-22": [0.8, 0.9]}), "resnet-20", "x")
    best = "Highest mean validation accuracy: dense-22. Fastest"
    assert title(figure).startswith(best)
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
    assert list(measured["thousand_layers"]) == list(deep.thousand_layers(11, 10))
    assert len(measured["gates"]) == len(measured["paths"]["pre"]) == 2
