"""The gallery of mistakes: real bugs of widely copied code, and the checks that catch them.

Each `Mistake` is a change of one line of our own code. `code(mistake)` compiles that code with the
change; an `Exhibit` builds a network, a block or a data set out of it, and says what is true of
it. A check is a function of these two that raises AssertionError where that is not so. Each
mistake names the checks of its exhibit that catch it; all the others miss it.

.github/mistakes.md shows all: `python -m tests.record --no-run` writes it.
"""

import functools
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

from common import analysis, blocks, data
from common.models import networks

import torch
import torch.nn as nn
import torch.nn.functional as F
from torchvision.models import DenseNet, resnet

TOLERANCE = 1e-5  # relative; torchvision's networks and ours differ by 0 here


@dataclass(frozen=True)
class Exhibit:
    """What is built from our code, and the truth about it.

    `network`, `block` and `dataset` take the code, a namespace of our classes. Shapes are C H W.
    """

    checks: tuple[Callable, ...]
    network: Callable | None = None
    image: tuple[int, ...] = (3, 224, 224)
    stages: dict[str, tuple[int, ...]] = field(default_factory=dict)
    parameters: int = 0
    pair: Callable | None = None  # a shallow network of the family, ours and torchvision's
    block: Callable | None = None  # its shape in is its shape out
    channels: int = 16
    off: Callable | None = None  # sets F of a block to zero
    identity: Callable | None = None  # what the block is then
    equation: Callable | None = None  # the paper's, on a block's or a network's own layers
    dataset: Callable | None = None


def code(mistake: "Mistake | None" = None) -> SimpleNamespace:
    """Our blocks, networks and data set, compiled with the mistake in them if one is given.

    Raises: AssertionError if the line that the mistake changes is not there exactly once.
    """
    scope = {**vars(blocks), **vars(data.dataset)}
    scope = {name: value for name, value in scope.items() if not name.startswith("__")}
    sources = [(networks, inspect.getsource(networks))]
    if mistake is not None:
        changed = pkgutil.resolve_name(mistake.source)
        module, part = sys.modules[changed.__module__], inspect.getsource(changed)
        assert part.count(mistake.old) == 1, f"{mistake.old!r} in {mistake.source}"
        whole = inspect.getsource(module)
        assert whole.count(part) == 1
        sources.append((module, whole.replace(part, part.replace(mistake.old, mistake.new))))
    for module, source in sources:
        scope["__name__"] = module.__name__
        exec(compile(source, module.__file__, "exec"), scope)
    return SimpleNamespace(**scope)


# Checks: the cheap ones, which need no numbers


def output_shape(exhibit: Exhibit, code) -> None:
    """One row of logits an image: the check that copied code comes with."""
    model = _on_paper(exhibit, code)
    classes = (model.fc if hasattr(model, "fc") else model.classifier).out_features
    logits = model(torch.zeros(2, *exhibit.image, device="meta"))
    assert tuple(logits.shape) == (2, classes)


def stage_shapes(exhibit: Exhibit, code) -> None:
    """Each stage's output has the shape of the paper's table."""
    assert stage_outputs(exhibit, code) == exhibit.stages


def parameter_count(exhibit: Exhibit, code) -> None:
    """The number of parameters is the paper's, to the unit."""
    assert count(exhibit, code) == exhibit.parameters


# Checks on random inputs


def parity_of_logits(exhibit: Exhibit, code) -> None:
    """Torchvision's weights fit, and give torchvision's logits, in eval mode."""
    assert _parity(exhibit, code)[0] < TOLERANCE


def parity_of_gradients(exhibit: Exhibit, code) -> None:
    """Torchvision's weights fit, and have torchvision's gradients, in train mode."""
    assert _parity(exhibit, code)[1] < TOLERANCE


def identity(exhibit: Exhibit, code) -> None:
    """With F switched off the block is what is left of its shortcut."""
    block, x = exhibit.block(code), _images(exhibit)
    exhibit.off(block)
    assert torch.equal(block(x), exhibit.identity(x))


def open_gates(exhibit: Exhibit, code) -> None:
    """With all gates at 1 a squeeze-and-excitation block is the block that it changes."""
    gated, plain, x = exhibit.block(code).eval(), exhibit.equation(code).eval(), _images(exhibit)
    plain.load_state_dict(gated.state_dict(), strict=False)
    set_gates(gated, 1)
    assert torch.equal(gated(x), plain(x))


