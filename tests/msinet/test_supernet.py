"""The supernet: a mixture of the four discrete operations, and each discrete network at its corners."""

import functools
import random

import pytest
import torch
from torch import Tensor, nn

from msinet.errors import UserError
from msinet.models import Output, build_model
from msinet.models.genotype import OPERATIONS, SEARCHED
from msinet.models.interactions import CrossAttention, Exchange, Gate, NoInteraction, Pair
from msinet.models.supernet import MixedInteraction, alphas_of, genotype_of, interactions_of

RANDOM = tuple("".join(random.Random(number).choices("NGAE", k=12)) for number in range(3))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def randomise(network: nn.Module) -> None:
    """Weights, biases, gammas and running statistics that hide nothing behind a 0 or a 1; in float64."""
    network.double()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
                value.uniform_(0.5, 1.5)
            elif name.endswith(("bias", "running_mean", "gamma")):
                value.normal_(0, 0.3)


def mixed(channels: int) -> MixedInteraction:
    """One with gates and a gamma that matter, and operations of quite different weights."""
    interaction = MixedInteraction(channels)
    randomise(interaction)
    interaction.alpha = nn.Parameter(torch.tensor([0.4, -0.3, 0.9, 0.1], dtype=torch.float64))
    interaction.gamma.data.fill_(0.7)
    return interaction


def operations(interaction: MixedInteraction, channels: int) -> dict[str, nn.Module]:
    """The discrete operations with its very parameters."""
    gate, attention = Gate(channels), CrossAttention()
    gate.gate, attention.gamma = interaction.gate, interaction.gamma
    return {"N": NoInteraction(), "G": gate, "A": attention, "E": Exchange()}


def naive(interaction: MixedInteraction, x1: Tensor, x2: Tensor) -> Pair:
    """Every operation by itself, then the sum with the weights of the softmax."""
    weights = interaction.alpha.exp() / interaction.alpha.exp().sum()
    done = operations(interaction, x1.shape[1])
    results = [done[letter](x1, x2) for letter in "NGAE"]  # columns: none, gate, cross attention, exchange
    out1 = torch.stack([weight * one for weight, (one, _) in zip(weights, results, strict=True)]).sum(0)
    out2 = torch.stack([weight * two for weight, (_, two) in zip(weights, results, strict=True)]).sum(0)
    return out1, out2


