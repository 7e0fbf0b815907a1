"""Spatial alignment, forward and backward at batch 64 and 512 channels, against the form that holds every score.

The floor is arithmetic: half of all B^2 products of N x C by C x N maps (the other half are their transposes), as bare
matrix products of the blocks that ours uses.
"""

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench.memory import peak_extra
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


@pytest.mark.parametrize("form", ["plain", "ours", "floor"])
@pytest.mark.parametrize(("height", "width"), [(16, 8), (16, 16)])
def test_alignment_at_batch_64(benchmark: BenchmarkFixture, height: int, width: int, form: str) -> None:
    """One group per size of the map; extra_info has the extra memory of one call in MiB."""
    benchmark.group = f"alignment {height}x{width}"
    torch.manual_seed(0)
    labels = torch.arange(IDENTITIES).repeat_interleave(IMAGES)
    positions = height * width
    feature_map = torch.randn(len(labels), CHANNELS, height, width).relu().requires_grad_()
    activation = torch.rand(len(labels), positions)
    rows = feature_map.detach().flatten(2).transpose(1, 2).reshape(-1, CHANNELS)

    def ours() -> None:
        loss = alignment_loss(feature_map, labels, "pam-self", activation=activation)
        torch.autograd.grad(loss, feature_map)

    def plain() -> None:
        torch.autograd.grad(plain_loss(feature_map, labels, activation), feature_map)

    def floor() -> None:
        step = BLOCK * positions
        for i in range(0, len(rows), step):
            for j in range(i, len(rows), step):
                rows[i : i + step] @ rows[j : j + step].T

    if form != "floor":
        torch.testing.assert_close(
            alignment_loss(feature_map, labels, "pam-self", activation=activation),
            plain_loss(feature_map, labels, activation), rtol=1e-4, atol=1e-5,
        )  # fmt: skip
    work = {"ours": ours, "plain": plain, "floor": floor}[form]
    extra = peak_extra(work)  # warms up as well
    benchmark.extra_info["extra MiB"] = None if extra is None else extra // 2**20
    benchmark.pedantic(work, rounds=1 if form == "plain" else 5)
