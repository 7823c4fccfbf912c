"""Measurements on any network: counts, shapes, gradients, times."""

import contextlib
import copy
import statistics
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from common import optim, threads


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


def activations(model: nn.Module, names: list[str], x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output of each named submodule for x (N C H W); the hooks are removed afterwards."""
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

    x is N C H W, y holds class indices. Use a real batch of 32 or more: on a single image batch
    norm would make the gradient zero. A copy is measured: running statistics stay as they were.
    """
    model = copy.deepcopy(model).train()
    with torch.enable_grad():
        outputs = activations(model, [*names, ""], x)  # "" is the model itself
        loss = F.cross_entropy(outputs.pop(""), y)
        gradients = torch.autograd.grad(loss, list(outputs.values()))
    return [g.norm().item() for g in gradients]


class Recorder:
    """Records what a network in training does: pass it to `training.fit` as `on_step`.

    Keeps loss and accuracy of every step (`batches`). At the chosen steps, counted in updates
    made so far, also the activation gradients on the batch x (N C H W) and y (`gradients[step]`,
    one norm a name) and the size of the following update, |new - old| / |old| (`updates[step]`).
    """

    def __init__(self, model: nn.Module, names: list[str], x, y, steps: list[int]):
        self.model, self.names, self.x, self.y, self.steps = model, names, x, y, set(steps)
        self.batches: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.gradients: dict[int, list[float]] = {}
        self.updates: dict[int, float] = {}
        self._before: torch.Tensor | None = None

    def __call__(self, step: int, batch: tuple[torch.Tensor, torch.Tensor] | None) -> None:
        if batch is not None:
            self.batches.append(batch)
        if self._before is not None:
            change = (self._weights() - self._before).norm() / self._before.norm()
            self.updates[step - 1], self._before = change.item(), None
        if step in self.steps:
            self._before = self._weights()
            self.gradients[step] = activation_gradients(self.model, self.names, self.x, self.y)

    def _weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in self.model.parameters() if p.ndim > 1])


@contextlib.contextmanager
def without_block(model: nn.Module, name: str) -> Iterator[None]:
    """Inside the `with`, the named plain or residual block passes its input on, untransformed.

    Where the block changes the shape, the input is subsampled and padded with zero channels
    (option A); a projection shortcut of the block's own is used if it has one. After Veit et al.
    2016 (arXiv:1605.06431), section 4.1.
    """
    block = model.get_submodule(name)

    def bypass(_module, inputs, output):
        (x,) = inputs
        if getattr(block, "downsample", None) is not None:
            return F.relu(block.downsample(x))
        stride = round(x.shape[2] / output.shape[2])
        return F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, output.shape[1] - x.shape[1]))

    hook = block.register_forward_hook(bypass)
    try:
        yield
    finally:
        hook.remove()


def relative_difference(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Largest |a - b| over a list of tensors, relative to each tensor's largest |b|."""
    pairs = zip(ours, theirs, strict=True)
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item() for a, b in pairs)


def parity(ours: nn.Module, reference: nn.Module, x, y) -> tuple[float, float]:
    """Relative differences of logits (eval mode) and parameter gradients (train mode) after
    copying the reference's weights with strict=True. x is N C H W, y holds class indices. Both are
    left in train mode, with gradients."""
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


@threads.one_thread()
def peak_bytes(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> int:
    """Bytes that a training step with momentum holds when it holds most: after the forward pass.

    Weights, gradients and momentum, and whatever autograd has saved for the backward pass, each
    storage counted once. x is N C H W, y holds class indices. A copy of the model is measured.
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
        optim.autocast(x.device.type),
    ):
        F.cross_entropy(model(x).float(), y)
    activations = sum(s.nbytes() for place, s in saved.items() if place not in weights)
    return activations + 3 * sum(s.nbytes() for s in weights.values())


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


@threads.one_thread()
def step_seconds(
    models: dict[str, nn.Module], x: torch.Tensor, y: torch.Tensor, rounds: int = 7
) -> dict[str, list[float]]:
    """Wall-clock seconds of training steps on the batch x, y, one a round, by network.

    The networks alternate, so that a machine whose speed drifts slows all of them alike. On a CPU
    they run on one core.
    """
    steps, seconds, device = {}, {name: [] for name in models}, x.device.type
    for name, model in models.items():
        model.to(device, memory_format=torch.channels_last).train()
        optimizer = optim.sgd(model, lr=0.0)
        steps[name] = lambda m=model, o=optimizer: optim.train_step(m, x, y, o, device)
    for turn in tqdm(range(rounds + 1), "step times", disable=None, leave=False):
        for name, step in steps.items():
            start = time.perf_counter()
            step()[0].item()  # reading the loss waits for the device
            if turn:  # the first one is not counted
                seconds[name].append(time.perf_counter() - start)
    return seconds


def median_seconds(function: Callable[[], object], repeats: int) -> float:
    """Median wall-clock seconds of a call, after one that is not counted."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
