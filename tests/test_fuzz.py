"""Random damage to checkpoints, flags and images: a UserError or a result, never a traceback."""

import contextlib
import copy
import importlib
import io
import random
import re
import signal
import socketserver
import sys
import threading
import time
from argparse import Namespace

from common import UserError, data, lesson, models, plotting, training
from common.data import download, sources
from common.training import checkpoints, entries

import pytest
import torch
from PIL import Image

resource = pytest.importorskip("resource")  # Windows has none
plotting.use_theme()
SIX = importlib.import_module("06_practical_example")
FLAGS = "--model cifar_resnet-8 --image-size 8 --epochs 2 --batch-size 10 --device cpu --ema 0.9"
HUGE = torch.zeros(1).expand(10**12)
VALUES = [None, True, False, 0, 1, -1, -5, 68, 10**6, 10**20, -(10**400), 0.5, -0.5, 1e308, 1e-320]
VALUES += [float("nan"), float("inf"), -float("inf"), "", "x", "68", "\0", "a" * 5000, b"x", 1j]
VALUES += [[], [None], [0], ["x"], [-1, 2.5], (), {}, {0: 1}, {"x": {}}, [{}], [[]], {None: None}]
VALUES += [HUGE, HUGE[None], torch.zeros(0), torch.zeros(3), torch.ones(()), torch.tensor(True)]
VALUES += [torch.tensor(torch.nan), torch.ones(2, 2) * 1j, torch.ones(2).to_sparse()]
VALUES += [torch.zeros(2, device="meta"), torch.zeros(5, dtype=torch.uint8)]


@pytest.fixture(autouse=True)
def bounded():
    """No hang, and no large allocation."""

    def late(*_):
        raise TimeoutError("a minute is over")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used
    assert used < (1e9 if sys.platform == "darwin" else 1e6)  # bytes on a Mac, elsewhere kB


@pytest.fixture(scope="module")
def few():
    """Twenty images to train and two to validate."""
    dataset = data.load("shapes", size=8, limit=100)
    splits = {s: data.Split(*(t[:n] for t in getattr(dataset, s))) for s, n in PARTS.items()}
    return data.Dataset("few", dataset.classes, **splits)


PARTS = {"train": 20, "val": 2, "test": 2}


def trainer_of(args, few):
    torch.manual_seed(0)
    options = SIX.settings_of(args, (*SIX.RECIPE, "seed"))
    return training.Trainer(models.build(args.model, 10, 8), few, args.epochs, **options)


@pytest.fixture(scope="module")
def checkpoint(few):
    """The arguments of a training, and its entries after three of four steps."""
    args, kept = SIX.arguments(FLAGS.split()), {}
    trainer = trainer_of(args, few)

    def keep(step, _batch):
        if step == 3:
            found = checkpoints.training_entries(trainer, SIX.settings_of(args))
            kept.update(copy.deepcopy(found | {"sources": SIX.settings_of(args, SIX.SOURCES)}))

    list(trainer.run(on_step=keep))
    return args, kept


def damaged(value, chance):
    """The value with one of its parts, at any depth, changed, left out, or under another name."""
    inside = value.keys() if isinstance(value, dict) else range(len(value))
    key = chance.choice(list(inside))
    changed = copy.copy(value) if isinstance(value, dict) else list(value)
    if isinstance(value[key], dict | list) and value[key] and chance.random() < 0.85:
        changed[key] = damaged(value[key], chance)
    elif (how := chance.random()) < 0.8:
        changed[key] = chance.choice(VALUES)
    elif how < 0.9 or isinstance(changed, list):
        del changed[key]
    else:
        changed[chance.choice([0, "x", None])] = changed.pop(key)
    return changed


def attempt(function, *arguments):
    """The result of a call, or None if it ended in a UserError of one line."""
    try:
        return function(*arguments)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        return None


def resumed(path, args, few):
    """What lesson 6 does with a --resume, to the end of the training."""
    found = checkpoints.read_training(path)
    checkpoints.same_settings(path, found, SIX.settings_of(args))
    trainer = trainer_of(args, few)
    checkpoints.resume(path, found, trainer)
    rows = [*trainer.rows, *trainer.run()]
    return [SIX.ROW.format(**row, train=1.0, val=1.0) for row in rows]


