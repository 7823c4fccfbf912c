import math
import os
import subprocess
import sys
from pathlib import Path

from common import UserError, data, models, training
from common.training import checkpoints, step

import pytest
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def tiny():
    return data.load("shapes", size=16, limit=600)


def test_schedule_value_by_value():
    optimizer = step.sgd(torch.nn.Linear(2, 2), lr=0.8)
    schedule = step.warmup_cosine(optimizer, steps=12, warmup=4)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    cosine = [0.4 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, *cosine])
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0, abs=1e-12)


def test_only_weights_are_decayed():
    model = models.cifar_resnet(8, width=4)
    decayed, free = step.sgd(model, 0.1, 5e-4).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (5e-4, 0.0)
    assert decayed["nesterov"]
    assert {p.ndim for p in free["params"]} == {1}
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


def test_muon_orthogonalises():
    wide, flat = torch.randn(16, 90), torch.randn(24, 24) @ torch.logspace(0, -4, 24).diag()
    for matrix in (wide, wide.T, 1e-3 * wide):
        values = torch.linalg.svdvals(step.orthogonal(matrix))
        assert 0.6 < values.min() <= values.max() < 1.3
    before, after = (torch.linalg.svdvals(m) for m in (flat, step.orthogonal(flat)))
    assert after.max() < 1.3
    assert after[12] / after[0] > 3 * before[12] / before[0]
    assert (step.orthogonal(wide) * wide).sum() > 0


def test_muon_moves_convolutions_by_its_rate_and_sgd_the_rest():
    torch.manual_seed(0)
    model, twin = (models.cifar_resnet(8, width=8) for _ in range(2))
    twin.load_state_dict(model.state_dict())
    x, y = torch.randn(16, 3, 16, 16), torch.arange(16) % 10
    optimizer = step.sgd(model, 0.1, 5e-4, muon=0.01)
    training.train_step(model, x, y, optimizer, "cpu")
    training.train_step(twin, x, y, step.sgd(twin, 0.1, 5e-4), "cpu")
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        if ours.ndim < 4:
            assert torch.equal(ours, theirs), name
        else:
            assert ours.norm().item() == pytest.approx(len(ours) ** 0.5, rel=0.02), name
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.1, 0.01]
    assert {p.ndim for p in optimizer.param_groups[2]["params"]} == {4}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))


def train(dataset, **options):
    torch.manual_seed(1)
    model = models.cifar_resnet(8, width=8)
    return model, list(training.Trainer(model, dataset, 2, **options).run())


def test_training_learns_and_repeats(tiny):
    first, rows = train(tiny, seed=3)
    second, again = train(tiny, seed=3)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] < 2.7
    assert [r["train_loss"] for r in rows] == [r["train_loss"] for r in again]
    state = second.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in first.state_dict().items())
    assert train(tiny, seed=4)[1][0]["train_loss"] != rows[0]["train_loss"]


def test_divergence_is_one_clear_error(tiny):
    with pytest.raises(training.Diverged, match="smaller --lr"):
        train(tiny, lr=1e30)


def test_evaluation_weighs_every_sample_once(tiny, monkeypatch):
    model = models.cifar_resnet(8, width=4)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    logits = training.predict(model, tiny, "test")
    loss, accuracy = training.evaluate(model, tiny, "test")
    labels = tiny.test.labels
    assert len(logits) == len(labels) == 120
    assert accuracy == pytest.approx((logits.argmax(1) == labels).sum().item() / 120)
    assert loss == pytest.approx(F.cross_entropy(logits, labels).item())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    x = torch.cat([x for x, _ in tiny.batches("test", 7)])
    monkeypatch.setattr(step, "native_bf16", lambda device: False)
    direct = model.eval()(x)
    assert torch.allclose(training.predict(model, tiny, "test"), direct, atol=1e-5)


def test_parts_add_up_to_the_large_batch(tiny, monkeypatch):
    monkeypatch.setattr(step, "native_bf16", lambda device: False)
    x, y = next(tiny.batches("train", 50, seed=1))
    grads = {}
    for parts in (1, 4, 1_000):
        torch.manual_seed(0)
        model = models.cifar_resnet(8, width=4).eval()  # batch-norm statistics fixed
        optimizer = step.sgd(model, 0.1)
        loss, logits = training.train_step(model, x, y, optimizer, "cpu", 0.1, parts)
        grads[parts] = [loss, logits, *(p.grad for p in model.parameters())]
    for parts in (4, 1_000):
        for one, other in zip(grads[1], grads[parts], strict=True):
            assert torch.allclose(one, other, atol=1e-5, rtol=0)


