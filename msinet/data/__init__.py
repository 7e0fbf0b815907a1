"""Data sets in their native layouts, P x K batches, augmentation and decoding."""

from msinet.data.layouts import LAYOUTS, Dataset, Draw, Image, load_dataset
from msinet.data.loading import open_pixels, test_batches, train_batches
from msinet.data.sampler import epoch_batches, pk_batches
from msinet.data.transforms import Augmentation, augment, normalize

__all__ = [
    "LAYOUTS",
    "Augmentation",
    "Dataset",
    "Draw",
    "Image",
    "augment",
    "epoch_batches",
    "load_dataset",
    "normalize",
    "open_pixels",
    "pk_batches",
    "test_batches",
    "train_batches",
]
