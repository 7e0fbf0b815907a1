"""Conversion of decoded pixels to network input, for training and for test (Sec. 4.2-4.3)."""

import math

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from msinet.data.augmentation import Augmentation

MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
#: The released code fills erased boxes of the normalised image with this mean of RGB in [0, 1].
ERASE_FILL = torch.tensor((0.4914, 0.4822, 0.4465)).view(3, 1, 1)


def normalize(pixels: np.ndarray) -> Tensor:
    """(..., H, W, 3) uint8 pixels as a (..., 3, H, W) float32 tensor with ImageNet's mean and variance."""
    tensor = _tensor(pixels).movedim(-1, -3)  # (..., 3, H, W)
    return (tensor.float() / 255 - MEAN) / STD


def _tensor(pixels: np.ndarray) -> Tensor:
    """A copy, because decoded and cached images are read-only and flipped ones have a negative stride."""
    return torch.from_numpy(np.array(pixels, order="C"))


def augment(
    pixels: np.ndarray, rng: np.random.Generator, recipe: Augmentation, size: tuple[int, int] | None = None
) -> Tensor:
    """Augment a training image: (H, W, 3) uint8 to (3, H, W) float32, with random numbers from `rng`.

    After a random resized crop the result has the given `size` (height, width), by default the image's own.
    """
    height, width = pixels.shape[:2]
    if rng.random() < recipe.flip:
        pixels = pixels[:, ::-1]
    if recipe.crop:
        box = crop_box(height, width, recipe.crop, rng)
        tensor = tv.resized_crop(_tensor(pixels).movedim(-1, 0), *box, list(size or (height, width)), antialias=True)
        pixels = tensor.movedim(0, -1).numpy()
    elif recipe.pad:
        p = recipe.pad
        padded = np.zeros((height + 2 * p, width + 2 * p, 3), np.uint8)
        padded[p : p + height, p : p + width] = pixels
        top, left = rng.integers(0, 2 * p + 1, 2)
        pixels = padded[top : top + height, left : left + width]
    if recipe.jitter:
        pixels = _jitter(pixels, rng)
    tensor = normalize(pixels)
    if rng.random() < recipe.erase:
        _erase(tensor, rng, noise=recipe.erase_fill == "noise")
    return tensor


def crop_box(height: int, width: int, crop: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop, as torchvision's RandomResizedCrop draws it.

    Its share of the area is uniform in [crop, 1], the logarithm of its aspect (width / height) uniform in that of
    [3/4, 4/3]. After ten tries that do not fit: the largest centre crop with an allowed aspect.
    """
    low, high = 3 / 4, 4 / 3
    for _ in range(10):
        area = rng.uniform(crop, 1) * height * width
        aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
        h, w = round((area / aspect) ** 0.5), round((area * aspect) ** 0.5)
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    h, w = min(height, round(width / low)), min(width, round(height * high))
    return (height - h) // 2, (width - w) // 2, h, w


def centre_crop(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The test image of a classifier: (H, W, 3) uint8 to (height, width, 3) uint8.

    The image is resized so that its centre crop covers 224/256 of the tighter side.
    """
    scale = 256 / 224 * max(height / pixels.shape[0], width / pixels.shape[1])
    size = [round(scale * side) for side in pixels.shape[:2]]
    tensor = tv.resize(_tensor(pixels).movedim(-1, 0), size, antialias=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    centre: np.ndarray = tensor[:, top : top + height, left : left + width].movedim(0, -1).numpy()
    return centre


def _jitter(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation by random factors, in random order."""
    tensor = _tensor(pixels).movedim(-1, 0)  # (3, H, W)
    changes = (
        (tv.adjust_brightness, rng.uniform(0.6, 1.4)),
        (tv.adjust_contrast, rng.uniform(0.6, 1.4)),
        (tv.adjust_saturation, rng.uniform(0.7, 1.3)),
    )
    for i in rng.permutation(len(changes)):
        change, factor = changes[i]
        tensor = change(tensor, factor)
    return tensor.movedim(0, -1).numpy()


def _erase(tensor: Tensor, rng: np.random.Generator, *, noise: bool) -> None:
    """Random erasing in place: 2-40 % of the area, aspect 0.3-3.33, at most 100 tries for a box that fits."""
    _, height, width = tensor.shape
    for _ in range(100):
        area = rng.uniform(0.02, 0.4) * height * width
        aspect = rng.uniform(0.3, 1 / 0.3)
        h, w = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if h < height and w < width:
            top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            fill = ERASE_FILL
            if noise:
                fill = (0.5 + 0.5 * torch.from_numpy(rng.standard_normal((3, h, w), np.float32)) - MEAN) / STD
            tensor[:, top : top + h, left : left + w] = fill
            return
