"""Augmentation against brute force and against the library that the released code used."""

from collections import Counter
from dataclasses import replace

import numpy as np
import PIL.Image
import PIL.ImageEnhance
import pytest
import torch
from torchvision import transforms as released

from msinet.data import Augmentation, augment, normalize
from msinet.data.transforms import draw_jitter, jittered

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
NOTHING = Augmentation(flip=0, pad=0, jitter=False, erase=0)


def noise(height: int = 32, width: int = 16, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels.flags.writeable = False  # as decoded and cached images are
    return pixels


def by_hand(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(((pixels.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1).copy())


def outcomes(recipe: Augmentation, times: int, pixels: np.ndarray) -> list[torch.Tensor]:
    return [augment(pixels, np.random.default_rng(seed), recipe) for seed in range(times)]


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool((a == b).all())


# --- Normalisation -------------------------------------------------------------------------------


def test_normalisation_is_exact() -> None:
    pixels = np.stack([np.arange(256, dtype=np.uint8)] * 3, axis=-1).reshape(16, 16, 3)  # every value there is
    assert same(normalize(pixels), by_hand(pixels))
    pipeline = released.Compose([released.ToTensor(), released.Normalize(MEAN.tolist(), STD.tolist())])
    torch.testing.assert_close(normalize(pixels), pipeline(PIL.Image.fromarray(pixels)), rtol=0, atol=1e-6)


def test_many_images_are_normalised_at_once() -> None:
    pixels = noise(8, 6)
    batch = np.stack([pixels, pixels[::-1], pixels[:, ::-1]]).reshape(3, 1, 8, 6, 3)
    assert normalize(batch).shape == (3, 1, 3, 8, 6)
    assert same(normalize(batch)[2, 0], by_hand(pixels[:, ::-1]))


def test_input_is_left_as_it_was() -> None:
    pixels = noise().copy()
    before = pixels.copy()
    for recipe in (NOTHING, Augmentation(pad=0, erase=1), Augmentation(jitter=True, erase=1)):
        augment(pixels, np.random.default_rng(0), recipe)
    normalize(pixels).zero_()
    np.testing.assert_array_equal(pixels, before)


# --- Flip, pad and crop --------------------------------------------------------------------------


def test_nothing_asked_nothing_done() -> None:
    assert all(same(image, by_hand(noise())) for image in outcomes(NOTHING, 20, noise()))


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_flip(probability: float) -> None:
    pixels = noise()
    straight, flipped = by_hand(pixels), by_hand(pixels[:, ::-1])
    images = outcomes(replace(NOTHING, flip=probability), 400, pixels)
    turned = [same(image, flipped) for image in images]
    assert all(turn or same(image, straight) for turn, image in zip(turned, images, strict=True))
    assert sum(turned) == pytest.approx(400 * probability, abs=50 * (probability == 0.5))  # five standard deviations


@pytest.mark.parametrize("pad", [1, 2])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_pad_and_crop_is_a_shift_of_the_image_on_black(pad: int, flip: float) -> None:
    pixels = noise(12, 9)
    turned = pixels[:, ::-1] if flip else pixels
    shifts = {}
    for down in range(-pad, pad + 1):
        for right in range(-pad, pad + 1):
            shifted = np.zeros_like(pixels)
            for row in range(12):
                for column in range(9):
                    if 0 <= row - down < 12 and 0 <= column - right < 9:
                        shifted[row, column] = turned[row - down, column - right]
            shifts[down, right] = by_hand(shifted)  # black before normalisation, not after
    seen = Counter()
    for image in outcomes(replace(NOTHING, flip=flip, pad=pad), 60 * len(shifts), pixels):
        (shift,) = (name for name, expected in shifts.items() if same(image, expected))
        seen[shift] += 1
    assert set(seen) == set(shifts)
    assert max(seen.values()) < 110  # 60 each, give or take 6 standard deviations
    assert min(seen.values()) > 20


# --- Erasing -------------------------------------------------------------------------------------

FILL = torch.tensor([0.4914, 0.4822, 0.4465])


def erased(image: torch.Tensor) -> tuple[int, int, int, int] | None:
    """Top, left, height, width of what differs from black, which is one rectangle of the fill."""
    mask = (image != by_hand(np.zeros((*image.shape[1:], 3), np.uint8))).any(0)
    if not mask.any():
        return None
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    top, left = int(rows[0]), int(columns[0])
    height, width = len(rows), len(columns)
    assert mask[top : top + height, left : left + width].all()
    assert (image[:, mask] == FILL[:, None]).all()
    return top, left, height, width


@pytest.mark.parametrize(("height", "width"), [(64, 32), (32, 32), (16, 16)])
def test_erasing_writes_one_box_of_the_fill_after_normalisation(height: int, width: int) -> None:
    black = np.zeros((height, width, 3), np.uint8)
    boxes = [erased(image) for image in outcomes(replace(NOTHING, erase=1), 1000, black)]
    areas, aspects = [], []
    for box in boxes:
        assert box is not None  # of 100 tries one fits
        _, _, h, w = box
        assert h < height
        assert w < width
        # each side is rounded to whole pixels
        assert (h + 0.5) * (w + 0.5) >= 0.02 * height * width
        assert (h - 0.5) * (w - 0.5) <= 0.4 * height * width
        assert (h + 0.5) / (w - 0.5) >= 0.3
        assert (h - 0.5) / (w + 0.5) <= 1 / 0.3
        areas.append(h * w / (height * width))
        aspects.append(h / w)
    assert min(areas) < 0.05
    assert max(areas) > 0.35
    assert min(aspects) < 0.6
    assert max(aspects) > 2
    # boxes lie anywhere, at each edge too
    tops, lefts, heights, widths = zip(*filter(None, boxes), strict=True)
    assert min(tops) == min(lefts) == 0
    assert max(np.add(tops, heights)) == height
    assert max(np.add(lefts, widths)) == width


def test_areas_are_uniform_where_every_box_fits() -> None:
    """Small enough boxes of a large image always fit, so that their areas are as drawn: 2-40 % uniformly."""
    boxes = [erased(image) for image in outcomes(replace(NOTHING, erase=1), 1500, np.zeros((96, 96, 3), np.uint8))]
    areas = np.array([box[2] * box[3] / 96**2 for box in boxes if box is not None])
    small = areas[areas < 0.25]  # 0.25 * 3.33 < 1: whatever the aspect
    assert np.histogram(small, bins=4, range=(0.02, 0.25))[0] == pytest.approx(len(small) / 4, rel=0.25)


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_erasing_has_its_probability(probability: float) -> None:
    images = outcomes(replace(NOTHING, erase=probability), 400, np.zeros((16, 16, 3), np.uint8))
    times = sum(erased(image) is not None for image in images)
    assert times == pytest.approx(400 * probability, abs=50 * (probability == 0.5))


def test_no_box_fits_a_pixel() -> None:
    pixels = noise(1, 1)
    assert same(augment(pixels, np.random.default_rng(0), replace(NOTHING, erase=1)), by_hand(pixels))


# --- Colour jitter -------------------------------------------------------------------------------


class Forced:
    """Stands in for a generator: given factors in the order asked for, in a given order of application."""

    def __init__(self, factors: tuple[float, float, float], order: tuple[int, int, int] = (0, 1, 2)) -> None:
        self.factors, self.order = list(factors), order
        self.ranges: list[tuple[float, float]] = []

    def uniform(self, low: float, high: float) -> float:
        self.ranges.append((low, high))
        return self.factors.pop(0)

    def permutation(self, count: int) -> list[int]:
        assert count == len(self.order)
        return list(self.order)


def _jitter(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return jittered(pixels, draw_jitter(rng))


ENHANCERS = (PIL.ImageEnhance.Brightness, PIL.ImageEnhance.Contrast, PIL.ImageEnhance.Color)


def enhanced(pixels: np.ndarray, factors: tuple[float, ...], order: tuple[int, ...]) -> np.ndarray:
    """By Pillow, as the released code."""
    image = PIL.Image.fromarray(pixels)
    for i in order:
        image = ENHANCERS[i](image).enhance(factors[i])
    return np.asarray(image).astype(int)


@pytest.mark.parametrize(
    "factors",
    [(0.6, 1, 1), (1.4, 1, 1), (1, 0.6, 1), (1, 1.4, 1), (1, 1, 0.7), (1, 1, 1.3), (0.8, 1.3, 0.75), (1.35, 0.7, 1.2)],
)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_jitter_matches_pillow(factors: tuple[float, float, float], order: tuple[int, int, int]) -> None:
    pixels = noise(24, 24)
    rng = Forced(factors, order)
    found = _jitter(pixels, rng)  # type: ignore[arg-type]
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - enhanced(pixels, factors, order)).max() <= 3  # each step rounds its way
    assert rng.ranges == [(0.6, 1.4), (0.6, 1.4), (0.7, 1.3)]  # 0.4, 0.4 and 0.3 about 1


def test_jitter_happens_in_a_random_order() -> None:
    class Shuffled(Forced):
        def __init__(self, seed: int) -> None:
            super().__init__((1.4, 1.4, 0.7))
            self.rng = np.random.default_rng(seed)

        def permutation(self, count: int) -> list[int]:
            return self.rng.permutation(count).tolist()

    results = {_jitter(noise(), Shuffled(seed)).tobytes() for seed in range(60)}  # type: ignore[arg-type]
    assert len(results) >= 5  # two of the six orders may happen to agree


def test_jitter_always_acts_and_keeps_shape_and_range() -> None:
    pixels = noise()
    images = outcomes(replace(NOTHING, jitter=True), 50, pixels)
    low, high = by_hand(np.zeros((1, 1, 3), np.uint8)), by_hand(np.full((1, 1, 3), 255, np.uint8))
    for image in images:
        assert image.shape == (3, 32, 16)
        assert (image >= low).all()
        assert (image <= high).all()
        assert not same(image, by_hand(pixels))
    assert len({image.numpy().tobytes() for image in images}) == 50


def test_jitter_keeps_grey_grey() -> None:
    grey = np.repeat(noise()[..., :1], 3, axis=-1)
    for seed in range(20):
        found = _jitter(grey, np.random.default_rng(seed)).astype(int)
        assert np.ptp(found, axis=-1).max() <= 1  # the weights of the three colours sum to 0.9999
    assert np.ptp(_jitter(noise(), np.random.default_rng(0)).astype(int), axis=-1).max() > 100


# --- All together --------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [Augmentation(), Augmentation(jitter=True, erase=0), Augmentation(pad=2)])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 16), (64, 64)])
def test_one_generator_decides_everything(recipe: Augmentation, height: int, width: int) -> None:
    pixels = noise(height, width)
    torch.manual_seed(0)
    first = outcomes(recipe, 12, pixels)
    torch.manual_seed(1)  # the library's own randomness has no say
    for one, two in zip(first, outcomes(recipe, 12, pixels), strict=True):
        assert same(one, two)
        assert one.shape == (3, height, width)
        assert one.dtype == torch.float32
    assert len({image.numpy().tobytes() for image in first}) > 6  # small pads leave few outcomes


def test_the_default_is_the_recipe_of_the_released_code() -> None:
    assert Augmentation() == Augmentation(flip=0.5, pad=10, jitter=False, erase=0.5)


def test_erasing_comes_last() -> None:
    """Black padding and jitter do not touch the fill."""
    for image in outcomes(Augmentation(jitter=True, erase=1), 20, noise(32, 32)):
        assert (image == FILL[:, None, None]).all(0).sum() >= 0.015 * 32 * 32
