"""Lesson 5: findings and titles follow the numbers; checkpoints of every kind can be drawn."""

import importlib
import json

from common import UserError, lesson, models, plotting
from common.analysis.features import Features, Probes, Response
from common.analysis.gradients import CONDITIONS
from common.analysis.landscape import Landscape, epochs_in_words
from common.training import checkpoints

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from PIL import Image

plotting.use_theme()


@pytest.fixture(scope="module")
def script():
    return importlib.import_module("05_visualization")


@pytest.fixture
def report(tmp_path):
    args = lesson.parser("doc").parse_args(["--out-dir", str(tmp_path)])
    args.depth, args.target = 20, 1.0
    return lesson.Report("05_visualization.py", args, "made up")


def title(figure):
    text = " ".join(figure.texts[0].get_text().split())
    pyplot.close(figure)
    return text


def towards_input(factor):
    return [[factor ** (2 * i) * (1 + s / 100) for i in range(8, 0, -1)] for s in range(5)]


def norms(vanishing, exploding):
    """Both kinds alike but for batch norm, where `plain` explodes if `exploding`."""
    start = {(k, c): towards_input(vanishing) for k in plotting.TWINS for c in CONDITIONS}
    start["plain", "BN"], start["residual", "BN"] = map(towards_input, exploding)
    return start


def test_gradients_can_contradict_the_findings(script, report):
    trained = {"plain": [[2.0, 1.0]]}
    script.report_gradients(report, norms(0.4, (1.2, 1.01)), trained)
    script.report_gradients(report, norms(1.4, (1.01, 1.2)), trained)
    verdicts = [finding["verdict"] for finding in report.findings]
    assert verdicts == ["holds"] * 2 + ["does not hold"] * 2
    assert "0.98 of theory's" in report.findings[0]["measured"]  # 0.4 / 0.408


def test_the_title_of_gradient_flow_says_what_it_is_given():
    trained = {"plain": [[30.0, 2.0, 1.0]], "residual": [[1.0, 1.0, 2.0]] * 2}
    figure = plotting.flow.gradient_flow(norms(0.4, (1.3, 1.0)), trained, "")
    ends = [text.get_text() for text in figure.axes[-1].texts]
    assert set(ends) == {"plain x30", "residual x0.5"}
    assert any("no stride" in text.get_text() for text in figure.axes[0].texts)
    assert "is 39 times as large at the first block as at the last, a residual one's 1 times" in (
        title(figure)
    )
    denied = title(plotting.flow.gradient_flow(norms(1.4, (0.5, 1.0)), trained, ""))
    assert "is 6.1e-05 times as large" in denied


def landscapes(rough, smooth):
    """A dome for the rough networks, a bowl for the smooth ones, five of each."""
    x = np.linspace(-1, 1, 5)
    bowl = 1 + x[:, None] ** 2 + x**2
    shapes = {rough: 4 - bowl, smooth: bowl}
    return {
        name: Landscape(
            [shapes[name][2, 2]] * 5,
            [0.1] * 5,
            {
                "running": [shapes[name].tolist()] * 5,
                "recomputed": [(shapes[name] / 2 + shapes[name][2, 2] / 2).tolist()] * 5,
            },
        )
        for name in ("plain", "residual")
    }


def five_of(*names):
    return {name: dict.fromkeys(range(5)) for name in names}


@pytest.mark.parametrize(("rough", "smooth"), [("plain", "residual"), ("residual", "plain")])
def test_landscapes_can_contradict_the_claims(script, report, rough, smooth):
    found = landscapes(rough, smooth)
    rises = script.report_landscapes(report, found, five_of("plain", "residual"))["rise"]
    assert rises[smooth]["running"] == [pytest.approx(1.0)] * 5
    assert rises[rough]["running"] == [pytest.approx(-1.0)] * 5
    assert rises[smooth]["recomputed"] == [pytest.approx(0.5)] * 5
    verdicts = [finding["verdict"] for finding in report.findings]
    steeper = "holds" if smooth == "plain" else "does not hold"
    rougher = "does not hold" if rough == "plain" else "holds"
    assert verdicts == [steeper, steeper, rougher, rougher]
    assert report.failed == []
    steps = np.linspace(-1, 1, 5).tolist()
    figure = plotting.landscape.loss_landscape(found, steps, "")
    panels = [ax.get_title() for ax in figure.axes]
    assert "rises by 1.00 ± 0.00" in panels[0 if smooth == "plain" else 1]
    around = {rough: -1.0, smooth: 1.0}
    said = [f"by {around[kind]:.2f} around {kind} networks" for kind in found]
    assert ", ".join(said) in title(figure)


