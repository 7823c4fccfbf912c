"""Checkpoints that other programs wrote: what lies around the weights, and what is refused."""

import os
import re
import zipfile
from collections import OrderedDict
from pathlib import Path

from common import UserError, models
from common.training import checkpoints

import pytest
import torch
import torchvision

TINY = {"conv1.weight": torch.ones(2, 3), "fc.bias": torch.zeros(4)}


def named(prefix, state=TINY):
    return {f"{prefix}{key}": value for key, value in state.items()}


WRAPPED = {
    "bare": TINY,
    "ordered": OrderedDict(TINY),
    "PyTorch's tutorial": {"epoch": 3, "model_state_dict": TINY, "loss": 0.1, "optimizer": {}},
    "ImageNet example": {"arch": "resnet18", "state_dict": named("module."), "best_acc1": 69.7},
    "torchvision's references": {"model": TINY, "epoch": 3, "model_ema": named("module.")},
    "pytorch-cifar": {"net": named("module."), "acc": 95.0},
    "compiled": named("_orig_mod."),
    "compiled in parallel": named("_orig_mod.module."),
    "parallel, then compiled": named("module._orig_mod."),
    "Lightning": {"state_dict": named("model."), "hyper_parameters": {}, "callbacks": {}},
    "Lightning, compiled": {"state_dict": named("model._orig_mod."), "loops": {}},
    "averaged": named("module.") | {"n_averaged": torch.tensor(7)},
    "wrapped twice": {"model": {"state_dict": TINY}},
    "backbone": named("backbone."),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_what_lies_around_the_weights_is_taken_off(kind, tmp_path):
    torch.save(WRAPPED[kind], tmp_path / "w.pth")
    found = checkpoints.read_weights(tmp_path / "w.pth")
    assert list(found) == list(TINY)
    assert all(torch.equal(found[key], TINY[key]) for key in TINY)


NONE = {
    "nothing": {},
    "other entries": {"epoch": 3},
    "a tensor": torch.ones(3),
    "a list": [TINY],
    "an optimiser": {"state": {0: {"momentum": torch.ones(2)}}, "param_groups": []},
    "two networks": {"model": TINY, "net": TINY},
    "numbers for names": {0: torch.ones(2)},
    "numbers for tensors": {"conv1.weight": 1.0},
}


@pytest.mark.parametrize("kind", NONE)
def test_what_holds_no_weights_or_those_of_two_is_refused(kind, tmp_path):
    torch.save(NONE[kind], tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth holds no weights: expected a state_dict"):
        checkpoints.read_weights(tmp_path / "w.pth")


def test_a_pipe_is_no_file_and_a_packed_file_no_checkpoint(tmp_path):
    """Opening the one would wait for ever; of the other a few bytes become gigabytes."""
    os.mkfifo(tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth is no file"):
        checkpoints.read_weights(tmp_path / "w.pth")
    torch.save({"w": torch.zeros(10**6)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for part in plain.infolist():
            packed.writestr(part.filename, plain.read(part))
    assert (tmp_path / "packed.pth").stat().st_size < 10_000
    with pytest.raises(UserError, match="no checkpoint of plain tensors"):
        checkpoints.read_weights(tmp_path / "packed.pth")


def test_an_unreadable_file_says_so(tmp_path, monkeypatch):
    (tmp_path / "w.pth").touch()

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
        checkpoints.read_weights(tmp_path / "w.pth")


def test_a_file_that_wraps_itself_is_refused(tmp_path):
    entries = {"epoch": 1}
    entries["model"] = entries
    torch.save(entries, tmp_path / "w.pth")
    with pytest.raises(UserError, match="holds no weights"):
        checkpoints.read_weights(tmp_path / "w.pth")


def test_prefixes_stay_where_not_all_names_have_them(tmp_path):
    state = named("model.") | {"criterion.weight": torch.ones(2)}
    torch.save(state, tmp_path / "w.pth")
    assert list(checkpoints.read_weights(tmp_path / "w.pth")) == list(state)


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=3).eval()


def test_every_shared_network_is_known_by_its_name():
    shared = [name for name in models.NETWORKS if hasattr(torchvision.models, name)]
    assert shared == models.TORCHVISION
    assert len(shared) == 13


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "densenet121"])
def test_weights_give_torchvisions_logits(name, tmp_path):
    """Wrapped and, of a DenseNet, under the names of the files that it once came in."""
    reference = getattr(torchvision.models, name)(num_classes=3).eval()
    state = reference.state_dict()
    old = {re.sub(r"(norm|conv)([12])\.", r"\1.\2.", k): v for k, v in state.items()}
    state = old if name == "densenet121" else state
    assert ("features.denseblock1.denselayer1.norm.1.weight" in state) == (name == "densenet121")
    torch.save({"state_dict": named("module.", state)}, tmp_path / "w.pth")
    model = checkpoints.load_torchvision(name, tmp_path / "w.pth")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(model(x), reference(x), atol=1e-5)
    assert not model.training


def without(state, *names):
    return {key: value for key, value in state.items() if not key.startswith(names)}


MISFITS = {
    "another head": (
        lambda s: without(s, "fc") | {"fc.1.weight": s["fc.weight"], "fc.1.bias": s["fc.bias"]},
        "it has no fc.weight, but fc.1.weight",
    ),
    "no head": (lambda s: without(s, "fc"), "it has no fc.weight$"),
    "one channel": (
        lambda s: s | {"conv1.weight": s["conv1.weight"][:, :1].clone()},
        r"conv1.weight is \[64, 1, 7, 7\], not \[64, 3, 7, 7\]$",
    ),
    "other names": (
        lambda s: {key.replace("downsample", "shortcut"): s[key] for key in s},
        "it has no layer2.0.downsample.0.weight, but layer2.0.shortcut.0.weight",
    ),
    "one too many": (lambda s: s | {"tail.weight": torch.ones(1)}, "tail.weight has no place"),
    "not a number": (
        lambda s: s | {"layer4.1.bn2.running_var": torch.full((512,), torch.nan)},
        "layer4.1.bn2.running_var is not finite",
    ),
    "infinite": (lambda s: s | {"fc.bias": torch.full((3,), torch.inf)}, "fc.bias is not finite"),
    "integers": (lambda s: s | {"fc.bias": torch.ones(3, dtype=torch.int8)}, "torch.int8"),
    "complex": (lambda s: s | {"fc.bias": torch.ones(3) * 1j}, "torch.complex64"),
    "sparse": (lambda s: s | {"fc.weight": s["fc.weight"].to_sparse()}, "value by value"),
    "without values": (lambda s: s | {"fc.bias": torch.ones(3, device="meta")}, "value by value"),
    "terabytes": (
        lambda s: (
            s | {k: s[k][:1].expand(10**12, *s[k].shape[1:]) for k in ("fc.weight", "fc.bias")}
        ),
        "fc.weight is not stored value by value",
    ),
    "no class": (
        lambda s: s | {"fc.weight": torch.ones(0, 512), "fc.bias": torch.ones(0)},
        r"fc.weight is \[0, 512\], not \[1, 512\]",
    ),
    "a variance below 0": (
        lambda s: s | {"bn1.running_var": -s["bn1.running_var"]},
        "bn1.running_var is negative",
    ),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_the_first_difference_is_named(kind, reference, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "TORCHVISION", ["resnet18"])  # no search for another one
    change, message = MISFITS[kind]
    torch.save(change(dict(reference.state_dict())), tmp_path / "w.pth")
    with pytest.raises(UserError, match=message) as error:
        checkpoints.load_torchvision("resnet18", tmp_path / "w.pth")
    assert len(str(error.value).splitlines()) == 1


def test_half_precision_and_files_without_counters_fit(reference, tmp_path):
    state = reference.state_dict()
    state = {key: value.bfloat16() for key, value in state.items() if "num_batches" not in key}
    torch.save(state, tmp_path / "w.pth")
    model = checkpoints.load_torchvision("resnet18", tmp_path / "w.pth")
    assert torch.equal(model.conv1.weight, reference.conv1.weight.bfloat16().float())


def test_a_whole_network_is_refused_with_the_way_out(reference, tmp_path):
    torch.save(reference, tmp_path / "whole.pth")
    with pytest.raises(UserError, match=r"holds torchvision.models.resnet.ResNet; save the state"):
        checkpoints.read_weights(tmp_path / "whole.pth")
