"""What tests/tricks.py changes is what it says it changes, and nothing else."""

import json

from common import models
from common.data import Dataset, Split, shapes
from tests import tables, tricks

import pytest
import torch
import torch.nn as nn


@pytest.fixture
def dataset():
    """Few images of 16 pixels."""
    images, labels = shapes.images(96, seed=0)
    small = Split(nn.functional.avg_pool2d(images.float(), 2).byte(), labels)
    parts = [Split(*(t[i : i + 32] for t in small)) for i in (0, 32, 64)]
    return Dataset("Shapes-10", list(map(str, range(10))), *parts)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return models.cifar_pool_resnet(24, 32, 32, 2).eval()


def test_without_skips_a_group_adds_nothing(model, dataset):
    x = torch.randn(2, 32, 4, 4)
    block = model.layer1[0]
    with_skips = block(x)
    tricks.without_skips(model, dataset)
    pooled = block.relu1(block.bn1(block.pool(block.conv1(x))))
    first, second = block.residual
    assert torch.equal(block(x), second(first(pooled)))
    halfway = pooled + first(pooled)
    assert torch.equal(with_skips, halfway + second(halfway))


def test_an_identity_start_copies_the_inputs(model, dataset):
    """Filters beyond the number of inputs keep their random weights."""
    before = model.layer2[0].conv1.weight.clone()
    with torch.no_grad():
        tricks.identity_start(model, dataset)
    x = torch.randn(1, 24, 5, 5)
    assert torch.allclose(model.layer2[0].conv1(x)[:, :24], x, atol=1e-6)
    assert torch.equal(model.layer2[0].conv1.weight[24:], before[24:])


def test_a_whitening_stem_gives_uncorrelated_channels_of_variance_one(model, dataset):
    with torch.no_grad():
        tricks.whitening_stem(model, dataset)
        x = next(dataset.batches("train", 32))[0]
        inside = nn.functional.conv2d(x, model.conv1.weight)  # without the border
        out = inside.transpose(0, 1).flatten(1)  # 24 values
        second_moments = out[:12] @ out[:12].T / out.shape[1]
    scaled = second_moments.diag()
    assert ((scaled > 0.3) & (scaled < 1.001)).all()  # 5e-4 damps the smallest
    assert (second_moments - second_moments.diag().diag()).abs().max() < 1e-3
    assert torch.allclose(out[12:], -out[:12], atol=1e-6)
    assert model(x).shape == (32, 10)


def test_faster_biases_have_16_times_the_gradient(model, dataset):
    x = torch.randn(2, 3, 16, 16)
    model(x).sum().backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    tricks.faster_biases(model, dataset)
    model(x).sum().backward()
    for name, p in model.named_parameters():
        norm = isinstance(model.get_submodule(name.rpartition(".")[0]), nn.BatchNorm2d)
        factor = 16 if norm and name.endswith("bias") else 1
        assert torch.allclose(p.grad, factor * before[name]), name


def test_a_training_is_measured_with_one_two_and_six_views(dataset, tmp_path):
    found = tricks.train(dataset, [8, 8, 8], 1, 0, tricks.Run({"sizes": (12,)}))
    assert set(found) == {"views 1", "views 2", "views 6", "train", "seconds"}
    calls = []
    for _ in range(2):
        kept = tricks.kept(tmp_path / "a" / "run.json", lambda: calls.append(1) or found)
        assert kept == found
    assert len(calls) == 1  # the second time it stands in the file


def test_two_additions_at_once(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(tricks, "RUNS", tmp_path)
    monkeypatch.setattr(tricks.data, "load", lambda *_, **__: dataset)
    (run,) = tricks.BOTH.values()
    assert run.changes == (tricks.whitening_stem, tricks.identity_start)
    found = tricks.main("both --widths 8 8 8 --size 16 --epochs 1 --seeds 3".split())
    assert [*found] == [*tricks.BOTH] and [*found["whitening stem, identity start"]] == [3]


def test_the_sentence_on_time_to_accuracy_follows_the_numbers(tmp_path):
    rows = [{"seconds": 100.0, "val_accuracy": 0.6}, {"seconds": 200.0, "val_accuracy": 0.76}]
    kept = {"device": "one core", "data": "images", "torch": "2", "native_bf16": False}
    kept |= {"target": 0.75, "widths": [8, 8, 8], "epochs": 2, "ours": rows}
    for last, words in (
        (0.8, "was there after 4,000 s, 20 times"),
        (0.5, "at 50.0 % when it was"),
    ):
        kept["copied"] = [{"seconds": 4000.0, "val_accuracy": last}]
        (tmp_path / "time_to_accuracy.json").write_text(json.dumps(kept), encoding="utf-8")
        assert words in tables.time_to_accuracy(tmp_path)
        assert "after 200 s, after epoch 2 of its 2." in tables.time_to_accuracy(tmp_path)
