"""Image files of every pixel type, and folders as people have them."""

import os
import shutil
import struct
from pathlib import Path

from common import UserError, data
from common.data import folders, images

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

RAMP = np.linspace(0, 65_535, 64 * 64).reshape(64, 64)
EIGHT = (RAMP / 257).round()  # the same with 8 bits


def saved(folder, name, image, **options):
    """The path of an image, written to a folder."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(folder / name, **options)
    return folder / name


def grey(path):
    """The one channel of an image whose channels are equal."""
    pixels = np.asarray(data.open_image(path))
    assert (pixels == pixels[:, :, :1]).all()
    return pixels[:, :, 0]


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "grey.ppm"])
def test_16_bits_are_scaled_by_their_range(tmp_path, name):
    pixels = grey(saved(tmp_path, name, RAMP.astype(np.uint16)))
    assert np.abs(pixels - EIGHT).max() <= 1
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_big_endian_16_bits_and_the_tiff_that_says_12(tmp_path):
    big = Image.frombytes("I;16B", (64, 64), RAMP.astype(">u2").tobytes())
    assert np.abs(grey(saved(tmp_path, "big.tif", big)) - EIGHT).max() <= 1
    packed = bytes([0xFF, 0xF0, 0x00, 0x80, 0x08, 0x00])  # 4095 0 2048 2048, 12 bits each
    tags = [(256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 110), (277, 1), (279, 6)]
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    header = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + b"\0\0\0\0"
    (tmp_path / "twelve.tif").write_bytes(header.ljust(110, b"\0") + packed)
    assert grey(tmp_path / "twelve.tif").tolist() == [[255, 0, 128, 128]]


def test_pixels_without_an_agreed_white_are_refused(tmp_path):
    refused = {
        "int.tif": (RAMP.astype(np.int32), "32-bit integers"),
        "float.tif": ((RAMP / 65_535).astype(np.float32), "floating point"),
        "twelve.png": ((RAMP / 16).astype(np.uint16), "only 12 are used"),
    }
    for name, (pixels, message) in refused.items():
        with pytest.raises(UserError, match=f"{name} .*{message}"):
            data.open_image(saved(tmp_path, name, pixels))
    assert grey(saved(tmp_path, "black.png", np.zeros((4, 4), np.uint16))).max() == 0


def test_behind_transparent_pixels_is_white(tmp_path):
    """One visible picture, a green square, in five pixel types, over hidden colours."""
    clear = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    clear.paste((0, 200, 0, 255), (2, 2, 6, 6))
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([255, 0, 255] + [0, 200, 0] * 255)
    palette.paste(1, (2, 2, 6, 6))
    rgb = palette.convert("RGB")
    paths = [
        saved(tmp_path, "alpha.png", clear),
        saved(tmp_path, "alpha.webp", clear, lossless=True),
        saved(tmp_path, "palette.png", palette, transparency=0),
        saved(tmp_path, "palette.gif", palette, transparency=0),
        saved(tmp_path, "colour.png", rgb, transparency=(255, 0, 255)),
    ]
    for path in paths:
        image = data.open_image(path)
        assert [image.getpixel(xy) for xy in ((0, 0), (3, 3))] == [(255,) * 3, (0, 200, 0)], path
    half = Image.new("LA", (2, 1), (0, 0))
    half.putpixel((1, 0), (0, 51))  # a fifth of black before white
    assert grey(saved(tmp_path, "half.png", half)).tolist() == [[255, 204]]
    key = np.array([[7, 65_535, 32_896]], np.uint16)
    path = saved(tmp_path, "key.png", key, transparency=7)
    assert grey(path).tolist() == [[255, 255, 128]]


@pytest.mark.parametrize("name", ["grey.tif", "grey.png", "grey.jpg"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_every_pixel_type_is_turned_upright(tmp_path, name, kind):
    if kind is np.uint16 and name == "grey.jpg":
        pytest.skip("JPEG has 8 bits")
    pixels = np.zeros((20, 40), kind)
    pixels[:, :20] = np.iinfo(kind).max  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn clockwise to see it upright": left becomes top
    upright = grey(saved(tmp_path, name, pixels, exif=exif))
    assert upright.shape == (40, 20)
    assert (upright[:16] > 250).all() and (upright[24:] < 5).all()


def test_other_pixel_types_as_before(tmp_path):
    colour = Image.new("RGB", (4, 4), (200, 100, 50))
    for mode, name in (("1", "a.png"), ("L", "b.png"), ("P", "c.png"), ("CMYK", "d.jpg")):
        path = saved(tmp_path, name, colour.convert(mode))
        expected = np.asarray(Image.open(path).convert("RGB"))
        assert np.array_equal(np.asarray(data.open_image(path)), expected), mode


@pytest.mark.filterwarnings("error")
def test_what_is_no_image_is_named_with_its_reason(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "eps.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    large = saved(tmp_path, "large.png", Image.new("L", (60, 50)))
    found = {"pipe.jpg": "is no file", "eps.jpg": "is not a readable", "no.jpg": "does not exist"}
    for name, message in found.items():
        with pytest.raises(UserError, match=f"{name} {message}"):
            data.open_image(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000)
    assert data.open_image(large).size == (60, 50)  # Pillow would warn
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    with pytest.raises(UserError, match=r"large\.png is too large: 0 of 0 megapixels"):
        data.open_image(large)


def fill(folder, count, kind=".png", first=0):
    """`count` images of a folder's own colour, whose brightness tells them apart."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        colour = (50 + i, 0, 0) if folder.name < "d" else (0, 0, 50 + i)
        Image.new("RGB", (6, 6), colour).save(folder / f"{i}{kind}")


