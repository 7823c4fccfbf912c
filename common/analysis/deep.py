"""Networks too deep for most designs: can they learn one batch by heart, and is their path open?"""

import math
import statistics
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from common import models, training
from common.blocks import Bottleneck, PreActBottleneck, SkipInitBlock

import torch
import torch.nn as nn
import torch.nn.functional as F

from .gradients import forward_hooks
from .seeds import Seeds

NORMS = {"pre-norm": True, "post-norm": False}  # of a Transformer: norm_first
IMAGES = 32  # of the batch that is learnt by heart, where there are so many
WINDOW = 10  # steps at the end over which losses are averaged


class Trial(NamedTuple):
    """A network that is to learn a batch by heart, and how it is trained."""

    build: Callable[[], nn.Module]
    optimizer: Callable[[nn.Module, float], torch.optim.Optimizer]
    rate: float  # the highest of the schedule
    steps: int
    warmup: int = 0  # of these steps


class PlainPreActBottleneck(PreActBottleneck):
    """PreActBottleneck without its shortcut; a projection is kept, unused, for equal counts."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv1(self.relu1(self.bn1(x)))  # N channels H W
        out = self.conv2(self.relu2(self.bn2(out)))  # N channels H/stride W/stride
        return self.conv3(self.relu3(self.bn3(out)))  # N 4*channels H/stride W/stride


class VisionTransformer(nn.Module):
    """Patches of 4x4 pixels, Transformer layers, the mean over patches, a linear classifier.

    `norm_first` puts layer norm inside the branches (pre-norm), else it follows each addition
    (post-norm). As in PreActNet, a path that nothing normalises needs a last norm.
    Source: Dosovitskiy et al. 2020 (arXiv:2010.11929).
    Deviations: a mean in place of the class token; in the branch ReLU and twice the width, where
    the paper has GELU and four times.
    Shapes: N 3 12 12 -> N num_classes.
    """

    def __init__(self, layers: int, norm_first: bool, num_classes: int = 10, width: int = 32):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.position = nn.Parameter(0.02 * torch.randn(9, width))
        options = {"dropout": 0.0, "batch_first": True, "norm_first": norm_first}
        self.layers = nn.Sequential(
            *(nn.TransformerEncoderLayer(width, 4, 2 * width, **options) for _ in range(layers))
        )
        self.norm = nn.LayerNorm(width) if norm_first else nn.Identity()
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position  # N 9 width
        return self.fc(self.norm(self.layers(x)).mean(dim=1))  # N num_classes


def adamw(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """The optimiser of Transformers and of networks without batch norm."""
    return torch.optim.AdamW(model.parameters(), lr)


def thousand_layers(layers: int, classes: int) -> dict[str, Trial]:
    """Four networks of 9n + 2 layers and width 4 that differ in their blocks alone.

    All have a PreActNet's bare stem and its last batch norm: without that one post-activation needs
    a far smaller rate and learns less. Of rates about a factor of three apart each has the one that
    left it the lowest loss with seed 10, which no claim uses. The plain one has none: its gradient
    overflows before a rate matters.
    """
    size = (layers - 2) // 9, classes, 4
    post = partial(models.PreActNet, Bottleneck, *size)

    def trial(build: Callable, rate: float) -> Trial:
        return Trial(build, training.sgd, rate, steps=20, warmup=4)

    return {
        "pre-activation": trial(partial(models.PreActNet, PreActBottleneck, *size), 1.0),
        "plain": trial(partial(models.PreActNet, PlainPreActBottleneck, *size), 0.01),
        "post-activation": trial(post, 0.3),
        "post, last gamma 0": trial(lambda: models.changes.zero_last_gamma(post()), 0.1),
    }


def without_batch_norm(layers: int, classes: int) -> dict[str, Trial]:
    """Networks of 6n + 2 layers, width 4: x + alpha F(x), alpha being 0 or 1 at the start.

    With two other seeds and 200 layers, alpha = 0 was ahead at rates of 0.003, 0.01 and 0.03.
    """

    def build(alpha: float) -> nn.Module:
        model = models.cifar_skipinit(layers, classes, 4)
        for module in model.modules():
            if isinstance(module, SkipInitBlock):
                nn.init.constant_(module.alpha, alpha)
        return model

    return {
        f"alpha = {alpha}": Trial(partial(build, alpha), adamw, 0.01, steps=24) for alpha in (0, 1)
    }


def transformers(layers: int, classes: int) -> dict[str, Trial]:
    """Each kind at its best rate (of 0.0003, 0.001, 0.003 and 0.01, with two other seeds), then
    post-norm at pre-norm's, without and with 12 steps of warm-up."""

    def trial(kind: str, rate: float, warmup: int = 0) -> Trial:
        build = partial(VisionTransformer, layers, NORMS[kind], classes)
        return Trial(build, adamw, rate, 24, warmup)

    return {
        "pre-norm": trial("pre-norm", 0.003),
        "post-norm, own rate": trial("post-norm", 0.001),
        "post-norm": trial("post-norm", 0.003),
        "post-norm, warm-up": trial("post-norm", 0.003, warmup=12),
    }


