"""Nothing stays on the CPU by mistake: data, training, evaluation and measurements on a second
device, without a GPU.

The device is called "meta", but its tensors have values, kept on the CPU behind a wrapper. As on a
GPU an operation refuses tensors of two devices, but for single numbers from the CPU.
"""

from common import data, models, training
from common.analysis import costs
from common.training import checkpoints

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
pytestmark = pytest.mark.filterwarnings(
    "ignore:for .* meta parameter"
)  # of a network without values
TO = torch.ops.aten._to_copy.default


class OnSecond(torch.Tensor):
    """A tensor on the second device, around one on the CPU."""

    @staticmethod
    def __new__(cls, inner):
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        layout |= {"dtype": inner.dtype, "device": DEVICE}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, **layout)
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


def compute(function, args, kwargs):
    """The operation on the CPU, of tensors that are all on one device; its results on that one, or
    where `device` says."""
    found = [value for value in tree_flatten((args, kwargs))[0] if torch.is_tensor(value)]
    second = [value for value in found if isinstance(value, OnSecond)]
    if second and function not in (TO, torch.ops.aten.copy_.default):
        strangers = [t for t in found if not isinstance(t, OnSecond) and t.ndim > 0]
        assert not strangers, f"{function} of a tensor on the CPU, {list(strangers[0].shape)}"
    device, there = kwargs.get("device"), bool(second)
    if device is not None:
        there = torch.device(device).type == "meta"
        kwargs = {**kwargs, "device": torch.device("cpu")}
    inner = tree_map(lambda t: t.inner if isinstance(t, OnSecond) else t, (args, kwargs))
    result = function(*inner[0], **inner[1])
    known = {id(t.inner): t for t in second}  # an operation in place returns its argument

    def wrap(value):
        if not torch.is_tensor(value) or isinstance(value, OnSecond) or not there:
            return value
        return known.get(id(value)) if id(value) in known else OnSecond(value)

    return tree_map(wrap, result)


class Second(TorchDispatchMode):
    """Inside the `with`, the second device is there."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


@pytest.fixture
def second():
    with Second():
        yield


@pytest.fixture(scope="module")
def few():
    return data.load("shapes", size=8, limit=100)


def test_the_second_device_refuses_the_first(second):
    there, here = torch.ones(3, device=DEVICE), torch.ones(3)
    assert (there + 1 + torch.tensor(2.0)).sum().item() == 12
    assert torch.equal((there * 2).cpu(), 2 * here)
    with pytest.raises(AssertionError, match="on the CPU"):
        there + here
    with pytest.raises(AssertionError, match="on the CPU"):
        torch.where(there > 0, there, torch.zeros(3))


def test_on_mps_no_batch_norm_gets_channels_last():
    layouts = {device: data.memory_format(device) for device in ("cpu", "cuda", "mps")}
    assert layouts.pop("mps") == torch.contiguous_format
    assert set(layouts.values()) == {torch.channels_last}


def test_data_and_batches(second, few):
    there = few.to("meta")
    pairs = [(few, "cpu"), (there, "meta")]
    found = []
    for dataset, device in pairs:
        options = {"cutout": 2, "size": 6, "balance": True}
        x, y = next(dataset.batches("train", 20, 1, **options))
        assert (x.device.type, y.device.type) == (device, device)
        found.append(x.cpu())
    assert torch.allclose(*found, atol=0.05)  # pixels are rounded to whole numbers
    assert there.fingerprint == few.fingerprint


OPTIONS = {"ema": 0.9, "muon": 0.01, "accumulate": 2, "smoothing": 0.1, "cutout": 2}


def rows_of(dataset, device, folder, **options):
    torch.manual_seed(0)
    model = models.cifar_resnet(8, width=8, shortcut="B")
    options = {"batch_size": 45, "device": device, "sizes": [6, 8], **OPTIONS, **options}
    trainer, kept = training.Trainer(model, dataset, 2, **options), {}

    def keep(step, _batch):
        if step == 3:
            now = trainer.state() | {"model": trainer.model.state_dict()}
            kept.update(tree_map(lambda t: t.detach().cpu() if torch.is_tensor(t) else t, now))

    rows = list(trainer.run(on_step=keep))
    assert all(p.device.type == device for p in trainer.evaluated_model.parameters())
    checkpoints.save_checkpoint(folder / "x.pt", kept)
    return rows, trainer, checkpoints.read_tensors(folder / "x.pt", "--x")


def test_training_evaluation_and_checkpoint(second, few, tmp_path):
    here, _, _ = rows_of(few, "cpu", tmp_path)
    there, trainer, state = rows_of(few.to("meta"), "meta", tmp_path)
    for one, other in zip(here, there, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], abs=1e-3)
    trainer.restore(state)
    assert (len(trainer.rows), trainer.step) == (1, 1)
    logits = training.predict(trainer.model, trainer.dataset, "test", "meta", mirror=True)
    assert logits.device.type == "meta"


def test_measurements(second):
    x, y = torch.randn(4, 3, 8, 8, device=DEVICE), torch.arange(4, device=DEVICE)
    seconds = costs.step_seconds({"small": models.cifar_resnet(8, width=8)}, x, y, rounds=1)
    assert len(seconds["small"]) == 1


def test_a_tensor_left_on_the_cpu_is_found(second, few, tmp_path, monkeypatch):
    """As `torch.zeros(...)` without a device in the training step would be."""
    plain = training.trainer.F.cross_entropy

    def careless(logits, labels, **options):
        return plain(logits + torch.zeros(logits.shape), labels, **options)

    monkeypatch.setattr(training.trainer.F, "cross_entropy", careless)
    with pytest.raises(AssertionError, match="on the CPU"):
        rows_of(few.to("meta"), "meta", tmp_path)
