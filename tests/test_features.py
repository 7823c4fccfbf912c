import math

from common import analysis, data, models
from common.analysis import features as measured
from common.analysis.features import cka, gram

import pytest
import torch
import torch.nn.functional as F

NETWORKS = [
    models.cifar_plain(8, width=4),
    models.cifar_resnet(8, width=4),
    models.cifar_preact_resnet(8),
    models.cifar_densenet(10, 4),
    models.cifar_se_resnet(8),
]


@pytest.fixture
def features():
    return torch.randn(60, 20, generator=torch.Generator().manual_seed(0))


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_cka_of_a_thing_with_itself_is_one(features):
    assert cka(gram(features), gram(features)) == pytest.approx(1, abs=1e-12)


def test_cka_ignores_rotation_scale_and_shift(features):
    rotation, _ = torch.linalg.qr(noise(1, 20, 20).double())
    features, other = features.double(), noise(2, 60, 20).double() + features
    expected = cka(gram(features), gram(other))
    turned = cka(gram(features @ rotation), gram(-7.0 * other + 3.0))
    assert turned == pytest.approx(expected, abs=1e-9)
    assert 0.1 < expected < 0.99


def test_cka_does_not_ignore_other_linear_maps(features):
    stretched = features * torch.linspace(0.01, 5, 20)
    assert cka(gram(features), gram(stretched)) < 0.95


def test_cka_of_independent_noise_is_about_zero_and_unbiased():
    """Of more features than images, where the biased estimate is far above zero."""
    values = [cka(gram(noise(i, 40, 500)), gram(noise(100 + i, 40, 500))) for i in range(20)]
    assert abs(sum(values) / 20) < 0.02
    assert min(values) < 0 < max(values)


def test_cka_of_constant_features_is_no_number(features):
    assert math.isnan(cka(gram(features), gram(torch.ones(60, 3))))


def test_cka_matrix_is_symmetric(features):
    grams = [gram(features), gram(noise(3, 60, 5)), gram(features + noise(4, 60, 20))]
    matrix = measured.cka_matrix(grams)
    assert all(matrix[i][j] == matrix[j][i] for i in range(3) for j in range(3))
    expected = (matrix[0][1] + matrix[0][2] + matrix[1][2]) / 3
    found = measured.Features(None, matrix, None).cka_between_blocks
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("model", NETWORKS, ids=lambda model: type(model).__name__)
def test_no_activation_is_overwritten_and_no_hook_stays(model):
    """What a hook sees as it passes is what is still there after the forward pass."""
    x = noise(0, 8, 3, 16, 16)
    names = [name for name, _ in model.named_modules() if name]
    assert set(models.block_names(model)) <= set(names)
    passing = measured.extract(model, names, [(x, None)], torch.clone)
    with torch.no_grad():
        kept = analysis.activations(model.eval(), names, x)
    assert all(torch.equal(passing[name], kept[name]) for name in names)
    with pytest.raises(RuntimeError):
        measured.extract(model, names, [(x[:, :2], None)], torch.clone)
    assert not any(module._forward_hooks for module in model.modules())


def test_extracting_joins_the_batches_in_order():
    model = NETWORKS[1]
    x = noise(0, 10, 3, 8, 8)
    parts = measured.extract(model, ["layer1"], [(x[:4], None), (x[4:], None)], measured.pooled)
    with torch.no_grad():
        hidden = F.relu(model.bn1(model.conv1(x)))
        expected = model.layer1(hidden).mean(dim=(2, 3))
    assert torch.allclose(parts["layer1"], expected, atol=1e-5)


def test_a_probe_finds_what_is_linear_and_nothing_else():
    labels = torch.arange(90) % 3
    points = F.one_hot(labels, 3).float() @ noise(0, 3, 12) + 0.05 * noise(1, 90, 12)
    fit, rest = slice(0, 60), slice(60, 90)
    right = measured.probe(points[fit], labels[fit], points[rest], labels[rest], 3)
    assert right == 1
    nothing = measured.probe(noise(2, 60, 12), labels[fit], noise(3, 30, 12), labels[rest], 3)
    assert nothing < 0.7
    constant = measured.probe(0 * points[fit], labels[fit], 0 * points[rest], labels[rest], 3)
    assert constant == pytest.approx(1 / 3)


def test_separability_counts_its_images():
    tiny = data.load("shapes", size=8, limit=200)
    fitted, scored = ([next(tiny.batches(split, 500))] for split in ("train", "val"))
    found = measured.linear_probes(NETWORKS[1], ["layer1.0", "layer3.0"], fitted, scored, 10)
    assert len(found.accuracies) == len(found.standard_errors) == 3
    share = found.accuracies[1]
    assert found.standard_errors[1] == pytest.approx((share * (1 - share) / 20) ** 0.5)
    assert found.half_depth == found.accuracies[1]


def test_a_similarity_for_every_network():
    tiny = data.load("shapes", size=8, limit=200)
    nets = {"a": {0: NETWORKS[0], 4: NETWORKS[1]}, "b": {4: NETWORKS[1]}}
    image = tiny.val.images[0].permute(1, 2, 0).numpy()
    found = measured.measure(nets, tiny, image)
    assert {name: list(by_seed) for name, by_seed in found.items()} == {"a": [0, 4], "b": [4]}
    assert found["a"][4].cka == found["b"][4].cka
    cka = found["a"][0].cka
    assert [cka[i][i] for i in range(3)] == pytest.approx([1.0] * 3)
    mean = (cka[0][1] + cka[0][2] + cka[1][2]) / 3
    assert found["a"][0].cka_between_blocks == pytest.approx(mean)


def test_the_strongest_channels_vary_most():
    maps = torch.stack([scale * noise(0, 5, 5) + 100 for scale in (1, 5, 0, 3)])
    assert torch.equal(measured.strongest_channels(maps, 2), maps[[1, 3]])
    points = torch.tensor([1.0, -4.0, 2.0]).view(3, 1, 1)
    assert measured.strongest_channels(points, 1).item() == -4.0