def maps(shape: tuple[int, ...], *, last: bool = False, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    layout = torch.channels_last if last else torch.contiguous_format
    x1, x2 = (spread * torch.randn(shape, dtype=torch.float64).to(memory_format=layout) for _ in range(2))
    return x1.requires_grad_(), x2.requires_grad_()


# --- One interaction -----------------------------------------------------------------------------


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("shape", [(3, 32, 4, 2), (2, 8, 5, 3), (1, 20, 1, 1)])
def test_the_mixture_is_the_weighted_sum_of_the_four_operations(shape: tuple[int, ...], last: bool) -> None:
    interaction = mixed(shape[1])
    x1, x2 = maps(shape, last=last)
    found, expected = interaction(x1, x2), naive(interaction, x1, x2)
    weigh = [torch.randn(shape, dtype=torch.float64) for _ in range(2)]  # so that every element's gradient matters
    inputs = {"x1": x1, "x2": x2, **dict(interaction.named_parameters())}
    assert {"alpha", "gamma", "gate.fc1.weight", "gate.fc1.bias", "gate.fc2.weight", "gate.fc2.bias"} < set(inputs)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == shape
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(found, list(inputs.values()), weigh)
    references = torch.autograd.grad(expected, list(inputs.values()), weigh)
    for name, gradient, reference in zip(inputs, gradients, references, strict=True):
        assert reference.abs().max() > 1e-6 or name.startswith("gate.fc1"), f"{name} is not put to the test"
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("column", range(4))
def test_a_column_is_the_operation_of_its_letter(column: int) -> None:
    interaction = mixed(16)
    interaction.alpha.data.copy_(-1e4 * (torch.arange(4) != column))
    x1, x2 = maps((2, 16, 3, 2))
    for found, expected in zip(
        interaction(x1, x2), operations(interaction, 16)[OPERATIONS[column]](x1, x2), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_swapping_the_branches_swaps_the_outputs() -> None:
    interaction = mixed(16)
    x1, x2 = maps((2, 16, 3, 2))
    for found, expected in zip(interaction(x2, x1), reversed(interaction(x1, x2)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_energies_saturate_but_do_not_overflow(dtype: torch.dtype) -> None:
    interaction = mixed(16).to(dtype)
    x1, x2 = (x.detach().to(dtype).requires_grad_() for x in maps((2, 16, 8, 4), spread=300.0))
    for found, expected in zip(interaction(x1, x2), naive(interaction, x1, x2), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)  # of values near 300
        (gradient,) = torch.autograd.grad(found.sum(), x1, retain_graph=True)
        assert gradient.isfinite().all()


def test_half_precision_around_it_does_not_reach_the_energies() -> None:
    interaction = mixed(16).float()
    x1, x2 = (x.detach().float() for x in maps((2, 16, 8, 4), spread=3.0))
    # The other operations off, so that only the attention is seen.
    interaction.alpha.data.copy_(torch.tensor([-1e4, -1e4, 0.0, -1e4]))
    with torch.autocast("cpu", torch.bfloat16):
        found = interaction(x1, x2)
    for one, other in zip(found, naive(interaction, x1, x2), strict=True):
        torch.testing.assert_close(one.float(), other, rtol=1e-4, atol=1e-4)


def test_attention_starts_as_none_and_architecture_parameters_near_zero() -> None:
    interaction = MixedInteraction(8)
    assert interaction.gamma.tolist() == [0.0]
    found = torch.stack([MixedInteraction(4).alpha.detach() for _ in range(1500)])  # 6000 draws of 1e-3 N(0, 1)
    assert abs(found.mean().item()) < 4 * 1e-3 / 6000**0.5
    assert found.std().item() == pytest.approx(1e-3, rel=0.05)
    assert (found.abs() < 1e-3).double().mean().item() == pytest.approx(0.6827, abs=0.03)  # as of a normal distribution


# --- The whole network ---------------------------------------------------------------------------


def pair(genotype: str, **options: object) -> tuple[nn.Module, nn.Module]:
    """A supernet whose alphas are all on one genotype, and that discrete network with the same weights."""
    supernet = build_model("supernet_x0_25", 5, interactions=len(genotype), **options)
    randomise(supernet)
    for interaction, letter in zip(interactions_of(supernet), genotype, strict=True):
        chosen = torch.tensor([column == letter for column in "NGAE"])
        interaction.alpha.data.copy_(torch.where(chosen, 1e4, -1e4))
    discrete = build_model("msinet_x0_25", 5, genotype=genotype, neck="bn", **options).double()
    weights = supernet.state_dict()
    discrete.load_state_dict({name: weights[name].clone() for name in discrete.state_dict()})
    return supernet, discrete


CORNERS = [
    *(pytest.param(genotype, {}, id=genotype) for genotype in (SEARCHED, *RANDOM)),
    pytest.param("GAENEA", {"ratio": 2, "fusion": "minus"}, id="six"),
    pytest.param("EAGGNAAEGNEGAGEANG", {"ratio": 1, "fusion": "mul"}, id="eighteen"),
]


@pytest.mark.parametrize(("genotype", "options"), CORNERS)
def test_a_supernet_at_a_corner_is_the_discrete_network(genotype: str, options: dict[str, object]) -> None:
    supernet, discrete = pair(genotype, **options)
    assert genotype_of(alphas_of(supernet)) == genotype
    images = torch.randn(4, 3, 32, 16, dtype=torch.float64)
    with torch.no_grad():
        expected = discrete.eval()(images)
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(supernet.eval()(images), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("genotype", "options"), CORNERS)
def test_a_supernet_at_a_corner_trains_as_the_discrete_network(genotype: str, options: dict[str, object]) -> None:
    supernet, discrete = pair(genotype, **options)
    images = torch.randn(4, 3, 32, 16, dtype=torch.float64)
    found, expected = supernet.train()(images), discrete.train()(images)
    assert isinstance(found, Output)
    for name in ("logits", "embeddings"):
        (one,), (other,) = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.feature_map, expected.feature_map, rtol=1e-9, atol=1e-9)
    for output in (found, expected):
        (output.logits[0].square().sum() + output.embeddings[0].cos().sum()).backward()
    mine, weights = dict(supernet.named_parameters()), supernet.state_dict()
    moved = 0
    for name, parameter in discrete.named_parameters():
        if parameter.grad is not None:
            moved += 1
            assert mine[name].grad is not None
            scale = max(1.0, parameter.grad.abs().max().item())
            torch.testing.assert_close(mine[name].grad, parameter.grad, rtol=1e-7, atol=1e-9 * scale)
    assert moved > 50
    for name, value in discrete.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(weights[name], value, rtol=1e-9, atol=1e-9)


def test_away_from_the_corners_it_is_another_network() -> None:
    supernet, discrete = pair(SEARCHED)
    interactions_of(supernet)[6].alpha.data.zero_()
    images = torch.randn(4, 3, 32, 16, dtype=torch.float64)
    with torch.no_grad():
        assert (supernet.eval()(images) - discrete.eval()(images)).abs().max() > 1e-3


@functools.cache
def on_paper(**options: object) -> nn.Module:
    """One to count, without storage."""
    with torch.device("meta"):
        return build_model("supernet", 751, **options)


@pytest.mark.parametrize(("mid", "expected"), [("out", 1_959_188), ("in", 1_686_566)])
def test_parameters_are_as_many_as_in_the_specification(mid: str, expected: int) -> None:
    counts = {name: parameter.numel() for name, parameter in on_paper(mid=mid).named_parameters()}
    backbone = {name: count for name, count in counts.items() if name.startswith("backbone.")}
    alphas = [count for name, count in backbone.items() if name.endswith(".alpha")]
    assert alphas == [4] * 12
    assert sum(backbone.values()) - sum(alphas) == expected
    # Batch norm with a bias that stays 0, and a classifier without one; no other neck, as in the released search code.
    assert sorted(set(counts) - set(backbone)) == ["head.bn.bias", "head.bn.weight", "head.classifier.weight"]
    assert counts["head.classifier.weight"] == 512 * 751


def test_branches_are_a_quarter_of_the_cell_s_output_unless_told_otherwise() -> None:
    widths = {mid: [one.gate.fc2.out_channels for one in interactions_of(on_paper(mid=mid))] for mid in ("out", "in")}
    assert widths["out"] == [64] * 4 + [96] * 4 + [128] * 4
    assert widths["in"] == [16] * 2 + [64] * 4 + [96] * 4 + [128] * 2
    assert [p.shape for p in on_paper().parameters()] == [p.shape for p in on_paper(mid="out").parameters()]


@pytest.mark.parametrize("mid", ["out", "in"])
def test_the_searched_feature_is_the_pooled_final_map(mid: str) -> None:
    supernet = build_model("supernet_x0_25", 5, mid=mid)
    output = supernet(torch.randn(2, 3, 32, 16))
    assert output.feature_map.shape == (2, 128, 2, 1)
    torch.testing.assert_close(output.embeddings[0], output.feature_map.mean((2, 3)))
    assert output.logits[0].shape == (2, 5)


@pytest.mark.parametrize("interactions", [6, 18])
def test_a_supernet_has_as_many_interactions_as_told(interactions: int) -> None:
    supernet = build_model("supernet_x0_25", 5, interactions=interactions)
    assert alphas_of(supernet).shape == (interactions, 4)
    assert supernet(torch.randn(2, 3, 32, 16)).embeddings[0].shape == (2, 128)


# --- Reading the architecture --------------------------------------------------------------------


def test_rows_of_alphas_are_the_interactions_from_the_first_cell_to_the_last() -> None:
    supernet = build_model("supernet_x0_25", 5)
    modules = dict(supernet.named_modules())
    names = [
        f"backbone.stage{stage}.{cell}.interaction{half}" for stage in (1, 2, 3) for cell in (0, 1) for half in (1, 2)
    ]
    for number, name in enumerate(names):
        modules[name].alpha.data.copy_(torch.arange(4) + 10 * number)
    assert torch.equal(alphas_of(supernet), torch.arange(4.0) + 10 * torch.arange(12.0)[:, None])


def test_the_alphas_read_out_are_a_copy() -> None:
    supernet = build_model("supernet_x0_25", 5)
    before, found = alphas_of(supernet), alphas_of(supernet)
    assert not found.requires_grad
    found.fill_(7.0)
    assert torch.equal(alphas_of(supernet), before)


def test_the_initial_alphas_of_a_network_are_small_and_differ() -> None:
    found = alphas_of(build_model("supernet_x0_25", 5))
    assert 5e-4 < found.std().item() < 2e-3
    assert len(found.unique()) == 48


def test_the_genotype_is_the_strongest_operation_of_each_row() -> None:
    assert OPERATIONS == "NGAE"
    assert genotype_of(torch.eye(4)) == "NGAE"
    assert genotype_of(torch.tensor([[-3.0, -2.0, -1.0, -1.5], [0.1, 0.0, 0.0, 0.2]])) == "AE"
    alphas = torch.randn(12, 4)
    expected = "".join(max(zip(row, "NGAE", strict=True))[1] for row in alphas.tolist())
    assert genotype_of(alphas) == expected == genotype_of(3 * alphas.softmax(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interactions": 0}, "multiple of six interactions, not 0"),
        ({"interactions": 4}, "multiple of six interactions, not 4"),
        ({"interactions": 13}, "multiple of six interactions, not 13"),
        ({"interactions": -6}, "multiple of six interactions, not -6"),
        ({"mid": "middle"}, "mid of a supernet must be out or in, got 'middle'"),
        ({"ratio": 0}, "rho must be at least 1, got 0"),
        ({"fusion": "concat"}, "unknown fusion 'concat'. Known: minus, mul, sum"),
        ({"genotype": SEARCHED}, "unknown option of supernet 'genotype'"),
    ],
)
def test_options_that_do_not_exist_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        build_model("supernet", 5, **options)
