"""What a network costs: parameters, multiply-adds, memory, time."""

import copy
import statistics
import time

from common import models, training
from common.blocks import ResNeXtBlock

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm


def parameter_count(model: nn.Module) -> int:
    """Number of trainable parameters, batch norm's scales and shifts included."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def multiply_adds(model: nn.Module, *shape: int) -> int:
    """Multiply-adds of convolutions and linear layers for one input of `shape` (C H W).

    Leaves the model in eval mode.
    """
    model.eval()
    parameter = next(model.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *shape, device=parameter.device, dtype=parameter.dtype))
    return counter.get_total_flops() // 2


def depth(model: nn.Module) -> int:
    """Convolutions and linear layers on the main path, as papers count; no shortcuts, no gates."""
    layers = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    return sum("downsample" not in name and "se.fc" not in name for name in layers)


@training.one_thread()
def peak_bytes(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> int:
    """Bytes that a training step with momentum holds after the forward pass.

    Weights and momentum, and whatever autograd has saved for the backward pass, each storage
    counted once. There are no gradients then: `train_step` frees those of the step before. Where
    activations outweigh weights this is near the peak; the backward pass frees them one by one.
    x is N C H W, y holds class indices. A copy of the model is measured.
    """
    model = copy.deepcopy(model).train()
    weights = {p.untyped_storage().data_ptr(): p.untyped_storage() for p in model.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage  # kept alive, so that no address is used twice
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        training.autocast(x.device.type),
    ):
        F.cross_entropy(model(x).float(), y)
    activations = sum(s.nbytes() for place, s in saved.items() if place not in weights)
    return activations + 2 * sum(s.nbytes() for s in weights.values())


def receptive_field(module: nn.Module, in_channels: int) -> int:
    """Side, in input pixels, of the square that one output position of `module` depends on.

    Measured, up to 15: the extent of the non-zero gradient of the centre output, over 64 random
    inputs, so that no closed ReLU hides a path. Leaves the module in eval mode.
    """
    module.eval()
    x = torch.randn(64, in_channels, 15, 15, requires_grad=True)
    out = module(x)
    out[:, :, out.shape[2] // 2, out.shape[3] // 2].sum().backward()
    rows = x.grad.abs().sum(dim=(0, 1, 3)).nonzero()
    return int(rows.max() - rows.min() + 1)


@training.one_thread()
def step_seconds(
    models: dict[str, nn.Module], x: torch.Tensor, y: torch.Tensor, rounds: int = 7
) -> dict[str, list[float]]:
    """Wall-clock seconds of training steps on the batch x, y, one a round, by network.

    The networks alternate, so that a machine whose speed drifts slows all of them alike. On a CPU
    they run on one core. Leaves them in train mode, their running statistics moved.
    """
    steps, seconds, device = {}, {name: [] for name in models}, x.device.type
    for name, model in models.items():
        training.step.channels_last(model, device).train()
        optimizer = training.sgd(model, lr=0.0)
        steps[name] = lambda m=model, o=optimizer: training.train_step(m, x, y, o, device)
    for turn in tqdm(range(rounds + 1), "step times", disable=None, leave=False):
        for name, step in steps.items():
            start = time.perf_counter()
            step()[0].item()  # reading the loss waits for the device
            if turn:  # the first one is not counted
                seconds[name].append(time.perf_counter() - start)
    return seconds


def memory_by_depth(device: str) -> dict[str, dict[int, int]]:
    """Peak bytes of a training step on 8 images of 32x32, by depth, of two kinds: "dense", a
    DenseNet-BC of growth rate 12, and "resnet", a CIFAR ResNet two layers less deep."""
    x = torch.randn(8, 3, 32, 32, device=device)
    y = torch.arange(8, device=device)
    memory: dict[str, dict[int, int]] = {"dense": {}, "resnet": {}}
    for depth in (22, 40, 58, 76, 100):  # both 6n + 4 and, two less, 6n + 2
        dense = models.cifar_densenet(depth, 12).to(device)
        resnet = models.cifar_resnet(depth - 2).to(device)
        memory["dense"][depth] = peak_bytes(dense, x, y)
        memory["resnet"][depth - 2] = peak_bytes(resnet, x, y)
    return memory


def memory_table(memory: dict[str, dict[int, int]]) -> list[dict]:
    """What `memory_by_depth` measured, a row for each two networks."""
    rows = []
    for pair in zip(*(by_depth.items() for by_depth in memory.values()), strict=True):
        row = {}
        for kind, (depth, size) in zip(memory, pair, strict=True):
            row |= {f"depth, {kind}": depth, f"peak, {kind} (MB)": f"{size / 1e6:.0f}"}
        rows.append(row)
    return rows


def equal_cost_family(device: str) -> dict[str, dict]:
    """The cardinality x width pairs of Xie et al. 2017, table 2, 1x64d to 32x4d: parameters and
    multiply-adds (224x224 pixels) of the network of 50 layers, and seconds of training steps of
    one block (256 channels, 28x28, 8 images): that network's would take minutes."""
    pairs = {f"{c}x{d}d": (c, d) for c, d in ((1, 64), (2, 40), (4, 24), (8, 14), (32, 4))}
    trained = {}
    for name, (cardinality, base_width) in pairs.items():
        block = ResNeXtBlock(256, 64, cardinality=cardinality, base_width=base_width)
        trained[name] = nn.Sequential(block, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = torch.randn(8, 256, 28, 28, device=device)
    seconds = step_seconds(trained, x, torch.arange(8, device=device))
    family = {}
    for name, pair in pairs.items():
        with torch.device("meta"):  # shapes without values
            network = models.ResNet(models.grouped(*pair), [3, 4, 6, 3])
            family[name] = {"parameters": parameter_count(network)}
            family[name]["multiply_adds"] = multiply_adds(network, 3, 224, 224)
        family[name]["seconds"] = seconds[name]
    return family


def family_table(family: dict[str, dict]) -> list[dict]:
    """What `equal_cost_family` counted and timed, a row a network."""
    rows = []
    for name, member in family.items():
        row = {"50 layers": name, "parameters (M)": f"{member['parameters'] / 1e6:.2f}"}
        row["multiply-adds (G)"] = f"{member['multiply_adds'] / 1e9:.2f}"
        row["step of one block (ms)"] = f"{1e3 * statistics.median(member['seconds']):.1f}"
        rows.append(row)
    return rows


def ratio(one: list[float], other: list[float]) -> str:
    """How many times as long one takes as the other: median and range over rounds, in words."""
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    return f"{middle:.2f} times ({low:.2f} to {high:.2f} in {len(ratios)} rounds)"


def exponent(by_size: dict[int, float]) -> float:
    """The p of values ~ sizes^p, by least squares on logarithms; `by_size` is {size: value}."""
    sizes, values = list(by_size), list(by_size.values())
    slope, _ = np.polyfit(np.log(sizes), np.log(values), deg=1)
    return float(slope)
