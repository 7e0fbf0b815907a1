"""Spatial alignment, forward and backward at batch 64 and 512 channels, against a plain form that keeps every score.

The floor is arithmetic: half of all B^2 products of N x C by C x N maps (the other half are their transposes), as bare
matrix products of the blocks that ours uses.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench.memory import EXACT, in_a_fresh_process, peak_extra
from msinet.losses import alignment_loss
from msinet.models.sam import BLOCK

IDENTITIES, IMAGES, CHANNELS = 16, 4, 512


def plain_loss(feature_map: Tensor, labels: Tensor, activation: Tensor) -> Tensor:
    """PAM-self anchor by anchor, with autograd through every score and every pair of negatives."""
    places = feature_map.flatten(2)  # (B, C, N)
    total = feature_map.new_zeros(())
    for anchor, label in enumerate(labels):
        scores = places[anchor].T @ places  # (B, N, N)
        units = F.normalize(scores.amax(2), dim=1)  # (B, N)
        same = labels == label
        positive = 1 - units[same] @ F.normalize(activation[anchor], dim=0)
        negative = 1 - units[~same] @ units[~same].T
        total = total + positive.mean() + negative.mean()
    return total / len(labels)


def work(form: str, height: int, width: int) -> Callable[[], object]:
    """One call of plain, ours or floor on maps of that size."""
    torch.manual_seed(0)
    labels = torch.arange(IDENTITIES).repeat_interleave(IMAGES)
    positions = height * width
    feature_map = torch.randn(len(labels), CHANNELS, height, width).relu().requires_grad_()
    activation = torch.rand(len(labels), positions)
    rows = feature_map.detach().flatten(2).transpose(1, 2).reshape(-1, CHANNELS)

    def ours() -> tuple[Tensor, Tensor]:
        loss = alignment_loss(feature_map, labels, "pam-self", activation=activation)
        return loss.detach(), torch.autograd.grad(loss, feature_map)[0]

    def plain() -> tuple[Tensor, Tensor]:
        loss = plain_loss(feature_map, labels, activation)
        return loss.detach(), torch.autograd.grad(loss, feature_map)[0]

    def floor() -> None:
        step = BLOCK * positions
        for i in range(0, len(rows), step):
            for j in range(i, len(rows), step):
                rows[i : i + step] @ rows[j : j + step].T

    return {"ours": ours, "plain": plain, "floor": floor}[form]


def extra_memory(form: str, height: int, width: int) -> int | None:
    """Bytes that one call takes besides its input, after a call on a smaller map. Needs a new process."""
    work(form, 4, 4)()
    return peak_extra(work(form, height, width))


@pytest.mark.parametrize(("height", "width"), [(16, 8), (16, 16)])
@pytest.mark.parametrize("form", ["plain", "ours", "floor"])
def test_alignment_at_batch_64(benchmark: BenchmarkFixture, height: int, width: int, form: str) -> None:
    """One group per size of the map; extra_info has the extra memory of one call in MiB."""
    benchmark.group = f"alignment {height}x{width}"
    if form == "plain":
        torch.testing.assert_close(work("ours", height, width)(), work("plain", height, width)(), rtol=1e-3, atol=1e-6)
    extra = in_a_fresh_process(f"alignment {form}", extra_memory, form, height, width, tunables=EXACT)
    benchmark.extra_info["extra MiB"] = None if extra is None else extra // 2**20
    benchmark.pedantic(work(form, height, width), rounds=1 if form == "plain" else 5, warmup_rounds=1)