def test_smoothed_labels_by_hand():
    model, y = torch.nn.Linear(4, 3), torch.tensor([0, 2])
    x, optimizer = torch.randn(2, 4), step.sgd(model, 0.0)
    target = 0.9 * F.one_hot(y, 3) + 0.1 / 3
    with step.autocast("cpu"):
        expected = -(target * model(x).float().log_softmax(1)).sum(1).mean()
    loss, _ = training.train_step(model, x, y, optimizer, "cpu", 0.1)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_average_follows_the_weights_and_is_what_is_validated(tiny):
    torch.manual_seed(1)
    model = models.cifar_resnet(8, width=8)
    trainer = training.Trainer(model, tiny, 1, ema=0.9)
    seen = []
    expected = [p.detach().clone() for p in model.parameters()]
    for row in trainer.run(
        on_step=lambda *_: seen.append([p.detach().clone() for p in model.parameters()])
    ):
        pass
    for n, weights in enumerate(seen[1:]):  # the first update copies
        keep = min(0.9, (1 + n) / (10 + n)) if n else 0
        expected = [keep * e + (1 - keep) * w for e, w in zip(expected, weights, strict=True)]
    averaged = list(trainer.evaluated_model.parameters())
    assert all(torch.allclose(a, e, atol=1e-6) for a, e in zip(averaged, expected, strict=True))
    assert not torch.equal(averaged[0], next(model.parameters()))
    assert row["val_loss"] == training.evaluate(trainer.evaluated_model, tiny, "val")[0]
    assert trainer.state()["average"]["conv1.weight"].equal(averaged[0])


def test_mirror_images_by_hand(tiny, monkeypatch):
    monkeypatch.setattr(step, "native_bf16", lambda device: False)
    model = models.cifar_resnet(8, width=4).eval()
    x = torch.cat([x for x, _ in tiny.batches("test", 7)])
    with torch.no_grad():
        expected = model(x.flip(3))
    assert torch.allclose(training.predict(model, tiny, "test", mirror=True), expected, atol=1e-5)


def test_sizes_share_out_the_epochs(tiny):
    seen = []

    class Watched(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = models.cifar_resnet(8, width=4)

        def forward(self, x):
            seen.append((self.training, x.shape[3]))
            return self.net(x)

    options = {"sizes": [8, 8, 12], "batch_size": 270}
    rows = list(training.Trainer(Watched(), tiny, 4, **options).run())
    assert [row["pixels"] for row in rows] == [8, 8, 8, 12]
    assert [size for training, size in seen if training] == [8] * 6 + [12] * 2
    assert {size for training, size in seen if not training} == {16}


def test_a_compiled_network_trains_as_it_would_have(tiny, monkeypatch):
    monkeypatch.setattr(step, "native_bf16", lambda device: False)
    found = []
    for prepare in (lambda model: model, step.compiled):
        torch.manual_seed(0)
        layers = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten()
        try:
            model = prepare(torch.nn.Sequential(*layers, torch.nn.Linear(4 * 14 * 14, 10)))
        except UserError as error:
            pytest.skip(str(error))  # no compiler: --compile says so, too
        x, y = next(tiny.batches("train", 50, seed=1))
        loss, _ = training.train_step(model, x, y, step.sgd(model, 0.1), "cpu")
        found.append([loss, *model.state_dict().values()])
    assert model._compiled_call_impl is not None
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-4)

    def refuse(*arguments):
        raise RuntimeError("no compiler found\nand a long story")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(UserError, match=r"--compile does not work here \(no compiler found\)"):
        step.compiled(model)


def test_checkpoint_is_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    checkpoints.save_checkpoint(path, {"model": {"w": torch.ones(3)}, "epoch": 1})
    loaded = torch.load(path, weights_only=True)
    assert loaded["epoch"] == 1

    def half(file, content):
        file.open("wb").write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(UserError, match="No space left"):
        checkpoints.save_checkpoint(path, {"epoch": 2})
    assert torch.load(path, weights_only=True)["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


NARROW = """
from common import training
from common.blocks import BasicBlock
import torch
torch.set_num_threads(1)
for channels in (1, 3, 4, 7):
    net = torch.nn.Sequential(BasicBlock(channels, 64, stride=2, shortcut="B"))
    net = training.step.channels_last(training.step.channels_last(net, "cpu"), "cpu")
    for images in (1, 16, 48):
        x = torch.randn(images, channels, 12, 12).to(memory_format=torch.channels_last)
        net(x).square().sum().backward()
    shortcut, x = net[0].downsample[0], torch.randn(8, channels, 9, 9)
    grads = []
    for dtype in (torch.float32, torch.float64):
        shortcut.to(dtype).zero_grad()
        shortcut(x.to(dtype, memory_format=torch.channels_last)).square().sum().backward()
        grads.append(shortcut.weight.grad.double())
    assert torch.allclose(*grads, rtol=1e-4, atol=1e-3)
    assert len(shortcut._forward_pre_hooks) == 1
    assert net[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
"""


def test_narrow_shortcuts_do_not_write_past_their_memory():
    """Where PyTorch does (see channels_last) the child dies, at the latest of the allocator's own
    checks."""
    environment = os.environ | {"MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165"}
    command = [sys.executable, "-c", NARROW]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
