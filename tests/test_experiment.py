import importlib
import json
import math

import pytest
import torch
import torch.nn.functional as F

from common import (
    UserError,
    ablations,
    analysis,
    data,
    experiment,
    lesson,
    models,
    optim,
    threads,
    training,
)


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
    low, high = [0.1, 0.11, 0.12], [0.5, 0.52, 0.53]
    names = ("plain-20", "plain-56", "residual-20", "residual-56")
    for values in ((low, high, high, low), (high, low, low, high), (low, low, low, low)):
        comparison.degradation(report, dict(zip(names, values, strict=True)), 20, 56)
    nan = [math.nan] * 3
    comparison.degradation(report, dict(zip(names, (low, nan, low, nan), strict=True)), 20, 56)
    no, maybe = "does not hold", "not reproduced in this run"
    assert verdicts(report) == ["holds", "holds", no, no, maybe, "holds", maybe, maybe]


def test_the_other_findings_can_be_contradicted(comparison, report):
    small, large = [1.0, 1.1, 1.2], [5.0, 5.1, 5.2]
    for plain, residual in ((large, small), (small, large)):
        twins = {"plain": plain, "residual": residual}
        rises = {"plain": residual, "residual": plain}
        ratios = plain if plain is large else [-value for value in large]
        comparison.training_findings(report, 20, twins, 56, ratios, rises)
        comparison.lesion_findings(report, 20, twins, 56, residual, plain)
    assert verdicts(report) == ["holds"] * 5 + ["does not hold"] * 5


def test_ablations_and_sweep(comparison, tmp_path):
    extra = ["--ablate", "--sweep", "--out-dir", str(tmp_path)]
    measured = comparison.main(["--quick", "--data", "shapes", *extra])["measured"]
    assert set(measured["ablations"]) == set(ablations.ABLATIONS)
    assert set(measured["sweep"]) == set(measured["errors"])
    json.dumps(measured)


def test_ablations_change_what_they_say(comparison):
    def kinds(name):
        change, _ = ablations.ABLATIONS[name]
        torch.manual_seed(0)
        return change(models.cifar_resnet(8))

    assert not any(
        isinstance(m, torch.nn.BatchNorm2d) for m in kinds("without batch norm").modules()
    )
    zeroed = kinds("last gamma zero")
    assert not any(stage[0].bn2.weight.any() for stage in (zeroed.layer1, zeroed.layer3))
    assert zeroed.layer1[0].bn1.weight.all()
    bound = (3 * 9) ** -0.5  # PyTorch's default: uniform within 1 / sqrt(fan-in)
    assert kinds("PyTorch's default init").conv1.weight.abs().max() <= bound
    assert kinds("baseline").conv1.weight.abs().max() > bound
    optimizer = optim.sgd(zeroed, 0.1)
    schedule = ablations.ABLATIONS["constant learning rate"][1]["schedule"](optimizer, 10, 2)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.1])


def test_if_every_network_diverges_it_is_one_error(tiny):
    runs = [experiment.Run("plain-8", 0, models.cifar_plain(8, width=4), {"lr": 1e30})]
    with pytest.raises(UserError, match="smaller --lr"):
        experiment.train_all(runs, tiny, 1, 32)


def test_one_diverged_network_is_counted(tiny):
    runs = [
        experiment.Run("plain-8", seed, models.cifar_plain(8, width=4), {"lr": lr})
        for seed, lr in enumerate((0.01, 1e30))
    ]
    fine, diverged = experiment.train_all(runs, tiny, 1, 32)["plain-8"]
    assert diverged is None
    numbers = experiment.pick([fine, diverged], "val_error", -1)
    assert numbers[0] == fine["val_error"][-1]
    assert math.isnan(numbers[1])


def test_a_probe_changes_nothing(tiny):
    states = []
    for watch in (False, True):
        torch.manual_seed(0)
        model = models.cifar_resnet(8, width=4)
        x, y = next(tiny.batches("train", 64))
        probe = analysis.Recorder(model, ["layer1.0", "layer3.0"], x, y, [0, 1, 6])
        list(training.fit(model, tiny, 1, batch_size=48, on_step=probe if watch else None))
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
        with analysis.without_block(model, "layer2.0"):
            assert torch.allclose(model(x), expected, atol=1e-6)
        whole = model(x)
        with analysis.without_block(model, "layer1.0"):
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
        with analysis.without_block(model, "layer2.0"):
            assert torch.allclose(model(x), expected, atol=1e-6)


def test_side_by_side_keeps_the_order_and_the_threads():
    before = torch.get_num_threads()
    assert threads.side_by_side(lambda n: n * n, list(range(20)), "cpu") == [
        n * n for n in range(20)
    ]
    with pytest.raises(ZeroDivisionError):
        threads.side_by_side(lambda n: 1 / n, [1, 0, 2], "cpu")
    assert torch.get_num_threads() == before


def test_numbers_about_curves():
    assert experiment.smooth([1.0] * 30) == pytest.approx([1.0] * 21)
    assert experiment.smooth([1.0, 3.0]) == [2.0]
    assert experiment.steps_to([3.0, 2.0, 1.0], 2.0) == 11
    assert experiment.steps_to([3.0, 2.0, 1.0], 0.5) == 12
    assert experiment.lost_share([0.5, 0.3, 0.1], 0.1) == pytest.approx(0.75)
    assert math.isnan(experiment.lost_share([0.1, 0.1], 0.1))
    runs = [[0.9, 0.8, 0.8, 0.1, 0.8, 0.3, 0.8]]  # six blocks: 3 and 5 change the resolution
    assert experiment.split_lesions(runs) == ([pytest.approx(0.2)], [pytest.approx(0.8)])
