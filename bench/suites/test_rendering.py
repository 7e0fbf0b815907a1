"""Rendering: milliseconds for an image of each kind and size, compared with a lower bound for any renderer.

The baseline of each group is the cheapest picture: noise for every pixel and a JPEG file.
"""

import io

import numpy as np
import PIL.Image
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from msinet.synthetic.cameras import draw_camera
from msinet.synthetic.plans import SETS, SIZES
from msinet.synthetic.scene import photograph

HEIGHTS = sorted({size.height for profile in ("mini", "full") for size in SIZES[profile].values()})


@pytest.mark.parametrize("height", HEIGHTS)
@pytest.mark.parametrize("name", ["market1501", "veri776"])
class TestRendering:
    """One group per set and height."""

    def test_photograph(self, benchmark: BenchmarkFixture, name: str, height: int) -> None:
        """Images of different identities and cameras, one process."""
        benchmark.group = f"{name} at {height}"
        shots = SETS[name](SIZES["smoke"][name], 0)[0]

        def render() -> None:
            for shot in shots[:40]:
                camera = draw_camera(shot.style, shot.camera, 0)
                photograph(shot.subject, camera, np.random.default_rng(shot.key), height)

        render()  # backdrops are drawn once
        benchmark.extra_info["images"] = len(shots[:40])
        benchmark.pedantic(render, rounds=5)

    def test_least(self, benchmark: BenchmarkFixture, name: str, height: int) -> None:
        """Noise and a JPEG file of the same number of pixels."""
        benchmark.group = f"{name} at {height}"
        width = height // 2 if name == "market1501" else height

        def least() -> None:
            for seed in range(40):
                noise = np.random.default_rng(seed).standard_normal((height, width, 3), np.float32)
                pixels = (np.clip(0.5 + 0.02 * noise, 0, 1) * 255).astype(np.uint8)
                PIL.Image.fromarray(pixels).save(io.BytesIO(), "jpeg", quality=80)

        benchmark.extra_info["images"] = 40
        benchmark.pedantic(least, rounds=5)
