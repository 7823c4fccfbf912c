import ast
import inspect
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from common import blocks
from common.analysis import parity
from common.blocks import (
    BasicBlock,
    Bottleneck,
    DenseBlock,
    DenseLayer,
    PlainBlock,
    PoolBlock,
    PreActBlock,
    PreActBottleneck,
    ResNeXtBlock,
    SEBasicBlock,
    SEBottleneck,
    SimpleDenseLayer,
    SkipInitBlock,
    SqueezeExcitation,
    Transition,
    WideBlock,
)

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision
from torchvision.models import resnet
from torchvision.models.densenet import _DenseBlock, _Transition

CLASSES = [getattr(blocks, name) for name in blocks.__all__]
PARTS = {  # what is no block with a stride: arguments, and channels out for 16 in
    SqueezeExcitation: ((16,), 16),
    DenseLayer: ((16, 4), 20),
    SimpleDenseLayer: ((16, 4), 20),
    DenseBlock: ((3, 16, 4), 28),
    Transition: ((16, 8), 8),
    PoolBlock: ((16, 24), 24),
}
BLOCKS = [cls for cls in CLASSES if cls not in PARTS]
PREACT = [PreActBlock, PreActBottleneck, WideBlock]
POST = [BasicBlock, Bottleneck, ResNeXtBlock, SEBasicBlock, SEBottleneck]


