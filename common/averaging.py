"""The moving average of a network's weights, which is often better than the weights."""

import copy

import torch
import torch.nn as nn


class Average:
    """Exponential moving average of weights and batch-norm statistics (Polyak & Juditsky 1992).

    After update t (1-based) the average moves towards the network by 1 - min(decay, (1 + t) /
    (10 + t)), so that it forgets the initial weights early. `model` is the averaged network.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay = copy.deepcopy(model).requires_grad_(False), decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards `model`, which has made `step` updates; counters are copied."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        theirs = model.state_dict()
        for name, ours in self.model.state_dict().items():
            if ours.is_floating_point():
                ours.lerp_(theirs[name], share)
            else:
                ours.copy_(theirs[name])
