import re
import warnings

from common import models
from common.analysis import activations, depth, multiply_adds, parameter_count, parity
from common.blocks import BasicBlock, Bottleneck, PlainBlock, SkipInitBlock

import pytest
import torch
import torchvision

COUNTS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
}
CIFAR_COUNTS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}


@pytest.mark.parametrize("name", COUNTS)
def test_networks_equal_torchvisions(name):
    ours, theirs = getattr(models, name)(), getattr(torchvision.models, name)()
    assert parameter_count(ours) == COUNTS[name] == parameter_count(theirs)
    assert depth(ours) == int(re.search(r"\d+", name)[0])
    logits, gradients = parity(ours, theirs, torch.randn(4, 3, 64, 64), torch.arange(4))
    assert logits < 1e-5
    assert gradients < 1e-5


def test_stage_shapes():
    stages = ["conv1", "layer1", "layer2", "layer3", "layer4"]
    model = models.resnet50().eval()
    maps = activations(model, stages, torch.zeros(1, 3, 224, 224))
    sizes = [(64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7)]
    assert [tuple(m.shape[1:]) for m in maps.values()] == [(c, s, s) for c, s in sizes]
    model = models.resnet18(10, stem="cifar").eval()
    maps = activations(model, stages, torch.zeros(1, 3, 32, 32))
    assert [m.shape[-1] for m in maps.values()] == [32, 32, 16, 8, 4]
    assert parameter_count(model) == 11_173_962


def test_multiply_adds_of_resnet50():
    assert multiply_adds(models.resnet50(), 3, 224, 224) == 4_089_184_256


