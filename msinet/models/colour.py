"""An untrained baseline that shows the accuracy of colour alone on a data set."""

import torch
from torch import Tensor, nn

from msinet.data.transforms import MEAN, STD
from msinet.errors import UserError
from msinet.models.registry import NetworkCard, register

#: Bins per channel; must divide 256.
BINS = 8


class ColourHistogram(nn.Module):
    """Joint RGB histogram of an image. The inner product of two features is their Bhattacharyya coefficient.

    Takes images (B, 3, H, W) as `msinet.data.normalize` makes them and returns (B, 512): square roots of
    the share of pixels in each colour bin, in [0, 1], rows of unit length. Has neither parameters nor
    persistent buffers.

    Raises:
        UserError: called in training mode.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", MEAN.clone(), persistent=False)  # (3, 1, 1)
        self.register_buffer("std", STD.clone(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, H, W) -> (B, 512)
        if self.training:
            raise UserError("colour_histogram has nothing to train; evaluate it without training")
        # Rounding restores the bytes: the rounding error of normalising is far below half a level.
        levels = (images.float() * self.std + self.mean).mul(255).round().clamp(0, 255).long()
        red, green, blue = (levels // (256 // BINS)).flatten(2).unbind(1)  # (B, H*W) each, in [0, 7]
        bins = (red * BINS + green) * BINS + blue  # (B, H*W), in [0, 511]
        shares = torch.full(bins.shape, 1 / bins.shape[1], device=bins.device)
        return shares.new_zeros(len(bins), BINS**3).scatter_add_(1, bins, shares).sqrt()


@register(
    NetworkCard(
        name="colour_histogram", label="colour histogram", order=0, colour="0.45", marker="X", widths=(), learns=False
    )
)
def colour_histogram(num_classes: int, *, width: float = 1.0) -> ColourHistogram:
    """Colour histogram of 8x8x8 bins, an untrained baseline."""
    del num_classes  # nothing is classified
    if width != 1:
        raise UserError(f"colour_histogram has no width to multiply by {width:g}; ask for colour_histogram")
    return ColourHistogram()