def test_every_class_is_covered():
    found = set()
    for path in Path(blocks.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            found |= {node.name} if isinstance(node, ast.ClassDef) else set()
    assert found == set(blocks.__all__)
    assert set(BLOCKS) == {PlainBlock, SkipInitBlock, *POST, *PREACT}


@pytest.mark.parametrize("cls", CLASSES)
def test_class_works_pasted_alone(cls):
    """With the three imports, and the one class that its docstring names, if it names one."""
    scope = {}
    exec("import torch, torch.nn as nn, torch.nn.functional as F", scope)
    needed = re.findall(r"Needs: (\w+)\.", cls.__doc__)
    assert len(needed) <= 1
    for name in [*needed, cls.__name__]:
        exec(inspect.getsource(getattr(blocks, name)), scope)
    x, pasted = torch.randn(2, 16, 9, 9), scope[cls.__name__]
    if cls in PARTS:
        arguments, channels = PARTS[cls]
        size = 4 if cls in (Transition, PoolBlock) else 9
        assert pasted(*arguments)(x).shape == (2, channels, size, size)
    else:
        assert pasted(16, 16, 2)(x).shape == (2, 16 * cls.expansion, 5, 5)


@pytest.mark.parametrize("cls", CLASSES)
def test_docstrings_name_source_shapes_and_errors(cls):
    for words in ("Source: ", "Shapes: N ", "Raises: "):
        assert words in cls.__doc__
    assert re.search(r"arXiv:\d{4}\.\d{5}|Source: none", cls.__doc__)


def test_folder_and_file_work_copied_alone(tmp_path):
    folder = Path(blocks.__file__).parent
    shutil.copytree(folder, tmp_path / "blocks", ignore=shutil.ignore_patterns("__pycache__"))
    for path in folder.glob("[a-z]*.py"):
        shutil.copy(path, tmp_path)
    files = "pooled, preactivation, residual, resnext, skipinit, squeeze_excitation"
    code = f"import blocks, densenet, {files}; print(blocks.BasicBlock(4, 8).__module__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == "blocks.residual", done.stderr


@pytest.mark.parametrize("cls", BLOCKS)
def test_stride_sits_on_the_right_convolution(cls):
    block = cls(16, 32, stride=2)
    strides = {n: m.stride for n, m in block.named_modules() if isinstance(m, nn.Conv2d)}
    strided = "conv2" if cls.expansion == 4 else "conv1"  # v1.5 for bottlenecks
    for name in ("conv1", "conv2", "conv3"):
        if name in strides:
            assert strides[name] == ((2, 2) if name == strided else (1, 1))


@pytest.mark.parametrize("cls", [cls for cls in BLOCKS if cls is not SkipInitBlock])
def test_no_bias_and_one_batch_norm_per_convolution(cls):
    modules = list(cls(16, 32, stride=2).modules())
    convolutions = [m for m in modules if isinstance(m, nn.Conv2d)]
    assert all(c.bias is None for c in convolutions)
    bare = 1 if cls in PREACT else 0  # the projection shares the first batch norm
    assert len(convolutions) - bare == sum(isinstance(m, nn.BatchNorm2d) for m in modules)


@pytest.mark.parametrize("cls", [BasicBlock, Bottleneck, ResNeXtBlock, SkipInitBlock])
@pytest.mark.parametrize("stride", [1, 2])
def test_option_a_subsamples_and_pads_with_zeros(cls, stride):
    block = cls(16, 32, stride, shortcut="A").eval()
    if cls is not SkipInitBlock:  # whose F(x) is switched off from the start
        nn.init.zeros_(getattr(block, "bn3", block.bn2).weight)  # F(x) = 0
    x = torch.randn(2, 16, 7, 7)
    y = block(x)
    assert torch.equal(y[:, :16], F.relu(x[:, :, ::stride, ::stride]))
    assert not y[:, 16:].any()


@pytest.mark.parametrize("cls", POST)
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
    with pytest.raises(ValueError, match="cannot join 64 to 32"):
        SkipInitBlock(64, 32, shortcut="A")
    with pytest.raises(ValueError, match="shortcut 'D'"):
        SkipInitBlock(16, 16, shortcut="D")
    with pytest.raises(ValueError, match="cannot join 256 to 64"):
        Bottleneck(256, 16, shortcut="A")
    for cls in CLASSES:
        with pytest.raises(RuntimeError, match="16"):
            cls(*PARTS.get(cls, ((16, 16),))[0])(torch.randn(2, 8, 9, 9))


def test_pool_block_equals_its_formula():
    block, x = PoolBlock(4, 6, residual=2), torch.randn(3, 4, 9, 9)
    halved = F.relu(block.bn1(F.max_pool2d(block.conv1(x), 2)))
    first, second = block.residual
    middle = halved + F.relu(first[1](first[0](halved)))
    assert torch.equal(block(x), middle + F.relu(second[1](second[0](middle))))
    assert block(x).shape == (3, 6, 4, 4)
    assert torch.equal(PoolBlock(4, 6, residual=0).bn1.weight, torch.ones(6))
    for convolution in block.residual:
        nn.init.zeros_(convolution[1].weight)
    assert torch.equal(block(x), F.relu(block.bn1(F.max_pool2d(block.conv1(x), 2))))


def test_identity_at_zero_gamma():
    x = torch.randn(4, 16, 8, 8)
    residual, plain = BasicBlock(16, 16), PlainBlock(16, 16)
    for block in (residual, plain):
        nn.init.zeros_(block.bn2.weight)
    assert torch.equal(residual(x), F.relu(x))
    assert not plain(x).any()


@pytest.mark.parametrize(
    ("channels", "stride", "shortcut"), [(16, 1, "B"), (24, 2, "B"), (24, 2, "A")]
)
def test_skipinit_equals_its_formula(channels, stride, shortcut):
    block, x = SkipInitBlock(16, channels, stride, shortcut), torch.randn(2, 16, 9, 9)
    nn.init.constant_(block.alpha, 0.7)
    for parameter in block.parameters():  # the biases, which start at zero, shall count
        nn.init.normal_(parameter, std=0.3) if parameter.ndim == 1 and len(parameter) > 1 else None
    out = F.conv2d(x, block.conv1.weight, block.conv1.bias, stride, padding=1)
    out = F.conv2d(F.relu(out), block.conv2.weight, block.conv2.bias, padding=1)
    beside = x[:, :, ::stride, ::stride]
    if shortcut == "A":
        beside = torch.cat([beside, torch.zeros(2, channels - 16, 5, 5)], dim=1)
    elif stride == 2:
        beside = F.conv2d(x, block.downsample.weight, block.downsample.bias, stride)
    assert torch.allclose(block(x), F.relu(0.7 * out + beside), atol=1e-6)


def test_a_fresh_skipinit_block_is_its_shortcut_and_only_alpha_learns():
    block, x = SkipInitBlock(16, 16), torch.randn(2, 16, 9, 9)
    assert torch.equal(block(x), F.relu(x))
    assert not any(m.bias.any() for m in block.modules() if isinstance(m, nn.Conv2d))
    block(x).square().sum().backward()
    assert block.alpha.grad.item() != 0
    assert not block.conv1.weight.grad.any()
    assert not block.conv2.weight.grad.any()
    with torch.no_grad():
        block.alpha -= 0.01 * block.alpha.grad
    block(x).square().sum().backward()
    assert block.conv1.weight.grad.any()
    assert block.conv2.weight.grad.any()


def test_skipinit_has_no_batch_norm_and_a_bias_in_every_convolution():
    block = SkipInitBlock(16, 32, 2, shortcut="C")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in block.modules())
    assert all(m.bias is not None for m in block.modules() if isinstance(m, nn.Conv2d))
    assert block.downsample.kernel_size == (1, 1)
    assert SkipInitBlock(16, 16, shortcut="B").downsample is None
    assert SkipInitBlock(16, 32, 2, shortcut="A").downsample is None


