import math

from common import data, models
from common.analysis import landscape

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

POINTS = [(0.0, 0.0), (0.5, -0.3)]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return models.cifar_resnet(8, width=4).eval()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(32, 3, 8, 8), torch.randint(10, (32,))


def norms(tensor):
    return tensor.detach().flatten(1).norm(dim=1)


def test_each_filter_of_a_direction_is_as_long_as_the_weights(model):
    parts = landscape.random_direction(model, 3)
    assert list(parts) == [name for name, _ in model.named_parameters()]
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            assert torch.allclose(norms(parts[name]), norms(weight), rtol=1e-5)
        else:
            assert not parts[name].any()
    cosine = F.cosine_similarity(parts["fc.weight"].flatten(), model.fc.weight.flatten(), dim=0)
    assert abs(cosine) < 0.5
    assert parts["fc.weight"].shape == (10, 16)


def test_directions_follow_the_seed_and_dead_filters_stay(model):
    nn.init.zeros_(model.conv1.weight[0])
    first, again, other = (landscape.random_direction(model, seed) for seed in (0, 0, 1))
    assert torch.equal(first["fc.weight"], again["fc.weight"])
    assert not torch.equal(first["fc.weight"], other["fc.weight"])
    assert not first["conv1.weight"][0].any()
    assert first["conv1.weight"][1].all()


def test_twins_are_moved_by_the_same_random_numbers():
    torch.manual_seed(0)
    plain = models.cifar_plain(8, width=4)
    residual = models.cifar_resnet(8, width=4)
    residual.load_state_dict(plain.state_dict())
    ours, theirs = (landscape.random_direction(net, 0) for net in (plain, residual))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_centre_is_the_plain_evaluation_to_the_bit(model, batch):
    x, y = batch
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    directions = [landscape.random_direction(model, seed) for seed in (0, 1)]
    centre, moved = landscape.losses(model, x, y, directions, POINTS)
    with torch.no_grad():
        assert centre == F.cross_entropy(model(x), y).item()
    assert moved != centre
    landscape.losses(model, x, y, directions, POINTS, recompute=True)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert not model.bn1.training


def test_a_moved_point_is_the_network_with_moved_weights(model, batch):
    x, y = batch
    directions = [landscape.random_direction(model, seed) for seed in (0, 1)]
    measured = landscape.losses(model, x, y, directions, POINTS)[1]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight += 0.5 * directions[0][name] - 0.3 * directions[1][name]
        assert measured == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-5)


def test_recomputed_statistics_undo_a_change_of_scale(model, batch):
    """Behind a convolution, batch norm cancels its scale: but not with stale statistics."""
    parts = {n: w.detach() if n != "fc.weight" else 0 * w for n, w in model.named_parameters()}
    fresh = landscape.losses(model, *batch, [parts], [(0.0,), (1.0,)], recompute=True)
    stale = landscape.losses(model, *batch, [parts], [(0.0,), (1.0,)])
    assert fresh[0] == pytest.approx(fresh[1], rel=1e-3)
    assert stale[0] != pytest.approx(stale[1], rel=1e-3)


def test_dropout_stays_off_when_statistics_are_recomputed(batch):
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Dropout(), nn.Flatten())
    net.append(nn.Linear(512, 10))
    parts = [landscape.random_direction(net, 0)]
    first, second = landscape.losses(net, *batch, parts, [(0.1,), (0.1,)], recompute=True)
    assert first == second


def test_a_landscape_holds_every_plane(model, batch):
    steps = landscape.axis(1.0, 3)
    nets = {"net": {0: model, 1: model}}
    found = landscape.measure(nets, *batch, steps, "cpu")["net"]
    planes = found.grids
    assert {m: np.shape(planes[m]) for m in landscape.STATISTICS} == {
        "running": (2, 3, 3),
        "recomputed": (2, 3, 3),
    }
    assert [grid[1][1] for grid in planes["running"]] == found.centres("running") == found.losses
    assert planes["running"][0][0][2] != planes["running"][1][0][2]
    directions = [landscape.random_direction(model, seed) for seed in (2, 3)]
    corner = landscape.losses(model, *batch, directions, [(steps[0], steps[2])])[0]
    assert planes["running"][1][2][0] == pytest.approx(corner, rel=1e-5)  # rows: the second
    with torch.no_grad():
        wrong = (model(batch[0]).argmax(1) != batch[1]).float().mean().item()
    assert found.errors == [wrong] * 2


def test_networks_of_several_names_get_their_own_planes(batch):
    nets = {}
    for name, seeds in (("one", (0, 3)), ("two", (3,))):
        nets[name] = {seed: models.build_twin("residual", 8, 10, 4, seed).eval() for seed in seeds}
    together = landscape.measure(nets, *batch, landscape.axis(0.3, 3), "cpu")
    for name in nets:
        alone = landscape.measure({name: nets[name]}, *batch, landscape.axis(0.3, 3), "cpu")
        assert alone[name] == together[name]
    assert together["one"].grids["running"][1] == together["two"].grids["running"][0]


def test_rise_is_counted_from_the_middle():
    bowl = [[2.0, 1.0, 2.0], [1.0, 0.5, 1.0], [2.0, 1.0, 2.0]]
    found = landscape.Landscape([0.5], [0.1], {"running": [bowl]})
    assert found.rise("running") == [pytest.approx(12.5 / 9 - 0.5)]


def test_training_stops_below_the_loss_or_never():
    few = data.load("shapes", size=8, limit=200).first(64)
    twins = {"plain": {seed: models.build_twin("plain", 8, 10, 4, seed) for seed in (0, 1)}}
    options = {"batch_size": 32, "lr": 0.05, "device": "cpu"}
    epochs = landscape.train_to_loss(twins, few, 9.0, 3, **options)
    assert epochs == {"plain": [1, 1]}
    before = [p.clone() for p in twins["plain"][0].parameters()]
    assert landscape.train_to_loss(twins, few, 0.01, 2, **options) == {"plain": [None, None]}
    after = list(twins["plain"][0].parameters())
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_axis_has_an_exact_centre():
    steps = landscape.axis(0.7, 7)
    assert steps[3] == 0.0
    assert (steps[0], steps[-1], len(steps)) == (-0.7, 0.7, 7)


def test_negative_curvature_of_known_surfaces():
    x, y = np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 9))
    share = landscape.negative_curvature
    assert share(x**2 + y**2 + 1) == 0
    assert share(3 + x + y) == 0
    assert share(3 - x**2 - y**2) == 1
    assert share(3 + x**2 - y**2) == 1
    assert share(3 + x**2 + y**2 + 3 * x * y) == 1  # seen in the mixed derivative alone
    assert share(2 + np.abs(x) ** 3 * np.sign(x)) == pytest.approx(3 / 7)  # where x < 0
    overflown = 3 - x**2 - y**2
    overflown[0, 0] = math.inf
    assert share(overflown) == 1
    assert math.isnan(share(np.full((5, 5), math.nan)))
