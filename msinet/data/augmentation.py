"""Settings of `msinet.data.transforms.augment`."""

from dataclasses import dataclass
from typing import Literal

from msinet.checks import at_least, choices, shares
from msinet.errors import UserError


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image, in this order: flip, crop, jitter, normalise, erase."""

    flip: float = 0.5
    """probability of a horizontal flip"""
    pad: int = 10
    """pixels of black added on every side before a random crop of the original size"""
    crop: float = 0.0
    """above 0: random resized crop of at least this share of the area, instead of pad and crop (classifiers)"""
    jitter: bool = False
    """colour jitter of the cross-domain recipe: brightness 0.4, contrast 0.4, saturation 0.3"""
    erase: float = 0.5
    """probability of random erasing"""
    erase_fill: Literal["mean", "noise"] = "mean"
    """content of an erased box: the released code's mean colour, or normal noise, N(0.5, 0.5), for transformers"""

    def __post_init__(self) -> None:
        choices(self)
        at_least(self, {"pad": 0})
        shares(self, ("flip", "erase", "crop"))
        if self.crop and self.pad:
            raise UserError(f"recipe: pad must be 0 with a random resized crop, got {self.pad}")
