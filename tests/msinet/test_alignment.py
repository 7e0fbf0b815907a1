"""Spatial alignment against a naive float64 form with every score and every pair, and closed forms."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.cost import count
from msinet.errors import UserError
from msinet.losses import alignment_loss
from msinet.models import build_model, sam
from msinet.models.heads import Output
from msinet.models.sam import PositionActivation, correlations
from msinet.training.recipe import Losses, Recipe
from msinet.training.supervised import losses

VARIANTS = ("self-pos", "self-neg", "unified", "separated", "pam-self")
LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])  # unequal numbers of images


def naive_correlations(x: Tensor) -> Tensor:
    """All scores at once: (B, C, H, W) to (B, B, N) on the grid of the first image."""
    places = x.flatten(2)  # (B, C, N)
    return torch.einsum("icn,jcm->ijnm", places, places).amax(3)


def naive_loss(
    x: Tensor, labels: Tensor, variant: str, activation: Tensor, partner_grid: bool, self_pairs: bool, per_pair: bool
) -> Tensor:
    """Word for word: a loop over anchors and pairs."""
    a = naive_correlations(x)
    if partner_grid:
        a = a.transpose(0, 1)
    total = x.new_zeros(())
    for i in range(len(x)):
        same = [j for j in range(len(x)) if labels[j] == labels[i]]
        other = [j for j in range(len(x)) if labels[j] != labels[i]]

        def among(partners: list[int], mean: bool, i: int = i) -> Tensor:
            pairs = [(p, q) for p in partners for q in partners if self_pairs or p != q]
            if not pairs:
                return x.new_zeros(())
            missing = torch.stack([1 - F.cosine_similarity(a[i, p], a[i, q], dim=0) for p, q in pairs]).sum()
            return missing / (len(pairs) if mean else len(partners))

        positives = [p for p in same if self_pairs or p != i]
        pam = [1 - F.cosine_similarity(activation[i], a[i, p], dim=0) for p in positives]
        terms = {
            "self-pos": lambda same=same: among(same, True),
            "self-neg": lambda other=other: among(other, per_pair),
            "unified": lambda: among(list(range(len(x))), True),
            "separated": lambda same=same, other=other: among(same, True) + among(other, per_pair),
            "pam-self": lambda pam=pam, other=other: (
                (torch.stack(pam).mean() if pam else x.new_zeros(())) + among(other, per_pair)
            ),
        }
        total = total + terms[variant]()
    return total / len(x)


def maps(batch: int = len(LABELS), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 5, 3, 2, generator=generator, dtype=torch.float64).relu() + 0.01


@pytest.mark.parametrize("block", [1, 2, 4, 16])
def test_correlations_and_their_gradient_are_those_of_all_scores(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sam, "BLOCK", block)
    x = maps().requires_grad_()
    weight = torch.randn(9, 9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours, theirs = correlations(x), naive_correlations(x)
    torch.testing.assert_close(ours, theirs)
    (mine,) = torch.autograd.grad((ours * weight).sum(), x)
    (wanted,) = torch.autograd.grad((theirs * weight).sum(), x)
    torch.testing.assert_close(mine, wanted)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("partner_grid", [False, True])
@pytest.mark.parametrize("self_pairs", [False, True])
@pytest.mark.parametrize("per_pair", [False, True])
def test_every_variant_equals_the_loop(variant: str, partner_grid: bool, self_pairs: bool, per_pair: bool) -> None:
    x = maps().requires_grad_()
    activation = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    ours = alignment_loss(
        x,
        LABELS,
        variant,
        activation=activation,
        partner_grid=partner_grid,
        self_pairs=self_pairs,  # type: ignore[arg-type]
        per_pair=per_pair,
    )
    theirs = naive_loss(x, LABELS, variant, activation, partner_grid, self_pairs, per_pair)
    torch.testing.assert_close(ours, theirs)
    inputs = (x, activation) if variant == "pam-self" else (x,)
    for mine, wanted in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(mine, wanted)


@pytest.mark.parametrize("variant", ["self-pos", "self-neg", "unified", "separated"])
def test_identical_images_agree(variant: str) -> None:
    x = maps(1).repeat(6, 1, 1, 1)
    loss = alignment_loss(x, torch.tensor([0, 0, 0, 1, 1, 1]), variant)  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(0, abs=1e-12)


@given(st.permutations(range(9)), st.sampled_from(VARIANTS))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_batch_does_not_matter(order: list[int], variant: str) -> None:
    x, activation = maps(), maps().flatten(1)[:, :6]
    plain = alignment_loss(x, LABELS, variant, activation=activation)  # type: ignore[arg-type]
    mixed = alignment_loss(x[order], LABELS[order], variant, activation=activation[order])  # type: ignore[arg-type]
    torch.testing.assert_close(plain, mixed)


@given(st.integers(0, 1000), st.sampled_from(VARIANTS[:3]))
@settings(max_examples=20, deadline=None)
def test_terms_of_rectified_maps_lie_in_the_unit_interval(seed: int, variant: str) -> None:
    assert 0 <= alignment_loss(maps(seed=seed), LABELS, variant).item() <= 1  # type: ignore[arg-type]


def test_grids_coincide_on_self_pairs() -> None:
    values = correlations(maps())
    torch.testing.assert_close(values.diagonal(), values.transpose(0, 1).diagonal())


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_moderate_if_an_identity_shares_hardly_a_channel(variant: str, size: float) -> None:
    x = torch.rand(9, 4, 3, 2, generator=torch.Generator().manual_seed(0))
    x[LABELS == 2, :3], x[LABELS != 2, 3] = 0, size  # the correlation of the last identity with others is tiny
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(alignment_loss(x, LABELS, variant, activation=torch.rand(9, 6)), x)
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 1e4  # 1e11 without a limit


@pytest.mark.parametrize("triplet", [True, False])
def test_alignment_is_added_with_its_weight_with_and_without_the_triplet_loss(triplet: bool) -> None:
    torch.manual_seed(0)
    output = Output((torch.randn(9, 3),), (torch.randn(9, 8),), maps())
    plain = losses(output, LABELS, Recipe(losses=Losses(triplet=triplet)))
    aligned = losses(output, LABELS, Recipe(losses=Losses(triplet=triplet, alignment="self-neg", alignment_weight=0.5)))
    assert set(aligned) - set(plain) == {"alignment"}
    assert ("triplet" in plain) == triplet
    torch.testing.assert_close(aligned["alignment"], alignment_loss(maps(), LABELS, "self-neg"))
    torch.testing.assert_close(aligned["loss"], plain["loss"] + 0.5 * aligned["alignment"])


def test_a_batch_of_one_identity_has_no_negative_term() -> None:
    x = maps(4)
    labels = torch.zeros(4, dtype=torch.long)
    assert alignment_loss(x, labels, "self-neg").item() == 0
    torch.testing.assert_close(alignment_loss(x, labels, "separated"), alignment_loss(x, labels, "self-pos"))


def test_none_costs_nothing_and_unknown_variants_are_refused() -> None:
    assert alignment_loss(maps(), LABELS, "none").item() == 0
    with pytest.raises(UserError, match="Did you mean 'unified'"):
        alignment_loss(maps(), LABELS, "unifed")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="pam=True"):
        alignment_loss(maps(), LABELS, "pam-self")


def test_pam_is_the_largest_energy_of_each_position() -> None:
    torch.manual_seed(0)
    module = PositionActivation(16).double()
    x = torch.randn(2, 16, 3, 2, dtype=torch.float64)
    query, key = module.query(x).flatten(2).detach(), module.key(x).flatten(2).detach()
    wanted = [[max(float(query[b, :, n] @ key[b, :, m]) for m in range(6)) for n in range(6)] for b in range(2)]
    torch.testing.assert_close(module(x), torch.tensor(wanted, dtype=torch.float64))


def test_msinet_sam_has_the_papers_parameters_in_training_alone() -> None:
    counted = count(build_model("msinet", 751, pam=True), 64, 32)
    assert counted.parameters_without_classifier == 2_393_699
    assert counted.parameters_at_inference == 1_998_819


@pytest.mark.parametrize("name", ["msinet_x0_25", "osnet_x0_25", "resnet18_x0_25", "cdnet_x0_25"])
def test_any_network_with_a_map_can_be_aligned(name: str) -> None:
    torch.manual_seed(0)
    network = build_model(name, 3, pam=True)
    output = network(torch.randn(6, 3, 32, 16))
    recipe = Recipe(losses=Losses(alignment="pam-self", alignment_weight=3.0))
    parts = losses(output, torch.tensor([0, 0, 1, 1, 2, 2]), recipe)
    assert parts["loss"].item() == pytest.approx(
        (parts["identity"] + parts["triplet"] + 3 * parts["alignment"]).item(), rel=1e-6
    )
    parts["loss"].backward()
    assert network.pam.query.weight.grad.abs().sum() > 0  # type: ignore[union-attr, operator]
    assert network.eval()(torch.randn(2, 3, 32, 16)).ndim == 2


@pytest.mark.parametrize("name", ["msinet_x0_25", "resnet18_x0_25"])
def test_the_rest_of_a_network_starts_as_it_would_without(name: str) -> None:
    states = []
    for pam in (False, True):
        torch.manual_seed(0)
        states.append(build_model(name, 3, pam=pam).state_dict())
    added = {f"pam.{part}.{kind}" for part in ("query", "key") for kind in ("weight", "bias")}
    assert states[1].keys() - states[0].keys() == added
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
