"""Images in memory, and the batches that are cut from them."""

import functools
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torchvision.transforms.v2.functional as TF

from .augmentation import cut_out, for_all_pixels, shift_and_flip
from .images import require_room

SPLITS = ("train", "val", "test")
# Mean and standard deviation of ImageNet's pixels: what torchvision's weights were trained with.
IMAGENET = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])


def memory_format(device: str) -> torch.memory_format:
    """Channels-last, in which convolutions are fastest. On MPS, where older versions of PyTorch
    then get batch norm's gradients wrong (its issue 175189), channel by channel."""
    return torch.contiguous_format if device == "mps" else torch.channels_last


class Split(NamedTuple):
    """Images (uint8, N 3 H W, channels-last in memory) and labels (int64, N)."""

    images: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Dataset:
    """Three disjoint splits, the class names, and in `why` what is to be said of them."""

    name: str
    classes: list[str]
    train: Split
    val: Split
    test: Split
    why: str = ""
    normalisation: tuple[list[float], list[float]] | None = None

    def to(self, device: str) -> "Dataset":
        """All splits on `device`."""
        moved = {s: Split(*(t.to(device) for t in getattr(self, s))) for s in SPLITS}
        return replace(self, **moved)

    def first(self, images: int) -> "Dataset":
        """At most so many training and validation images, from the beginning; all test images.
        They are normalised as all would be, so that a network may meet these and those."""
        few = {s: Split(*(t[:images] for t in getattr(self, s))) for s in ("train", "val")}
        mean, std = (statistic.flatten().tolist() for statistic in self.statistics)
        return replace(self, **few, normalisation=(mean, std))

    def resized(self, size: int) -> "Dataset":
        """All images at size x size pixels, with antialiasing."""
        require_room(sum(len(getattr(self, name).labels) for name in SPLITS), size)
        small = {}
        for name in SPLITS:
            images, labels = getattr(self, name)
            images = images if size == 1 else images.contiguous()  # PyTorch fails on one pixel else
            images = TF.resize(images, [size, size], antialias=True)
            small[name] = Split(images.contiguous(memory_format=torch.channels_last), labels)
        return replace(self, **small)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of training and validation images, their labels, and the order of both."""
        digest = hashlib.blake2b(digest_size=16)
        for images, labels in (self.train, self.val):
            digest.update(images.permute(0, 2, 3, 1).cpu().contiguous().numpy())
            digest.update(labels.cpu().contiguous().numpy())
        return digest.hexdigest()

    @functools.cached_property
    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of each channel over all training pixels, each 1 3 1 1.

        On the original CIFAR-10 training images these are 0.4914 0.4822 0.4465 and
        0.2470 0.2435 0.2616, times 255. If `normalisation` is given it is taken instead.
        """
        shape, device = (1, 3, 1, 1), self.train.images.device
        if self.normalisation:
            return tuple(torch.tensor(v, device=device).view(shape) for v in self.normalisation)
        counts = [torch.bincount(c.flatten(), minlength=256) for c in self.train.images.unbind(1)]
        counts = torch.stack(counts).cpu().double()  # 3 256
        share = counts / counts[0].sum()
        levels = torch.arange(256, dtype=torch.float64)
        mean = share @ levels
        std = (share @ levels**2 - mean**2).sqrt().clamp(min=1.0)
        return mean.float().view(shape).to(device), std.float().view(shape).to(device)

    def batches(
        self,
        split: str,
        batch_size: int,
        seed: int | None = None,
        cutout: int = 0,
        skip: int = 0,
        part: slice = slice(None),
        size: int | None = None,
        balance: bool = False,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (images float N 3 H W in `memory_format`, labels N), every image once.

        Without a seed: in order, as they are. With one: shuffled, and every image shifted by up
        to an eighth of its size (reflected at the border), flipped half of the time, and with a
        square of `cutout` pixels set to the mean; all of it a function of the seed alone.
        Batches are of equal size within one image, at most `batch_size`; the first `skip` of them
        are left out. `part` chooses among the images of every batch, `size` other pixels than
        theirs (antialiased, after the shift; `cutout` counts these). With `balance` and a seed as
        many images are drawn, but with replacement, from every class equally often on average.
        """
        images, labels = getattr(self, split)
        size = size or images.shape[3]
        mean, std = (for_all_pixels(statistic, size) for statistic in self.statistics)
        order = torch.arange(len(images), device=images.device)
        draws = pixels = drawn = None
        if seed is not None:
            pixels = images.permute(0, 2, 3, 1).contiguous()  # N H W 3; no copy if channels-last
            generator = torch.Generator().manual_seed(seed)
            order = torch.randperm(len(images), generator=generator).to(images.device)
            draws = torch.rand(5, len(images), generator=generator).to(images.device)
            if balance:
                counts = labels.bincount()
                shares = 1 / counts[labels].cpu()  # of each image; every class has the sum 1
                drawn = torch.multinomial(shares, len(images), True, generator=generator)
                drawn = drawn.to(images.device)
        for batch in order.tensor_split(math.ceil(len(order) / batch_size))[skip:]:
            batch = batch[part]
            chosen = batch if drawn is None else drawn[batch]
            x = images[chosen]
            if draws is not None:  # an image that is drawn twice is moved otherwise each time
                x = shift_and_flip(pixels, chosen, draws[:3, batch])
            if size != x.shape[3]:
                x = TF.resize(x, [size, size], antialias=True)
            x = x.to(torch.float32, memory_format=memory_format(x.device.type))
            x = (x - mean) / std
            if draws is not None and cutout:
                x = cut_out(x, draws[3:, batch], cutout)
            yield x, labels[chosen]
