"""Images in, batches out: CIFAR-10, folders of one's own images, or the built-in Shapes-10.

Whatever the source, a `Dataset` holds uint8 tensors of square RGB images in three disjoint
splits. Batches are cut, augmented and normalised whole, on the device that holds the images.
"""

from .dataset import IMAGENET, SPLITS, Dataset, Split
from .sources import load, load_test, open_image, read_image

__all__ = ["IMAGENET", "SPLITS", "Dataset", "Split", "load", "load_test", "open_image"]
__all__ += ["read_image"]
