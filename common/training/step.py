"""One update: precision, optimiser, schedule, and the average of the weights."""

import contextlib
import itertools
import math

from common import UserError, data

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from . import parallel


def native_bf16(device: str) -> bool:
    """Whether the hardware multiplies bfloat16 natively, so that autocast saves time."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_capability()[0] >= 8
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return device == "cpu" and supported()


def autocast(device: str):
    """bfloat16 convolutions where they are native, float32 everywhere else."""
    enabled = native_bf16(device)
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16) if enabled else contextlib.nullcontext()


def channels_last(model: nn.Module, device: str) -> nn.Module:
    """The network on `device` with weights in `data.memory_format`, mostly channels-last.

    All but one kind: on processors without AVX-512 PyTorch writes past the end of its memory when
    it computes the weights' gradient of a 1x1 convolution with a stride, fewer than 8 input
    channels, and an image or weights in channels-last. Such convolutions (shortcuts of networks
    narrower than all defaults here) and their inputs stay as PyTorch makes them.
    """
    narrow = [module for module in model.modules() if _narrow(module)]
    for conv in narrow:
        if not conv._forward_pre_hooks:  # once, however often a network is trained
            conv.register_forward_pre_hook(_contiguous)
    model.to(device, memory_format=data.memory_format(device))
    for conv in narrow:  # `clone`: `contiguous` sees no difference where height and width are 1
        conv.weight.data = conv.weight.data.clone(memory_format=torch.contiguous_format)
    return model


def _narrow(module: nn.Module) -> bool:
    """Whether this is a convolution of that kind."""
    kind = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
    return kind and module.in_channels < 8 and max(module.stride) > 1


def _contiguous(_module, arguments: tuple) -> tuple:
    """The input of a convolution, copied channel by channel."""
    return tuple(x.clone(memory_format=torch.contiguous_format) for x in arguments)


def require_memory(model: nn.Module, images: int, size: int) -> None:
    """Raises: UserError if the memory is too small for a step on so many images of `size` pixels:
    weights, gradients and momentum, and what the forward pass keeps for the backward pass. The
    network is one on the meta device, where tensors have shapes and no values."""
    kept, kind = {}, torch.bfloat16 if native_bf16("cpu") else torch.float32

    def count(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    too_few_pixels = contextlib.suppress(RuntimeError, ValueError)  # which is said elsewhere
    weights = sum(p.nbytes for p in model.parameters())
    with too_few_pixels, torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        model.train().to(kind)(torch.empty(images, 3, size, size, device="meta", dtype=kind))
    what = f"weights, and a step on {images} images of {size} pixels, need"
    needed = parallel.world() * (3 * weights + sum(kept.values()))  # all on this machine
    data.require_memory(needed, what, "fewer of one of them")


def compiled(model: nn.Module) -> nn.Module:
    """The network itself; PyTorch compiles its forward and backward passes at their first use.

    Raises: UserError if this machine cannot compile, mostly for want of a C++ compiler.
    """
    try:
        probe = nn.Conv2d(3, 3, 1).to(next(model.parameters()).device)
        torch.compile(probe)(torch.zeros(1, 3, 2, 2, device=probe.weight.device)).sum().backward()
    except Exception as error:  # as many types as there are back ends
        reason = str(getattr(error, "inner_exception", error)) or type(error).__name__
        raise UserError(f"--compile does not work here ({reason.splitlines()[0]})") from error
    model.compile()
    return model


def sgd(
    model: nn.Module, lr: float, weight_decay: float = 5e-4, muon: float = 0.0
) -> torch.optim.SGD:
    """SGD with Nesterov momentum 0.9; biases and batch-norm parameters are not decayed.

    With a `muon` rate Muon moves the convolutions at that rate, and SGD the rest.
    Raises: ValueError for a negative lr.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if not muon:
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
    groups[0]["params"] = [p for p in parameters if p.ndim in (2, 3)]
    banks = {"params": [p for p in parameters if p.ndim == 4], "muon": True, "lr": muon}
    banks |= {"weight_decay": 0.0, "momentum": 0.0, "nesterov": False}
    return Muon([*groups, banks], lr=lr, momentum=0.9, nesterov=True)


class Muon(torch.optim.SGD):
    """SGD which moves the groups that are marked `muon` by orthogonalised momentum: along all
    directions of a bank of filters whose gradients are not far smaller than the largest, by about
    the same length. The bank keeps the norm sqrt(filters), so that a step moves it by about the
    share `lr`; this replaces its decay.

    Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon), in the form of airbench94_muon
    (github.com/KellerJordan/cifar10-airbench): Nesterov momentum 0.6, rate 0.24 at batch 2,000.
    """

    @torch.no_grad()
    def step(self, closure=None):
        """One update; the gradients of the marked groups become the directions of their steps."""
        marked = [group["params"] for group in self.param_groups if group.get("muon")]
        for p in itertools.chain(*marked):
            if p.grad is None:  # frozen
                continue
            state = self.state[p]
            momentum = p.grad + 0.6 * state.get("momentum_buffer", torch.zeros_like(p))
            state["momentum_buffer"] = momentum
            p.grad = orthogonal((p.grad + 0.6 * momentum).flatten(1)).view_as(p)
            p.mul_(len(p) ** 0.5 / p.norm())
        return super().step(closure)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """R C -> R C: the matrix with its larger singular values near 1, by three of Muon's
    Newton-Schulz steps, which are matrix products alone; values under a tenth come part of the way.
    """
    wide = len(matrix) <= matrix.shape[1]
    x = F.normalize(matrix if wide else matrix.T, dim=(0, 1))
    with autocast(matrix.device.type):
        for _ in range(3):
            square = x @ x.T
            x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x
    return (x if wide else x.T).float()


def warmup_cosine(optimizer, steps: int, warmup: int, frozen: int = 0) -> LambdaLR:
    """The factor at global step s (0-based): (s + 1) / warmup while s < warmup, then a half
    cosine from 1 towards 0 at `steps` (Loshchilov & Hutter 2017, arXiv:1608.03983).

    In a fine-tuning it is 1 for the first `frozen` steps, those of the classifier alone, and then
    0.3 of that course: weights that are good already need smaller steps.
    """
    rest, height = steps - frozen, 0.3 if frozen else 1.0

    def factor(step: int) -> float:
        if step < frozen:
            return 1.0
        done = step - frozen
        if done < warmup:
            return height * ((done + 1) / warmup)
        progress = (done - warmup) / max(1, rest - warmup)
        return height * (0.5 * (1 + math.cos(math.pi * min(1.0, progress))))

    return LambdaLR(optimizer, factor)


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of the network for the exponential moving average of weights and batch-norm statistics
    (Tarvainen & Valpola 2017, arXiv:1703.01780); `update_parameters` moves it.

    Update n + 1 keeps min(decay, (1 + n) / (10 + n)) of it, so that it forgets the first weights
    soon; the first one copies them.
    """

    def move(average: list[torch.Tensor], current: list[torch.Tensor], n: torch.Tensor) -> None:
        share = 1 - ((1 + n) / (10 + n)).clamp(max=decay)
        for ours, theirs in zip(average, current, strict=True):
            if ours.is_floating_point():
                ours.lerp_(theirs, share.to(ours))
            else:
                ours.copy_(theirs)  # batch norm counts its batches in whole numbers

    return AveragedModel(model, multi_avg_fn=move, use_buffers=True)
