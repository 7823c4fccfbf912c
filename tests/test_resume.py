"""Lesson 6 put down and taken up again: by kill -9, by signals, with bad files, on a full disk."""

import importlib
import os
import pickle
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from common import UserError, data, lesson, models, plotting, training
from common.training import checkpoints

import pytest
import torch
from PIL import Image

resource = pytest.importorskip("resource")  # Windows has none
plotting.use_theme()  # builds matplotlib's font cache, once
ROOT = Path(__file__).resolve().parent.parent
SCRIPT = "06_practical_example"
SMALL = "--model cifar_resnet-8 --image-size 8 --sizes 6 8 --epochs 3 --batch-size 8 --lr 0.05"
SMALL += " --save-every 1 --balance"
LAST = Path(SCRIPT) / "last.pt"
CLOCK = ("seconds", "images_per_s", "sources")  # and how often it was saved


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Noise of two colours, 60 images to train."""
    root, chance = tmp_path_factory.mktemp("photos"), random.Random(0)
    for split, count in (("train", 30), ("test", 4)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                noise = Image.frombytes("RGB", (8, 8), chance.randbytes(192))
                tint = Image.new("RGB", (8, 8), "red" if name == "cat" else "blue")
                Image.blend(noise, tint, 0.2).save(root / split / name / f"{i}.png")
    return root


def command(photos, out, *more):
    flags = [*SMALL.split(), "--data-dir", str(photos), "--out-dir", str(out), "--device", "cpu"]
    return [*flags, *map(str, more)]


def start(arguments, **options):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, f"{SCRIPT}.py", *arguments], cwd=ROOT, **pipes, **options
    )


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """The folder of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    process = start(command(photos, out))
    assert process.communicate()[1] == "" and process.returncode == 0
    return out