def equation_in_eval_mode(exhibit: Exhibit, code) -> None:
    """The output is that of the paper's equation, written out on the same layers."""
    _compare_with_equation(exhibit, code, training=False)


def equation_in_train_mode(exhibit: Exhibit, code) -> None:
    """The same with batch statistics, and with the same elements dropped."""
    _compare_with_equation(exhibit, code, training=True)


def repetition(exhibit: Exhibit, code) -> None:
    """In eval mode, the same input twice gives the same output."""
    block, x = exhibit.block(code).eval(), _images(exhibit)
    assert torch.equal(block(x), block(x))


def hooks(exhibit: Exhibit, code) -> None:
    """What a forward hook has kept of a layer is still what the layer gave."""
    block, seen = exhibit.block(code), []
    for module in block.modules():
        module.register_forward_hook(lambda m, i, out: seen.append((out, out.detach().clone())))
    block(_images(exhibit))
    assert all(torch.equal(kept, was) for kept, was in seen)


# Checks on data


def batch_shapes(exhibit: Exhibit, code) -> None:
    """Images and labels come in equal number, as large as they were."""
    dataset = exhibit.dataset(code)
    for x, y in dataset.batches("train", 500):
        assert len(x) == len(y)
        assert x.shape[1:] == dataset.train.images.shape[1:]


def mean_of_zero(exhibit: Exhibit, code) -> None:
    """The normalised training pixels have mean 0 in each channel."""
    assert _pixels(exhibit, code).mean(dim=(0, 2, 3)).abs().max() < 1e-3


def deviation_of_one(exhibit: Exhibit, code) -> None:
    """The normalised training pixels have standard deviation 1 in each channel."""
    assert (deviations(exhibit, code) - 1).abs().max() < 1e-3


def images_scored(exhibit: Exhibit, code) -> None:
    """An evaluation sees each of 10,000 test images, in batches of 256."""
    assert scored(code) == 10_000


# What checks and symptoms measure


def count(exhibit: Exhibit, code) -> int:
    """Trainable parameters of the network."""
    return analysis.parameter_count(_on_paper(exhibit, code))


def stage_outputs(exhibit: Exhibit, code) -> dict[str, tuple[int, ...]]:
    """Shape of each stage's output for one image."""
    x = torch.zeros(1, *exhibit.image, device="meta")
    maps = analysis.activations(_on_paper(exhibit, code).eval(), list(exhibit.stages), x)
    return {name: tuple(out.shape[1:]) for name, out in maps.items()}


def deviations(exhibit: Exhibit, code) -> torch.Tensor:
    """Standard deviation of the normalised training pixels, a number a channel."""
    return _pixels(exhibit, code).std(dim=(0, 2, 3))


def scored(code) -> int:
    """How many of 10,000 test images come in batches of 256."""
    split = code.Split(torch.zeros(10_000, 3, 2, 2, dtype=torch.uint8), torch.zeros(10_000))
    dataset = code.Dataset("black pixels", ["a", "b"], split, split, split)
    return sum(len(y) for _, y in dataset.batches("test", 256))


def _on_paper(exhibit: Exhibit, code) -> nn.Module:
    """The network with shapes and without numbers: no memory, no time."""
    with torch.device("meta"):
        return exhibit.network(code)


def _images(exhibit: Exhibit) -> torch.Tensor:
    return torch.randn(8, exhibit.channels, 8, 8, generator=torch.Generator().manual_seed(0))


def _pixels(exhibit: Exhibit, code) -> torch.Tensor:
    return torch.cat([x for x, _ in exhibit.dataset(code).batches("train", 500)])


def _parity(exhibit: Exhibit, code) -> tuple[float, float]:
    """Differences of logits and of gradients; infinite where the weights do not fit."""
    torch.manual_seed(0)
    ours, theirs = exhibit.pair(code)
    sizes = [{k: v.shape for k, v in m.state_dict().items()} for m in (ours, theirs)]
    if sizes[0] != sizes[1]:
        return torch.inf, torch.inf
    size = min(64, exhibit.image[-1])
    return analysis.parity(ours, theirs, torch.randn(4, 3, size, size), torch.arange(4))


