"""Training images that stay on the device and are augmented there.

The random numbers of an image are those of `msinet.data.transforms.augment`, drawn on the CPU; the device changes the
pixels. Batches equal those of the loader except for rounding (1/255 in the colour jitter) and for the noise of erased
boxes, which comes from the device's generator.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from msinet.data.augmentation import Augmentation
from msinet.data.loading import PixelSource
from msinet.data.transforms import ERASE_FILL, MEAN, STD, Drawn

#: Larger sets, in bytes, are left to the loader.
LIMIT = 8 * 2**30
#: Images that are copied to the device at a time.
CHUNK = 512
#: Weights of red, green and blue in grey, as in torchvision.
GREY = (0.2989, 0.587, 0.114)


def fits(pixels: PixelSource, device: torch.device) -> bool:
    """Return whether a set is small enough to stay on a GPU: at most 8 GiB and half of the memory that is free."""
    size = len(pixels) * pixels[0].nbytes
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else LIMIT
    return size <= min(LIMIT, free // 2)


class ResidentImages:
    """The decoded images of a set on a device, and their augmentation in batches.

    Args:
        pixels: images of one size.
        augmentation: without a random resized crop.
        device: where they stay.
    """

    def __init__(self, pixels: PixelSource, augmentation: Augmentation, device: torch.device) -> None:
        assert not augmentation.crop
        self.augmentation = augmentation
        self.height, self.width = pixels[0].shape[:2]
        self.pixels = torch.empty(len(pixels), self.height, self.width, 3, dtype=torch.uint8, device=device)
        for start in range(0, len(pixels), CHUNK):
            stop = min(start + CHUNK, len(pixels))
            self.pixels[start:stop] = torch.from_numpy(np.stack([pixels[i] for i in range(start, stop)]))
        self.mean, self.std, self.fill = (one.to(device) for one in (MEAN, STD, ERASE_FILL))  # (3, 1, 1) each
        self.rows = torch.arange(self.height, device=device)
        self.columns = torch.arange(self.width, device=device)
        self.grey = torch.tensor(GREY, device=device)

    @staticmethod
    def packed(indices: Sequence[int], drawn: Sequence[Drawn]) -> tuple[Tensor, Tensor]:
        """The numbers of a batch on the CPU: (B, 11) int64 and (B, 6) float32, as `images` takes them."""
        whole, factors = [], []
        for index, one in zip(indices, drawn, strict=True):
            changes = one.jitter or ((0, 1.0),) * 3
            whole.append([index, one.flip, *one.shift, *one.erase, *(number for number, _ in changes)])
            factors.append([factor for _, factor in changes] + [1 - factor for _, factor in changes])
        return torch.tensor(whole, dtype=torch.int64), torch.tensor(factors, dtype=torch.float32)

    def images(self, numbers: Tensor, factors: Tensor) -> Tensor:
        """The augmented images (B, 3, H, W) float32 of `packed` numbers. No shape depends on their values."""
        index, flip, top, left = numbers[:, :4, None].unbind(1)  # (B, 1) each
        rows = self.rows + top - self.augmentation.pad  # (B, H): rows of the image behind those of the result
        columns = self.columns + left - self.augmentation.pad  # (B, W)
        inside = self._inside(rows, self.height)[:, :, None] & self._inside(columns, self.width)[:, None]  # (B, H, W)
        columns = torch.where(flip == 1, self.width - 1 - columns, columns)
        rows, columns = rows.clamp(0, self.height - 1), columns.clamp(0, self.width - 1)
        pixels = self.pixels[index[:, :, None], rows[:, :, None], columns[:, None]]  # (B, H, W, 3) uint8
        values = (pixels * inside[..., None]).float()
        if self.augmentation.jitter:
            for turn in range(3):
                values = self._changed(values, numbers[:, 8 + turn], factors[:, turn], factors[:, 3 + turn])
        images = (values.permute(0, 3, 1, 2) / 255 - self.mean) / self.std  # (B, 3, H, W), channels last
        if self.augmentation.erase:
            images = torch.where(self._boxes(numbers)[:, None], self._content(images), images)
        return images.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def _inside(places: Tensor, size: int) -> Tensor:
        return (places >= 0) & (places < size)

    def _changed(self, values: Tensor, change: Tensor, factor: Tensor, rest: Tensor) -> Tensor:
        """One step of the jitter, as in torchvision on uint8: mixed with black, the mean grey or each pixel's grey."""
        change, factor, rest = (one.view(-1, 1, 1, 1) for one in (change, factor, rest))
        grey = (values * self.grey).sum(3, keepdim=True).floor()  # (B, H, W, 1)
        other = torch.where(change == 1, grey.mean((1, 2, 3), keepdim=True), torch.where(change == 2, grey, 0.0))
        return (values * factor + other * rest).clamp(0, 255).floor()

    def _boxes(self, numbers: Tensor) -> Tensor:
        """Erased pixels: (B, H, W)."""
        top, left, height, width = numbers[:, 4:8, None].unbind(1)  # (B, 1) each
        rows = (self.rows >= top) & (self.rows < top + height)  # (B, H)
        columns = (self.columns >= left) & (self.columns < left + width)  # (B, W)
        return rows[:, :, None] & columns[:, None]

    def _content(self, images: Tensor) -> Tensor:
        if self.augmentation.erase_fill == "mean":
            return self.fill
        return (0.5 + 0.5 * torch.randn_like(images) - self.mean) / self.std
