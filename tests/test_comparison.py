import importlib
import json
import math
from functools import partial

from common import UserError, analysis, data, lesson, models, training
from common.analysis import Seeds

import pytest
import torch
import torch.nn.functional as F


@pytest.fixture(scope="module")
def tiny():
    return data.load("shapes", size=8, limit=300)


@pytest.fixture(scope="module")
def comparison():
    return importlib.import_module("03_training_comparison")


@pytest.fixture
def report(tmp_path):
    args = lesson.parser("doc").parse_args(["--out-dir", str(tmp_path)])
    return lesson.Report("03_training_comparison.py", args, "made up")


def verdicts(report):
    return [finding["verdict"] for finding in report.findings]


def test_twins_share_initial_tensors_and_counts(comparison):
    args = comparison.arguments(["--depths", "8", "20"])
    args.classes = 10
    runs = comparison.twins(args, 0.1)
    assert [run.name for run in runs[:4]] == ["plain-8", "residual-8"] * 2
    for plain, residual in zip(runs[::2], runs[1::2], strict=True):
        ours, theirs = plain.model.state_dict(), residual.model.state_dict()
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert plain.seed == residual.seed
        assert plain.options == residual.options
    different = runs[0].model.conv1.weight, runs[2].model.conv1.weight
    assert not torch.equal(*different)


def test_twins_of_other_values_fail_the_check(comparison, report):
    args = comparison.arguments(["--depths", "8", "14"])
    args.classes = 10
    runs = comparison.twins(args, 0.1)
    comparison.check_twins(report, runs)
    assert report.failed == []
    torch.nn.init.ones_(runs[1].model.conv1.weight)
    comparison.check_twins(report, runs)
    assert report.failed == ["twins differ in the shortcut alone"]


def test_the_same_seed_gives_the_same_numbers(comparison, tmp_path):
    arguments = ["--quick", "--data", "shapes", "--out-dir", str(tmp_path)]

    def measured(*more):
        found = comparison.main([*arguments, *more])["measured"]
        for runs in found["results"].values():
            assert all(run.pop("seconds") > 0 for run in runs)
        return found

    first = measured()
    assert measured() == first
    assert measured("--seed", "5") != first


def test_degradation_can_be_contradicted(comparison, report):
    low, high = Seeds([0.1, 0.11, 0.12]), Seeds([0.5, 0.52, 0.53])
    names = ("plain-20", "plain-56", "residual-20", "residual-56")
    for values in ((low, high, high, low), (high, low, low, high), (low, low, low, low)):
        comparison.degradation(report, dict(zip(names, values, strict=True)), 20, 56)
    nan = Seeds([math.nan] * 3)
    comparison.degradation(report, dict(zip(names, (low, nan, low, nan), strict=True)), 20, 56)
    no, maybe = "does not hold", "not reproduced in this run"
    assert verdicts(report) == ["holds", "holds", no, no, maybe, "holds", maybe, maybe]


def made_up(comparison, losses, rise):
    """A run whose smoothed loss takes this course."""
    curves = {"val_error": [0.5], "step_loss": losses, "step_error": losses, "largest_rise": rise}
    recorded = {"gradients": {0: [1.0], 5: [1.0]}, "updates": {0: 0.1}}
    return comparison.Measured(seconds=1.0, train_error=0.5, **curves, **recorded)


def test_the_other_findings_can_be_contradicted(comparison, report):
    slow, fast = [3.0, 2.9, 2.8, 2.7, 1.0], [1.0, 0.9, 0.9, 0.9, 0.9]
    kept, lost = [0.9] + [0.8] * 9, [0.9] + [0.2] * 9
    at_change = [0.9] + [0.8] * 3 + [0.1] + [0.8] * 2 + [0.1] + [0.8] * 2
    elsewhere = [0.9] + [0.1] * 3 + [0.8] + [0.1] * 2 + [0.8] + [0.1] * 2
    for courses, rises, ratio, shares, changes in (
        ((slow, fast), (0.1, 0.9), 1.0, (lost, kept), at_change),
        ((fast, [1.0, *slow]), (0.9, 0.1), -1.0, (kept, lost), elsewhere),
    ):
        results, lesions = {}, {}
        for kind, course, rise, share in zip(models.TWINS, courses, rises, shares, strict=True):
            runs = [made_up(comparison, course, rise)] * 2
            results |= {f"{kind}-20": runs, f"{kind}-56": runs}
            lesions |= {f"{kind}-20": [share, share], f"{kind}-56": [changes, changes]}
        ratios = {0: Seeds([ratio, 1.1 * ratio]), 5: Seeds([-ratio, -ratio])}
        comparison.judge_training(report, results, ratios, 20, 56)
        comparison.judge_lesions(report, lesions, 20, 56, 0.1)
    assert verdicts(report) == ["holds"] * 5 + ["does not hold"] * 5