def test_a_checkpoint_with_one_damaged_entry(checkpoint, few, monkeypatch, tmp_path):
    args, whole = checkpoint
    chance, outcomes = random.Random(0), []
    monkeypatch.setattr(checkpoints, "read_tensors", lambda *_: copy.copy(found))
    found = whole
    assert resumed(tmp_path, args, few)
    assert checkpoints.load_model(tmp_path)
    for _ in range(150):
        found = damaged(whole, chance)
        outcomes.append(attempt(resumed, tmp_path, copy.copy(args), few) is None)
        loaded = attempt(checkpoints.load_model, tmp_path)
        if loaded:
            assert all(p.isfinite().all() for p in loaded[0].parameters())
        attempt(checkpoints.read_weights, tmp_path)
    assert sum(outcomes) > 75  # what is left changes nothing that counts, such as "epoch"


@pytest.mark.parametrize("value", VALUES, ids=lambda value: str(type(value)))
def test_every_rule_takes_every_value(value):
    """Of each rule in the table the answer is yes or no, whatever it is asked about."""

    def rules(table):
        for rule in table.values():
            yield from rules(rule) if isinstance(rule, dict) else [rule]

    for rule in rules(entries.CHECKPOINT):
        assert rule(value) in (True, False)
    assert isinstance(
        entries.misfit({"settings": value, "training": value}, entries.CHECKPOINT), str
    )


def test_a_checkpoint_of_damaged_bytes(checkpoint, tmp_path):
    chance, path = random.Random(0), tmp_path / "x.pt"
    torch.save(checkpoint[1], path)
    good = path.read_bytes()
    head = good.index(b"model")
    for _ in range(25):
        bad = bytearray(good)
        for place in (chance.randrange(len(bad)), head + chance.randrange(3_000)):
            bad[place] = chance.randrange(256)
        path.write_bytes(bad[: chance.choice([None, chance.randrange(len(bad))])])
        attempt(checkpoints.read, path)
        attempt(checkpoints.read_weights, path)


def test_an_image_of_damaged_bytes(tmp_path):
    chance, path = random.Random(0), tmp_path / "x.img"
    picture = Image.frombytes("RGB", (12, 12), chance.randbytes(432))
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO"):
        memory = io.BytesIO()
        picture.save(memory, kind)
        for _ in range(25):
            bad = bytearray(memory.getvalue())
            for _ in range(chance.choice([1, 2, 8])):
                bad[chance.randrange(len(bad))] = chance.randrange(256)
            path.write_bytes(bad[: chance.choice([None, None, chance.randrange(len(bad))])])
            image = attempt(data.read_image, path, 8)
            assert image is None or image.shape == (8, 8, 3)


NUMBERS = ["0", "1", "2", "3", "9", "-1", "1e308", "-1e308", "nan", "inf", "1e-320", "0.5", "1e6"]
NUMBERS += ["5000", "100000", "999999999", "9" * 20, "9" * 5000, "", "x", "\0", "٣", "1_0", " 1"]
NAMES = ["batch-size", "lr", "weight-decay", "cutout", "smoothing", "ema", "muon", "accumulate"]
NAMES += ["frozen", "image-size", "sizes", "save-every", "seed", "model", "weights"]
NAMES += ["resume", "checkpoint", "data-dir", "data-url"]
MODELS = ["cifar_resnet-8", "cifar_resnet-9999998", "cifar_wide_resnet-10-100000", "cifar_resnet-0"]
MODELS += [
    "cifar_pool_resnet-9-9-999999",
    "cifar_densenet-10-0",
    "resnet18-4",
    "cifar_resnext-11-0-0",
]


def test_any_flags(few, tmp_path, monkeypatch, capsys):
    """Lesson 6 from its flags to the end of a training of few steps."""
    chance, statuses = random.Random(0), []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SIX.data, "load", lambda *_, size, **__: few.resized(size))
    monkeypatch.setattr(SIX, "check_loop", lambda *_: None)
    monkeypatch.setattr(SIX, "test", lambda *_: {"test_accuracy": 0.0})
    monkeypatch.setattr(SIX, "draw_curves", lambda *_: None)
    for _ in range(50):
        argv = [*FLAGS.split(), "--epochs", "1", "--out-dir", str(tmp_path)]
        for name in chance.sample(NAMES, chance.choice([1, 1, 2, 3])):
            values = MODELS if name == "model" else NUMBERS
            argv += [f"--{name}", chance.choice(values)]
        monkeypatch.setattr("sys.argv", ["06.py", *argv])
        with pytest.raises(SystemExit) as stop:
            lesson.run(SIX.main)
        lines = capsys.readouterr().err.splitlines()
        assert (stop.value.code, len(lines)) in ((0, 0), (2, 1)), (argv, lines)
        statuses.append(stop.value.code)
    assert {*statuses} == {0, 2}


