import importlib
import json
import math

from common import UserError, analysis, data, lesson, models, plotting, training
from common.analysis import Seeds, rates
from common.analysis import comparison as measuring
from common.analysis.comparison import Measured
from tests import tables

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
    first = comparison.main(arguments)["measured"]
    assert comparison.main(arguments)["measured"] == first
    assert comparison.main([*arguments, "--seed", "5"])["measured"] != first


NAMES = ("plain-20", "plain-56", "residual-20", "residual-56")


def five(value, step=0.001):
    """Five seeds near a value."""
    return Seeds(value + step * i for i in range(5))


def test_degradation_can_be_contradicted(comparison, report):
    low, near, high = five(0.1), five(0.12), five(0.5)
    for values in ((low, high, high, low), (high, low, low, high), (low, low, low, near)):
        comparison.degradation(report, dict(zip(NAMES, values, strict=True)), 20, 56)
    nan = Seeds([math.nan] * 5)
    comparison.degradation(report, dict(zip(NAMES, (low, nan, low, nan), strict=True)), 20, 56)
    no, maybe = "does not hold", "unclear: 0 of 5 seeds"
    assert verdicts(report) == ["holds", "holds", no, no, no, "holds", maybe, maybe]
    missing = dict(zip(NAMES, (low, None, low, low), strict=True))
    comparison.degradation(report, missing, 20, 56, ", each at half its best rate")
    assert [finding["claim"][:8] for finding in report.findings[8:]] == ["residual"]


def made_up(losses, gradient=1.0):
    """A run whose smoothed loss takes this course, and with early gradients of this mean."""
    norms = {0: [gradient**3, 1.0], 1: [gradient**3, 1.0], 200: [gradient**2, 2.0]}
    return Measured(0.5, 0.5, [0.6], losses, norms, {0: 0.1, 1: 0.1, 200: 0.1})


def test_the_other_findings_can_be_contradicted(comparison, report):
    slow, fast = [3.0, 2.9, 2.8, 2.7, 1.0], [1.0, 0.9, 0.9, 0.9, 0.9]
    kept, lost = [0.9] + [0.8] * 9, [0.9] + [0.2] * 9
    for courses, gradients, shares in (
        ((slow, fast), (2.0, 1.0), (lost, kept)),
        ((fast, slow), (0.25, 1.0), (kept, lost)),
    ):
        results, without = {}, {}
        zipped = zip(models.TWINS, courses, gradients, shares, strict=True)
        for kind, course, gradient, share in zipped:
            results[f"{kind}-20"] = [made_up(course, gradient)] * 5
            without[f"{kind}-20"] = [share] * 5
        comparison.judge_speed(report, results, 20, 8)
        comparison.judge_gradients(report, results, [0, 1, 200], 200)
        comparison.judge_lesions(report, without, 20, 0.1)
        comparison.compare_gradients(report, results, [0, 1, 200], 200)
    assert verdicts(report) == ["holds"] * 4 + ["does not hold"] * 4


def test_a_loss_that_is_never_reached_is_later_than_any_step(comparison, report):
    plain = [made_up([3.0, 1.0])] * 5
    never = [made_up([3.0, 2.0])] * 2 + [made_up([1.0, 1.0])] * 3
    steps = comparison.judge_speed(report, {"plain-20": plain, "residual-20": never}, 20, 8)
    assert steps["residual"] == [math.inf, math.inf, 8, 8, 8]
    assert report.findings[0]["measured"] == "8 ± 0, never (2 of 5) against 9 ± 0 steps"
    assert report.findings[0]["verdict"] == "unclear: 3 of 5 seeds"
    gone = measuring.steps_to([None], Seeds([1.0]), 8)
    assert measuring.steps_in_words(gone) == "never (1 of 1)"


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


def test_more_rates(comparison, tmp_path):
    extra = ["--rates", "0.05", "0.1", "0.1", "--out-dir", str(tmp_path)]
    results = comparison.main(["--quick", "--data", "shapes", *extra])
    grid = tables.rate_grid(json.loads(json.dumps(results["measured"]["rates"])))
    assert list(grid) == list(results["measured"]["errors"])
    for name, by_rate in grid.items():
        assert list(by_rate) == [0.05, 0.1]
        assert by_rate[0.05]["train"] == results["measured"]["errors"][name]
    assert (tmp_path / "03_training_comparison" / "rates.png").exists()


def a_grid():
    """plain-56 is best at the edge; residual-56 diverged with one seed at the highest rate."""
    courses = {"plain-20": [0.4, 0.3, 0.35], "plain-56": [0.8, 0.85, 0.9]}
    courses |= {"residual-20": [0.1, 0.02, 0.05], "residual-56": [0.1, 0.03, 0.01]}
    grid = {
        name: {rate: {"train": five(error), "val": five(error)} for rate, error in
               zip((0.05, 0.1, 0.2), errors, strict=True)}
        for name, errors in courses.items()
    }  # fmt: skip
    for errors in grid["residual-56"][0.2].values():
        errors[3] = math.nan
    return grid