def test_networks_that_never_got_there_are_left_out(script, report):
    """Pairs are of one seed; with four of them nothing is a result."""
    found = landscapes("plain", "residual")
    nets = five_of("plain", "residual")
    del nets["plain"][3]
    found["plain"].losses.pop()
    for grids in found["plain"].grids.values():
        grids.pop()
    script.report_landscapes(report, found, nets)
    assert {finding["n"] for finding in report.findings} == {4}
    assert all(finding["verdict"].endswith("of 4 seeds") for finding in report.findings)
    values = {"plain": [0, 1, 2, 4], "residual": [5, 6, 7, 8, 9]}
    assert script.in_pairs(nets, values) == [[0, 1, 2, 4], [5, 6, 7, 9]]
    assert epochs_in_words([48, None, 60]) == "48 to 60; never (1 of 3)"
    assert epochs_in_words([None, None]) == "never (2 of 2)"


def test_a_centre_that_is_not_the_loss_fails_the_check(script, report):
    found = landscapes("plain", "residual")
    found["residual"].losses[4] += 1e-7
    script.report_landscapes(report, found, five_of(*found))
    assert report.failed == ["residual: the loss at the centre is the network's own, to the bit"]


def features(accuracy, similarity):
    """Of five networks of three blocks."""
    channels = {"conv1": np.random.rand(2, 6, 6), "layer1": np.zeros((4, 1, 1))}
    cka = [[1.0, similarity], [similarity, 1.0]]
    probes = Probes([0.1, 0.2, accuracy, 0.5], [0.01] * 4)
    return {seed: Features(probes, cka, Response(channels, 1, 0.9)) for seed in range(5)}


def test_features_can_contradict_the_claim_and_the_title_follows(script, report):
    high, low = features(0.8, 0.9), features(0.3, 0.2)
    for pair in ({"plain": low, "residual": high}, {"plain": high, "residual": low}):
        measured = script.report_features(report, pair)
    assert [f["verdict"] for f in report.findings] == ["holds", "does not hold"]
    similarity = {"plain": pytest.approx([0.9] * 5), "residual": pytest.approx([0.2] * 5)}
    assert measured["cka_between_blocks"] == similarity
    image = np.zeros((8, 8, 3), np.uint8)
    text = title(plotting.features.feature_evolution(image, ["cat", "dog"], pair, ""))
    assert "at half depth: plain 80 %, residual 30 %" in text


def test_networks_keep_their_colours():
    network_styles = plotting.style.network_styles
    styles = network_styles(["residual", "plain"])
    assert styles == {kind: plotting.TWINS[kind] for kind in styles}
    names = ["cifar_plain-8", "cifar_plain-20", "resnet18", "densenet121"]
    assert len(set(network_styles(names).values())) == 4
    assert len(network_styles(map(str, range(9)))) == 9


CHECKED = ["cifar_plain-8", "cifar_preact_resnet-8", "cifar_densenet-10-4", "resnet18"]


def checkpoint(folder, name, classes, image_size=32):
    torch.manual_seed(0)
    model = models.build(name, len(classes), image_size)
    entries = {"model": model.state_dict(), "model_name": name, "classes": classes}
    path = folder / f"{name}.pt"
    torch.save(entries | {"epoch": 1, "val_accuracy": 0.5}, path)
    return path


def test_checkpoints_are_drawn(script, tmp_path):
    from common.data.shapes import CLASSES

    paths = [str(checkpoint(tmp_path, name, CLASSES)) for name in CHECKED[:3]]
    arguments = ["--quick", "--data", "shapes", "--out-dir", str(tmp_path), "--image-size", "16"]
    results = script.main([*arguments, "--checkpoint", *paths])
    assert results["failed_checks"] == []
    measured = results["measured"]
    assert list(measured["landscapes"]) == CHECKED[:3]
    assert len(measured["features"]["cifar_densenet-10-4"][0]["accuracies"]) > 3
    assert len(list((tmp_path / "05_visualization_checkpoint").glob("*.png"))) == 4
    json.dumps(measured)