def numbers(dataset, split):
    """Class and number of each image of a split, sorted."""
    pixels, labels = getattr(dataset, split)
    values = pixels[:, :, 0, 0].max(1).values - 50
    return sorted(zip(labels.tolist(), values.tolist(), strict=True))


def test_folders_of_classes_alone_are_split_by_class_in_three(tmp_path):
    fill(tmp_path / "cat", 50)
    fill(tmp_path / "dog", 5)
    dataset = data.load("auto", tmp_path, size=6)
    found = {split: numbers(dataset, split) for split in data.SPLITS}
    both = [pair for rows in found.values() for pair in rows]
    assert sorted(both) == [(0, i) for i in range(50)] + [(1, i) for i in range(5)]
    sizes = {s: [sum(c == label for c, _ in rows) for label in (0, 1)] for s, rows in found.items()}
    assert sizes == {"train": [36, 3], "val": [4, 1], "test": [10, 1]}
    assert dataset.why == "there is no folder test: a fifth of each class is kept for the test"
    again = data.load("auto", tmp_path, size=6)
    assert torch.equal(again.train.images, dataset.train.images)


def test_a_photograph_with_odd_exif_is_read_and_turned(tmp_path):
    pixels = np.arange(96, dtype=np.uint8).reshape(8, 12)
    turn, negative = (0x0112, 3, 1, b"\6\0\0\0"), (0x0101, 8, 1, b"\xff\xff\0\0")  # a height of -1
    tags = b"".join(struct.pack("<HHI4s", *tag) for tag in (turn, negative))
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + tags + bytes(4)
    path = saved(tmp_path, "odd.jpg", pixels, exif=exif)
    with Image.open(path) as image, pytest.raises(struct.error):
        ImageOps.exif_transpose(image)  # Pillow cannot write such a number again
    assert images.open_image(path).size == (8, 12)


def test_what_file_servers_hide_is_no_photograph(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / name, 10)
        fill(tmp_path / name / "@eaDir" / "1.png", 5)
    fill(tmp_path / "@eaDir", 3)
    fill(tmp_path / "$RECYCLE.BIN", 3)
    dataset = data.load("auto", tmp_path, size=6)
    assert dataset.classes == ["cat", "dog"]
    assert sum(len(getattr(dataset, split).labels) for split in data.SPLITS) == 20


def test_a_test_may_lack_a_class_in_training_and_in_evaluation(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / "train" / name, 10)
    fill(tmp_path / "test" / "cat", 3)
    (tmp_path / "test" / "dog").mkdir()
    trained = data.load("auto", tmp_path, size=6)
    _, classes, tested, _ = data.load_test("auto", tmp_path, None, 6)
    assert (classes, len(tested.labels)) == (trained.classes, len(trained.test.labels))


