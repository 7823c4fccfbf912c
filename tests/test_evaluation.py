"""What a trained network is worth: values computed by hand, and the commands that use it."""

import importlib
import json
import math
import shutil
from pathlib import Path

from common import UserError, data, plotting
from common.analysis import predictions
from tests import tables

import pytest
import torch
from matplotlib import pyplot
from PIL import Image

plotting.use_theme()


@pytest.fixture(scope="module")
def script():
    return importlib.import_module("06_practical_example")


@pytest.fixture(scope="module")
def trained(script, tmp_path_factory):
    """Red cats and blue dogs of 12x12 pixels, one folder with the images and a checkpoint."""
    root = tmp_path_factory.mktemp("trained")
    for split, count in (("train", 40), ("test", 6)):
        for name, colour in (("cat", (200, 30, 30)), ("dog", (30, 30, 200))):
            (root / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                shade = tuple(min(255, c + 3 * i) for c in colour)
                Image.new("RGB", (18, 12), shade).save(root / "photos" / split / name / f"{i}.png")
    flags = "--model cifar_resnet-8 --image-size 12 --epochs 4 --batch-size 16 --lr 0.05".split()
    flags += ["--ema", "0.5"]
    script.main([*flags, "--data-dir", f"{root}/photos", "--out-dir", f"{root}/out"])
    return root


def test_wilson_interval_by_hand():
    low, high = predictions.wilson(
        80, 100
    )  # statsmodels: proportion_confint(80, 100, .05, "wilson")
    assert (low, high) == pytest.approx((0.71117, 0.86663), abs=1e-4)
    assert predictions.wilson(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-4)
    assert predictions.wilson(10, 10) == pytest.approx((0.72247, 1.0), abs=1e-4)
    assert all(map(math.isnan, predictions.wilson(0, 0)))


def test_confusion_has_true_classes_in_rows():
    guesses, labels = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2])
    assert predictions.confusion(guesses, labels, 3).tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]


def test_calibration_error_by_hand():
    probabilities = torch.tensor([[0.95, 0.05], [0.92, 0.08], [0.4, 0.6], [0.0, 1.0]])
    found = predictions.calibration(probabilities, torch.tensor([0, 1, 1, 1]))
    means = [(0.6, 1.0, 1), (2.87 / 3, 2 / 3, 3)]
    assert [list(b) for b in found["bins"]] == [pytest.approx(list(b)) for b in means]
    assert found["ece"] == pytest.approx(0.25 * 0.4 + 0.75 * 0.29)


def test_a_network_that_tells_its_chances_is_calibrated():
    generator = torch.Generator().manual_seed(0)
    share = torch.rand(20_000, generator=generator)
    labels = (torch.rand(20_000, generator=generator) < share).long()
    probabilities = torch.stack([1 - share, share], 1)
    assert predictions.calibration(probabilities, labels)["ece"] < 0.01
    assert predictions.calibration(probabilities, 1 - labels)["ece"] > 0.3


def test_mistakes_are_sorted_by_confidence():
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.99, 0.01]])
    assert predictions.surest_mistakes(probabilities, torch.tensor([1, 0, 1, 1]), 2) == [3, 0]


def title(figure):
    text = " ".join(figure.texts[0].get_text().split())
    pyplot.close(figure)
    return text


def test_titles_follow_the_numbers():
    counts = torch.tensor([[5, 0], [3, 2]])
    found = title(plotting.predictions.confusion(counts, ["cat", "dog"], ""))
    assert found.startswith("3 of 5 images of class dog are taken for cat, the most common of 3")
    found = title(plotting.predictions.confusion(torch.eye(2).long(), ["cat", "dog"], ""))
    assert found == "No test image is taken for another class"
    sure = {"ece": 0.2, "bins": [(0.9, 0.7, 10)]}
    assert "20.0 points higher" in title(plotting.predictions.reliability(sure, 10, ""))
    shy = {"ece": 0.1, "bins": [(0.6, 0.7, 10)]}
    assert "10.0 points lower" in title(plotting.predictions.reliability(shy, 10, ""))
    split, classes = data.Split(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])), ["cat", "dog"]
    sure = torch.tensor([[0.9, 0.1], [0.3, 0.7]])
    assert title(plotting.predictions.mistakes(split, sure, classes, "")) == "No mistakes"
    figure = plotting.predictions.mistakes(split, sure.flip(1), classes, "")
    captions = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert captions == ["cat, named dog\nwith 90 %", "dog, named cat\nwith 70 %"]
    assert title(figure) == "The 2 most confident of 2 mistakes"


