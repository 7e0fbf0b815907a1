"""The losses against their definitions, written out one number at a time in double precision."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from msinet.losses import alignment_loss, identity_loss, triplet_loss

LABELS = (0, 0, 0, 1, 1, 2, 3, 3, 3, 3)


def embeddings(seed: int, spread: float = 1.0) -> Tensor:
    return torch.randn(len(LABELS), 6, generator=torch.Generator().manual_seed(seed)) * spread


def triplet_by_hand(points: np.ndarray, labels: tuple[int, ...], margin: float, normalize: bool) -> float:
    """Anchor by anchor; the anchor is no positive of its own, unless it has no other."""
    rows = [row / math.sqrt(sum(v * v for v in row)) if normalize else row for row in points.astype(np.float64)]
    costs = []
    for i, anchor in enumerate(rows):
        positives, negatives = [0.0], []
        for j, other in enumerate(rows):
            distance = math.sqrt(sum((a - b) ** 2 for a, b in zip(anchor, other, strict=True)))
            if labels[i] == labels[j] and i != j:
                positives.append(distance)
            elif labels[i] != labels[j]:
                negatives.append(distance)
        costs.append(max(0.0, max(positives) - min(negatives) + margin) if negatives else 0.0)
    return sum(costs) / len(costs)


# --- Identity loss -------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7, 1.0])
def test_identity_loss_is_the_cross_entropy_with_smoothed_targets(smoothing: float) -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (7, 5)), rng.integers(0, 5, 7)
    expected = 0.0
    for row, label in zip(logits, labels, strict=True):
        log_share = [value - math.log(sum(math.exp(v) for v in row)) for value in row]
        target = [smoothing / 5 + (1 - smoothing) * (k == label) for k in range(5)]
        expected -= sum(t * p for t, p in zip(target, log_share, strict=True)) / 7
    found = identity_loss(torch.from_numpy(logits), torch.from_numpy(labels), smoothing)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_identity_loss_smooths_by_a_tenth_unless_told_otherwise() -> None:
    logits, labels = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([0])
    assert identity_loss(logits, labels) == identity_loss(logits, labels, 0.1)
    assert identity_loss(logits, labels) > 10 * identity_loss(logits, labels, 0.0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_identity_loss_of_equal_logits_is_the_logarithm_of_their_number(smoothing: float) -> None:
    loss = identity_loss(torch.zeros(4, 751, dtype=torch.float64), torch.tensor([0, 3, 750, 3]), smoothing)
    assert loss.item() == pytest.approx(math.log(751), rel=1e-12)


def test_gradient_of_the_identity_loss_is_share_minus_target() -> None:
    logits = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    identity_loss(logits, labels, 0.1).backward()
    target = torch.full((6, 4), 0.1 / 4, dtype=torch.float64)
    target[torch.arange(6), labels] += 0.9
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, (logits.detach().softmax(1) - target) / 6)
    assert torch.autograd.gradcheck(lambda x: identity_loss(x, labels, 0.1), logits)


# --- Triplet loss --------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("margin", [0.0, 0.3, 1.5])
@pytest.mark.parametrize("seed", range(4))
def test_triplet_loss_is_the_loop_over_anchors(seed: int, margin: float, normalize: bool) -> None:
    points = embeddings(seed)
    expected = triplet_by_hand(points.numpy(), LABELS, margin, normalize)
    assert expected > 0.01  # the case says something
    found = triplet_loss(points, torch.tensor(LABELS), margin, normalize=normalize)
    # In single precision a point may be sqrt(2e-7) away from itself, which counts where it is its only positive.
    assert found.item() == pytest.approx(expected, rel=1e-5, abs=5e-4 / len(LABELS))


def test_triplet_loss_compares_unit_vectors_with_margin_03_unless_told_otherwise() -> None:
    points, labels = embeddings(0, spread=5.0), torch.tensor(LABELS)
    assert triplet_loss(points, labels) == triplet_loss(points, labels, 0.3, normalize=True)
    # Unit vectors have no length left: stretching each row by another factor changes nothing.
    stretched = points * torch.arange(1, len(LABELS) + 1)[:, None]
    torch.testing.assert_close(triplet_loss(stretched, labels), triplet_loss(points, labels))
    assert triplet_loss(stretched, labels, normalize=False) > 2 * triplet_loss(points, labels, normalize=False)


def test_the_anchor_is_a_positive_at_distance_0_where_it_is_alone() -> None:
    points = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, 0.25]])  # nearest others: 0.1, 0.1 and 0.25 away
    loss = triplet_loss(points, torch.tensor([0, 1, 2]), 0.3, normalize=False)
    assert loss.item() == pytest.approx((0.2 + 0.2 + 0.05) / 3, abs=1e-5)


def test_far_negatives_cost_nothing() -> None:
    points = torch.tensor([[0.0, 0.0], [0.1, 0.0], [5.0, 0.0], [5.0, 0.1]], requires_grad=True)
    loss = triplet_loss(points, torch.tensor([0, 0, 1, 1]), 0.3, normalize=False)
    loss.backward()
    assert loss.item() == 0
    assert points.grad is not None
    assert not points.grad.any()


def test_an_anchor_without_negatives_costs_nothing() -> None:
    points = embeddings(2).requires_grad_()
    loss = triplet_loss(points, torch.zeros(len(LABELS), dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert points.grad is not None
    assert not points.grad.any()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("value", [1.0, 0.0])
def test_identical_embeddings_cost_the_margin_and_have_finite_gradients(value: float, normalize: bool) -> None:
    points = torch.full((len(LABELS), 6), value, requires_grad=True)  # 0: a network whose last layer died
    loss = triplet_loss(points, torch.tensor(LABELS), 0.3, normalize=normalize)
    loss.backward()
    assert loss.item() == pytest.approx(0.3, abs=2e-3)  # single precision leaves 1e-7 in a squared distance
    assert points.grad is not None
    assert points.grad.isfinite().all()


@pytest.mark.parametrize("normalize", [True, False])
def test_gradient_of_the_triplet_loss_is_the_slope_of_the_loop(normalize: bool) -> None:
    points = embeddings(3).requires_grad_()
    triplet_loss(points, torch.tensor(LABELS), 0.3, normalize=normalize).backward()
    step, base = 1e-6, points.detach().numpy().astype(np.float64)
    slopes = np.zeros_like(base)
    for place in np.ndindex(*base.shape):
        moved = [base.copy(), base.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        above, below = (triplet_by_hand(one, LABELS, 0.3, normalize) for one in moved)
        slopes[place] = (above - below) / (2 * step)
    assert points.grad is not None
    assert np.abs(slopes).max() > 0.01
    np.testing.assert_allclose(points.grad.numpy(), slopes, atol=1e-4)


def test_half_precision_embeddings_are_compared_in_single_precision() -> None:
    points, labels = embeddings(1).bfloat16(), torch.tensor(LABELS)
    loss = triplet_loss(points, labels)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(triplet_by_hand(points.float().numpy(), LABELS, 0.3, True), rel=1e-5)


@pytest.mark.parametrize("loss", [triplet_loss, alignment_loss])
def test_autocast_does_not_lower_the_precision_of_losses(loss: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 16, 4, 2).relu() if loss is alignment_loss else torch.randn(8, 16)
    settings: dict[str, Any] = {"variant": "pam-self", "activation": torch.rand(8, 8)} if loss is alignment_loss else {}
    labels = torch.arange(4).repeat_interleave(2)
    expected = loss(x, labels, **settings)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(x, labels, **settings), expected)
