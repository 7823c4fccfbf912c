"""One reader of image files: right for every pixel type, or an error that names the file."""

import contextlib
import functools
import math
import os
import re
import warnings
from pathlib import Path

from common import UserError

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

NAMED = 100  # unreadable files at most in one message
GROUND = "white"  # what shows through transparent pixels
ELSEWHERE = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # Pillow leaves these to other programs


@functools.cache
def formats() -> list[str]:
    """The formats that the installed Pillow reads by itself."""
    Image.init()
    return [name for name in Image.OPEN if name not in ELSEWHERE]


@functools.cache
def suffixes() -> set[str]:
    """The ends of file names, in small letters, of these formats."""
    names = Image.registered_extensions().items()
    return {suffix for suffix, name in names if name in formats()}


def open_image(path: str | Path) -> Image.Image:
    """An image file as RGB: its first frame, upright whatever its EXIF orientation.

    Behind transparent pixels lies GROUND; 16-bit grey is scaled by its range, 65,535 to 255.
    Raises: UserError, naming the file, if it is not there, no regular file, too large or damaged,
    and for pixels without an agreed white: 32-bit integers, floating point, 16 bits of which only
    12 are used.
    """
    if not Path(path).is_file():  # opening a pipe would wait for ever
        raise UserError(f"{path} {'is no file' if Path(path).exists() else 'does not exist'}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is large or odd, but can be read
            # From an open file: Pillow does not turn a TIFF that it maps into memory by its name.
            with Path(path).open("rb") as file, Image.open(file, formats=formats()) as image:
                image.load()  # PNG: what is transparent may stand behind the pixels
                with contextlib.suppress(Exception):  # a damaged EXIF part: the pixels are whole
                    ImageOps.exif_transpose(image, in_place=True)
                return _rgb(image)
    except UserError as error:
        raise UserError(f"{path} {error}") from error
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))[0]
        limit = f"{2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} megapixels"
        raise UserError(f"{path} is too large: {int(pixels) / 1e6:.0f} of {limit}") from error
    except PermissionError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}") from error
    except Exception as error:  # a dozen types for a file that is no image
        raise UserError(f"{path} is not a readable image") from error


def _rgb(image: Image.Image) -> Image.Image:
    """The image with 8 bits for each of red, green and blue."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        image = _eight_bits(image)
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floating point numbers"
        raise UserError(f"holds {kind}, for which no value means white: convert it to 8 or 16 bits")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, GROUND), image).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey; a TIFF may say that it uses 12 bits (tag 258) of the 16."""
    bits = getattr(image, "tag_v2", {}).get(258, (16,))[0]
    values = np.array(image, np.float64)
    if bits == 16 and 0 < values.max() < 4096:
        raise UserError("has 16 bits, of which only 12 are used: scale its values to all 16")
    if (clear := image.info.get("transparency")) is not None:
        values[values == clear] = 65_535
    return Image.fromarray((values * (255 / (2**bits - 1))).round().astype(np.uint8))


def read_image(path: str | Path, size: int) -> np.ndarray:
    """The central square of an image file, scaled to `size` pixels: uint8 size size 3."""
    image = open_image(path)
    return np.asarray(image if image.size == (size, size) else ImageOps.fit(image, (size, size)))


def read_images(paths: list, size: int, skip: bool) -> tuple[torch.Tensor, list[int], str]:
    """Image files (see read_image) as uint8 N 3 size size, channels-last in memory, the indices of
    those that could be read, and a note on the others.

    Raises: UserError that names all unreadable files, unless `skip` leaves them out, and for more
    images than memory.
    """
    require_room(len(paths), size)
    pixels, kept, problems = np.empty((len(paths), size, size, 3), np.uint8), [], []
    for i, path in enumerate(tqdm(paths, "reading images", disable=None, leave=False)):
        try:
            pixels[len(kept)] = read_image(path, size)
            kept.append(i)
        except UserError as error:
            problems.append(str(error))
    named = few(sorted(problems), NAMED, "; ")
    if problems and not skip:
        raise UserError(f"{named} (lesson 6 leaves out damaged files with --skip-unreadable)")
    note = f"{len(problems)} unreadable files left out: {named}" if problems else ""
    return torch.from_numpy(pixels[: len(kept)]).permute(0, 3, 1, 2), kept, note


def few(names: list[str], count: int, between: str = ", ") -> str:
    """The first names, and how many there are more."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return between.join(names[:count]) + more


def require_memory(needed: float, what: str, instead: str) -> None:
    """Raises: UserError if so many bytes are more than the free memory."""
    if needed > (free := _free_memory()):
        sizes = f"{needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free"
        raise UserError(f"{what} {sizes}: take {instead}")


def require_room(images: int, size: int) -> None:
    """Raises: UserError if so many images of `size` pixels do not fit into the free memory."""
    what = f"{images} images of {size}x{size} pixels need"
    require_memory(images * size * size * 3, what, "a smaller --image-size")


def _free_memory() -> float:
    """Bytes that are free (Linux) or there in all; infinity where the system does not say."""
    with contextlib.suppress(OSError, TypeError):
        known = re.search(r"MemAvailable: *(\d+)", Path("/proc/meminfo").read_text("ascii"))
        return 1024 * int(known[1])
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return math.inf
