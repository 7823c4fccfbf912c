import dataclasses
import hashlib
import http.server
import importlib
import io
import pickle
import tarfile
import threading
from pathlib import Path

from common import UserError, data, lesson, models, training
from common.data import augmentation

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100


@pytest.fixture(scope="module")
def shapes():
    return data.load("shapes")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no test finds or leaves a ./data in the checkout


def test_shapes10_is_always_the_same_and_balanced(shapes):
    assert [len(getattr(shapes, s).labels) for s in data.SPLITS] == [9_000, 1_000, 2_000]
    again = data.load("shapes", limit=100)
    assert torch.equal(again.val.images, shapes.val.images[:10])
    assert torch.equal(data.load("shapes").train.images, shapes.train.images)
    for split in data.SPLITS:
        images, labels = getattr(shapes, split)
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (3, 32, 32)
        shares = torch.bincount(labels, minlength=10) / len(labels)
        assert shares.min() > 0.07


def test_splits_are_disjoint(shapes):
    images = torch.cat([getattr(shapes, s).images for s in data.SPLITS])
    assert len(images.flatten(1).unique(dim=0)) == len(images) == 12_000


def test_colour_does_not_give_the_class_away(shapes):
    """A linear model on mean colour stays far below a small ResNet."""

    def colour(split):
        mean = getattr(shapes, split).images.float().mean(dim=(2, 3)) / 255
        return torch.cat([mean, torch.ones(len(mean), 1)], dim=1)

    targets = torch.nn.functional.one_hot(shapes.train.labels, 10).float()
    weights = torch.linalg.lstsq(colour("train"), targets).solution
    linear = ((colour("val") @ weights).argmax(1) == shapes.val.labels).double().mean().item()
    torch.manual_seed(0)
    model = models.cifar_resnet(8, width=8)
    dataset = data.load("shapes", size=16, limit=6_000)
    *_, row = training.Trainer(model, dataset, 3, batch_size=32).run()
    assert 0.1 < linear < 0.3
    assert row["val_accuracy"] > linear + 0.2


def test_every_image_once_and_labels_follow(shapes):
    ids = torch.arange(100)
    images = ids.to(torch.uint8).view(100, 1, 1, 1).expand(100, 3, 8, 8).contiguous()
    split = data.Split(images, ids)
    dataset = data.Dataset("numbers", ["a", "b"], split, split, split)
    mean, std = dataset.statistics
    for seed in (None, 1):
        batches = list(dataset.batches("train", 32, seed))
        assert [len(y) for _, y in batches] == [25, 25, 25, 25]
        labels = torch.cat([y for _, y in batches])
        assert labels.sort().values.tolist() == ids.tolist()
        restored = torch.cat([x for x, _ in batches]) * std + mean
        assert torch.allclose(restored, labels.float().view(100, 1, 1, 1).expand_as(restored))
    assert torch.equal(next(dataset.batches("train", 32))[1], ids[:25])


def test_batches_are_a_function_of_the_seed(shapes):
    first, second = (next(shapes.batches("train", 64, seed=7))[0] for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, next(shapes.batches("train", 64, seed=8))[0])
    assert first.is_contiguous(memory_format=torch.channels_last)