def _compare_with_equation(exhibit: Exhibit, code, training: bool) -> None:
    torch.manual_seed(0)
    if exhibit.block is None:
        model, x = exhibit.network(code), torch.randn(4, 3, 8, 8)
    else:
        model, x = exhibit.block(code), _images(exhibit)
    outputs = []
    for function in (model.train(training), partial(exhibit.equation, model)):
        torch.manual_seed(1)
        outputs.append(function(x).detach())
    assert analysis.relative_difference(outputs[:1], outputs[1:]) < TOLERANCE


# The papers' equations, and F switched off


def preactivation(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """He et al. 2016 (arXiv:1603.05027), equation 9: each convolution behind BN and ReLU."""
    out = F.relu(block.bn1(x))
    shortcut = x if block.downsample is None else block.downsample(out)
    out = block.conv1(out)
    for i in ("2", "3"):
        if hasattr(block, f"conv{i}"):
            out = F.relu(getattr(block, f"bn{i}")(out))
            out = block.dropout(out) if hasattr(block, "dropout") else out
            out = getattr(block, f"conv{i}")(out)
    return out + shortcut


def preactivation_network(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A bare stem, the blocks, a last BN and ReLU, pooling, the classifier."""
    x = model.conv1(x)
    for block in (*model.layer1, *model.layer2, *model.layer3):
        x = preactivation(block, x)
    return model.fc(F.relu(model.bn(x)).mean(dim=(2, 3)))


def set_gates(block: nn.Module, value: int) -> None:
    """All gates of squeeze-and-excitation at 0 or 1."""
    nn.init.zeros_(block.se.fc2.weight)
    nn.init.constant_(block.se.fc2.bias, 400.0 * value - 200.0)


def zero(layer: str) -> Callable:
    """A function that sets the weights of a block's layer to zero."""
    return lambda block: nn.init.zeros_(getattr(block, layer).weight)


# The exhibits


@functools.lru_cache(maxsize=1)
def _shapes() -> data.Dataset:
    return data.load("shapes")


def _shapes_dataset(code):
    """Shapes-10 in the data set class under test."""
    dataset = _shapes()
    return code.Dataset(dataset.name, dataset.classes, dataset.train, dataset.val, dataset.test)


def _torchvision(block: str, cifar: bool = False, **settings) -> nn.Module:
    """Torchvision's ResNet with one block a stage, on request with the stem that CIFAR needs."""
    model = resnet.ResNet(getattr(resnet, block), [1, 1, 1, 1], **settings)
    if cifar:
        model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model


def _maps(channels, sizes, names="layer{}") -> dict[str, tuple[int, int, int]]:
    return {
        names.format(i): (c, s, s) for i, (c, s) in enumerate(zip(channels, sizes, strict=True), 1)
    }


CHEAP = (output_shape, stage_shapes, parameter_count)
PARITY = (parity_of_logits, parity_of_gradients)

RESNET18 = Exhibit(
    checks=(*CHEAP, *PARITY, identity, hooks),
    network=lambda code: code.ResNet(code.BasicBlock, [2, 2, 2, 2]),
    stages=_maps((64, 128, 256, 512), (56, 28, 14, 7)),
    parameters=11_689_512,
    pair=lambda code: (code.ResNet(code.BasicBlock, [1, 1, 1, 1]), _torchvision("BasicBlock")),
    block=lambda code: code.BasicBlock(16, 16),
    off=zero("bn2"),
    identity=F.relu,
)
CIFAR_RESNET18 = Exhibit(
    checks=(*CHEAP, *PARITY),
    network=lambda code: code.ResNet(code.BasicBlock, [2, 2, 2, 2], 10, "cifar"),
    image=(3, 32, 32),
    stages=_maps((64, 128, 256, 512), (32, 16, 8, 4)),
    parameters=11_173_962,
    pair=lambda code: (
        code.ResNet(code.BasicBlock, [1, 1, 1, 1], 10, "cifar"),
        _torchvision("BasicBlock", cifar=True, num_classes=10),
    ),
)
PREACT164 = Exhibit(
    checks=(*CHEAP, identity, equation_in_eval_mode),
    network=lambda code: code.PreActNet(code.PreActBottleneck, 18),
    image=(3, 32, 32),
    stages=_maps((64, 128, 256), (32, 16, 8)),
    parameters=1_703_258,
    block=lambda code: code.PreActBottleneck(16, 4),
    off=zero("conv3"),
    identity=torch.clone,
    equation=preactivation,
)
PREACT20 = Exhibit(  # not counted: the mistake leaves unused what its originals do not have
    checks=(output_shape, stage_shapes, equation_in_eval_mode, equation_in_train_mode),
    network=lambda code: code.PreActNet(code.PreActBlock, 3),
    image=(3, 32, 32),
    stages=_maps((16, 32, 64), (32, 16, 8)),
    equation=preactivation_network,
)
WRN_28_10 = Exhibit(
    checks=(*CHEAP, identity, repetition, equation_in_eval_mode, equation_in_train_mode),
    network=lambda code: code.PreActNet(partial(code.WideBlock, dropout=0.3), 4, 10, 160, 16),
    image=(3, 32, 32),
    stages=_maps((160, 320, 640), (32, 16, 8)),
    parameters=36_479_194,
    block=lambda code: code.WideBlock(16, 16, dropout=0.3),
    off=zero("conv2"),
    identity=torch.clone,
    equation=preactivation,
)
RESNEXT50 = Exhibit(
    checks=(*CHEAP, identity, parity_of_logits),
    network=lambda code: code.ResNet(code.ResNeXtBlock, [3, 4, 6, 3]),  # default: 32x4d
    stages=_maps((256, 512, 1024, 2048), (56, 28, 14, 7)),
    parameters=25_028_904,
    pair=lambda code: (
        code.ResNet(code.ResNeXtBlock, [1, 1, 1, 1]),
        _torchvision("Bottleneck", groups=32, width_per_group=4),
    ),
    block=lambda code: code.ResNeXtBlock(256, 64),
    channels=256,
    off=zero("bn3"),
    identity=F.relu,
)
RESNEXT29 = Exhibit(
    checks=CHEAP,
    network=lambda code: code.CifarNet(
        partial(code.ResNeXtBlock, cardinality=8, base_width=64), 3, width=64
    ),
    image=(3, 32, 32),
    stages=_maps((256, 512, 1024), (32, 16, 8)),
    parameters=34_426_698,
)
SE_RESNET50 = Exhibit(
    checks=(*CHEAP, identity, open_gates),
    network=lambda code: code.ResNet(code.SEBottleneck, [3, 4, 6, 3]),
    stages=RESNEXT50.stages,
    parameters=28_088_024,
    block=lambda code: code.SEBottleneck(64, 16),
    channels=64,
    off=partial(set_gates, value=0),
    identity=F.relu,
    equation=lambda code: code.Bottleneck(64, 16),
)
DENSENET121 = Exhibit(
    checks=(*CHEAP, *PARITY),
    network=lambda code: code.DenseNet([6, 12, 24, 16], 32, 64),
    stages=_maps((256, 512, 1024, 1024), (56, 28, 14, 7), "features.denseblock{}"),
    parameters=7_978_856,
    pair=lambda code: (code.DenseNet([2, 2, 2, 2], 32, 64), DenseNet(32, (2, 2, 2, 2), 64)),
)
SHAPES = Exhibit(
    checks=(batch_shapes, mean_of_zero, deviation_of_one, images_scored),
    dataset=_shapes_dataset,
)


# The mistakes


@dataclass(frozen=True)
class Mistake:
    """A bug as a change of one line, `old` to `new`, of the class or function `source`.

    `found` names repositories: "owner/name" with "#issue" or "!pull request" or a file, and what
    became of it. `symptom` is formatted with what `measure` returns for the exhibit built from
    the changed code, and with the exhibit as `right`.
    """

    bug: str
    found: tuple[str, ...]
    symptom: str
    exhibit: Exhibit
    source: str
    old: str
    new: str
    caught_by: tuple[Callable, ...]
    measure: Callable[[Exhibit, SimpleNamespace], dict] = lambda exhibit, code: {}

    @property
    def missed_by(self) -> tuple[Callable, ...]:
        """The exhibit's checks that do not notice."""
        return tuple(check for check in self.exhibit.checks if check not in self.caught_by)


def _count(exhibit: Exhibit, code) -> dict:
    return {"count": count(exhibit, code)}


def _last_stage(exhibit: Exhibit, code) -> dict:
    """Side of the last stage's maps and cost, of the network built and of the right one."""
    last = list(exhibit.stages)[-1]
    costs = [analysis.multiply_adds(_on_paper(exhibit, c), *exhibit.image) for c in (code, RIGHT)]
    sides = {"side": stage_outputs(exhibit, code)[last][-1], "should": exhibit.stages[last][-1]}
    return sides | {"cost": costs[0] / costs[1], "count": count(exhibit, code)}


def _deviations(exhibit: Exhibit, code) -> dict:
    """Measured on Shapes-10; on CIFAR-10 what follows from its own deviations and the copied."""
    cifar = torch.tensor([0.2470, 0.2435, 0.2616]) / torch.tensor([0.2023, 0.1994, 0.2010])
    shapes = deviations(exhibit, code).mean().item()
    return {"shapes": shapes, "low": cifar.min().item(), "high": cifar.max().item()}


RIGHT = code()
BLOCK, NETWORK = "common.blocks.", "common.models.networks."
MISTAKES = [
    Mistake(
        bug="No ReLU after the addition",
        found=("FrancescoSaverioZuppichini/ResNet README.md (fixed; copies are not)",),
        symptom="Block outputs go negative; still {count:,} parameters",
        exhibit=RESNET18,
        source=BLOCK + "residual.BasicBlock",
        old="return self.relu2(out + self.shortcut(x))",
        new="return out + self.shortcut(x)",
        caught_by=(*PARITY, identity),
        measure=_count,
    ),
    Mistake(
        bug="ReLU before the addition as well",
        found=("kuangliu/pytorch-cifar#4 (fixed)",),
        symptom="F(x) is never negative: a block can only add",
        exhibit=RESNET18,
        source=BLOCK + "residual.BasicBlock",
        old="out = self.bn2(self.conv2(out))",
        new="out = F.relu(self.bn2(self.conv2(out)))",
        caught_by=PARITY,
    ),
    Mistake(
        bug="No ReLU in the stem",
        found=(
            "michuanhaohao/reid-strong-baseline#4",
            "michuanhaohao/reid-strong-baseline#117 (kept)",
            "google/flax!343 (fixed)",
        ),
        symptom="Negative values enter the first block; still {count:,} parameters",
        exhibit=RESNET18,
        source=NETWORK + "ResNet",
        old="self.relu(self.bn1(self.conv1(x)))",
        new="self.bn1(self.conv1(x))",
        caught_by=PARITY,
        measure=_count,
    ),
    Mistake(
        bug="Projection with a bias and without batch norm",
        found=("d2l-ai/d2l-en resnet.md", "phlippe/uvadlc_notebooks tutorial 5"),
        symptom="ResNet-18 has {count:,} parameters, not {right.parameters:,}; "
        "F(x) is normalised, the shortcut is not",
        exhibit=RESNET18,
        source=BLOCK + "residual.BasicBlock",
        old="self.downsample = nn.Sequential(project, nn.BatchNorm2d(channels))",
        new="self.downsample = nn.Conv2d(in_channels, channels, 1, stride)",
        caught_by=(parameter_count, *PARITY),
        measure=_count,
    ),
    Mistake(
        bug="Stride rule inverted: stage 1 halves the resolution, the rest do not",
        found=(
            "labmlai/annotated_deep_learning_paper_implementations#83",
            "labmlai/annotated_deep_learning_paper_implementations#205 (open)",
        ),
        symptom="ResNet-18's last stage sees {side}x{side}, not {should}x{should}: "
        "{cost:.1f} times the multiply-adds",
        exhibit=RESNET18,
        source=NETWORK + "_stage",
        old="first = block(in_channels, channels, stride)",
        new="first = block(in_channels, channels, 3 - stride)",
        caught_by=(stage_shapes, parameter_count, *PARITY),
        measure=_last_stage,
    ),
    Mistake(
        bug="In-place ReLU",
        found=("pytorch/vision#6699 (done to save memory)", "meta-pytorch/captum#156"),
        symptom="A hook on a batch norm keeps what the ReLU made of its output",
        exhibit=RESNET18,
        source=BLOCK + "residual.BasicBlock",
        old="self.relu1 = nn.ReLU()",
        new="self.relu1 = nn.ReLU(inplace=True)",
        caught_by=(hooks,),
    ),
    Mistake(
        bug="ImageNet's max-pool kept at 32x32",
        found=("huyvnphan/PyTorch_CIFAR10 cifar10_models/resnet.py",),
        symptom="The last stage sees {side}x{side}, not {should}x{should}; "
        "still {count:,} parameters",
        exhibit=CIFAR_RESNET18,
        source=NETWORK + "ResNet",
        old=" if large else nn.Identity()",
        new="",
        caught_by=(stage_shapes, *PARITY),
        measure=_last_stage,
    ),
    Mistake(
        bug="Pre-activation network without its last batch norm and ReLU",
        found=("kuangliu/pytorch-cifar#137 (open)", "phlippe/uvadlc_notebooks#107"),
        symptom="The classifier sees a raw sum of all blocks; the first issue reports a NaN loss",
        exhibit=PREACT20,
        source=NETWORK + "PreActNet",
        old="x = self.relu(self.bn(x))",
        new="pass",
        caught_by=(equation_in_eval_mode, equation_in_train_mode),
    ),
    Mistake(
        bug="Every identity path fed relu(bn(x))",
        found=("kuangliu/pytorch-cifar#9 (fixed)", "facebookresearch/mixup-cifar10#20 (open)"),
        symptom="No clean path: each block cuts the negative half of what it passes on",
        exhibit=PREACT164,
        source=BLOCK + "preactivation.PreActBottleneck",
        old="shortcut = x if self.downsample is None",
        new="shortcut = out if self.downsample is None",
        caught_by=(identity, equation_in_eval_mode),
    ),
    Mistake(
        bug="Dropout made in `forward`: `eval()` does not reach it",
        found=("yangze0930/NTS-Net#14 (open)",),
        symptom="In eval mode the same image gets other logits each time",
        exhibit=WRN_28_10,
        source=BLOCK + "preactivation.WideBlock",
        old="out = self.dropout(self.relu2(self.bn2(out)))",
        new="out = nn.Dropout(self.dropout.p)(self.relu2(self.bn2(out)))",
        caught_by=(repetition, equation_in_eval_mode),
    ),
    Mistake(
        bug="Dropout before the batch norm instead of behind its ReLU",
        found=("bmsookim/wide-resnet.pytorch#3 (open)",),
        symptom="Batch norm learns the variance of dropped-out maps and meets whole ones in "
        "eval mode",
        exhibit=WRN_28_10,
        source=BLOCK + "preactivation.WideBlock",
        old="out = self.dropout(self.relu2(self.bn2(out)))",
        new="out = self.relu2(self.bn2(self.dropout(out)))",
        caught_by=(equation_in_train_mode,),
    ),
    Mistake(
        bug="First 1x1 convolution grouped like the 3x3",
        found=("weiaicunzai/pytorch-cifar100 models/resnext.py",),
        symptom="ResNeXt-50 has {count:,} parameters, not {right.parameters:,}",
        exhibit=RESNEXT50,
        source=BLOCK + "resnext.ResNeXtBlock",
        old="nn.Conv2d(in_channels, width, 1, bias=False)",
        new="nn.Conv2d(in_channels, width, 1, groups=cardinality, bias=False)",
        caught_by=(parameter_count, parity_of_logits),
        measure=_count,
    ),
    Mistake(
        bug="Output of twice the grouped width instead of 4 times the stage's channels",
        found=("kuangliu/pytorch-cifar models/resnext.py",),
        symptom="ResNeXt-29 8x64d has {millions:.1f} M parameters, not {should:.1f} M",
        exhibit=RESNEXT29,
        source=BLOCK + "resnext.ResNeXtBlock",
        old="width = channels * base_width // 64 * cardinality",
        new="width = channels * base_width // 64 * cardinality; out_channels = 2 * width; "
        "self.expansion = out_channels // channels",
        caught_by=(stage_shapes, parameter_count),
        measure=lambda exhibit, code: {
            "millions": count(exhibit, code) / 1e6,
            "should": exhibit.parameters / 1e6,
        },
    ),
    Mistake(
        bug="ReLU before squeeze-and-excitation",
        found=("weiaicunzai/pytorch-cifar100#75 (open)",),
        symptom="Gate and sum never see a negative F(x); still {count:,} parameters",
        exhibit=SE_RESNET50,
        source=BLOCK + "squeeze_excitation.SEBottleneck",
        old="out = self.se(self.bn3(self.conv3(out)))",
        new="out = self.se(F.relu(self.bn3(self.conv3(out))))",
        caught_by=(open_gates,),
        measure=_count,
    ),
    Mistake(
        bug="Squeeze-and-excitation after the addition",
        found=("kobiso/SENet-tensorflow-slim#2 (fixed)",),
        symptom="The gates scale the identity too: shut, they leave nothing",
        exhibit=SE_RESNET50,
        source=BLOCK + "squeeze_excitation.SEBottleneck",
        old="out = self.se(self.bn3(self.conv3(out)))",
        new="return F.relu(self.se(self.bn3(self.conv3(out)) + self.shortcut(x)))",
        caught_by=(identity,),
    ),
    Mistake(
        bug="DenseNet transition without ReLU",
        found=("weiaicunzai/pytorch-cifar100#52 (open)",),
        symptom="Two linear maps in a row; still {count:,} parameters",
        exhibit=DENSENET121,
        source=BLOCK + "densenet.Transition",
        old="out = self.conv(self.relu(self.norm(x)))",
        new="out = self.conv(self.norm(x))",
        caught_by=PARITY,
        measure=_count,
    ),
    Mistake(
        bug="DenseNet without its last ReLU",
        found=("keras-team/keras-applications#31 (fixed)",),
        symptom="Still {count:,} parameters; the maintainers gained 0.3 % top-5 by the repair",
        exhibit=DENSENET121,
        source=NETWORK + "DenseNet",
        old="x = self.relu(self.features(x))",
        new="x = self.features(x)",
        caught_by=PARITY,
        measure=_count,
    ),
    Mistake(
        bug="Deviations taken per image and averaged (CIFAR-10's 0.2023 0.1994 0.2010)",
        found=("kuangliu/pytorch-cifar#16 (kept)", "libffcv/ffcv!322 (fixed)"),
        symptom="Normalised pixels deviate by {shapes:.2f} on Shapes-10 and by {low:.2f} to "
        "{high:.2f} on CIFAR-10, not by 1",
        exhibit=SHAPES,
        source="common.data.dataset.Dataset",
        old="std = (share @ levels**2 - mean**2).sqrt().clamp(min=1.0)",
        new="std = self.train.images.float().std(dim=(2, 3)).mean(dim=0)",
        caught_by=(deviation_of_one,),
        measure=_deviations,
    ),
    Mistake(
        bug="Last, incomplete test batch dropped (`drop_last`)",
        found=("huyvnphan/PyTorch_CIFAR10 data.py",),
        symptom="{scored:,} of 10,000 test images are scored",
        exhibit=SHAPES,
        source="common.data.dataset.Dataset",
        old="order.tensor_split(math.ceil(len(order) / batch_size))",
        new="order.split(batch_size)[: len(order) // batch_size]",
        caught_by=(images_scored,),
        measure=lambda exhibit, code: {"scored": scored(code)},
    ),
]


# Words for tables


def symptom(mistake: Mistake) -> str:
    """The symptom, with the numbers that the changed code gives."""
    measured = mistake.measure(mistake.exhibit, code(mistake))
    return mistake.symptom.format(right=mistake.exhibit, **measured)


def links(places: tuple[str, ...]) -> str:
    """`Mistake.found` in Markdown; a repository named twice running is named once."""
    texts, before = [], None
    for place in places:
        repository, mark, rest = re.fullmatch(r"([\w.-]+/[\w.-]+)([#! ])(.*)", place).groups()
        url, name = f"https://github.com/{repository}", "" if repository == before else repository
        if mark == " ":
            texts.append(f"[{name}]({url}) {rest}")
        else:
            number, note = re.fullmatch(r"(\d+)(.*)", rest).groups()
            kind = "issues" if mark == "#" else "pull"
            texts.append(f"[{name} #{number}]({url}/{kind}/{number}){note}".replace("[ ", "["))
        before = repository
    return ", ".join(texts)


def label(check: Callable) -> str:
    """A check's name in the table."""
    return check.__name__.removeprefix("parity_of_").replace("_", " ")
