import inspect
import shutil
import subprocess
import sys

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torchvision.models import resnet

from common import blocks
from common.analysis import parity
from common.blocks import BasicBlock, Bottleneck, PlainBlock

CLASSES = [cls for _, cls in inspect.getmembers(blocks, inspect.isclass)]


def test_every_block_is_covered():
    assert {PlainBlock, BasicBlock, Bottleneck} <= set(CLASSES)


@pytest.mark.parametrize("cls", CLASSES)
def test_class_works_pasted_alone(cls):
    scope = {}
    exec("import torch, torch.nn as nn, torch.nn.functional as F", scope)
    exec(inspect.getsource(cls), scope)
    pasted = scope[cls.__name__](16, 16, 2)
    y = pasted(torch.randn(2, 16, 9, 9))
    assert y.shape == (2, 16 * cls.expansion, 5, 5)


def test_file_works_copied_alone(tmp_path):
    shutil.copy(blocks.__file__, tmp_path)
    code = "import blocks; print(blocks.BasicBlock(4, 8).__module__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == "blocks", done.stderr


@pytest.mark.parametrize("cls", CLASSES)
def test_stride_sits_on_the_right_convolution(cls):
    block = cls(16, 32, stride=2)
    strides = {n: m.stride for n, m in block.named_modules() if isinstance(m, nn.Conv2d)}
    strided = "conv2" if cls is Bottleneck else "conv1"  # v1.5 for the bottleneck
    for name in ("conv1", "conv2", "conv3"):
        if name in strides:
            assert strides[name] == ((2, 2) if name == strided else (1, 1))


@pytest.mark.parametrize("cls", CLASSES)
def test_no_bias_and_one_batch_norm_per_convolution(cls):
    modules = list(cls(16, 32, stride=2).modules())
    convolutions = [m for m in modules if isinstance(m, nn.Conv2d)]
    assert all(c.bias is None for c in convolutions)
    assert len(convolutions) == sum(isinstance(m, nn.BatchNorm2d) for m in modules)


@pytest.mark.parametrize("cls", [BasicBlock, Bottleneck])
@pytest.mark.parametrize("stride", [1, 2])
def test_option_a_subsamples_and_pads_with_zeros(cls, stride):
    block = cls(16, 32, stride, shortcut="A").eval()
    nn.init.zeros_(list(block.children())[-1].weight)  # the last batch norm: F(x) = 0
    x = torch.randn(2, 16, 7, 7)
    y = block(x)
    assert torch.equal(y[:, :16], F.relu(x[:, :, ::stride, ::stride]))
    assert not y[:, 16:].any()


@pytest.mark.parametrize("cls", [BasicBlock, Bottleneck])
def test_projections(cls):
    wide = 16 * cls.expansion
    assert cls(wide, 16, shortcut="B").downsample is None
    assert cls(wide, 32, 2, shortcut="A").downsample is None
    for option, stride in (("B", 2), ("C", 1)):
        convolution, norm = cls(wide, 16, stride, shortcut=option).downsample
        assert convolution.kernel_size == (1, 1)
        assert convolution.stride == (stride, stride)
        assert isinstance(norm, nn.BatchNorm2d)


def test_errors():
    with pytest.raises(ValueError, match="shortcut 'D'"):
        BasicBlock(16, 16, shortcut="D")
    with pytest.raises(ValueError, match="cannot join 64 to 32"):
        BasicBlock(64, 32, shortcut="A")
    with pytest.raises(ValueError, match="cannot join 256 to 64"):
        Bottleneck(256, 16, shortcut="A")
    for cls in CLASSES:
        with pytest.raises(RuntimeError, match="16"):
            cls(16, 16)(torch.randn(2, 8, 9, 9))


def test_identity_at_zero_gamma():
    x = torch.randn(4, 16, 8, 8)
    residual, plain = BasicBlock(16, 16), PlainBlock(16, 16)
    for block in (residual, plain):
        nn.init.zeros_(block.bn2.weight)
    assert torch.equal(residual(x), F.relu(x))
    assert not plain(x).any()


@pytest.mark.parametrize("cls", CLASSES)
def test_activations_are_not_overwritten(cls):
    block, seen = cls(16, 16, 2), []
    for module in block.modules():
        module.register_forward_hook(lambda m, i, out: seen.append((out, out.detach().clone())))
        module.register_full_backward_hook(lambda m, gi, go: None)
    x = torch.randn(2, 16, 8, 8, requires_grad=True)
    before = x.detach().clone()
    block(x).sum().backward()
    assert torch.equal(x, before)
    assert all(torch.equal(output, copy) for output, copy in seen)


@pytest.mark.parametrize("ours", [BasicBlock, Bottleneck])
def test_blocks_equal_torchvisions(ours):
    theirs = getattr(resnet, ours.__name__)
    out = 32 * ours.expansion
    project = nn.Sequential(nn.Conv2d(16, out, 1, 2, bias=False), nn.BatchNorm2d(out))

    def head(block):
        return nn.Sequential(block, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    x, y = torch.randn(8, 16, 9, 9), torch.randint(out, (8,))
    logits, gradients = parity(head(ours(16, 32, 2)), head(theirs(16, 32, 2, project)), x, y)
    assert logits < 1e-5
    assert gradients < 1e-5
