"""Data sets in their native layouts, P x K batches, augmentation and decoding.

Importing this package does not import torch.
"""

from typing import TYPE_CHECKING, Any

from msinet.data.augmentation import Augmentation
from msinet.data.datasets import Dataset, DatasetCard, Draw, Image
from msinet.data.layouts import load_dataset
from msinet.data.sampler import epoch_batches, pk_batches
from msinet.lazy import lazy

if TYPE_CHECKING:
    from msinet.data.loading import open_pixels, test_batches, train_batches
    from msinet.data.transforms import augment, normalize

__all__ = [
    "Augmentation",
    "Dataset",
    "DatasetCard",
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


def __getattr__(name: str) -> Any:
    return lazy(__name__, name, loading="open_pixels test_batches train_batches", transforms="augment normalize")