@pytest.mark.parametrize("cls", CLASSES)
def test_activations_are_not_overwritten(cls):
    block, seen = cls(*PARTS.get(cls, ((16, 16, 2),))[0]), []
    for module in block.modules():
        module.register_forward_hook(lambda m, i, out: seen.append((out, out.detach().clone())))
        module.register_full_backward_hook(lambda m, gi, go: None)
    x = torch.randn(2, 16, 8, 8, requires_grad=True)
    before = x.detach().clone()
    block(x).sum().backward()
    assert torch.equal(x, before)
    assert all(torch.equal(output, copy) for output, copy in seen)


def head(block):
    return nn.Sequential(block, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("ours", "theirs", "groups", "base_width"),
    [
        (BasicBlock, "BasicBlock", 1, 64),
        (Bottleneck, "Bottleneck", 1, 64),
        (partial(ResNeXtBlock, cardinality=8, base_width=16), "Bottleneck", 8, 16),
    ],
)
def test_blocks_equal_torchvisions(ours, theirs, groups, base_width):
    theirs = getattr(resnet, theirs)
    out = 32 * theirs.expansion
    project = nn.Sequential(nn.Conv2d(16, out, 1, 2, bias=False), nn.BatchNorm2d(out))
    reference = theirs(16, 32, 2, project, groups, base_width)
    x, y = torch.randn(8, 16, 9, 9), torch.randint(out, (8,))
    logits, gradients = parity(head(ours(16, 32, 2)), head(reference), x, y)
    assert logits < 1e-5
    assert gradients < 1e-5


@pytest.mark.parametrize("cls", PREACT)
def test_preactivation_identity_sees_the_raw_input(cls):
    """F off (last convolution zero): the block is the identity, negative values included."""
    block, x = cls(16 * cls.expansion, 16), torch.randn(2, 16 * cls.expansion, 8, 8)
    nn.init.zeros_(list(block.children())[-1].weight)
    assert torch.equal(block(x), x)
    assert x.min() < 0


@pytest.mark.parametrize("cls", PREACT)
def test_preactivation_projection_is_bare_and_shares_the_first_activation(cls):
    block, x = cls(16, 32, stride=2), torch.randn(2, 16, 8, 8)
    assert isinstance(block.downsample, nn.Conv2d)
    nn.init.zeros_(getattr(block, "conv3", block.conv2).weight)
    expected = F.conv2d(F.relu(block.bn1(x)), block.downsample.weight, stride=2)
    assert torch.equal(block(x), expected)


def test_preactivation_by_its_equation():
    block, x = PreActBlock(16, 16), torch.randn(4, 16, 8, 8)
    out = x
    for norm, convolution in ((block.bn1, block.conv1), (block.bn2, block.conv2)):
        out = convolution(F.relu(norm(out)))
    assert torch.equal(block(x), x + out)


