"""Probes of trained networks: what gates do for each class, what dense layers read."""

import contextlib
import itertools
import statistics
from collections.abc import Iterator

import torch
import torch.nn as nn
import torch.nn.functional as F

from common import analysis, experiment, threads, training
from common.blocks import DenseBlock


@torch.no_grad()
def class_gates(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict:
    """Mean squeeze-and-excitation gates of each class: {block: classes x channels}.

    `images` are normalised, N 3 H W; every class must occur among the labels.
    """
    blocks = [b for b in experiment.block_names(model) if hasattr(model.get_submodule(b), "se")]
    outputs = analysis.activations(model.eval(), [f"{b}.se.fc2" for b in blocks], images)
    chosen = F.one_hot(labels).float()  # N classes
    shares = chosen / chosen.sum(0)
    return {
        b: shares.T @ gate.float().sigmoid()
        for b, gate in zip(blocks, outputs.values(), strict=True)
    }


def class_dependence(gates: torch.Tensor) -> float:
    """Standard deviation over classes of the mean gate, averaged over channels."""
    return gates.std(dim=0).mean().item()


def reuse_all(models: list[nn.Module], dataset, device: str = "cpu") -> list:
    """`reuse` of several networks, side by side."""
    return threads.side_by_side(lambda model: reuse(model, dataset, device), models, device)


def reuse(model: nn.Module, dataset, device: str = "cpu") -> list[list[list[float]]]:
    """Rise of the validation loss (nats) when one reader of a dense block does not see one source.

    Readers are the block's layers and what follows it; sources its input, layer 1, layer 2 ...
    The hidden channels are set to their means over images and positions. One list a block, in it
    one row a reader.
    """
    whole = training.evaluate(model, dataset, "val", device)[0]
    found = []
    for readers, sizes in _dense_blocks(model.features):
        starts = [0, *itertools.accumulate(sizes)]
        rows = []
        for count, reader in enumerate(readers, 1):
            rises = []
            for start, size in zip(starts[:count], sizes[:count], strict=True):
                with _hidden(reader, start, start + size):
                    rises.append(training.evaluate(model, dataset, "val", device)[0] - whole)
            rows.append(rises)
        found.append(rows)
    return found


def _dense_blocks(features: nn.Sequential) -> Iterator[tuple[list[nn.Module], list[int]]]:
    """Of each dense block: the batch norms that read its channels, and the sources' widths."""
    for stage, following in itertools.pairwise(features):
        if isinstance(stage, DenseBlock):
            readers = [*(layer.norm1 for layer in stage), getattr(following, "norm", following)]
            widths = [norm.num_features for norm in readers]
            yield readers, [widths[0]] + [b - a for a, b in itertools.pairwise(widths)]


@contextlib.contextmanager
def _hidden(reader: nn.Module, start: int, end: int) -> Iterator[None]:
    """Inside the `with`, `reader` sees the means of the channels from `start` to `end`."""

    def blind(_module, inputs):
        (x,) = inputs
        mean = x[:, start:end].mean(dim=(0, 2, 3), keepdim=True).expand_as(x[:, start:end])
        return (torch.cat([x[:, :start], mean, x[:, end:]], dim=1),)

    hook = reader.register_forward_pre_hook(blind)
    try:
        yield
    finally:
        hook.remove()


def by_age(found: list[list[list[float]]]) -> tuple[float, float]:
    """Mean rise for older sources and for the newest one, over readers that see two or more;
    `found` as `reuse` gives it."""
    rows = [row for block in found for row in block if len(row) > 1]
    older = statistics.fmean(rise for row in rows for rise in row[:-1])
    return older, statistics.fmean(row[-1] for row in rows)