def test_the_network_by_hand_is_two_networks(comparison, report, tiny):
    """One addition apart; each equals its class alone, in every gradient, too."""
    args = comparison.arguments(["--depths", "8", "14"])
    args.classes = 10
    runs = comparison.twins(args, 0.1)[-2:]
    before = {name: value.clone() for name, value in runs[1].model.state_dict().items()}
    assert comparison.check_by_hand(report, *runs, tiny) < 1e-5
    assert report.failed == []
    after = runs[1].model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    x, y = next(tiny.batches("train", 32))
    for run, shortcut in zip(runs, (False, True), strict=True):
        model = run.model.train()
        state, weights = dict(model.named_parameters()), list(model.parameters())
        logits = comparison.twin_by_hand(x, state, shortcut)
        ours = torch.autograd.grad(F.cross_entropy(logits, y), weights)
        theirs = torch.autograd.grad(F.cross_entropy(model(x), y), weights)
        assert analysis.relative_difference(ours, theirs) < 1e-4
    torch.nn.init.ones_(runs[1].model.layer2[0].conv1.weight)
    comparison.check_by_hand(report, *runs, tiny)
    assert report.failed == ["by hand equals PlainBlock and BasicBlock networks"]


def test_sweep(comparison, tmp_path):
    extra = ["--sweep", "--out-dir", str(tmp_path)]
    measured = comparison.main(["--quick", "--data", "shapes", *extra])["measured"]
    assert set(measured["sweep"]) == set(measured["errors"])
    json.dumps(measured)


def train_all(comparison, runs, dataset):
    """The runs, trained as in the lesson."""
    args = comparison.arguments(["--epochs", "1", "--batch-size", "32"])
    fixed = {"dataset": dataset, "args": args, "steps": [0], "device": "cpu"}
    with training.progress("", 0) as bar:
        job = partial(comparison.train, bar=bar, **fixed)
        return training.by_name(runs, training.side_by_side(job, runs, "cpu"))


def plain_networks(*rates):
    return [
        training.Run("plain-8", seed, models.build_twin("plain", 8, 10, 4, seed), {"lr": lr})
        for seed, lr in enumerate(rates)
    ]


def test_if_every_network_diverges_it_is_one_error(comparison, tiny):
    with pytest.raises(UserError, match="smaller --lr"):
        train_all(comparison, plain_networks(1e30), tiny)
    with pytest.raises(UserError, match="smaller --lr"):
        training.train_all(plain_networks(1e30), tiny, 1, 32, "cpu")


def test_one_diverged_network_is_counted(comparison, tiny):
    fine, diverged = train_all(comparison, plain_networks(0.01, 1e30), tiny)["plain-8"]
    assert diverged is None
    numbers = comparison.validation_error([fine, diverged])
    assert numbers[0] == fine.val_error[-1]
    assert math.isnan(numbers[1])
    assert math.isnan(comparison.training_error([diverged])[0])
    rows, none = training.train_all(plain_networks(0.01, 1e30), tiny, 1, 32, "cpu")["plain-8"]
    assert none is None
    assert 1 - rows[-1]["val_accuracy"] == fine.val_error[-1]


def test_a_probe_changes_nothing(tiny):
    states = []
    for watch in (False, True):
        torch.manual_seed(0)
        model = models.cifar_resnet(8, width=4)
        x, y = next(tiny.batches("train", 64))
        probe = analysis.Recorder(model, ["layer1.0", "layer3.0"], x, y, [0, 1, 6])
        trainer = training.Trainer(model, tiny, 1, batch_size=48)
        list(trainer.run(on_step=probe if watch else None))
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert list(probe.gradients) == [0, 1, 6]
    assert list(probe.updates) == [0, 1]
    assert len(probe.batches) == 6


def test_update_size_is_relative():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1, bias=False))
    probe = analysis.Recorder(model, [], None, None, [0])
    probe.gradients = {}
    probe._before = probe._weights()
    with torch.no_grad():
        model[0].weight.mul_(1.1)
    probe.steps = set()
    probe(1, None)
    assert probe.updates == {0: pytest.approx(0.1)}