def test_wide_block_is_a_preactivation_block_with_dropout():
    wide, plain = WideBlock(16, 32, 2, dropout=0.5), PreActBlock(16, 32, 2)
    plain.load_state_dict(wide.state_dict(), strict=True)
    x = torch.randn(4, 16, 8, 8)
    assert torch.equal(wide.eval()(x), plain.eval()(x))
    assert not torch.equal(wide.train()(x), plain.train()(x))


def test_dropout_sits_behind_the_second_relu_and_never_on_the_shortcut():
    block, x, seen = WideBlock(16, 16, dropout=0.999999), torch.randn(4, 16, 8, 8), []
    block.dropout.register_forward_hook(lambda m, inputs, out: seen.append(inputs[0]))
    assert torch.equal(block(x), x)  # nothing passes through F, all of x passes beside it
    assert seen[0].min() == 0
    assert torch.equal(seen[0], F.relu(block.bn2(block.conv1(F.relu(block.bn1(x))))))


def test_only_the_3x3_convolution_is_grouped():
    block = ResNeXtBlock(256, 64, cardinality=32, base_width=4)
    assert [block.conv1.groups, block.conv2.groups, block.conv3.groups] == [1, 32, 1]
    assert block.conv2.weight.shape == (128, 4, 3, 3)
    assert ResNeXtBlock(256, 64, cardinality=1, base_width=40).conv2.weight.shape == (40, 40, 3, 3)


def test_squeeze_excitation_equals_torchvisions():
    ours, theirs = SqueezeExcitation(64), torchvision.ops.SqueezeExcitation(64, 4)
    state = {k: v[:, :, None, None] if v.ndim == 2 else v for k, v in ours.state_dict().items()}
    theirs.load_state_dict(state, strict=True)
    x = torch.randn(4, 64, 9, 9)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)
    assert (ours.gate(x) - 0.5).abs().max() < 0.2
    assert SqueezeExcitation(16, 16).fc1.out_features == 1
    assert SqueezeExcitation(8, 16).fc1.out_features == 1


@pytest.mark.parametrize(("cls", "base"), [(SEBasicBlock, BasicBlock), (SEBottleneck, Bottleneck)])
def test_squeeze_excitation_comes_before_the_addition(cls, base):
    """With gates of 0 the block is relu(x), with gates of 1 it is the block that it changes."""
    wide = 16 * cls.expansion
    gated, plain = cls(wide, 16).eval(), base(wide, 16).eval()
    plain.load_state_dict(gated.state_dict(), strict=False)
    x = torch.randn(2, wide, 8, 8)
    nn.init.zeros_(gated.se.fc2.weight)
    nn.init.constant_(gated.se.fc2.bias, -200.0)
    assert torch.equal(gated(x), F.relu(x))
    nn.init.constant_(gated.se.fc2.bias, 200.0)
    assert torch.equal(gated(x), plain(x))


def test_squeeze_excitation_sees_negative_values():
    block, seen = SEBasicBlock(16, 16), []
    block.se.register_forward_hook(lambda m, inputs, out: seen.append(inputs[0]))
    block(torch.randn(4, 16, 8, 8))
    assert seen[0].min() < 0  # no ReLU between the last batch norm and the gate


@pytest.mark.parametrize("cls", [DenseLayer, SimpleDenseLayer])
def test_dense_layer_keeps_its_input_first(cls):
    layer, x = cls(16, 4), torch.randn(2, 16, 8, 8)
    assert torch.equal(layer(x)[:, :16], x)


def test_dense_block_equals_torchvisions():
    ours, theirs = DenseBlock(3, 16, 4), _DenseBlock(3, 16, 4, 4, 0.0)
    x, y = torch.randn(8, 16, 9, 9), torch.randint(28, (8,))
    logits, gradients = parity(head(ours), head(theirs), x, y)
    assert max(logits, gradients) < 1e-5


def test_transition_equals_torchvisions():
    x, y = torch.randn(8, 16, 8, 8), torch.randint(8, (8,))
    logits, gradients = parity(head(Transition(16, 8)), head(_Transition(16, 8)), x, y)
    assert max(logits, gradients) < 1e-5
