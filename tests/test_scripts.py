"""Each lesson as a function, and as a person runs it: piped, in ASCII, from elsewhere."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

from common import lesson, models, plotting  # plotting: builds matplotlib's font cache, once

import pytest
import torch
import torchvision
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
plotting.use_theme()
SCRIPTS = sorted(path.name for path in ROOT.glob("0*.py"))
FIGURES = {
    "01": ["block", "gradient_flow"],
    "02": ["stems"],
    "03": ["gradients", "lesions", "training_curves"],
    "04": ["deep_training", "transformer", "variants"],
    "05": ["architecture", "feature_evolution", "gradient_flow", "loss_landscape"],
    "06": ["calibration", "confusion", "curves", "mistakes"],
}


def run(script, *arguments, cwd):
    """The finished process; no network is needed because Shapes-10 or a folder is named."""
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_as_a_person_runs_it(script, tmp_path):
    place = tmp_path / "a plåce with spaces"
    place.mkdir()
    done = run(script, "--quick", "--data", "shapes", "--out-dir", "résultats d'été", cwd=place)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    folder = place / "résultats d'été" / script.removesuffix(".py")
    figures = [f"{name}.png" for name in FIGURES[script[:2]]]
    assert sorted(p.name for p in folder.glob("*.png")) == figures
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["failed_checks"] == []
    assert results["data"] == "Shapes-10 (built in)"
    report = (folder / "report.txt").read_bytes().replace("±".encode(), b"+-")
    report = report.decode("ascii", "replace")
    assert report.replace("\ufffd", "?") == done.stdout
    assert [p.name for p in place.iterdir()] == ["résultats d'été"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_teaches(script, capsys):
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(script.removesuffix(".py")).arguments(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for words in ("You will learn", "Takes about", "Writes", "arXiv", "--quick", "(default: 0)"):
        assert words in printed


def test_lesson_1_returns_what_it_measured(tmp_path):
    script = importlib.import_module("01_basic_residual_block")
    arguments = ["--data", "shapes", "--out-dir", str(tmp_path), "--blocks", "12", "--seeds", "2"]
    results = script.main(arguments)
    factors = results["measured"]["factor_per_layer"]
    assert len(factors) == 7
    assert all(0.38 < factor < 0.45 for factor in factors["plain, no BN, default init"])
    assert all(1.1 < factor < 1.25 for factor in factors["plain, BN"])
    assert all(-1.1 < power < -0.6 for power in results["measured"]["exponent"]["residual, BN"])
    gradients = results["measured"]["gradients"]["SkipInit, no BN, Kaiming init"]
    assert [len(run["scalars"]) for run in gradients] == [12, 12]
    assert [f["verdict"] for f in results["findings"]] == ["unclear: 2 of 2 seeds"] * 8
    assert all(f"{word}" in json.dumps(results["findings"]) for word in ("0.408", "1.211", "1.467"))


def test_towers_have_as_many_classes_as_the_images():
    script = importlib.import_module("01_basic_residual_block")
    for kind, condition in script.TOWERS:
        assert script.tower(1, 12, kind, condition, 0)(torch.randn(2, 3, 8, 8)).shape == (2, 12)


def test_lesson_1_can_contradict_its_claims(tmp_path):
    """Fed the opposite gradients, every finding says so."""
    script = importlib.import_module("01_basic_residual_block")
    args = script.arguments(["--out-dir", str(tmp_path)])
    report = script.lesson.Report("01_basic_residual_block.py", args, "made up")
    exploding = [[growth**i for i in range(9, -1, -1)] for growth in (2.0, 2.001, 2.1, 2.2, 2.3)]
    vanishing = [run[::-1] for run in exploding]
    power = [[block**p for block in range(1, 11)] for p in (1.0, 1.1, 1.2, 1.3, 1.4)]
    outputs = {("plain", script.DEFAULT_INIT): exploding, ("residual", script.KAIMING): vanishing}
    outputs |= {("plain", script.BN): power, ("residual", script.BN): exploding}
    weights = {("residual", script.KAIMING): exploding, ("plain", script.BN): vanishing}
    weights["plain", script.DEFAULT_INIT] = exploding
    factor = script.growth.factor_per_layer
    factors = {key: script.Seeds.of(runs, factor) for key, runs in outputs.items()}
    script.claim_course(report, factors, outputs)
    script.claim_laws(report, outputs)
    script.claim_weights(report, outputs, weights)
    assert [f["verdict"] for f in report.findings] == ["does not hold"] * 7
    runs = [script.gradients.BlockGradients([2.0, 1.0, 1.5], [0.0, 0.1, 0.0], [1.0, -4.0, 2.0])]
    script.say_skipinit(report, runs)
    assert len(report.failed) == 2
    assert "seed by seed:\n4.\nAlong the blocks" in "\n".join(report.lines)


def test_lesson_2_loads_weights_and_classifies(tmp_path):
    script = importlib.import_module("02_resnet_implementation")
    reference = torchvision.models.resnet18()
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    Image.effect_noise((300, 200), 80).convert("RGB").save(tmp_path / "cat.png")
    base = ["--data", "shapes", "--out-dir", str(tmp_path / "o")]
    script.main([*base, "--weights", f"{tmp_path}/weights.pth", "--image", f"{tmp_path}/cat.png"])
    folder = tmp_path / "o" / "02_resnet_implementation_weights"
    text = (folder / "report.txt").read_text(encoding="utf-8")
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    with torch.no_grad():
        image = weights.transforms()(Image.open(tmp_path / "cat.png"))[None]
        best = reference.eval()(image).argmax().item()
    rows = text.split("probability (%)\n")[1].splitlines()[:5]
    assert len(rows) == 5
    assert rows[0].startswith(weights.meta["categories"][best])


def test_lesson_2_finds_a_network_that_is_not_torchvisions(tmp_path, monkeypatch):
    """The paper's stride: the shapes and the parameters are those of torchvision."""
    script = importlib.import_module("02_resnet_implementation")
    args = script.arguments(["--out-dir", str(tmp_path)])
    report = script.lesson.Report("02_resnet_implementation.py", args, "made up")
    paper = models.ResNet(script.BottleneckV1, [3, 4, 6, 3])
    monkeypatch.setattr(models, "resnet50", lambda: paper)
    (row,) = script.compare_with_torchvision(report, ["resnet50"])
    assert report.failed == ["resnet50 equals torchvision's"]
    assert row["extra parameters"] == 0
    assert float(row["logits differ"]) > 0.01