@pytest.mark.filterwarnings("error")
def test_dollars_stay_and_powers_of_ten_are_letters():
    plotting.use_theme()
    figure, ax = plotting.style.new_figure("$5$ and $10$ \u732b", "$\\frac$")
    plotting.style.logarithmic(ax, "x", "y")
    ax.plot([1, 2, 3], [1e-8, 1e-6, 1e-4])  # so few that matplotlib leaves out no power
    figure.canvas.draw()
    assert not any(text.get_parse_math() for text in figure.findobj(pyplot.Text))
    for axis, labels in ((ax.xaxis, {"10⁰", "2\N{MULTIPLICATION SIGN}10⁰"}), (ax.yaxis, {"10⁻⁸"})):
        drawn = [*axis.get_ticklabels(), *axis.get_ticklabels(minor=True)]
        texts = {label.get_text() for label in drawn}
        assert labels <= texts
        assert not any(set("$\\{^") & set(text) for text in texts)


def test_accuracy_by_class_and_overall():
    counts = torch.tensor([[3, 1, 0], [2, 2, 0], [0, 0, 0]])
    found = predictions.accuracies(counts, ["cat", "dog", "cow"])
    assert [(row["images"], row["accuracy"]) for row in found.values()] == [
        (4, 0.75), (4, 0.5), (0, pytest.approx(math.nan, nan_ok=True))]  # fmt: skip
    assert list(found) == ["cat", "dog", "cow"]
    overall = {"images": 8, "accuracy": 0.625, "interval": predictions.wilson(5, 8)}
    assert predictions.accuracy(5, 8) == overall


def test_prediction_sees_a_picture_as_the_test_did(script, trained, capsys):
    folder = trained / "photos" / "test"
    paths = [folder / "dog" / "3.png", folder / "cat" / "0.png"]
    checkpoint = str(trained / "out/06_practical_example/last.pt")
    capsys.readouterr()
    found = script.main(["--checkpoint", checkpoint, "--predict", *map(str, paths)])
    lines = capsys.readouterr().out.splitlines()
    path = trained / "out/06_practical_example/last.pt"
    model, entries = script.training.checkpoints.load_model(path)
    dataset = data.load("auto", trained / "photos", size=12)
    assert entries["mean"] == dataset.statistics[0].flatten().tolist()
    for path, line in zip(paths, lines, strict=True):
        image = torch.tensor(data.read_image(path, 12)).permute(2, 0, 1)
        index = [torch.equal(image, other) for other in dataset.test.images].index(True)
        shares = script.training.predict(model, dataset, "test")[index].softmax(0)
        best = dict(found["measured"][str(path)])
        for name, share in zip(dataset.classes, shares.tolist(), strict=True):
            assert best[name] == pytest.approx(share, abs=0.01)
        name, share = max(best.items(), key=lambda pair: pair[1])
        assert line.startswith(f"{path}: {name} {100 * share:.1f} %, ")


def test_prediction_takes_folders_and_leaves_out_what_is_damaged(script, trained, tmp_path, capsys):
    checkpoint = str(trained / "out/06_practical_example/last.pt")
    base = ["--checkpoint", checkpoint, "--predict"]
    folder = trained / "photos" / "test"
    one = script.main([*base, str(folder / "dog" / "3.png")])["measured"]
    shutil.copytree(folder / "dog", tmp_path / "all" / "dogs")
    (tmp_path / "all" / "notes.txt").touch()
    found = script.main([*base, str(tmp_path / "all")])["measured"]
    assert [Path(path).name for path in found] == [f"{i}.png" for i in range(6)]
    (three,) = one.values()
    assert found[str(tmp_path / "all/dogs/3.png")] == [
        (name, pytest.approx(share, abs=1e-3)) for name, share in three
    ]
    (tmp_path / "all" / "bad.png").touch()
    with pytest.raises(UserError, match=r"bad\.png is not a readable image"):
        script.main([*base, str(tmp_path / "all")])
    capsys.readouterr()
    assert script.main([*base, str(tmp_path / "all"), "--skip-unreadable"])["measured"] == found
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 unreadable files left out: ")
    with pytest.raises(UserError, match=r"bad\.png is not a readable image"):
        script.main([*base, str(tmp_path / "all/bad.png"), "--skip-unreadable"])


AWKWARD = ["all", "$5 to $10", "\u732b \\alpha ^_{", "%s {x} <b>"]


