"""Images in, batches out: CIFAR-10 or 100, folders of one's own images, or the built-in Shapes-10.

Whatever the source, a `Dataset` holds uint8 tensors of square RGB images in three disjoint
splits. Batches are cut, augmented and normalised whole, on the device that holds the images.
"""

from .dataset import IMAGENET, SPLITS, Dataset, Split, memory_format
from .folders import image_files
from .images import open_image, read_image, read_images, require_memory
from .sources import load, load_test

__all__ = ["IMAGENET", "SPLITS", "Dataset", "Split", "image_files", "load", "load_test"]
__all__ += ["memory_format", "open_image", "read_image", "read_images", "require_memory"]