@pytest.mark.parametrize("name", CHECKED)
def test_a_checkpoint_comes_back_whole(name, tmp_path):
    path = checkpoint(tmp_path, name, ["cat", "dog"])
    model, entries = checkpoints.load_model(path)
    saved = torch.load(path, weights_only=True)["model"]
    state = model.state_dict()
    assert all(torch.equal(saved[key], state[key]) for key in saved)
    assert not model.training
    assert (entries["classes"], entries["image_size"]) == (["cat", "dog"], 32)


def test_the_stem_is_read_from_the_weights(tmp_path):
    path = checkpoint(tmp_path, "resnet18", ["cat", "dog"], image_size=224)
    model, entries = checkpoints.load_model(path)
    assert (model.stem, entries["image_size"]) == ("imagenet", 224)


def test_a_checkpoint_is_drawn_without_any_other_flag(script, tmp_path, monkeypatch):
    from common.data.shapes import CLASSES

    path = checkpoint(tmp_path, "cifar_plain-8", CLASSES)
    small = "--data shapes --image-size 8 --resolution 3 --landscape-images 8 --seeds 2 --depth 8"
    arguments = ["--checkpoint", str(path), *small.split(), "--out-dir", str(tmp_path)]
    assert script.main(arguments)["settings"]["target"] == "None"


def test_kinds_without_a_seed_in_common_are_not_compared(script, report):
    nets = {"plain": {0: None}, "residual": {1: None}}
    assert not script.has_pairs(nets)
    assert not script.has_pairs({"cifar_plain-8": {0: None}})
    assert script.has_pairs(five_of("plain", "residual"))
    script.answer(report, landscapes("plain", "residual"), nets)
    assert "nothing to compare" in "\n".join(report.lines)


def test_checkpoints_of_one_name_stay_apart_and_need_the_same_images(tmp_path):
    path = checkpoint(tmp_path, "cifar_plain-8", ["cat", "dog"])
    nets, _ = checkpoints.load_models([path] * 4)
    names = ["", ", cifar_plain-8", ", cifar_plain-8 3", ", cifar_plain-8 4"]
    assert list(nets) == [f"cifar_plain-8{name}" for name in names]
    other = tmp_path / "other.pt"
    numbers = {"mean": [1.0, 2.0, 3.0], "std": [1.0, 1.0, 1.0]}
    torch.save(torch.load(path, weights_only=True) | numbers, other)
    with pytest.raises(UserError, match="for other images"):
        checkpoints.load_models([path, other])


def test_the_target_is_in_proportion_to_the_loss_of_guessing(script, tmp_path):
    for folder in ("cat", "dog"):
        for i in range(12):
            path = tmp_path / folder / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (12, 12), (20 * i, 0, 0)).save(path)
    args = script.arguments(["--data-dir", str(tmp_path)])
    dataset = script.load_images(args, {})
    assert (args.target, args.images) == (0.3, len(dataset.train.labels))
    args = script.arguments(["--data", "shapes"])
    script.load_images(args, {})
    assert (args.target, args.images) == (1.0, 256)


def test_a_checkpoint_for_other_classes_is_refused(script, tmp_path):
    path = checkpoint(tmp_path, "cifar_plain-8", ["cat", "dog"])
    with pytest.raises(UserError, match="other classes"):
        script.main(["--quick", "--data", "shapes", "--checkpoint", str(path)])


def test_every_network_has_blocks_in_stages():
    numbers = {"cifar_plain": "-8", "cifar_resnet": "-8", "cifar_preact_resnet": "-8"}
    numbers |= {"cifar_wide_resnet": "-10-1", "cifar_resnext": "-11-2-4"}
    numbers |= {"cifar_densenet": "-10-4", "cifar_se_resnet": "-8", "cifar_skipinit": "-8"}
    numbers |= {"cifar_pool_resnet": "-8-8-8"}
    for name in models.NETWORKS:
        with torch.device("meta"):
            model = models.build(name + numbers.get(name, ""), 10)
        blocks = models.block_names(model)
        assert len(blocks) >= 3, name
        assert all("." in block for block in blocks), name