@pytest.mark.filterwarnings("error")
def test_names_of_users_are_neither_markup_nor_keys(script, tmp_path):
    root = tmp_path / "$1 {and} $2 \u732b"
    for i, name in enumerate(AWKWARD):
        (root / name).mkdir(parents=True)
        for j in range(10):
            Image.new("RGB", (8, 8), (60 * i, 5 * j, 0)).save(root / name / f"{j}.png")
    flags = "--model cifar_resnet-8 --image-size 8 --epochs 1 --batch-size 14 --balance".split()
    flags += ["--data-dir", str(root), "--out-dir", str(tmp_path / "out")]
    measured = script.main(flags)["measured"]
    assert sorted(measured["per_class"]) == sorted(AWKWARD)
    assert [measured["per_class"][name]["images"] for name in AWKWARD] == [2] * 4
    assert measured["test_images"] == 8
    hits = sum(row["accuracy"] * row["images"] for row in measured["per_class"].values())
    assert measured["test_accuracy"] == hits / 8
    assert measured["test_interval"] == list(predictions.wilson(round(hits), 8))
    hits = round(8 * measured["mirror_accuracy"])
    assert measured["mirror_interval"] == list(predictions.wilson(hits, 8))
    text = (tmp_path / "out/06_practical_example/report.txt").read_text("utf-8")
    assert text.count("(95 % interval ") == 2  # of the test accuracy and of the mirror images'
    table = text.split("Wilson)\n")[1].split("test accuracy")[0]
    assert [line.split("  ")[0] for line in table.splitlines()] == sorted(AWKWARD)


def test_evaluation_repeats_the_test(script, trained):
    arguments = ["--checkpoint", str(trained / "out/06_practical_example/last.pt"), "--evaluate"]
    arguments += ["--data-dir", str(trained / "photos"), "--out-dir", str(trained / "again")]
    again = script.main(arguments)["measured"]
    results = (trained / "out/06_practical_example/results.json").read_text(encoding="utf-8")
    before = json.loads(results)["measured"]
    assert again["test_images"] == 12
    assert (again["confusion"], again["per_class"]) == (before["confusion"], before["per_class"])
    arguments[4] = str(trained / "photos/test")
    assert script.main(arguments)["measured"]["confusion"] == before["confusion"]


def test_what_cannot_be_evaluated_is_refused(script, trained, tmp_path):
    checkpoint = trained / "out/06_practical_example/last.pt"
    (tmp_path / "cow").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "cow" / "1.png")
    base = ["--checkpoint", str(checkpoint), "--out-dir", str(tmp_path / "out")]
    with pytest.raises(UserError, match="no class cow"):
        script.main([*base, "--evaluate", "--data-dir", str(tmp_path)])
    with pytest.raises(UserError, match="nowhere does not exist"):
        script.main([*base, "--evaluate", "--data-dir", str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="CLASS"):
        script.main([*base, "--evaluate", "--data-dir", str(tmp_path / "cow")])
    entries = torch.load(checkpoint, weights_only=True)
    torch.save({k: entries[k] for k in script.training.checkpoints.KEYS}, tmp_path / "old.pt")
    picture = str(tmp_path / "cow" / "1.png")
    with pytest.raises(UserError, match="train again"):
        script.main(["--checkpoint", str(tmp_path / "old.pt"), "--predict", picture])
    assert not (tmp_path / "out").exists()


def test_a_bare_command_on_cifar10_takes_the_recipe_for_five_minutes(script):
    def model_of(*flags):
        argv = ["--data", "cifar10", *flags]
        return script.five_minutes(script.arguments(argv), argv).model

    assert model_of() == model_of("--seed", "3") == script.FIVE_MINUTES["model"]
    given = (["--lr", "0.05"], ["--lr=0.2"], ["--epochs", "5"])  # the value of either
    for flags in (["--epochs", "100"], ["--model", "cifar_resnet-20"], ["--quick"], *given):
        assert model_of(*flags) == "cifar_resnet-20"
    recipe = vars(script.arguments(tables.FIVE_MINUTES.split()))  # the row of the README's table
    assert {name: recipe[name] for name in script.FIVE_MINUTES} == script.FIVE_MINUTES


def test_a_resume_takes_the_images_that_auto_had_found(script, tmp_path, monkeypatch):
    def offline(*_):
        raise UserError("no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script.data.sources, "_download", offline)
    flags = "--quick --model cifar_resnet-8 --image-size 8 --out-dir out".split()
    assert script.main(flags)["data"] == "Shapes-10 (built in)"
    last = Path("out/06_practical_example/last.pt")
    resume = ["--resume", str(last)]
    args, _ = script.resumed_arguments(resume, script.arguments(resume))
    assert args.data == "shapes"
    script.main([*flags, "--seed", "1"])  # a new training keeps the networks of the one before
    assert len(list(last.parent.glob("*.pt"))) == 4
