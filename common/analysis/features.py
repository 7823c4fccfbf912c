"""What a layer's features hold: probes, similarity, and what gates them.

Probes: Alain & Bengio 2016 (arXiv:1610.01644). CKA: Kornblith et al. 2019 (arXiv:1905.00414),
section 3, with the unbiased estimator of HSIC, as Nguyen et al. 2020 (arXiv:2010.15327) use it.
"""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from common import models, training
from common.data import Dataset

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from .gradients import activations
from .seeds import Seeds

PROBE_FITTED, PROBE_SCORED, CKA_IMAGES = 2_000, 500, 300  # images, at most
RIDGE = 1e-3  # of the probes, times the images


@dataclass
class Probes:
    """Linear probes on the mean colour of the images, then on each block's pooled output.

    Accuracies and their standard errors are shares of the images scored.
    """

    accuracies: list[float]
    standard_errors: list[float]

    @property
    def half_depth(self) -> float:
        """The accuracy behind the block in the middle."""
        return self.accuracies[len(self.accuracies) // 2]


@dataclass
class Response:
    """How a network sees one image.

    `channels` holds, by name, the four strongest channels (4 H W) of the first convolution and of
    every stage; `predicted` is the class index and `probability` the softmax's.
    """

    channels: dict[str, np.ndarray]
    predicted: int
    probability: float


@dataclass
class Features:
    """What the blocks of one network hold: `cka` is the matrix of all pairs of them."""

    probes: Probes
    cka: list[list[float]]
    response: Response

    @property
    def cka_between_blocks(self) -> float:
        """Mean similarity of two different blocks, without what is NaN."""
        values = torch.tensor(self.cka, dtype=torch.float64)
        return values[~torch.eye(len(values), dtype=torch.bool)].nanmean().item()


@torch.no_grad()
def extract(model: nn.Module, names: list[str], batches: Iterable, reduce: Callable) -> dict:
    """`reduce(output)` of each named module for all batches (images, labels), eval mode.

    Returns {name: results concatenated over batches}. Outputs are reduced as they appear, so that
    no more than one is held at a time.
    """
    parts = [activations(model.eval(), names, x, reduce) for x, _ in batches]
    return {name: torch.cat([part[name] for part in parts]) for name in names}


def pooled(maps: torch.Tensor) -> torch.Tensor:
    """Mean over positions, on the CPU: N C H W -> N C; what has no positions stays as it is."""
    return (maps.flatten(2).mean(dim=2) if maps.ndim > 2 else maps).cpu()


def gram(features: torch.Tensor) -> torch.Tensor:
    """Inner products of all pairs of images: N ... -> N N, in float64, for which to the CPU."""
    flat = features.flatten(1).cpu().double()
    flat = flat - flat.mean(dim=0)  # centring changes no CKA, but keeps the digits
    return flat @ flat.T


def hsic(k: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """Unbiased HSIC of two Gram matrices N N, N > 3 (Song et al. 2012, equation 5)."""
    n = len(k)
    k, m = (g - g.diag().diag() for g in (k, m))
    total = (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2))
    return (total - 2 / (n - 2) * (k.sum(0) @ m.sum(0))) / (n * (n - 3))


def cka(k: torch.Tensor, m: torch.Tensor) -> float:
    """Debiased linear CKA of two Gram matrices: 1 for equal ones, about 0 for independent ones.

    Being an unbiased estimate it may be slightly negative; NaN if either features are constant.
    """
    norm = (hsic(k, k).clamp(min=0) * hsic(m, m).clamp(min=0)).sqrt()
    return (hsic(k, m) / norm).item() if norm > 0 else float("nan")


def cka_matrix(grams: list[torch.Tensor]) -> list[list[float]]:
    """Debiased linear CKA of every pair."""
    rows = [[0.0] * len(grams) for _ in grams]
    for i, first in enumerate(grams):
        for j in range(i + 1):
            rows[i][j] = rows[j][i] = cka(first, grams[j])
    return rows


def probe(features, labels, tested, truths, classes: int) -> float:
    """A linear classifier in closed form: ridge regression on one-hot labels.

    Fitted on `features` (N C, standardised) and `labels`, scored on `tested` and `truths`.
    Returns the share of the tested images that are classified rightly.
    """
    x, test = features.double(), tested.double()
    mean, std = x.mean(dim=0), x.std(dim=0).clamp(min=1e-12)
    x, test = (x - mean) / std, (test - mean) / std  # N C
    targets = torch.eye(classes, dtype=torch.float64)[labels]  # N classes
    level = targets.mean(dim=0)
    penalty = RIDGE * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(x.T @ x + penalty, x.T @ (targets - level))  # C classes
    return ((test @ weights + level).argmax(dim=1) == truths).double().mean().item()


def linear_probes(model: nn.Module, names: list[str], fitted, scored, classes: int) -> Probes:
    """Probes on the mean colour, then on each named module's pooled output.

    `fitted` and `scored` are lists of batches (images, labels).
    """
    labels, truths = (torch.cat([y for _, y in batches]).cpu() for batches in (fitted, scored))
    colours = [torch.cat([pooled(x) for x, _ in batches]) for batches in (fitted, scored)]
    outputs = [extract(model, names, batches, pooled) for batches in (fitted, scored)]
    pairs = [colours, *([split[name] for split in outputs] for name in names)]
    accuracies = [probe(x, labels, test, truths, classes) for x, test in pairs]
    standard_errors = [(share * (1 - share) / len(truths)) ** 0.5 for share in accuracies]
    return Probes(accuracies, standard_errors)


def strongest_channels(maps: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` channels of C H W that vary most over positions (are largest, if H W is 1 1)."""
    flat = maps.flatten(1)
    strength = flat.std(dim=1) if flat.shape[1] > 1 else flat[:, 0].abs()
    return maps[strength.argsort(descending=True)[:count]]


@torch.no_grad()
def response(model: nn.Module, names: list[str], image: torch.Tensor) -> Response:
    """The Response to one normalised image (1 3 H W); `names` are those of the blocks."""
    first = next(name for name, m in model.named_modules() if isinstance(m, nn.Conv2d))
    stages = dict.fromkeys(name.rpartition(".")[0] for name in names)
    maps = activations(model.eval(), [first, *stages, ""], image)
    probabilities = maps.pop("")[0].softmax(dim=0)
    channels = {name: strongest_channels(m[0], 4).cpu().numpy() for name, m in maps.items()}
    return Response(channels, probabilities.argmax().item(), probabilities.max().item())


def measure(
    nets: dict[str, dict[int, nn.Module]], dataset: Dataset, image: np.ndarray
) -> dict[str, dict[int, Features]]:
    """The Features of all networks {name: {seed: network}}: probes and similarity by block, and how
    each sees one image (uint8, H W 3).

    Probes are fitted on training images and scored on validation images. Leaves the networks in
    eval mode.
    """
    fitted = list(dataset.first(PROBE_FITTED).batches("train", 250))
    scored = list(dataset.first(PROBE_SCORED).batches("val", 250))
    compared = torch.cat([x for x, _ in fitted])[:CKA_IMAGES]
    mean, std = dataset.statistics
    pixels = torch.tensor(image, device=mean.device).permute(2, 0, 1)[None]  # 1 3 H W
    features: dict[str, dict[int, Features]] = {name: {} for name in nets}
    with training.progress("features", sum(map(len, nets.values()))) as bar:
        for name, by_seed in nets.items():
            for seed, model in by_seed.items():
                names = models.block_names(model)
                grams = extract(model, names, [(compared, None)], gram)
                features[name][seed] = Features(
                    linear_probes(model, names, fitted, scored, len(dataset.classes)),
                    cka_matrix(list(grams.values())),
                    response(model, names, (pixels - mean) / std),
                )
                bar.update()
    return features


def probe_table(features: dict[str, dict[int, Features]]) -> list[dict]:
    """What `measure` found of probes and similarity, a row a name."""
    rows = []
    for name, by_seed in features.items():
        probes = [found.probes for found in by_seed.values()]
        row = {"network": name, "from the mean colour": f"{Seeds([probes[0].accuracies[0]]):.1%}"}
        row["at half depth"] = f"{Seeds(p.half_depth for p in probes):.1%}"
        row["after the last block"] = f"{Seeds(p.accuracies[-1] for p in probes):.1%}"
        similar = Seeds(found.cka_between_blocks for found in by_seed.values())
        rows.append(row | {"similarity of blocks": f"{similar:.2f}"})
    return rows


@torch.no_grad()
def gates(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Squeeze-and-excitation gates of images (normalised, N 3 H W), by block: N channels.

    Leaves the model in eval mode.
    """
    names = [n for n in models.block_names(model) if hasattr(model.get_submodule(n), "se")]
    outputs = activations(model.eval(), [f"{name}.se.fc2" for name in names], images)
    return {name: outputs[f"{name}.se.fc2"].float().sigmoid() for name in names}


def class_dependence(gates: torch.Tensor, labels: torch.Tensor) -> float:
    """Standard deviation over classes of the mean gate, averaged over channels.

    `gates` are N channels. Classes of which there is no image are left out.
    """
    members = F.one_hot(labels).float()  # N classes
    members = members[:, members.sum(0) > 0]
    means = (members / members.sum(0)).T @ gates  # classes channels
    return means.std(dim=0).mean().item()


def chance_dependence(gates: torch.Tensor, labels: torch.Tensor, rounds: int = 20) -> float:
    """What class_dependence gives for classes that mean nothing: the mean over permuted labels.

    It is not zero, because the mean gates of two groups of different images differ.
    """
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(labels), generator=generator) for _ in range(rounds)]
    permuted = [labels[order.to(labels.device)] for order in orders]
    return statistics.fmean(class_dependence(gates, classes) for classes in permuted)


def gate_table(runs: list[dict[str, tuple[float, float]]]) -> list[dict]:
    """What `gate_dependence` found in several networks, a row a block."""
    rows = []
    for block in runs[0]:
        classes, chance = (Seeds(run[block][i] for run in runs) for i in (0, 1))
        row = {"block": block, "spread of the gates over classes": f"{classes:.4f}"}
        rows.append(row | {"with shuffled labels": f"{chance:.4f}"})
    return rows


def gate_dependence(model: nn.Module, images, labels) -> dict[str, tuple[float, float]]:
    """How the gates of each block differ between the classes, and with permuted labels."""
    return {
        block: (class_dependence(found, labels), chance_dependence(found, labels))
        for block, found in gates(model, images).items()
    }