def test_imagenet_stem_warns_about_small_images():
    models.densenet121(stem="cifar").eval()(torch.zeros(1, 3, 32, 32))
    with pytest.warns(UserWarning, match="stem='cifar'"):
        models.densenet121().eval()(torch.zeros(1, 3, 32, 32))
    model = models.resnet18().eval()
    with pytest.warns(UserWarning, match="stem='cifar'"):
        model(torch.zeros(1, 3, 32, 32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(torch.zeros(1, 3, 64, 64))
        models.resnet18(stem="cifar").eval()(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("layers", CIFAR_COUNTS)
def test_cifar_twins(layers):
    torch.manual_seed(5)
    residual = models.cifar_resnet(layers)
    torch.manual_seed(5)
    plain = models.cifar_plain(layers)
    assert parameter_count(residual) == parameter_count(plain) == CIFAR_COUNTS[layers]
    assert CIFAR_COUNTS[layers] == 97_216 * (layers - 2) // 6 - 21_926
    assert depth(residual) == layers
    with_projections = models.cifar_resnet(layers, shortcut="B")
    assert parameter_count(with_projections) - CIFAR_COUNTS[layers] == 2_752
    ours, twins = residual.state_dict(), plain.state_dict()
    assert list(ours) == list(twins)
    assert all(torch.equal(ours[key], twins[key]) for key in ours)


def test_cifar_blocks_and_shapes():
    model = models.cifar_resnet(20, width=8).eval()
    maps = activations(model, ["layer1", "layer2", "layer3"], torch.zeros(1, 3, 32, 32))
    assert [tuple(m.shape[1:]) for m in maps.values()] == [(8, 32, 32), (16, 16, 16), (32, 8, 8)]
    assert sum(isinstance(m, BasicBlock) for m in model.modules()) == 9
    assert sum(isinstance(m, PlainBlock) for m in models.cifar_plain(56).modules()) == 27
    assert sum(isinstance(m, Bottleneck) for m in models.resnet152().modules()) == 50


def test_the_skipinit_network_has_no_batch_norm_and_starts_as_its_shortcuts():
    torch.manual_seed(0)
    model, twin = models.build("cifar_skipinit-20", 10), models.cifar_resnet(20)
    assert parameter_count(model) == 269_027
    assert depth(model) == 20
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    norms = [m for m in twin.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    blocks = [m for m in model.modules() if isinstance(m, SkipInitBlock)]
    biases = sum(2 * len(block.conv1.bias) for block in blocks)
    without = parameter_count(twin) - sum(map(parameter_count, norms))
    assert parameter_count(model) == without + biases + len(blocks)
    x = torch.randn(2, 3, 32, 32)
    hidden = torch.relu(model.conv1(x))[:, :, ::4, ::4].mean(dim=(2, 3))  # N 16, then zeros
    expected = hidden @ model.fc.weight[:, :16].T + model.fc.bias
    assert torch.allclose(model(x), expected, atol=1e-5)


# Paper, in millions as printed; whether the paper's figure leaves batch norm out.
PUBLISHED = [
    ("cifar_preact_resnet", (110,), "1.7", False),
    ("cifar_preact_resnet", (164,), "1.7", False),
    ("cifar_preact_resnet", (1001,), "10.2", True),
    ("cifar_wide_resnet", (40, 1), "0.6", False),
    ("cifar_wide_resnet", (40, 2), "2.2", False),
    ("cifar_wide_resnet", (40, 4), "8.9", False),
    ("cifar_wide_resnet", (40, 8), "35.7", False),
    ("cifar_wide_resnet", (28, 10), "36.5", False),
    ("cifar_wide_resnet", (28, 12), "52.5", False),
    ("cifar_wide_resnet", (22, 8), "17.2", False),
    ("cifar_wide_resnet", (22, 10), "26.8", False),
    ("cifar_wide_resnet", (16, 8), "11.0", False),
    ("cifar_wide_resnet", (16, 10), "17.1", False),
    ("cifar_resnext", (29, 8, 64), "34.4", False),
    ("cifar_resnext", (29, 16, 64), "68.1", True),
    ("cifar_densenet", (40, 12, False), "1.0", False),
    ("cifar_densenet", (100, 12, False), "7.0", False),
    ("cifar_densenet", (100, 24, False), "27.2", False),
    ("cifar_densenet", (100, 12), "0.8", False),
    ("cifar_densenet", (250, 24), "15.3", False),
    ("cifar_densenet", (190, 40), "25.6", False),
]


@pytest.mark.parametrize(("name", "arguments", "millions", "without_norm"), PUBLISHED)
def test_cifar_variants_round_to_the_papers_counts(name, arguments, millions, without_norm):
    with torch.device("meta"):
        model = getattr(models, name)(*arguments)
    count = parameter_count(model)
    if without_norm:
        norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        count -= sum(map(parameter_count, norms))
    assert f"{count / 1e6:.1f}" == millions


def test_exact_counts_of_variants():
    with torch.device("meta"):
        counts = {
            1_703_258: models.cifar_preact_resnet(164),
            36_479_194: models.cifar_wide_resnet(28, 10),
            34_426_698: models.cifar_resnext(29, 8, 64),
            769_162: models.cifar_densenet(100, 12),
            28_088_024: models.seresnet50(),
        }
        assert {parameter_count(model) for model in counts.values()} == set(counts)
        for size in (18, 34, 101, 152):  # two biases and two matrices for each block's gate
            gated, plain = (getattr(models, f"{n}{size}")() for n in ("seresnet", "resnet"))
            channels = [m.fc2.out_features for m in gated.modules() if hasattr(m, "fc2")]
            gates = sum(2 * c * (c // 16) + c // 16 + c for c in channels)
            assert parameter_count(gated) - parameter_count(plain) == gates
            assert depth(gated) == depth(plain) == size


def test_depths_of_cifar_variants():
    with torch.device("meta"):
        assert depth(models.cifar_preact_resnet(20)) == 20
        assert depth(models.cifar_preact_resnet(1001)) == 1001
        assert depth(models.cifar_resnext(29, 8, 64)) == 29
        assert depth(models.cifar_se_resnet(20)) == 20
        assert depth(models.cifar_densenet(40, 12)) == 40
        assert depth(models.cifar_densenet(40, 12, bottleneck=False)) == 40
        wide = models.cifar_wide_resnet(16, 2)  # counted without fc, with the three projections
        assert depth(wide) - 1 + sum("downsample" in name for name, _ in wide.named_modules()) == 16


def test_preactivation_networks_end_in_batch_norm_and_relu():
    model, seen = models.cifar_preact_resnet(8, width=4), []
    model.fc.register_forward_hook(lambda m, inputs, out: seen.append(inputs[0]))
    x = torch.randn(8, 3, 8, 8)
    model(x)
    hidden = model.layer3(model.layer2(model.layer1(model.conv1(x))))
    assert torch.equal(seen[0], torch.relu(model.bn(hidden)).mean(dim=(2, 3)))
    assert hidden.min() < 0
    dense, seen = models.cifar_densenet(10, 4), []
    dense.classifier.register_forward_hook(lambda m, inputs, out: seen.append(inputs[0]))
    dense(x)
    assert isinstance(list(dense.features)[-1], torch.nn.BatchNorm2d)
    assert seen[0].min() >= 0


def test_stages_of_cifar_variants():
    x = torch.zeros(1, 3, 32, 32)
    for model, widths in (
        (models.cifar_preact_resnet(8), (16, 32, 64)),
        (models.cifar_wide_resnet(10, 2), (32, 64, 128)),
        (models.cifar_resnext(11, 2, 64, width=16), (64, 128, 256)),
        (models.cifar_se_resnet(8), (16, 32, 64)),
    ):
        maps = activations(model.eval(), ["layer1", "layer2", "layer3"], x)
        expected = [(c, s, s) for c, s in zip(widths, (32, 16, 8), strict=True)]
        assert [tuple(m.shape[1:]) for m in maps.values()] == expected
    names = [f"features.denseblock{i}" for i in (1, 2, 3)]
    maps = activations(models.cifar_densenet(22, 12).eval(), names, x)
    assert [tuple(m.shape[1:]) for m in maps.values()] == [
        (60, 32, 32),
        (66, 16, 16),
        (69, 8, 8),
    ]


def test_pool_resnet():
    model = models.cifar_pool_resnet(64, 128, 128)
    assert (parameter_count(model), depth(model)) == (574_890, 8)
    assert multiply_adds(model, 3, 32, 32) == 69_305_600
    maps = activations(model.eval(), ["layer1", "layer2", "layer3"], torch.zeros(1, 3, 32, 32))
    assert [tuple(m.shape[1:]) for m in maps.values()] == [(64, 16, 16), (128, 8, 8), (128, 4, 4)]
    assert depth(models.cifar_pool_resnet(8, 8, 8, residual=3)) == 14
    with pytest.raises(RuntimeError, match="size"):
        model(torch.zeros(1, 3, 7, 7))


ENDS_IN_NORM = ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "seresnet18"]
ENDS_IN_NORM += ["seresnet50", "cifar_resnet-20", "cifar_se_resnet-20", "cifar_resnext-11-4-16"]


@pytest.mark.parametrize("name", ENDS_IN_NORM)
def test_last_gamma_zero_in_every_block(name):
    model = models.build(name, 10)
    assert models.zero_last_gamma(model) is model
    blocks = [model.get_submodule(block) for block in models.block_names(model)]
    for block in blocks:
        assert not getattr(block, "bn3", block.bn2).weight.any()
        x = torch.randn(2, block.conv1.in_channels, 4, 4)
        assert torch.equal(block.eval()(x), block.shortcut(x).relu())
    zeros = [n for n, p in model.named_parameters() if n.endswith("weight") and not p.any()]
    assert len(zeros) == len(blocks)


@pytest.mark.parametrize("name", ["cifar_plain-8", "cifar_preact_resnet-8", "cifar_densenet-10-4"])
def test_last_gamma_zero_is_refused_where_no_block_ends_in_it(name):
    model = models.build(name, 10)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="batch norm"):
        models.zero_last_gamma(model)
    with pytest.raises(ValueError, match="batch norm"):
        models.zero_last_gamma(models.without_batch_norm(models.cifar_resnet(8)))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_errors():
    for wrong in (2, 21, 0, -4):
        with pytest.raises(ValueError, match="6n"):
            models.cifar_resnet(wrong)
    for network in (models.resnet18, models.densenet121):
        with pytest.raises(ValueError, match="stem"):
            network(stem="small")
    for name, arguments, form in (
        ("cifar_preact_resnet", (21,), "6n"),
        ("cifar_preact_resnet", (1000,), "9n"),
        ("cifar_wide_resnet", (20, 2), r"6n \+ 4"),
        ("cifar_resnext", (28, 8, 64), "9n"),
        ("cifar_resnext", (29, 8, 0), "channel"),
        ("cifar_densenet", (101, 12), "6n"),
        ("cifar_densenet", (42, 12, False), "3n"),
    ):
        with pytest.raises(ValueError, match=form):
            getattr(models, name)(*arguments)


def test_networks_can_be_traced():
    variants = [models.resnet18(), models.cifar_resnet(20), models.cifar_preact_resnet(20)]
    variants += [models.cifar_resnext(11, 2, 64, width=16), models.cifar_densenet(16, 4)]
    variants += [models.cifar_pool_resnet(8, 8, 8)]
    for model in (*variants, models.cifar_se_resnet(8), models.densenet121()):
        traced = torch.fx.symbolic_trace(model.eval())
        x = torch.randn(1, 3, 64, 64)
        assert torch.equal(traced(x), model(x))