def test_batches_are_normalised(shapes):
    x = torch.cat([x for x, _ in shapes.batches("train", 500)])
    assert x.mean(dim=(0, 2, 3)).abs().max() < 1e-4
    assert (x.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-3


def test_augmentation_equals_torchvisions_pad_crop_and_flip(shapes):
    images, batch = shapes.train.images[:50], torch.arange(50).flip(0)
    draws = torch.rand(3, 50, generator=torch.Generator().manual_seed(1))
    ours = augmentation.shift_and_flip(images.permute(0, 2, 3, 1).contiguous(), batch, draws)
    shifts = set()
    for i, index in enumerate(batch):
        down, right = ((draws[:2, i] * 2 - 1) * 4.5).round().int().tolist()
        padded = TF.pad(images[index], [4, 4, 4, 4], padding_mode="reflect")
        expected = TF.crop(padded, 4 + down, 4 + right, 32, 32)
        expected = TF.horizontal_flip(expected) if draws[2, i] < 0.5 else expected
        assert torch.equal(ours[i], expected)
        shifts.add(down)
    assert shifts == set(range(-4, 5))


@pytest.mark.parametrize("side", [1, 2, 3, 8])
def test_cutout_zeroes_one_square(shapes, side):
    plain = next(shapes.batches("train", 64, seed=7))[0]
    cut = next(shapes.batches("train", 64, seed=7, cutout=side))[0]
    assert cut.is_contiguous(memory_format=torch.channels_last)
    changed = (cut == 0).all(dim=1)  # N H W
    areas = changed.sum(dim=(1, 2))
    assert areas.max() == side**2
    assert areas.min() >= (side // 2) ** 2  # in a corner about a quarter of the square is left
    assert torch.equal(
        cut[~changed[:, None].expand_as(cut)], plain[~changed[:, None].expand_as(cut)]
    )


def test_validation_and_test_are_never_augmented(shapes):
    mean, std = shapes.statistics
    x, _ = next(shapes.batches("test", 10))
    assert torch.allclose(x * std + mean, shapes.test.images[:10].float(), atol=1e-3)


def picture(path: Path, colour, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def photographs(tmp_path):
    root = tmp_path / "my photos é"
    for split, count in (("train", 20), ("test", 4)):
        for i in range(count):
            picture(root / split / "blue sky" / f"{i}.jpg", (0, 0, 200 + i), (40, 30 + i))
            picture(root / split / "red" / f"{i}.PNG", (200 + i, 0, 0))
    return root


def test_folders_of_any_images(photographs):
    dataset = data.load("auto", photographs, size=24)
    assert dataset.classes == ["blue sky", "red"]
    assert dataset.name == "image folder my photos é"
    assert [len(getattr(dataset, s).labels) for s in data.SPLITS] == [36, 4, 8]
    for images, labels in (dataset.train, dataset.val, dataset.test):
        assert images.shape[1:] == (3, 24, 24)
        assert torch.equal(images[:, 0].float().mean(dim=(1, 2)) > 100, labels == 1)
    limited = data.load("auto", photographs, limit=20)
    assert [len(getattr(limited, s).labels) for s in data.SPLITS] == [18, 2, 4]


def test_names_are_readable_in_a_locale_without_their_letters():
    classes = ["chien \udcc3\udca9", "two\nlines\x1b[1m"]  # as Python reads them there
    found = data.folders._names(Path("\udcc3\udca9t\udcc3\udca9"), classes)
    assert found == ("image folder été", ["chien é", r"two\nlines\x1b[1m"])


def test_photographs_are_turned_upright(tmp_path):
    image = Image.new("RGB", (40, 20))
    image.paste((255, 255, 255), (0, 0, 20, 20))  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn clockwise to see it upright": left becomes top
    image.save(tmp_path / "turned.png", exif=exif)
    upright = data.open_image(tmp_path / "turned.png")
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 5)) == (255, 255, 255)
    assert upright.getpixel((10, 35)) == (0, 0, 0)


def corrupt(root):
    (root / "train" / "red" / "7.PNG").write_bytes(b"\x89PNG\r\n not an image")


def truncate(root):
    path = root / "train" / "blue sky" / "3.jpg"
    path.write_bytes(path.read_bytes()[:400])


def empty_class(root):
    for path in (root / "train" / "red").iterdir():
        path.unlink()


def missing_test(root):
    (root / "test").rename(root / "elsewhere")


def other_classes(root):
    (root / "test" / "red").rename(root / "test" / "green")


DAMAGE = {
    corrupt: r"7\.PNG is not a readable image",
    truncate: r"3\.jpg is not a readable image",
    empty_class: "red",
    missing_test: "expected train/CLASS/IMAGE and test/CLASS/IMAGE",
    other_classes: "only in one: green, red",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_folders_are_named(photographs, damage):
    damage(photographs)
    with pytest.raises(UserError, match=DAMAGE[damage]):
        data.load("auto", photographs)


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        data.load("auto", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="expected train/CLASS/IMAGE"):
        data.load("auto", tmp_path / "empty")


def test_without_cifar10_shapes_and_the_reason():
    dataset = data.load("auto")
    assert dataset.name == "Shapes-10 (built in)"
    assert "no CIFAR-10" in dataset.why


def uneven(rare=4):
    """A data set of 100 images of its number, of which `rare` are of class 1."""
    ids = torch.arange(100)
    pixels = ids.to(torch.uint8).view(100, 1, 1, 1).expand(100, 3, 8, 8).contiguous()
    split = data.Split(pixels, (ids < rare).long())
    return data.Dataset("uneven", ["a", "b"], split, split, split)


def test_balanced_batches_draw_all_classes_equally_often():
    dataset = uneven()
    epochs = [list(dataset.batches("train", 32, seed, balance=True)) for seed in range(40)]
    assert [len(y) for _, y in epochs[0]] == [25] * 4
    labels = torch.stack([torch.cat([y for _, y in batches]) for batches in epochs])
    assert labels.double().mean() == pytest.approx(0.5, abs=0.03)  # four deviations; 0.04 without
    mean, std = dataset.statistics
    first = torch.cat([x[:, 0, 0, 0] for batches in epochs for x, _ in batches])
    seen = first * std.flatten()[0] + mean.flatten()[0]
    assert torch.equal((seen.round() < 4).long(), labels.flatten())  # labels follow
    assert len(seen.round().unique()) == 100


def test_balanced_batches_are_a_function_of_the_seed():
    dataset = uneven()

    def batches(**options):
        return [(x, y) for x, y in dataset.batches("train", 32, 7, balance=True, **options)]

    whole = batches(cutout=4)
    for one, two in zip(whole[2:], batches(cutout=4, skip=2), strict=True):
        assert all(map(torch.equal, one, two))
    halves = [batches(cutout=4, part=slice(i, None, 2)) for i in (0, 1)]
    for (x, y), *parts in zip(whole, *halves, strict=True):
        for i, (x_part, y_part) in enumerate(parts):
            assert torch.equal(x[i::2], x_part) and torch.equal(y[i::2], y_part)
    plain = [y for _, y in dataset.batches("val", 32, balance=True)]
    assert torch.equal(torch.cat(plain), dataset.val.labels)  # in order, every image once


def test_an_image_that_is_drawn_twice_is_moved_twice(shapes):
    rare = data.Split(shapes.train.images[:50], (torch.arange(50) == 0).long())
    dataset = data.Dataset("rare", ["a", "b"], rare, rare, rare)
    x, y = next(dataset.batches("train", 50, seed=1, balance=True))
    copies = x[y == 1]
    assert len(copies) > 10
    assert len(copies.flatten(1).unique(dim=0)) > len(copies) / 2


def test_the_fingerprint_sees_order_pixels_and_labels():
    dataset = uneven()
    images, labels = dataset.train
    flipped = data.Split(images.flip(0), labels.flip(0))
    other = images.clone()
    other[7, 1, 2, 3] += 1
    swapped = labels.clone()
    swapped[:2] = 0
    variants = [flipped, data.Split(other, labels), data.Split(images, swapped)]
    prints = {dataclasses.replace(dataset, train=split).fingerprint for split in variants}
    prints |= {dataclasses.replace(dataset, val=flipped).fingerprint, dataset.fingerprint}
    assert len(prints) == 5
    last = images.contiguous(memory_format=torch.channels_last)
    again = dataclasses.replace(dataset, train=data.Split(last, labels), test=flipped)
    assert again.fingerprint == dataset.fingerprint


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    """A folder in CIFAR-100's layout, with its numbers of images and classes."""
    folder = tmp_path / "c" / CIFAR100.base_folder
    folder.mkdir(parents=True)
    generator, sums = np.random.default_rng(0), {}
    names = {"fine_label_names": [f"fine {i}" for i in range(100)], "coarse_label_names": ["x"]}
    contents = {"meta": names}
    for name, count in (("train", 50_000), ("test", 10_000)):
        pixels = np.zeros((count, 3072), np.uint8)
        pixels[:, :4] = generator.integers(0, 256, (count, 4))
        fine = [i % 100 for i in range(count)]
        contents[name] = {"data": pixels, "fine_labels": fine, "coarse_labels": [0] * count}
    for name, content in contents.items():
        text = pickle.dumps(content)
        (folder / name).write_bytes(text)
        sums[name] = hashlib.md5(text).hexdigest()
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": sums["meta"]})
    return tmp_path / "c"


def test_cifar100_is_found_verified_and_has_its_fine_classes(cifar100):
    places = [("cifar100", cifar100), ("auto", cifar100), ("auto", cifar100 / CIFAR100.base_folder)]
    for source, folder in places:
        dataset = data.load(source, folder, limit=1_000)
        assert dataset.name == "CIFAR-100"
        assert dataset.classes == [f"fine {i}" for i in range(100)]
        assert [len(getattr(dataset, s).labels) for s in data.SPLITS] == [900, 100, 200]
        assert dataset.train.labels.max() == 99
    assert data.load_test("auto", cifar100, None, 32, 100)[0] == "CIFAR-100"
    (cifar100 / CIFAR100.base_folder / "test").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cifar-100-python is damaged"):
        data.load("cifar100", cifar100)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A loopback server with a small archive in CIFAR-10's layout; yields (url, archive)."""
    generator = np.random.default_rng(0)

    def member(name, content):
        text = pickle.dumps(content)
        info = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text))
        return hashlib.md5(text).hexdigest()

    folder = tmp_path / "mirror"
    folder.mkdir()
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as archive:
        lists, train = {}, [f"data_batch_{i}" for i in range(1, 6)]
        for key, names in (("train_list", train), ("test_list", ["test_batch"])):
            entries = []
            for name in names:
                pixels = generator.integers(0, 256, (10_000, 3072), dtype=np.uint8)
                pixels[:, 8:] = 0  # compresses well
                content = {"data": pixels, "labels": generator.integers(0, 10, 10_000).tolist()}
                entries.append([name, member(name, content)])
            lists[key] = entries
        names = "airplane automobile bird cat deer dog frog horse ship truck".split()
        meta = member("batches.meta", {"label_names": names})
    path = folder / "cifar-10-python.tar.gz"
    for key, entries in lists.items():
        monkeypatch.setattr(CIFAR10, key, entries)
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": meta})
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

        def copyfile(self, source, output):
            content = source.read()
            output.write(content[: len(content) // 2] if (folder / "cut").exists() else content)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{path.name}", path
    server.shutdown()
    server.server_close()


def test_cifar10_is_downloaded_once_from_any_mirror(mirror, tmp_path):
    url, archive = mirror
    dataset = data.load("cifar10", tmp_path / "d", url)
    assert dataset.name == "CIFAR-10"
    assert dataset.classes[0] == "airplane"
    assert [len(getattr(dataset, s).labels) for s in data.SPLITS] == [45_000, 5_000, 10_000]
    assert [p.name for p in (tmp_path / "d").iterdir()] == [CIFAR10.base_folder]
    archive.unlink()  # from here on only the disk can answer
    small = data.load("auto", tmp_path / "d", limit=1_000)
    assert [len(getattr(small, s).labels) for s in data.SPLITS] == [900, 100, 200]
    assert torch.equal(small.test.images, dataset.test.images[:200])
    assert data.load("auto", tmp_path / "d" / CIFAR10.base_folder, limit=100).name == "CIFAR-10"
    (tmp_path / "d" / CIFAR10.base_folder / "test_batch").write_bytes(b"damaged")
    with pytest.raises(UserError, match="damaged"):
        data.load("auto", tmp_path / "d")


@pytest.mark.parametrize("keep", [0, 1000, -1])
def test_a_wrong_or_interrupted_download_leaves_nothing(mirror, tmp_path, keep):
    url, archive = mirror
    archive.write_bytes(archive.read_bytes()[:keep])
    with pytest.raises(UserError, match="could not be fetched"):
        data.load("cifar10", tmp_path / "d", url)
    assert not (tmp_path / "d").exists()


def test_a_cut_connection_is_one_line_and_leaves_nothing(mirror, tmp_path, monkeypatch, capsys):
    url, archive = mirror
    (archive.parent / "cut").touch()  # half of the bytes that were announced, then the end
    where = ["--data", "cifar10", "--data-url", url, "--data-dir", str(tmp_path / "d")]
    monkeypatch.setattr("sys.argv", ["06.py", *where, "--out-dir", str(tmp_path / "o")])
    with pytest.raises(SystemExit) as stop:
        lesson.run(importlib.import_module("06_practical_example").main)
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]  # behind torchvision's own progress bar
    assert f"CIFAR-10 could not be fetched from {url}" in last
    assert not (tmp_path / "d").exists()
    assert not (tmp_path / "o").exists()


def test_batches_of_another_size():
    dataset = data.load("shapes", size=16, limit=100)
    whole, _ = next(dataset.batches("train", 6, seed=3))
    small, labels = next(dataset.batches("train", 6, seed=3, size=8))
    assert small.shape == (6, 3, 8, 8)
    assert small.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(labels, next(dataset.batches("train", 6, seed=3))[1])
    halved = torch.nn.functional.interpolate(whole, size=(8, 8), mode="bilinear", antialias=True)
    aliased = torch.nn.functional.interpolate(whole, size=(8, 8), mode="nearest")
    assert (small - halved).abs().max() < 0.02  # pixels are rounded to whole numbers
    assert (small - aliased).abs().mean() > 0.1


def test_auto_falls_back_with_the_reason_and_cifar10_does_not(mirror):
    url, _ = mirror
    dataset = data.load("auto", None, url + ".gone", download=True)
    assert dataset.name == "Shapes-10 (built in)"
    assert "404" in dataset.why
    with pytest.raises(UserError, match="404"):
        data.load("cifar10", None, url + ".gone")
    with pytest.raises(UserError, match=r"CIFAR-100 could not be fetched .*404"):
        data.load("cifar100", None, url + ".gone")
    assert list(Path.cwd().glob("data*")) == []


def test_a_few_images_are_normalised_as_all_of_them(shapes):
    few = shapes.first(10)
    assert len(few.train.labels) == len(few.val.labels) == 10
    assert all(map(torch.equal, few.statistics, shapes.statistics))
