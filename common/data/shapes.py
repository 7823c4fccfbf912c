"""Shapes-10: ten classes of generated images, for where there is no CIFAR-10."""

import math

import torch
import torch.nn.functional as F

CLASSES = ["disk", "ring", "square", "frame", "triangle"]
CLASSES += ["star", "cross", "crescent", "bar", "half-disk"]


def images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` images (uint8, N 3 32 32) and their labels (int64, N), a function of the seed.

    Position, size, rotation, colour, contrast, an occluding bar and noise vary. Colour is mostly
    random, with a hint of the class.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(CLASSES), (count,), generator=generator)
    return torch.cat([_draw(part, generator) for part in labels.split(2_000)]), labels


def _draw(labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One image (uint8, 3 32 32) for each label."""
    n = len(labels)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    grid = torch.arange(32.0) - 15.5
    x = grid.view(1, 1, 32) - uniform(-4, 4, 1, 1)
    y = grid.view(1, 32, 1) - uniform(-4, 4, 1, 1)
    angle, radius = uniform(-0.5, 0.5, 1, 1), uniform(9, 15, 1, 1)
    u = (x * angle.cos() + y * angle.sin()) / radius  # N 32 32, the shape spans about -1 .. 1
    v = (y * angle.cos() - x * angle.sin()) / radius
    inside = torch.stack(_distances(u, v)).gather(0, labels.view(1, n, 1, 1).expand(1, n, 32, 32))
    mask = (inside[0] * radius + 0.5).clamp(0, 1)[:, None]  # N 1 32 32, soft edge of one pixel

    hue = labels.view(n, 1) / 10 + torch.tensor([0, 1 / 3, 2 / 3])
    tint = 0.5 + 0.5 * (2 * math.pi * hue).cos()  # N 3
    colour = (0.45 * tint + 0.55 * uniform(0, 1, 3)).view(n, 3, 1, 1)
    ground = (colour + uniform(0.35, 0.65, 3, 1, 1)) % 1  # differs from the shape in every channel
    for cells, contrast in ((4, 0.25), (12, 0.15)):
        texture = F.interpolate(uniform(-0.5, 0.5, 3, cells, cells), size=32, mode="bilinear")
        ground = ground + contrast * texture
    image = ground + mask * (colour - ground) * uniform(0.7, 1, 1, 1, 1)
    bar = (x * uniform(-1, 1, 1, 1) + y + uniform(-16, 16, 1, 1)).abs() < 1.5  # an occluding bar
    image = torch.where(bar[:, None], uniform(0, 1, 3, 1, 1), image)
    noise = 0.05 * torch.randn(image.shape, generator=generator)
    return ((image + noise).clamp(0, 1) * 255).round().to(torch.uint8)


def _distances(u: torch.Tensor, v: torch.Tensor) -> list[torch.Tensor]:
    """For each of the ten shapes: about the distance to its edge, positive inside."""
    r, a, b = torch.hypot(u, v), u.abs(), v.abs()
    near, far = torch.minimum(a, b), torch.maximum(a, b)
    triangle = torch.maximum(v, 0.866 * a - 0.5 * v)
    return [
        0.85 - r,  # disk
        0.22 - (r - 0.7).abs(),  # ring
        0.75 - far,  # square
        0.2 - (far - 0.65).abs(),  # frame
        0.55 - triangle,  # triangle
        0.65 + 0.3 * (5 * torch.atan2(v, u)).cos() - r,  # star
        torch.minimum(0.27 - near, 0.95 - far),  # cross
        torch.minimum(0.9 - r, torch.hypot(u - 0.45, v) - 0.65),  # crescent
        torch.minimum(0.95 - a, 0.3 - b),  # bar
        torch.minimum(0.95 - r, v + 0.15),  # half-disk
    ]