def test_without_a_folder_test_a_training_and_an_evaluation_test_on_the_same_images(tmp_path):
    for part, count in (("train", 20), ("val", 7)):
        for name in ("cat", "dog"):
            fill(tmp_path / part / name, count, first={"train": 0, "val": 40}[part])
    tested = data.load("auto", tmp_path, size=6).test
    _, classes, again, why = data.load_test("auto", tmp_path, None, 6, None)
    assert classes == ["cat", "dog"]
    assert torch.equal(again.images, tested.images)
    assert why == "there is no folder test: a fifth of each class is kept for the test"


def test_an_own_val_is_the_validation_split(tmp_path):
    for part, count in (("train", 20), ("val", 7), ("test", 3)):
        for name in ("cat", "dog"):
            fill(tmp_path / part / name, count, first={"train": 0, "val": 40, "test": 60}[part])
    dataset = data.load("auto", tmp_path, size=6)
    assert numbers(dataset, "val") == [(c, 40 + i) for c in (0, 1) for i in range(7)]
    assert [len(getattr(dataset, s).labels) for s in data.SPLITS] == [40, 14, 6]
    limited = data.load("auto", tmp_path, size=6, limit=20)
    assert [len(getattr(limited, s).labels) for s in data.SPLITS] == [18, 2, 4]
    shutil.rmtree(tmp_path / "test")  # as in ImageNet's own layout
    dataset = data.load("auto", tmp_path, size=6)
    assert [len(getattr(dataset, s).labels) for s in data.SPLITS] == [32, 14, 8]


@pytest.mark.parametrize("counts", [[30, 1], [30, 2], [30, 3], [300, 6, 6], [10] * 20])
def test_every_class_keeps_a_training_image(counts):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    whole = folders.Part([Path(str(i)) for i in range(len(labels))], labels).shuffled()
    train, held = whole.hold_out(0.1)
    assert sorted(train.paths + held.paths) == sorted(whole.paths)
    assert all(labels[int(path.name)] == label for path, label in zip(*held, strict=True))
    left, taken = (part.labels.bincount(minlength=len(counts)).tolist() for part in (train, held))
    assert taken == [max(round(0.1 * n), 1) if n > 1 else 0 for n in counts]
    assert min(left) >= 1
    few = whole.first(len(counts) + 5).labels.bincount(minlength=len(counts))
    assert few.min() >= 1  # every beginning has all classes


def test_a_class_without_an_image_in_a_split_is_named(tmp_path):
    for part in ("train", "test"):
        fill(tmp_path / part / "cat", 12)
        fill(tmp_path / part / "dog", 1)
    (tmp_path / "test/dog/0.png").unlink()
    notes = data.load("auto", tmp_path, size=6).why.splitlines()
    assert notes == ["val has no image of dog", "test has no image of dog"]
    (tmp_path / "train/dog/0.png").rename(tmp_path / "train/dog/0.heic")
    with pytest.raises(UserError, match=r"train holds no image of dog \(left out: 1 .heic\)"):
        data.load("auto", tmp_path)


def test_what_is_hidden_linked_or_of_another_kind(tmp_path):
    root = tmp_path / "photos"
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            fill(root / part / name, 12)
    cat = root / "train" / "cat"
    for hidden in (root / "train/.ipynb_checkpoints", cat / ".thumbs", root / "train/__MACOSX/cat"):
        fill(hidden, 3, first=90)
    fill(tmp_path / "elsewhere/deep", 2, ".jfif", first=20)
    fill(tmp_path / "elsewhere/other", 1, ".GIF", first=30)
    (cat / "linked").symlink_to(tmp_path / "elsewhere")
    (cat / "again").symlink_to(tmp_path / "elsewhere")
    (cat / "loop").symlink_to(root / "train")
    (cat / "broken.png").symlink_to("/nowhere.png")
    os.mkfifo(cat / "pipe.jpg")
    for name in ("._0.png", "phone.heic", "tablet.heic", "README", "notes.txt"):
        (cat / name).write_bytes(b"no image")
    (root / "train" / "labels.csv").touch()
    fill(root / "valid", 1)
    dataset = data.load("auto", root, size=6)
    both = numbers(dataset, "train") + numbers(dataset, "val")
    cats = sorted(number for label, number in both if not label)
    assert cats == pytest.approx([*range(12), 20, 21, 30], abs=1.5)  # a JPEG is not exact
    assert len(dataset.train.labels) + len(dataset.val.labels) == 27
    left_out, beside = dataset.why.splitlines()
    kinds = {"2 .heic", "2 broken links or pipes", "1 without an ending", "1 .txt"}
    assert set(left_out.removeprefix("files left out: ").split(", ")) == kinds | {
        "1 beside the classes"
    }
    assert beside == "not read: valid/"
    (root / "test/cow").symlink_to(root / "test/cat")
    (root / "train/cow").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"test/cat and .*test/cow are one and the same folder"):
        data.load("auto", root)


