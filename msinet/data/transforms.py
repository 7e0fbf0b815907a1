"""Conversion of decoded pixels to network input, for training and testing (Sec. 4.2-4.3)."""

import math
from dataclasses import dataclass

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
    """(..., H, W, 3) uint8 pixels as a (..., 3, H, W) float32 tensor, normalised with ImageNet's mean and deviation."""
    tensor = _tensor(pixels).movedim(-1, -3)  # (..., 3, H, W)
    return (tensor.float() / 255 - MEAN) / STD


def _tensor(pixels: np.ndarray) -> Tensor:
    """A copy, because decoded and cached images are read-only and flipped ones have a negative stride."""
    return torch.from_numpy(np.array(pixels, order="C"))


def augment(
    pixels: np.ndarray, rng: np.random.Generator, recipe: Augmentation, size: tuple[int, int] | None = None
) -> Tensor:
    """Augment a training image: (H, W, 3) uint8 to (3, H, W) float32, with random numbers from `rng`.

    `size` is the (height, width) after a random resized crop; None: the image's own.
    """
    height, width = pixels.shape[:2]
    drawn = draw(height, width, rng, recipe, size)
    if drawn.flip:
        pixels = pixels[:, ::-1]
    if recipe.crop:
        image = _tensor(pixels).movedim(-1, 0)
        tensor = tv.resized_crop(image, *drawn.crop, list(size or (height, width)), antialias=True)
        pixels = tensor.movedim(0, -1).numpy()
    elif recipe.pad:
        p, (top, left) = recipe.pad, drawn.shift
        padded = np.zeros((height + 2 * p, width + 2 * p, 3), np.uint8)
        padded[p : p + height, p : p + width] = pixels
        pixels = padded[top : top + height, left : left + width]
    if recipe.jitter:
        pixels = jittered(pixels, drawn.jitter)
    tensor = normalize(pixels)
    top, left, h, w = drawn.erase
    if h:
        fill = ERASE_FILL
        if recipe.erase_fill == "noise":
            fill = (0.5 + 0.5 * torch.from_numpy(rng.standard_normal((3, h, w), np.float32)) - MEAN) / STD
        tensor[:, top : top + h, left : left + w] = fill
    return tensor


#: Colour changes: (position in `CHANGES`, factor) of each.
Jitter = tuple[tuple[int, float], ...]
CHANGES = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation)


@dataclass(frozen=True)
class Drawn:
    """Random numbers of one augmented image, without the noise of an erased box."""

    flip: bool
    crop: tuple[int, int, int, int]
    """top, left, height, width of a random resized crop; zeros without one"""
    shift: tuple[int, int]
    """top and left of the crop in the padded image"""
    jitter: Jitter
    """changes of colour in their order"""
    erase: tuple[int, int, int, int]
    """top, left, height, width of the erased box; zeros without one"""


def draw(
    height: int, width: int, rng: np.random.Generator, recipe: Augmentation, size: tuple[int, int] | None = None
) -> Drawn:
    """Draw the random numbers of an image (height, width); `size` as in `augment`."""
    flip = bool(rng.random() < recipe.flip)
    crop, shift = (0, 0, 0, 0), (0, 0)
    if recipe.crop:
        crop = crop_box(height, width, recipe.crop, rng)
        height, width = size or (height, width)
    elif recipe.pad:
        top, left = rng.integers(0, 2 * recipe.pad + 1, 2)
        shift = int(top), int(left)
    jitter = draw_jitter(rng) if recipe.jitter else ()
    erase = draw_box(height, width, rng) if rng.random() < recipe.erase else (0, 0, 0, 0)
    return Drawn(flip, crop, shift, jitter, erase)


def crop_box(height: int, width: int, crop: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop, as torchvision's RandomResizedCrop draws it.

    Its share of the area is uniform in [crop, 1]. The logarithm of its aspect (width / height) is uniform between
    log 3/4 and log 4/3. If ten tries do not fit, the result is the largest centre crop with an allowed aspect.
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


def draw_jitter(rng: np.random.Generator) -> Jitter:
    """Random factors of brightness, contrast and saturation, in random order."""
    factors = rng.uniform(0.6, 1.4), rng.uniform(0.6, 1.4), rng.uniform(0.7, 1.3)
    return tuple((int(i), factors[i]) for i in rng.permutation(len(factors)))


def jittered(pixels: np.ndarray, changes: Jitter) -> np.ndarray:
    """Apply colour changes to an image (H, W, 3) uint8."""
    tensor = _tensor(pixels).movedim(-1, 0)  # (3, H, W)
    for number, factor in changes:
        tensor = CHANGES[number](tensor, factor)
    return tensor.movedim(0, -1).numpy()


def draw_box(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a box to erase: 2-40 % of the area, aspect 0.3-3.33; zeros if 100 tries fail."""
    for _ in range(100):
        area = rng.uniform(0.02, 0.4) * height * width
        aspect = rng.uniform(0.3, 1 / 0.3)
        h, w = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if h < height and w < width:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    return 0, 0, 0, 0