def test_lesson_6_checkpoints_hold_the_trained_network(tmp_path):
    script = importlib.import_module("06_practical_example")
    arguments = ["--data", "shapes", "--out-dir", str(tmp_path), "--quick"]
    results = script.main([*arguments, "--model", "cifar_resnet-8"])
    folder = tmp_path / "06_practical_example"
    entries = torch.load(folder / "last.pt", weights_only=True)
    model = script.models.build(entries["model_name"], len(entries["classes"]))
    model.load_state_dict(entries["model"], strict=True)
    dataset = script.data.load("shapes", limit=1_000)
    _, accuracy = script.training.evaluate(model, dataset, "test")
    assert accuracy == pytest.approx(results["measured"]["test_accuracy"])
    best = torch.load(folder / "best.pt", weights_only=True)
    epochs = results["measured"]["epochs"]
    assert best["val_accuracy"] == max(row["val_accuracy"] for row in epochs)
    assert len(epochs) == 1


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder of broken inputs."""
    root = tmp_path_factory.mktemp("inputs")
    for split, count in (("train", 10), ("test", 2)):
        for name in ("cat", "dog"):
            folder = root / "corrupt" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8)).save(folder / f"{i}.png")
    (root / "corrupt/train/cat/3.png").write_bytes(b"no image at all")
    (root / "gap/train/cat").mkdir(parents=True)
    (root / "gap/test/cat").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "file").write_text("text")
    Image.new("RGB", (8, 8)).save(root / "ok.png")
    torch.save(torchvision.models.resnet34().state_dict(), root / "resnet34.pth")
    torch.save({"epoch": 3}, root / "other.pth")
    torch.save(torchvision.models.resnet18(num_classes=4).state_dict(), root / "resnet18.pth")
    net = models.cifar_plain(8, num_classes=2).state_dict()
    entries = {"model": net, "model_name": "cifar_plain-8", "classes": ["cat", "dog"]}
    entries |= {"epoch": 1, "val_accuracy": 0.5}
    torch.save(entries, root / "cats.pt")
    torch.save(entries | {"classes": ["disk", "ring"]}, root / "shapes.pt")
    torch.save(entries | {"model_name": "resnet18"}, root / "strange.pt")
    diverged = {key: value * float("nan") for key, value in net.items()}
    torch.save(entries | {"model": diverged}, root / "diverged.pt")
    return root


MISTAKES = [
    ("01", "--data-dir {}/nowhere", "nowhere"),
    ("06", "--data-dir {}/nowhere", "nowhere does not exist"),
    ("06", "--data-dir {}/empty", "expected train/CLASS/IMAGE"),
    ("06", "--data-dir {}/gap", "cat"),
    ("06", "--data-dir {}/corrupt", "3.png is not a readable image"),
    ("06", "--model resnet19", "resnet18"),
    ("06", "--model cifar_resnet-21", "6n + 2"),
    ("06", "--model cifar_resnet", "cifar_resnet-20"),
    ("06", "--epochs 0", "--epochs"),
    ("06", "--data shapes --epochs 2 --sizes 8 16 32", "every size needs an epoch"),
    ("06", "--data shapes --quick --model densenet121 --sizes 4", "cannot take images of 4 pixels"),
    ("06", "--predict {}/ok.png", "--checkpoint"),
    ("06", "--checkpoint {}/cats.pt", "--predict"),
    ("06", "--checkpoint {}/cats.pt --predict {}/ok.png", "train again"),
    ("06", "--checkpoint {}/file --predict {}/ok.png", "no checkpoint"),
    ("06", "--resume {}/nowhere.pt", "--resume"),
    ("06", "--resume {}/cats.pt", "no training to continue"),
    ("06", "--data shapes --quick --lr 1e5", "smaller --lr"),
    ("06", "--data mnist", "--data"),
    ("06", "--data shapes --out-dir {}/file/below", "--out-dir"),
    ("01", "--data shapes --out-dir {}/file", "--out-dir"),
    ("02", "--data shapes --out-dir {}/file/below", "--out-dir"),
    ("02", "--image {}/ok.png", "--weights"),
    ("02", "--weights {}/resnet18.pth --image {}/file", "file is not a readable image"),
    ("02", "--weights {}/resnet34.pth", "no place in it; it fits --model resnet34"),
    ("02", "--model densenet121 --weights {}/resnet18.pth", "it has no features.conv0.weight"),
    ("02", "--weights {}/other.pth", "holds no weights"),
    ("02", "--weights {}/cats.pt", "06_practical_example.py, which reads it as --checkpoint"),
    ("02", "--weights {}/file", "no checkpoint"),
    ("02", "--weights {}/nowhere.pth", "nowhere.pth does not exist"),
    ("02", "--weights {}/resnet18.pth --image {}/nowhere.png", "nowhere.png does not exist"),
    ("03", "--data shapes --data-dir {}/corrupt", "contradict"),
    ("02", "--model resnet19 --weights {}/resnet18.pth", "resnet34"),
    ("01", "--device mps", "--device"),
    ("03", "--data shapes --depths 20 21", "6n + 2"),
    ("03", "--data shapes --depths 20 20", "two different depths"),
    ("03", "--data shapes --rates 0.1 0", "above 0"),
    ("03", "--data shapes --quick --lr 1e5", "smaller --lr"),
    ("03", "--data shapes --quick --out-dir {}/file", "--out-dir"),
    ("03", "--data-dir {}/gap", "cat"),
    ("03", "--data shapes --epochs 1 --images 32 --batch-size 64", "a single update"),
    ("04", "--data shapes --layers 1000", "9n + 2"),
    ("04", "--data shapes --image-size 3", "4 or more"),
    ("04", "--data shapes --bare-layers 100", "6n + 2"),
    ("04", "--data shapes --transformer-layers 3", "4 or more"),
    ("04", "--data shapes --quick --lr 1e5", "smaller --lr"),
    ("05", "--checkpoint {}/nowhere.pt", "nowhere.pt does not exist"),
    ("05", "--checkpoint {}/file", "no checkpoint of plain tensors"),
    ("05", "--checkpoint {}/other.pth", "not written by 06"),
    ("05", "--checkpoint {}/resnet34.pth", "02_resnet_implementation.py --weights reads"),
    ("05", "--checkpoint {}/diverged.pt", "conv1.weight is not finite"),
    ("06", "--checkpoint {}/diverged.pt --predict {}/ok.png", "conv1.weight is not finite"),
    ("06", "--resume {}/resnet34.pth", "02_resnet_implementation.py --weights reads"),
    ("05", "--checkpoint {}/strange.pt", "do not fit resnet18"),
    ("05", "--data shapes --checkpoint {}/cats.pt", "other classes"),
    ("05", "--checkpoint {}/cats.pt {}/shapes.pt", "shapes.pt is for other"),
    ("05", "--data shapes --image {}/nowhere.png", "nowhere.png does not exist"),
    ("05", "--data shapes --image {}/file", "file is not a readable image"),
    ("05", "--data shapes --images 1", "--images"),
    ("05", "--data shapes --epochs 1 --images 32 --depth 8 --seeds 2 --target 1e-9", "reached"),
    ("05", "--data shapes --target 2.4", "guessing has a loss of 2.30"),
    ("05", "--resolution 4", "--resolution"),
    ("05", "--radius 0", "--radius"),
    ("05", "--diagrams NoBlock", "BasicBlock"),
    ("04", "--seeds 1", "from 2 to"),
    ("05", "--radius 0", "above 0"),
    ("06", "--lr -1", "from 0 to"),
    ("06", "--weight-decay x", "from 0 to"),
    ("02", "--model resnet50", "--weights"),
    ("05", "--data shapes --depth 21", "6n + 2"),
    ("05", "--data shapes --quick --lr 1e5", "smaller --lr"),
    ("05", "--data shapes --quick --out-dir {}/file", "--out-dir"),
    ("05", "--data-dir {}/empty", "expected train/CLASS/IMAGE"),
]


@pytest.mark.parametrize(("script", "arguments", "message"), MISTAKES)
def test_mistakes_are_one_line_status_2_and_leave_nothing(
    script, arguments, message, inputs, tmp_path, monkeypatch, capsys
):
    name = next(s for s in SCRIPTS if s.startswith(script))
    before = sorted(inputs.rglob("*"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", [name, *(a.format(inputs) for a in arguments.split())])
    with pytest.raises(SystemExit) as stop:
        lesson.run(importlib.import_module(name.removesuffix(".py")).main)
    errors = capsys.readouterr().err
    assert stop.value.code == 2
    assert len(errors.splitlines()) == 1, errors
    assert message in errors
    assert sorted(inputs.rglob("*")) == before
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_mistake_as_a_person_sees_it(inputs, tmp_path):
    done = run("06_practical_example.py", "--data-dir", inputs / "corrupt", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    path = inputs / "corrupt" / "train" / "cat" / "3.png"
    error = f"06_practical_example.py: {path} is not a readable image (lesson 6 leaves out damaged "
    assert done.stderr == f"{error}files with --skip-unreadable)\n"
    assert list(tmp_path.iterdir()) == []


def test_small_images_get_the_cifar_stem():
    stems = [models.build("resnet18", 3, size).stem for size in (32, 64, 224)]
    assert stems == ["cifar", "cifar", "imagenet"]
    model = models.build("cifar_plain-20", 3)
    assert model.fc.out_features == 3
