"""What a layer's features hold: linear probes and linear CKA, on any network.

Probes: Alain & Bengio 2016 (arXiv:1610.01644). CKA: Kornblith et al. 2019 (arXiv:1905.00414),
section 3, with the unbiased estimator of HSIC, as Nguyen et al. 2020 (arXiv:2010.15327) use it.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn as nn
from tqdm import tqdm

from common.analysis import activations
from common.data import Dataset
from common.experiment import block_names

FITTED, SCORED, ALIKE = 2_000, 500, 300  # images, at most: to fit probes, score them, for CKA
RIDGE = 1e-3  # of the probes, times the images


@torch.no_grad()
def observe(model: nn.Module, names: list[str], batches: Iterable, reduce: Callable) -> dict:
    """`reduce(output)` of each named module for all batches (images, labels), eval mode.

    Returns {name: results concatenated over batches}. Outputs are reduced as they appear, so
    that no more than one is held at a time; the hooks are removed afterwards.
    """
    found: dict[str, list[torch.Tensor]] = {name: [] for name in names}

    def keep(name: str) -> Callable:
        return lambda _module, _inputs, output: found[name].append(reduce(output))

    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        model.eval()
        for x, _ in batches:
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}


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


def off_diagonal(matrix: list[list[float]]) -> float:
    """Mean of a square matrix without its diagonal and without what is NaN."""
    values = torch.tensor(matrix, dtype=torch.float64)
    return values[~torch.eye(len(values), dtype=torch.bool)].nanmean().item()


def probe(features, labels, tested, truths, classes: int) -> torch.Tensor:
    """A linear classifier in closed form: ridge regression on one-hot labels.

    Fitted on `features` (N C, standardised) and `labels`, scored on `tested` and `truths`.
    Returns a truth value for each tested image: whether it was classified rightly.
    """
    x, test = features.double(), tested.double()
    mean, std = x.mean(dim=0), x.std(dim=0).clamp(min=1e-12)
    x, test = (x - mean) / std, (test - mean) / std  # N C
    targets = torch.eye(classes, dtype=torch.float64)[labels]  # N classes
    level = targets.mean(dim=0)
    penalty = RIDGE * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(x.T @ x + penalty, x.T @ (targets - level))  # C classes
    return (test @ weights + level).argmax(dim=1) == truths


def separability(model: nn.Module, names: list[str], fitted, scored, classes: int) -> dict:
    """Accuracy of a linear probe on the mean colour, then on each named module's pooled output.

    `fitted` and `scored` are lists of batches (images, labels). Returns accuracies and their
    standard errors (of a share of so many images), and the network's own error on `fitted`.
    """
    truths = [torch.cat([y for _, y in batches]).cpu() for batches in (fitted, scored)]
    seen = [observe(model, [*names, ""], batches, pooled) for batches in (fitted, scored)]
    colours = [torch.cat([pooled(x) for x, _ in batches]) for batches in (fitted, scored)]
    error = (seen[0][""].argmax(dim=1) != truths[0]).double().mean().item()
    pairs = [colours, *([features[name] for features in seen] for name in names)]
    hits = [probe(a, truths[0], b, truths[1], classes).double().mean().item() for a, b in pairs]
    errors = [(share * (1 - share) / len(truths[1])) ** 0.5 for share in hits]
    return {"accuracies": hits, "standard_errors": errors, "training_error": error}


def alike(model: nn.Module, names: list[str], parts: list[torch.Tensor]) -> list:
    """Debiased linear CKA of all pairs of the named modules' outputs: one matrix a part.

    A part is a batch of at least four images.
    """
    matrices = []
    for x in parts:
        grams = observe(model, names, [(x, None)], gram)
        matrices.append(cka_matrix([grams[name] for name in names]))
    return matrices


def strongest(maps: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` channels of C H W that vary most over positions (are largest, if H W is 1 1)."""
    flat = maps.flatten(1)
    strength = flat.std(dim=1) if flat.shape[1] > 1 else flat[:, 0].abs()
    return maps[strength.argsort(descending=True)[:count]]


@torch.no_grad()
def _look(model: nn.Module, names: list[str], picture: torch.Tensor) -> dict:
    """`channels`, `class` and `p` of one normalised image (1 3 H W)."""
    first = next(name for name, m in model.named_modules() if isinstance(m, nn.Conv2d))
    stages = [first, *dict.fromkeys(name.rpartition(".")[0] for name in names)]
    maps = activations(model.eval(), [*stages, ""], picture)
    chances = maps.pop("")[0].softmax(dim=0)
    channels = {name: strongest(m[0], 4).cpu().numpy() for name, m in maps.items()}
    return {"channels": channels, "class": chances.argmax().item(), "p": chances.max().item()}


def _first_images(dataset: Dataset, split: str, count: int) -> list[tuple]:
    """The first `count` images of a split and their labels, in batches."""
    found = []
    for x, y in dataset.batches(split, 250):
        found.append((x[:count], y[:count]))
        count -= len(y)
        if count <= 0:
            break
    return found


def look_inside(nets: dict[str, nn.Module], dataset: Dataset, image) -> dict[str, dict]:
    """Of every network: probes by depth, similarity of its blocks, and how it sees one image.

    `image` is uint8, H W 3. Returns what `separability` and `alike` find; under `channels`, by
    name, the four strongest channels of the first convolution and of every stage; as `class` and
    `p` what the network takes the image for, and how surely.
    """
    fitted = _first_images(dataset, "train", FITTED)
    scored = _first_images(dataset, "val", SCORED)
    parts = torch.cat([x for x, _ in fitted])[:ALIKE].tensor_split(3)
    mean, std = dataset.statistics
    picture = (torch.tensor(image, device=mean.device).permute(2, 0, 1)[None] - mean) / std
    seen = {}
    for name, model in tqdm(nets.items(), "features", disable=None, leave=False):
        names = block_names(model)
        seen[name] = separability(model, names, fitted, scored, len(dataset.classes))
        seen[name] |= {"cka": alike(model, names, parts)} | _look(model, names, picture)
    return seen