def test_every_network_is_judged_around_its_own_best_rate(comparison, report):
    grid = a_grid()
    assert [rates.best(grid[name]) for name in NAMES] == [0.1, 0.05, 0.1, 0.1]
    assert [rates.at_edge(grid[name]) for name in NAMES] == [False, True, False, False]
    half = rates.around_best(grid, 0.5)
    assert half["plain-20"] == five(0.4)
    assert half["plain-56"] is None
    recorded = json.loads(json.dumps(lesson.plain(grid)))
    assert tables.rate_grid(recorded).keys() == grid.keys()
    comparison.judge_rates(report, tables.rate_grid(recorded), 20, 56, "made up")
    at_best, half, twice = ["holds"] * 2, ["holds"], ["holds", "unclear: 4 of 5 seeds"]
    assert verdicts(report) == at_best + half + twice
    text = "\n".join(report.lines)
    assert "beyond: plain-56." in text
    assert "half its best rate: outside the grid for plain-56" in text
    assert "1 of 5 diverged" in text
    assert "80.2 ± 0.2 % *" in text


def test_a_network_that_diverges_everywhere_has_no_finding(comparison, report):
    grid = a_grid()
    for splits in grid["plain-56"].values():
        splits |= {"train": [math.nan] * 5, "val": [math.nan] * 5}
    comparison.judge_rates(report, grid, 20, 56, "made up")
    assert verdicts(report)[0] == "unclear: 0 of 5 seeds"


def train_all(runs, dataset):
    """The runs, trained as in the lesson."""
    return training.by_name(runs, measuring.train_all(runs, dataset, 1, [0], "cpu"))


def plain_networks(*peaks):
    return [
        training.Run(
            "plain-8",
            seed,
            models.build_twin("plain", 8, 10, 4, seed),
            {"lr": lr, "batch_size": 32},
        )
        for seed, lr in enumerate(peaks)
    ]


def test_if_every_network_diverges_it_is_one_error(tiny):
    with pytest.raises(UserError, match="smaller --lr"):
        train_all(plain_networks(1e30), tiny)
    with pytest.raises(UserError, match="smaller --lr"):
        training.train_all(plain_networks(1e30), tiny, 1, 32, "cpu")


def test_one_diverged_network_is_counted(tiny):
    fine, diverged = train_all(plain_networks(0.01, 1e30), tiny)["plain-8"]
    assert diverged is None
    errors = measuring.errors({"plain-8": [fine, diverged]}, "val")["plain-8"]
    assert errors[0] == fine.val_error
    assert math.isnan(errors[1])
    runs = plain_networks(0.01, 1e30)
    grid = rates.collect(runs, [fine, diverged])
    assert list(grid["plain-8"]) == [0.01, 1e30]
    assert math.isnan(grid["plain-8"][1e30]["train"][0])
    rows, none = training.train_all(plain_networks(0.01, 1e30), tiny, 1, 32, "cpu")["plain-8"]
    assert none is None
    assert 1 - rows[-1]["val_accuracy"] == fine.val_error
    assert [1 - row["train_accuracy"] for row in rows] == fine.epoch_error


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


def test_numbers_about_curves():
    smooth, lesions = analysis.gradients.smooth, analysis.lesions
    assert smooth([1.0] * 30, 10) == pytest.approx([1.0] * 21)
    assert smooth([1.0, 3.0], 10) == [2.0]
    assert measuring.steps_to([made_up([3.0, 2.0, 1.0])], Seeds([2.0]), 10) == [11]
    assert lesions.lost_share([0.5, 0.3, 0.1], 0.1) == pytest.approx(0.75)
    assert math.isnan(lesions.lost_share([0.1, 0.1], 0.1))


def test_a_diverged_network_has_no_lesions(tiny):
    runs = []
    for depth in (8, 14):
        for kind in models.TWINS:
            model = models.build_twin(kind, depth, 10, 4, 0)
            runs.append(training.Run(f"{kind}-{depth}", 0, model, {}))
    runs[0].model.fc.weight.data.fill_(math.nan)  # plain-8
    without = analysis.lesions.accuracies(runs, tiny, "val", "cpu")
    assert [math.isnan(sum(shares[0])) for shares in without.values()] == [True, *3 * [False]]
    assert math.isnan(analysis.lesions.lost_share(without["plain-8"][0], 0.1))
    figure = plotting.curves.lesion_curves(without, 0.1, "made up")
    assert [len(ax.collections) for ax in figure.axes] == [1, 2]  # bands


def test_few_images_leave_the_validation_images(comparison):
    args = comparison.arguments(["--data", "shapes", "--images", "100", "--image-size", "8"])
    dataset = comparison.few_images(args)
    assert [len(getattr(dataset, split).labels) for split in ("train", "val")] == [100, 500]
    args.images = 5000
    assert len(comparison.few_images(args).train.labels) == 5000


def test_gradients_and_updates_are_compared_by_seed():
    above, below = made_up([1.0]), made_up([1.0])
    above.gradients, below.gradients = {0: [100.0, 1.0]}, {0: [1.0, 1.0]}
    above.updates, below.updates = {0: 0.6}, {0: 0.2}
    ratios = analysis.gradients.log_ratio([above, None], [below, below], 0)
    assert ratios[0] == pytest.approx(1.0)  # the geometric mean of 100 and 1 is 10
    assert math.isnan(ratios[1])
    assert analysis.gradients.update_ratio([above, None], [below], 0) == pytest.approx(3.0)
    assert math.isnan(analysis.gradients.update_ratio([above], [None], 0))
    (row,) = measuring.gradient_table({"plain-8": [above], "residual-8": [below]}, [0])
    assert list(row.values()) == [0, "10.00", "3.00", "100", "1"]
