"""Fine-tuning: what is frozen, what is new, and that every later command knows the network."""

import importlib
import json
from pathlib import Path

from common import UserError, data, models, training
from common.analysis import Seeds, verdict
from common.training import checkpoints
from tests import finetune, tables
from tests.test_resume import LAST, alike, photos  # noqa: F401

import pytest
import torch
import torchvision

SMALL = "--model cifar_resnet-8 --image-size 8 --epochs 3 --frozen 2 --batch-size 8 --device cpu"
SMALL += " --save-every 1"


@pytest.fixture(scope="module")
def script():
    return importlib.import_module("06_practical_example")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The state of a network of ten classes that has seen a few images."""
    torch.manual_seed(7)
    net = models.cifar_resnet(8).train()
    net(torch.randn(64, 3, 8, 8))  # batch norm's statistics are no longer the initial ones
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(net.state_dict(), path)
    return path


def trainer_of(path, dataset, **options):
    torch.manual_seed(0)
    net = checkpoints.load_torchvision("cifar_resnet-8", path, 8)
    net = models.new_classifier(net, len(dataset.classes))
    settings = {"epochs": 3, "frozen": 2, "batch_size": 45, "seed": 3} | options
    return training.Trainer(net, dataset, **settings)


def body(state):
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


@pytest.fixture(scope="module")
def dataset():
    return data.load("shapes", size=8, limit=200)


def test_the_body_is_frozen_to_the_bit_until_all_learns(weights, dataset):
    trainer = trainer_of(weights, dataset, weight_decay=0.1, muon=0.01)
    loaded = torch.load(weights, weights_only=True)
    first = {name: value.clone() for name, value in trainer.model.fc.state_dict().items()}
    for row in trainer.run():
        now = trainer.model.state_dict()
        assert alike(body(now), body(loaded)) == (row["epoch"] <= 2)  # batch norm included
        assert not torch.equal(now["fc.weight"], first["weight"])
    moved = [not torch.equal(now[name], loaded[name]) for name in body(loaded)]
    assert all(moved)


def test_rates_of_fine_tuning(weights, dataset):
    """The classifier's, and for all 0.3 of it after a new warm-up."""
    trainer = trainer_of(weights, dataset, epochs=10, lr=0.1, warmup=0.2)  # 4 steps an epoch
    assert trainer.steps == 40
    rates = []
    rate = trainer.optimizer.param_groups[0]
    list(trainer.run(on_step=lambda step, batch: rates.append(rate["lr"])))
    assert rates[:8] == [0.1] * 8
    assert rates[8:16] == pytest.approx([0.03 * i / 8 for i in range(1, 9)])
    assert rates[16] == pytest.approx(0.03)
    assert 0 < rates[39] < 0.001


def test_a_classifier_alone_can_be_all_that_learns(weights, dataset):
    trainer = trainer_of(weights, dataset, epochs=1, frozen=5)
    list(trainer.run())
    assert alike(body(trainer.model.state_dict()), body(torch.load(weights, weights_only=True)))


@pytest.mark.parametrize(
    ("name", "classifier"), [("resnet18", "fc"), ("densenet121", "classifier")]
)
def test_torchvisions_weights_get_a_new_classifier(name, classifier, tmp_path):
    theirs = getattr(torchvision.models, name)(num_classes=20).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = checkpoints.load_torchvision(name, tmp_path / "weights.pth")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-4)
    models.new_classifier(ours, 3)
    assert getattr(ours, classifier).out_features == 3
    assert ours(x).shape == (1, 3)
    models.freeze_body(ours, True)
    learning = [key for key, value in ours.named_parameters() if value.requires_grad]
    assert learning == [f"{classifier}.weight", f"{classifier}.bias"]
    assert not any(m.training for m in ours.modules() if isinstance(m, torch.nn.BatchNorm2d))
    models.freeze_body(ours, False)
    assert all(p.requires_grad for p in ours.parameters())


def test_defaults_of_fine_tuning_give_way_to_flags(script):
    plain, tuned = script.arguments([]), script.arguments(["--weights", "w.pth"])
    assert (plain.image_size, plain.epochs, plain.frozen) == (32, 5, 0)
    for name, value in script.FINE_TUNING.items():
        assert getattr(tuned, name) == value
    mine = script.arguments("--weights w.pth --image-size 64 --frozen 0 --quick".split())
    assert (mine.image_size, mine.frozen, mine.epochs) == (64, 0, 1)
    assert mine.lr == script.FINE_TUNING["lr"]


class PowerCut(Exception):
    """The end of a run that nobody has asked for."""