LAYOUTS = {  # files, and what the error says
    "Tiny ImageNet": (
        [*(f"train/n{i:02}/images/0.png" for i in range(20)), "val/images/0.png", "words.txt"],
        r"only in one: images, n00, n01 and 18 more; there is train/ \(n00/, n01/, n02/ and 17 "
        r"more\), val/ \(images/\), words.txt$",
    ),
    "one too high": (["photos/train/cat/0.png"], r"expected .*; there is photos/ \(train/\)$"),
    "flat": (["0.png", "1.png"], r"expected train/CLASS/IMAGE .*; there is 0.png, 1.png$"),
    "flat train": (
        ["train/cat.0.png", "test1/1.png"],
        "there is test1/ .1.png., train/ .cat.0.png.$",
    ),
    "capitals": (["Train/cat/0.png", "Test/cat/0.png"], "expected train/CLASS/IMAGE"),
    "parts as classes": (["Training/0.png", "testing/1.png"], "expected train/CLASS/IMAGE"),
    "Intel": (["seg_train/seg_train/sea/0.png"], r"there is seg_train/ \(seg_train/\)$"),
    "packed": (["photos.zip"], "there is photos.zip$"),
    "empty": ([".DS_Store"], "there is nothing$"),
    "lone test": (["test/cat/0.png"], r"there is test/ \(cat/\)$"),
    "one class": (["cat/0.png"], r"at least 2 classes .* there is cat/ \(0.png\)$"),
    "one image a class": ([f"c{i:02}/0.png" for i in range(12)], "none is left for val"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_layout_is_shown_as_a_tree(tmp_path, layout):
    files, message = LAYOUTS[layout]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / file, "PNG")
    with pytest.raises(UserError, match=message) as error:
        data.load("auto", tmp_path)
    assert len(str(error.value)) < 400 + len(str(tmp_path))


def test_unreadable_files_are_named_at_once_or_left_out(tmp_path):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            fill(tmp_path / part / name, 12)
    bad = [tmp_path / "train/cat/3.png", tmp_path / "train/dog/4.png", tmp_path / "test/dog/5.png"]
    for path in bad:
        path.write_bytes(b"\x89PNG\r\n not an image")
    with pytest.raises(UserError) as error:
        data.load("auto", tmp_path)
    assert all(f"{path} is not a readable image" in str(error.value) for path in bad)
    dataset = data.load("auto", tmp_path, size=6, skip_unreadable=True)
    both = numbers(dataset, "train") + numbers(dataset, "val")
    expected = [(c, i) for c in (0, 1) for i in range(12)]
    assert sorted(both) == [pair for pair in expected if pair not in {(0, 3), (1, 4)}]
    assert len(dataset.test.labels) == 23
    assert dataset.why.startswith("3 unreadable files left out: ")


def test_what_does_not_fit_the_memory_is_said_before_it_is_read(tmp_path, monkeypatch):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            fill(tmp_path / part / name, 6)
    monkeypatch.setattr(images, "read_image", None)  # nothing may be read
    needed = "24 images of 1000000x1000000 pixels need 72000.0 GB of memory"
    with pytest.raises(UserError, match=needed):
        data.load("auto", tmp_path, size=1_000_000)
    with pytest.raises(UserError, match="120 images of 1000000x1000000 pixels"):
        data.load("shapes", size=1_000_000, limit=100)
    assert 1e8 < images._free_memory() < 1e14


def test_image_files_of_folders(tmp_path):
    fill(tmp_path / "a/b", 2)
    (tmp_path / "a/notes.txt").touch()
    found = data.image_files([tmp_path / "x.jpg", tmp_path / "a"])
    assert found == [tmp_path / "x.jpg", tmp_path / "a/b/0.png", tmp_path / "a/b/1.png"]
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="none holds no image; there is nothing"):
        data.image_files([tmp_path / "none"])
