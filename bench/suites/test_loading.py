"""Training batches of 64 images: the pipeline against copying the pixels."""

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from msinet.data.augmentation import Augmentation
from msinet.data.loading import train_batches
from msinet.data.transforms import MEAN, STD

BATCHES = 8


@pytest.mark.parametrize("form", ["ours", "floor"])
@pytest.mark.parametrize(("height", "width"), [(64, 32), (256, 128)])
def test_batches_from_decoded_images(benchmark: BenchmarkFixture, height: int, width: int, form: str) -> None:
    """Flip, pad and crop, normalise, erase; the floor only turns whole batches into normalised floats."""
    benchmark.group = f"{BATCHES} batches of 64, {height}x{width}"
    pixels = np.random.default_rng(0).integers(0, 256, (512, height, width, 3), np.uint8)
    labels = np.arange(512) // 4
    plan = [(0, step, list(range(64 * step, 64 * step + 64))) for step in range(BATCHES)]

    def ours() -> None:
        for _ in train_batches(pixels, labels, Augmentation(), plan, seed=0):
            pass

    def floor() -> None:
        for _, _, batch in plan:
            _ = (torch.from_numpy(pixels[batch]).movedim(3, 1).float() / 255 - MEAN) / STD

    benchmark.pedantic({"ours": ours, "floor": floor}[form], rounds=5, warmup_rounds=1)