def first_images(dataset, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first IMAGES training images of an epoch, shifted and flipped, and their labels."""
    x, y = next(dataset.batches("train", len(dataset.train.labels), seed))
    return x[:IMAGES], y[:IMAGES]


def by_heart(trials: dict[str, Trial], dataset, seeds: range, device: str) -> dict[str, list]:
    """Let each network of each seed learn one batch by heart: 32 images, the same at every step.

    Fresh images at every step ask for far more steps than a lesson has time for. Of one seed all
    trials see the same batch. Returns by trial, one list a seed, the losses (nats) of all steps;
    NaN ends a list where the loss is no longer a number.
    """
    runs = []
    for name, trial in trials.items():
        for seed in seeds:
            torch.manual_seed(seed)  # networks of the same shapes start from the same values
            runs.append(training.Run(name, seed, trial.build()))
    steps = sum(trials[run.name].steps for run in runs)
    with training.progress("learning by heart", steps, "step") as bar:

        def job(run: training.Run) -> list[float]:
            batch = first_images(dataset, run.seed)
            return _losses(run.model, batch, trials[run.name], device, bar)

        return training.by_name(runs, training.side_by_side(job, runs, device))


def _losses(model: nn.Module, batch: tuple, trial: Trial, device: str, bar) -> list[float]:
    """The loss of every step on the batch, up to the first that is no number."""
    training.step.channels_last(model, device).train()
    optimizer = trial.optimizer(model, trial.rate)
    schedule = training.warmup_cosine(optimizer, trial.steps, trial.warmup)
    losses: list[float] = []
    while len(losses) < trial.steps:
        loss = training.train_step(model, *batch, optimizer, device)[0].item()
        schedule.step()
        bar.update()
        if not math.isfinite(loss):
            return [*losses, math.nan]
        losses.append(loss)
    return losses


def ends(losses: dict[str, list]) -> dict[str, Seeds]:
    """Mean loss of the last WINDOW steps of every trial, by seed; NaN where a run has diverged."""
    return {n: Seeds(statistics.fmean(run[-WINDOW:]) for run in runs) for n, runs in losses.items()}


def summary(title: str, trials: dict[str, Trial], losses: dict[str, list]) -> list[dict]:
    """The rows of a table: how well every trial learnt its batch."""
    rows = []
    for name, last in ends(losses).items():
        row = {title: name, "learning rate": f"{trials[name].rate:g}"}
        diverged = sum(map(math.isnan, last))
        row["loss, first step"] = f"{Seeds(run[0] for run in losses[name]):,.2f}"
        row[f"mean, last {WINDOW} steps"] = "diverged" if diverged else f"{last:.2f}"
        rows.append(row | {"diverged": f"{diverged} of {len(last)}"})
    return rows


def open_paths(blocks: nn.Sequential, x: torch.Tensor) -> list[float]:
    """Share of x's entries whose identity path is open through the first 1, 2 ... blocks.

    F(x) is held constant in every block (the output of its last layer is detached), so that the
    gradient of an output entry is the product of the gates on its identity path: 1 if all ReLUs
    after additions let it pass, else 0. The blocks must keep the shape; x is N C H W.
    """
    last_layers = []  # of each F: children stand in the order of use, the last ReLU is behind F
    for name, block in blocks.named_children():
        layers = [n for n, m in block.named_children() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
        last_layers.append(f"{name}.{layers[-1]}")
    signal = start = x.detach().requires_grad_()
    shares = []
    with forward_hooks(blocks, last_layers, lambda _name, _inputs, output: output.detach()):
        for block in blocks:
            signal = block(signal)
            (gradient,) = torch.autograd.grad(signal.sum(), start, retain_graph=True)
            shares.append((gradient != 0).float().mean().item())
    return shares


def open_paths_by_length(
    block: type[nn.Module], images: torch.Tensor, length: int, seeds: range
) -> list[list[float]]:
    """Open share of the identity paths (see `open_paths`) over 1, 2 ... `length` blocks, by seed.

    At initialisation, `block(16, 16)` behind the stem of a network: 3x3 convolution, batch norm and
    ReLU. All paths start there, for their place matters as well as their length: those of as many
    blocks further on are open more often. `images` are N 3 H W.
    """
    towers = []
    for seed in seeds:
        torch.manual_seed(seed)
        stem = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        tower = nn.Sequential(nn.Sequential(*stem), *(block(16, 16) for _ in range(length)))
        towers.append(tower.to(images.device))

    def job(tower: nn.Sequential) -> list[float]:
        return open_paths(tower[1:], tower[0](images))

    return training.side_by_side(job, towers, images.device.type)


def transformer_gradients(
    layers: int, classes: int, dataset, seeds: range, device: str
) -> dict[str, dict[int, list]]:
    """L2 norm of the loss's gradient by the weights of every layer's `linear2`, the last of its
    feed-forward part, at initialisation.

    By kind and number of layers (a quarter, and all of them): one list a seed.
    """
    norms: dict[str, dict[int, list]] = {kind: {layers // 4: [], layers: []} for kind in NORMS}
    for kind, by_depth in norms.items():
        for depth, runs in by_depth.items():
            for seed in seeds:
                torch.manual_seed(seed)
                model = VisionTransformer(depth, NORMS[kind], classes).to(device)
                x, y = first_images(dataset, seed)
                F.cross_entropy(model(x), y).backward()
                runs.append([layer.linear2.weight.grad.norm().item() for layer in model.layers])
    return norms


def path_table(post: list[list[float]], pre: list[list[float]]) -> list[dict]:
    """The open share of the paths through one block, a quarter of them, and all, a row each."""
    longest = len(pre[0])
    rows = []
    for n in sorted({1, max(1, longest // 4), longest}):
        row = {"blocks passed": n}
        for kind, runs in (("post", post), ("pre", pre)):
            row[f"open paths, {kind}-activation"] = f"{Seeds(run[n - 1] for run in runs):.1%}"
        rows.append(row)
    return rows


def flow_table(flow: dict[str, dict[int, list]]) -> list[dict]:
    """The last layer's gradient in shallow and deep Transformers, and their ratio, a row a kind."""
    rows = []
    for kind, by_depth in flow.items():
        norms = {depth: Seeds(run[-1] for run in runs) for depth, runs in by_depth.items()}
        few, many = norms.values()
        row = {"gradient of the last layer": kind}
        row |= {f"{depth} layers": f"{seeds:.3f}" for depth, seeds in norms.items()}
        rows.append(row | {"ratio": f"{many.mean / few.mean:.2f}"})
    return rows