@pytest.mark.parametrize("build", [models.cifar_plain, models.cifar_resnet])
def test_a_deleted_block_passes_its_input_on(build):
    model = build(8, width=4).eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        hidden = F.relu(model.bn1(model.conv1(x)))
        skipped = F.pad(model.layer1(hidden)[:, :, ::2, ::2], (0, 0, 0, 0, 0, 4))
        expected = model.fc(model.layer3(skipped).mean(dim=(2, 3)))
        with analysis.lesions.without_block(model, "layer2.0"):
            assert torch.allclose(model(x), expected, atol=1e-6)
        whole = model(x)
        with analysis.lesions.without_block(model, "layer1.0"):
            assert not torch.equal(model(x), whole)
        assert torch.equal(model(x), whole)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_deleted_block_keeps_its_projection():
    model = models.cifar_resnet(8, shortcut="B", width=4).eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        hidden = model.layer1(F.relu(model.bn1(model.conv1(x))))
        skipped = F.relu(model.layer2[0].downsample(hidden))
        expected = model.fc(model.layer3(skipped).mean(dim=(2, 3)))
        with analysis.lesions.without_block(model, "layer2.0"):
            assert torch.allclose(model(x), expected, atol=1e-6)


@pytest.mark.parametrize(("build", "last"), [
    (lambda: models.cifar_preact_resnet(8), "conv2"),
    (lambda: models.cifar_preact_resnet(164), "conv3"),
    (lambda: models.cifar_wide_resnet(10, 2), "conv2"),
    (lambda: models.cifar_resnext(11, 2, 64, width=16), "bn3"),
    (lambda: models.cifar_resnet(8, "C"), "bn2"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["layer1.0", "layer2.0"])
def test_without_a_block_its_own_shortcut_is_left(build, last, name):
    """The block without F is the block whose F is zero."""
    model = build()
    with torch.no_grad():
        model(torch.randn(8, 3, 8, 8))
        block = model.eval().get_submodule(name)
        x = torch.randn(2, block.conv1.in_channels, 8, 8)
        x = x if hasattr(model, "bn") else x.relu()
        with analysis.lesions.without_block(model, name):
            found = block(x)
        torch.nn.init.zeros_(getattr(block, last).weight)
        assert torch.allclose(found, block(x), atol=1e-6)


def test_side_by_side_keeps_the_order_and_the_threads():
    before = torch.get_num_threads()
    assert training.side_by_side(lambda n: n * n, list(range(20)), "cpu") == [
        n * n for n in range(20)
    ]
    with pytest.raises(ZeroDivisionError):
        training.side_by_side(lambda n: 1 / n, [1, 0, 2], "cpu")
    assert torch.get_num_threads() == before


def test_numbers_about_curves(comparison):
    smooth, lesions = analysis.gradients.smooth, analysis.lesions
    assert smooth([1.0] * 30, 10) == pytest.approx([1.0] * 21)
    assert smooth([1.0, 3.0], 10) == [2.0]
    assert comparison.steps_to([3.0, 2.0, 1.0], 2.0) == 11
    assert comparison.steps_to([3.0, 2.0, 1.0], 0.5) == 12
    assert lesions.lost_share([0.5, 0.3, 0.1], 0.1) == pytest.approx(0.75)
    assert math.isnan(lesions.lost_share([0.1, 0.1], 0.1))
    runs = [[0.9, 0.8, 0.8, 0.1, 0.8, 0.3, 0.8]]  # six blocks: 3 and 5 change the resolution
    assert lesions.by_resolution(runs) == ([pytest.approx(0.2)], [pytest.approx(0.8)])


def test_gradients_and_updates_are_compared_by_seed(comparison):
    above, below = made_up(comparison, [1.0], 0.0), made_up(comparison, [1.0], 0.0)
    above.gradients, below.gradients = {0: [100.0, 1.0]}, {0: [1.0, 1.0]}
    above.updates, below.updates = {0: 0.6}, {0: 0.2}
    ratios = analysis.gradients.log_ratio([above, None], [below, below], 0)
    assert ratios[0] == pytest.approx(1.0)  # the geometric mean of 100 and 1 is 10
    assert math.isnan(ratios[1])
    assert analysis.gradients.update_ratio([above], [below], 0) == pytest.approx(3.0)
