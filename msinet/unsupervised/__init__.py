"""Methods without labels (Sec. 4.4, Table 4) as tasks of `fit`. Importing this package does not import torch."""

from typing import TYPE_CHECKING, Any

from msinet.lazy import lazy

if TYPE_CHECKING:
    from msinet.unsupervised.run import image_folder, learn, load_start

__all__ = ["image_folder", "learn", "load_start"]


def __getattr__(name: str) -> Any:
    return lazy(__name__, name, run="image_folder learn load_start")