def alike(one, other):
    """Equal to the bit, nested, but for the clock."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        timeless = [key for key in one if key not in CLOCK]
        return one.keys() == other.keys() and all(alike(one[k], other[k]) for k in timeless)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == other


def wait_for_change(path, process, before):
    while process.poll() is None and (not path.exists() or path.stat().st_mtime_ns == before):
        time.sleep(0.001)


def test_three_kills_change_nothing(photos, whole, tmp_path):
    chance, resumed, path = random.Random(1), [], tmp_path / LAST
    for _ in range(3):
        process = start(command(photos, tmp_path, *resumed))
        wait_for_change(path, process, path.stat().st_mtime_ns if path.exists() else 0)
        time.sleep(0.05 * chance.random())  # a step, checkpoint included, takes about as long
        process.kill()
        assert process.wait() == -signal.SIGKILL
        resumed = ["--resume", path]
    steps = torch.load(path, weights_only=True)["training"]["schedule"]["last_epoch"]
    assert 3 <= steps < 21
    process = start(command(photos, tmp_path, *resumed))
    output, errors = process.communicate()
    assert (errors, process.returncode) == ("", 0)
    for name in ("last.pt", "best.pt"):
        pair = (torch.load(f / SCRIPT / name, weights_only=True) for f in (whole, tmp_path))
        assert alike(*pair), name
    assert [line.split()[0] for line in output.split("seconds\n")[1].splitlines()[:3]] == [*"123"]
    assert not list((tmp_path / SCRIPT).glob(".*"))  # of the killed: the last run removed it


ENDS = [[signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP], [signal.SIGINT, signal.SIGTERM]]


@pytest.mark.parametrize("numbers", ENDS, ids=str)
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(numbers, photos, whole, tmp_path):
    process = start(command(photos, tmp_path, "--save-every", 2))
    wait_for_change(tmp_path / LAST, process, 0)
    for number in numbers:
        process.send_signal(number)
    errors = process.communicate()[1]
    assert process.returncode - 128 in numbers
    assert len(errors.splitlines()) == 1
    advice = shlex.split(errors.split(f"continue with python {SCRIPT}.py ")[1])
    assert advice == ["--resume", str(tmp_path / LAST)]
    importlib.import_module(SCRIPT).main(advice)
    first, second = (torch.load(f / LAST, weights_only=True) for f in (whole, tmp_path))
    assert alike(first, second)


class Trap:
    """Unpickled, it would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_bad_checkpoint_is_refused_in_one_line(photos, whole, tmp_path):
    good = (whole / LAST).read_bytes()
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "truncated.pt").write_bytes(good[: len(good) // 2])
    middle = len(good) // 2
    garbled = (
        good[:middle] + bytes(255 - b for b in good[middle : middle + 64]) + good[middle + 64 :]
    )
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    torch.save({"model": Trap(tmp_path / "sprung")}, tmp_path / "trap.pt")
    for name in ("empty", "truncated", "pickle", "trap"):
        with pytest.raises(UserError, match=f"{name}.pt is no checkpoint of plain tensors"):
            checkpoints.read_training(tmp_path / f"{name}.pt")
    assert not (tmp_path / "sprung").exists()
    entries = torch.load(whole / LAST, weights_only=True)
    del entries["training"]["optimizer"]
    torch.save(entries, tmp_path / "partial.pt")
    (tmp_path / "garbled.pt").write_bytes(garbled)
    refused(photos, tmp_path, "partial.pt", "", "does not fit")
    refused(photos, tmp_path, "garbled.pt", "", "is no checkpoint of plain")
    torch.save({k: entries[k] for k in checkpoints.KEYS}, tmp_path / "weights.pt")
    refused(photos, tmp_path, "weights.pt", "", "no training to continue")


def refused(photos, folder, name, more, message):
    script = importlib.import_module(SCRIPT)
    arguments = command(photos, folder / "out", "--resume", folder / name, *more.split())
    with pytest.raises(UserError, match=message) as error:
        script.main(arguments)
    assert len(str(error.value).splitlines()) == 1
    assert not list((folder / "out").rglob("*.*"))


def test_a_checkpoint_of_another_training_is_refused(photos, whole, tmp_path):
    (tmp_path / "last.pt").write_bytes((whole / LAST).read_bytes())
    model = "--model cifar_resnet-8, not cifar_plain-8"
    refused(photos, tmp_path, "last.pt", "--model cifar_plain-8", model)
    refused(photos, tmp_path, "last.pt", "--epochs 4", "--epochs 3, not 4")
    refused(photos, tmp_path, "last.pt", "--sizes 8", r"--sizes \[6, 8\], not \[8\]")
    entries = torch.load(tmp_path / "last.pt", weights_only=True)
    torch.save(entries | {"classes": ["cat", "cow"]}, tmp_path / "cows.pt")
    fewer = {key: value for key, value in entries["settings"].items() if key != "cutout"}
    torch.save(entries | {"settings": fewer}, tmp_path / "older.pt")
    refused(photos, tmp_path, "older.pt", "", "of an older kind, without --cutout")
    refused(photos, tmp_path, "cows.pt", "", "other classes")
    torch.save(entries | {"mean": [1.0, 2.0, 3.0]}, tmp_path / "others.pt")
    refused(photos, tmp_path, "others.pt", "", "other images")
    cats = tmp_path / "renamed" / "train" / "cat"
    shutil.copytree(photos, tmp_path / "renamed")
    (cats / "3.png").rename(cats / "zebra.png")  # the same pixels in another order
    refused(tmp_path / "renamed", tmp_path, "last.pt", "", "other images than .* or in other order")


def test_other_pixels_and_other_labels_are_other_images():
    dataset = data.load("shapes", size=8, limit=100)
    images, labels = dataset.train
    pixel, label = images.clone(), labels.clone()
    pixel[3, 1, 2, 2] += 1
    label[3] = (label[3] + 1) % 10
    swapped = torch.arange(len(labels)).roll(1)
    for train in ((pixel, labels), (images, label), (images[swapped], labels[swapped])):
        other = replace(dataset, train=data.Split(*train))
        assert other.fingerprint != dataset.fingerprint
    assert replace(dataset, name="another").fingerprint == dataset.fingerprint


def test_two_runs_do_not_share_a_folder(photos, tmp_path):
    process = start(command(photos, tmp_path))
    wait_for_change(tmp_path / LAST, process, 0)
    with pytest.raises(UserError, match="another run is writing to"):
        importlib.import_module(SCRIPT).main(command(photos, tmp_path))
    process.kill()
    process.communicate()
    (tmp_path / SCRIPT / ".best.pt-17").write_bytes(b"half")
    args = lesson.parser("doc").parse_args(["--out-dir", str(tmp_path)])
    lesson.Report(SCRIPT, args, "made up")  # what a dead run leaves is free again, and clean
    assert not list((tmp_path / SCRIPT).glob(".*"))


def test_the_epoch_is_saved_though_nobody_reads_its_row(photos, tmp_path):
    """As on a full disk, or after the terminal was closed."""
    process = start(command(photos, tmp_path, "--save-every", 0))
    while not process.stdout.readline().startswith("epoch"):
        pass
    process.stdout.close()
    assert process.wait() == 141
    assert process.stderr.read() == ""
    assert len(torch.load(tmp_path / LAST, weights_only=True)["training"]["rows"]) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")
def test_a_full_log_is_one_line(tmp_path):
    flags = ["--quick", "--data", "shapes", "--out-dir", str(tmp_path)]
    command = [sys.executable, "02_resnet_implementation.py", *flags]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 141
    assert len(done.stderr.splitlines()) == 1
    assert "No space left" in done.stderr


def test_the_best_network_is_named_only_if_it_is_this_trainings(whole, tmp_path):
    rows = torch.load(whole / LAST, weights_only=True)["training"]["rows"]
    best = whole / SCRIPT / "best.pt"
    assert checkpoints.is_of(best, rows)
    assert not checkpoints.is_of(tmp_path / "best.pt", rows)
    assert not checkpoints.is_of(best, [row | {"seconds": row["seconds"] + 1} for row in rows])


def test_nothing_of_another_training_is_overwritten(photos, whole, tmp_path):
    folder = tmp_path / SCRIPT
    shutil.copytree(whole / SCRIPT, folder)
    first = (folder / "last.pt").read_bytes()
    script = importlib.import_module(SCRIPT)
    flags = command(photos, tmp_path, "--epochs", "2")
    script.main(flags)
    second = (folder / "last.pt").read_bytes()
    script.main(flags)
    assert (folder / "earlier_last.pt").read_bytes() == first
    assert (folder / "earlier2_last.pt").read_bytes() == second
    third = (folder / "last.pt").read_bytes()
    again = command(photos, tmp_path, "--resume", folder / "earlier_last.pt")
    script.main(again)
    assert (folder / "earlier3_last.pt").read_bytes() == third


def test_a_full_disk_leaves_the_last_good_checkpoint(photos, whole, tmp_path):
    size = (whole / LAST).stat().st_size

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    folder = tmp_path / SCRIPT
    folder.mkdir()
    good = (whole / LAST).read_bytes()
    (folder / "last.pt").write_bytes(good)
    process = start(command(photos, tmp_path), preexec_fn=limit)
    errors = process.communicate()[1]
    assert process.returncode == 2
    assert len(errors.splitlines()) == 1
    assert re.search(r"last.pt could not be written \(File too large\)", errors)
    assert (folder / "earlier_last.pt").read_bytes() == good
    assert [path.name for path in folder.iterdir()] == ["earlier_last.pt"]


def test_a_full_disk_leaves_no_half_figure(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # bytes; a figure has more

    flags = ["--quick", "--data", "shapes", "--out-dir", str(tmp_path)]
    command = [sys.executable, "01_basic_residual_block.py", *flags]
    done = subprocess.run(command, cwd=ROOT, preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "block.png could not be written" in done.stderr
    assert list((tmp_path / "01_basic_residual_block").iterdir()) == []


class Poisoned(data.Dataset):
    """Images that are not numbers, from the third batch on."""

    def batches(self, *arguments, **options):
        for i, (x, y) in enumerate(super().batches(*arguments, **options)):
            yield x * (float("nan") if i >= 2 else 1.0), y


def test_nan_images_end_the_training_and_are_never_saved(photos, tmp_path, monkeypatch):
    script = importlib.import_module(SCRIPT)
    plain = data.load("auto", photos, size=8)
    poisoned = Poisoned(**{f: getattr(plain, f) for f in plain.__dataclass_fields__})
    monkeypatch.setattr(poisoned.__class__, "to", lambda self, device: self)
    monkeypatch.setattr(script.data, "load", lambda *_, **__: poisoned)
    with pytest.raises(training.Diverged, match="smaller --lr"):
        script.main(command(photos, tmp_path))
    entries = torch.load(tmp_path / LAST, weights_only=True)
    assert all(tensor.isfinite().all() for tensor in entries["model"].values())
    assert [path.name for path in (tmp_path / SCRIPT).iterdir()] == ["last.pt"]


@pytest.mark.parametrize("last", [4, 6, 8], ids="end of epoch 1, in epoch 2, end of it".split(", "))
def test_a_model_with_dropout_continues_exactly(last, tmp_path):
    dataset = data.load("shapes", size=8, limit=200)

    def trainer():
        torch.manual_seed(0)
        net = torch.nn.Sequential(models.cifar_resnet(8, width=4), torch.nn.Dropout(0.5))
        return training.Trainer(net, dataset, 2, batch_size=45, ema=0.9, muon=0.01, accumulate=2)

    def put_down(step, batch):
        if step == last:
            entries = {"model": cut.model.state_dict(), "training": cut.state()}
            checkpoints.save_checkpoint(tmp_path / "cut.pt", entries)
            raise InterruptedError

    whole = trainer()
    list(whole.run())
    cut = trainer()
    with pytest.raises(InterruptedError):
        list(cut.run(on_step=put_down))
    kept, again = torch.load(tmp_path / "cut.pt", weights_only=True), trainer()
    torch.rand(3)
    again.model.load_state_dict(kept["model"])
    again.restore(kept["training"])
    list(again.run())
    assert alike(whole.model.state_dict(), again.model.state_dict())
    assert alike(whole.evaluated_model.state_dict(), again.evaluated_model.state_dict())
    assert alike(whole.rows, again.rows)