@pytest.fixture(scope="module")
def tuned(script, photos, weights, tmp_path_factory):  # noqa: F811
    """The folder of a fine-tuning that was not interrupted."""
    out = tmp_path_factory.mktemp("tuned")
    script.main(command(photos, weights, out))
    return out


def command(folder, path, out):
    return [
        *SMALL.split(),
        "--data-dir",
        f"{folder}",
        "--weights",
        f"{path}",
        "--out-dir",
        f"{out}",
    ]


@pytest.mark.parametrize("saved", [5, 19])
def test_a_fine_tuning_continues_to_the_bit_without_its_weights_file(
    saved,
    script,
    photos,  # noqa: F811
    weights,
    tuned,
    tmp_path,
    monkeypatch,
):
    """Cut off after so many of 21 steps: while the body is frozen, and later."""
    save, calls = checkpoints.save_checkpoint, []

    def save_and_stop(path, entries):
        save(path, entries)
        calls.append(path)
        if entries["training"]["schedule"]["last_epoch"] == saved:
            raise PowerCut

    copy = tmp_path / "weights.pth"
    copy.write_bytes(weights.read_bytes())
    monkeypatch.setattr(checkpoints, "save_checkpoint", save_and_stop)
    with pytest.raises(PowerCut):
        script.main(command(photos, copy, tmp_path))
    copy.unlink()
    monkeypatch.setattr(checkpoints, "save_checkpoint", save)
    script.main(["--resume", str(tmp_path / LAST), "--data-dir", str(photos)])
    first, second = (torch.load(f / LAST, weights_only=True) for f in (tuned, tmp_path))
    first["settings"]["weights"] = second["settings"]["weights"] = ""
    assert alike(first, second)
    with pytest.raises(UserError, match=r"with --weights .*, not other\.pth"):
        script.main(["--resume", str(tmp_path / LAST), "--weights", "other.pth"])


def test_later_commands_know_size_and_normalisation(script, photos, tuned, capsys):  # noqa: F811
    _, entries = checkpoints.load_model(tuned / LAST)
    assert entries["mean"] != pytest.approx(data.IMAGENET[0])  # up to 64 pixels: of the images
    again = ["--checkpoint", f"{tuned / LAST}", "--data-dir", f"{photos}", "--out-dir", f"{tuned}"]
    measured = script.main([*again, "--evaluate"])["measured"]
    results = (tuned / "06_practical_example" / "results.json").read_text(encoding="utf-8")
    assert measured["confusion"] == json.loads(results)["measured"]["confusion"]
    pictures = sorted(map(str, photos.glob("test/*/*.png")))
    capsys.readouterr()
    found = script.main([*again[:2], "--predict", *pictures])["measured"]
    assert capsys.readouterr().out.startswith(f"{pictures[0]}: ")
    right = [found[path][0][0] == Path(path).parent.name for path in pictures]
    assert sum(right) / len(right) == measured["test_accuracy"]
    pictured = importlib.import_module("05_visualization")
    dataset = pictured.load_images(pictured.arguments(again), entries)
    assert dataset.statistics[0].flatten().tolist() == entries["mean"]
    assert dataset.train.images.shape[2:] == (8, 8)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--weights nowhere.pth", "--weights nowhere.pth does not exist"),
        ("--weights {} --model cifar_resnet-14", "does not fit cifar_resnet-14"),
        ("--weights {} --model resnet18", "does not fit resnet18"),
        ("--weights {} --model nonsense", "--model nonsense: choose from"),
    ],
)
def test_weights_that_do_not_fit_are_one_line_before_anything_is_read(
    flags, message, script, weights, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        script.main([*flags.format(weights).split(), "--data-dir", "nowhere"])
    assert len(str(error.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_other_shapes_make_a_folder(tmp_path):
    finetune.write_folder(tmp_path, seed=0)
    dataset = data.load("auto", tmp_path)
    assert dataset.classes == sorted(finetune.OTHERS)
    counts = [len(getattr(dataset, split).labels) for split in data.SPLITS]
    assert counts == [100, 11, 600]
    assert len({image.numpy().tobytes() for image in dataset.test.images}) == 600


def test_fine_tuning_was_better_for_every_seed():
    results = json.loads(finetune.RECORD.read_text(encoding="utf-8"))
    tuned, scratch, _ = (Seeds(results[key]) for key in tables.START)
    assert verdict(tuned, ">", scratch) == "holds"
    assert len(tuned) == 5
    assert all(ours > theirs for ours, theirs in zip(tuned, scratch, strict=True))
    assert "better for 5 of 5 seeds" in tables.finetune(finetune.RECORD.parent)
