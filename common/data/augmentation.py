"""Augmentation of whole batches by indexing alone, on the device that holds the images."""

import torch


def for_all_pixels(statistic: torch.Tensor, size: int) -> torch.Tensor:
    """1 3 1 1 -> 1 3 size size, so that arithmetic with a batch runs along memory."""
    return statistic.expand(1, 3, size, size).contiguous(memory_format=torch.channels_last)


def shift_and_flip(pixels: torch.Tensor, batch: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """The images `batch` (indices) of `pixels` (all images, N H W 3) as N 3 H W, each moved by up
    to an eighth of its size, reflected at the border, and mirrored half of the time.

    `draws` holds three numbers from 0 to 1 for each image of the batch: down, right, mirror.
    """
    height, width = pixels.shape[1:3]
    down, right = ((draws[:2] * 2 - 1) * (height // 8 + 0.5)).round().long()  # N each
    rows = _reflect(torch.arange(height, device=batch.device) + down[:, None], height)  # N H
    columns = _reflect(torch.arange(width, device=batch.device) + right[:, None], width)  # N W
    columns = torch.where(draws[2, :, None] < 0.5, columns.flip(1), columns)
    index = (batch[:, None] * height + rows)[:, :, None] * width + columns[:, None]  # N H W
    picked = pixels.view(-1, 3).index_select(0, index.flatten())
    return picked.view(len(batch), height, width, 3).permute(0, 3, 1, 2)  # N 3 H W


def cut_out(x: torch.Tensor, draws: torch.Tensor, pixels: int) -> torch.Tensor:
    """x (N 3 H W) with a square of `pixels` set to zero in every image, around the point that
    its two `draws` (2 N, from 0 to 1) choose (DeVries & Taylor 2017, arXiv:1708.04552)."""
    inside = []
    for size, draw in zip(x.shape[2:], draws, strict=True):
        position = torch.arange(size, device=x.device) + (pixels % 2 == 0) / 2  # even: between two
        inside.append((position - (draw[:, None] * size).floor()).abs() < pixels / 2)  # N size
    square = (inside[0][:, :, None] & inside[1][:, None])[:, None]  # N 1 H W
    return torch.where(square, 0.0, x)


def _reflect(index: torch.Tensor, size: int) -> torch.Tensor:
    """Indices beyond 0 .. size-1, mirrored at the border pixel."""
    return size - 1 - (size - 1 - index.abs()).abs()