@pytest.mark.parametrize("script", ["03_training_comparison", "04_residual_variants"])
def test_what_cannot_fit_names_the_gigabytes(script, capsys):
    parse = importlib.import_module(script).arguments
    parse(["--image-size", "64", "--width", "32"])
    for flags in (["--width", "100000"], ["--image-size", "9999"]):
        with pytest.raises(SystemExit):
            parse(flags)
        assert re.search(r"needs at least \d+\.\d GB of memory", capsys.readouterr().err)


OK = b"HTTP/1.1 200 OK\r\n"
ANSWERS = {
    "another protocol": b"SSH-2.0-x\r\n",
    "nothing": b"",
    "a broken chunk": OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc",
    "a long header": OK + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
    "many headers": OK + b"X: a\r\n" * 300 + b"\r\n",
    "a part": OK + b"Content-Length: 1000\r\n\r\nabc",
    "another file": OK + b"Content-Length: 3\r\n\r\nabc",
    "a way to a file": b"HTTP/1.1 302 F\r\nLocation: file:///etc/passwd\r\n\r\n",
    "byte by byte": (OK + b"Content-Length: 1000\r\n\r\n", b"a"),
    "headers byte by byte": (OK + b"X: ", b"a"),
}


@pytest.fixture
def answers():
    """A function that starts a server with one answer for all, and returns its address."""
    with contextlib.ExitStack() as stack:

        def start(answer):
            first, then = answer if isinstance(answer, tuple) else (answer, b"")

            class Handler(socketserver.BaseRequestHandler):
                def handle(self):
                    with contextlib.suppress(OSError):
                        self.request.recv(1_000)
                        self.request.sendall(first)
                        while then:
                            self.request.sendall(then)
                            time.sleep(0.05)

            server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
            server.daemon_threads, server.block_on_close = True, False
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            return f"http://127.0.0.1:{server.server_address[1]}/x"

        yield start


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_server_that_does_what_it_likes(kind, answers, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 0.5)
    root, url = tmp_path / "d", answers(ANSWERS[kind])
    assert attempt(data.load, "cifar10", root, url) is None
    assert not root.exists()


BAD = [
    "http://a b/c",
    "http://127.0.0.1/\nx",
    "file:///etc/passwd",
    "ftp://x/y",
    "x.tgz",
    "http:///x",
]
BAD += ["http://[::1/x", "http://127.0.0.1:x/x", "http://é/x", "data:,x", "http://127.0.0.1:9/x"]


@pytest.mark.parametrize("url", BAD)
def test_an_address_that_leads_nowhere(url, few, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "_shapes10", lambda limit: few)  # takes a second each time
    assert attempt(data.load, "cifar10", None, url) is None
    assert "could not be fetched" in data.load("auto", None, url, download=True, limit=50).why
    assert not list(tmp_path.iterdir())


def test_what_a_killed_download_left_is_swept(answers, tmp_path):
    (tmp_path / ".download").mkdir()
    (tmp_path / ".download" / "cifar-10-python.tar.gz").write_bytes(b"half")
    assert attempt(data.load, "cifar10", tmp_path, answers(b"")) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", ["01_basic_residual_block", "03_training_comparison"])
def test_flags_of_other_lessons_that_cannot_be(script, tmp_path, capsys):
    parse = importlib.import_module(script).arguments
    for name, setting in vars(parse([])).items():
        if isinstance(setting, bool) or setting is None or name in ("out_dir", "device", "data"):
            continue
        for text in NUMBERS:
            try:
                assert isinstance(parse([f"--{name.replace('_', '-')}", text]), Namespace)
            except SystemExit as stop:
                assert stop.code == 2
                assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("text", ["-1", "+7", "1759000000123456789", "-" + "9" * 400])
def test_any_whole_number_is_a_seed(text):
    found = lesson.parser("doc").parse_args(["--seed", text]).seed
    assert found == int(text) % 2**31
    torch.manual_seed(found * 10_007 + 10**6)


def test_small_seeds_are_as_they_were():
    assert [lesson.seed(str(number)) for number in range(1001)] == list(range(1001))


def test_one_pixel_is_an_image(few):
    assert few.resized(1).train.images.shape == (20, 3, 1, 1)
