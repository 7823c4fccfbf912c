"""Networks without one of their parts: what is left?"""

import contextlib
import math
import statistics
from collections.abc import Iterator

from common import models, training

import torch.nn as nn
import torch.nn.functional as F

from .gradients import forward_hooks


@contextlib.contextmanager
def without_block(model: nn.Module, name: str) -> Iterator[None]:
    """Inside the `with`, the named plain or residual block passes its input on, untransformed.

    Where the block changes the shape, the input is subsampled and padded with zero channels
    (option A); a projection shortcut of the block's own is used if it has one, with the activation
    before (pre-activation) or after it. After Veit et al. 2016 (arXiv:1605.06431), section 4.1.
    """
    block = model.get_submodule(name)
    project = getattr(block, "downsample", None)

    def bypass(_name, inputs, output):
        (x,) = inputs
        # Pre-activation: the projection is bare, behind what it shares with F.
        if isinstance(project, nn.Conv2d) and hasattr(block, "bn1"):
            return project(F.relu(block.bn1(x)))
        if project is not None:
            return F.relu(project(x))
        stride = round(x.shape[2] / output.shape[2])
        return F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, output.shape[1] - x.shape[1]))

    with forward_hooks(model, [name], bypass):
        yield


def accuracies(
    runs: list[training.Run], dataset, split: str, device: str
) -> dict[str, list[list[float]]]:
    """Accuracy of each trained network as it is, then without each of its blocks in turn.

    Shares of all images of a split; by the network's name, one list a seed, NaN if it diverged.
    """

    def accuracy(model: nn.Module) -> float:
        loss, share = training.evaluate(model, dataset, split, device)
        return share if math.isfinite(loss) else math.nan

    with training.progress("lesions", len(runs)) as bar:

        def job(run: training.Run) -> list[float]:
            shares = [accuracy(run.model)]
            for name in models.block_names(run.model):
                with without_block(run.model, name):
                    shares.append(accuracy(run.model))
            bar.update()
            return shares

        return training.by_name(runs, training.side_by_side(job, runs, device))


def lost_share(shares: list[float], chance: float) -> float:
    """Of the accuracy above chance, the share lost with one block, mean over blocks.

    `shares` is one network's list of `accuracies`; NaN if intact it is no better than chance.
    """
    intact, *without = shares
    lost = intact - statistics.fmean(without)
    return lost / (intact - chance) if intact > chance else math.nan
