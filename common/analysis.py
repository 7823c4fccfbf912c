"""Measurements on any network: counts, shapes, gradients, times."""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode


def parameter_count(model: nn.Module) -> int:
    """Number of trainable parameters, batch norm's scales and shifts included."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def multiply_adds(model: nn.Module, *shape: int) -> int:
    """Multiply-adds of convolutions and linear layers for one input of `shape` (C H W)."""
    model.eval()
    parameter = next(model.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *shape, device=parameter.device, dtype=parameter.dtype))
    return counter.get_total_flops() // 2


def depth(model: nn.Module) -> int:
    """Convolutions and linear layers on the main path, as papers count; shortcuts excluded."""
    layers = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    return sum("downsample" not in name for name in layers)


def activations(model: nn.Module, names: list[str], x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output of each named submodule for the input x; the hooks are removed afterwards."""
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable:
        return lambda _module, _inputs, output: outputs.__setitem__(name, output)

    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def activation_gradients(model: nn.Module, names: list[str], x, y) -> list[float]:
    """L2 norm of d(mean cross-entropy)/d(output) of each named submodule, batch statistics.

    y holds class indices. Use a real batch of 32 or more: on a single image batch norm would
    make the gradient zero.
    """
    model.train()
    with torch.enable_grad():
        outputs = activations(model, [*names, ""], x)  # "" is the model itself
        loss = F.cross_entropy(outputs.pop(""), y)
        gradients = torch.autograd.grad(loss, list(outputs.values()))
    return [g.norm().item() for g in gradients]


def relative_difference(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Largest |a - b| over a list of tensors, relative to each tensor's largest |b|."""
    pairs = zip(ours, theirs, strict=True)
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item() for a, b in pairs)


def parity(ours: nn.Module, reference: nn.Module, x, y) -> tuple[float, float]:
    """Relative differences of logits (eval mode) and parameter gradients (train mode) after
    copying the reference's weights with strict=True. x is N C H W, y holds class indices."""
    ours.load_state_dict(reference.state_dict(), strict=True)
    with torch.no_grad():
        logits = relative_difference([ours.eval()(x)], [reference.eval()(x)])
    for model in (ours.train(), reference.train()):
        F.cross_entropy(model(x), y).backward()
    expected = {name: p.grad for name, p in reference.named_parameters()}
    gradients = {name: p.grad for name, p in ours.named_parameters()}
    names = list(expected)
    pairs = [gradients[n] for n in names], [expected[n] for n in names]
    return logits, relative_difference(*pairs)


def receptive_field(module: nn.Module, in_channels: int, size: int = 15) -> int:
    """Side, in input pixels, of the square that one output position of `module` depends on.

    Measured: the extent of the non-zero gradient of the centre output, over 64 random inputs,
    so that no closed ReLU hides a path.
    """
    module.eval()
    x = torch.randn(64, in_channels, size, size, requires_grad=True)
    out = module(x)
    out[:, :, out.shape[2] // 2, out.shape[3] // 2].sum().backward()
    rows = x.grad.abs().sum(dim=(0, 1, 3)).nonzero()
    return int(rows.max() - rows.min() + 1)


def median_seconds(function: Callable[[], object], repeats: int = 5) -> float:
    """Median wall-clock seconds of a call, after one that is not counted."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
