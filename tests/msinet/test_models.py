"""Networks: counts as published, shapes, identities of the operations, and refusals."""

import functools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from msinet.data.transforms import normalize
from msinet.errors import UserError
from msinet.models import Output, build_model
from msinet.models.genotype import SEARCHED
from msinet.models.heads import NECKS, pool_halves
from msinet.models.interactions import INTERACTIONS, CrossAttention, Exchange, Gate, NoInteraction
from msinet.models.msinet import MSICell

BACKBONES = ("msinet", "osnet", "cdnet", "resnet18")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@functools.cache
def on_paper(name: str, num_classes: int = 10, **options: object) -> nn.Module:
    """A network to count and to refuse; ResNets get no storage, which costs more than their shapes."""
    with torch.device("meta" if name.startswith("resnet") else "cpu"):
        return build_model(name, num_classes, **options)


def count(network: nn.Module, part: str = "", without: str = "(nothing)") -> int:
    return sum(
        parameter.numel()
        for name, parameter in network.named_parameters()
        if name.startswith(part) and without not in name
    )


# Parameter counts (Tables 2 and 6 and the released code)


def test_msinet_has_the_published_parameters() -> None:
    network = on_paper("msinet", 751)
    assert count(network, "backbone.") == 1_949_539
    assert count(network, "head.bn.") == 1_024
    assert count(network, "head.fc.") == 262_144
    assert count(network, "head.squeeze.") == 49_280
    assert count(network, "head.local_bn.") == 512
    assert count(network, "head.local_fc.") == 65_536
    assert count(network, without="classifier") == 2_328_035
    assert count(network, "backbone.") + count(network, "head.squeeze.") == 1_998_819  # used at inference
    assert count(network) - count(network, without="classifier") == 770 * 751


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"genotype": "N" * 12}, 2_321_600),
        ({"genotype": "E" * 12}, 2_321_600),
        ({"genotype": "G" * 12}, 2_337_672),
        ({"genotype": "A" * 12}, 2_321_612),
        ({"genotype": SEARCHED.replace("N", "E")}, 2_328_035),
        ({"genotype": "ggeg aggn gaea"}, 2_328_035),
        ({"ratio": 1}, 2_065_123),
        ({"ratio": 2}, 2_196_579),
        ({"ratio": 3}, 2_328_035),
        ({"ratio": 4}, 2_459_491),
        ({"fusion": "mul"}, 2_328_035),
    ],
)
def test_msinet_variants_have_the_published_parameters(options: dict[str, object], expected: int) -> None:
    assert count(on_paper("msinet", **options), without="classifier") == expected


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("osnet", {"backbone.": 1_642_660 + 263_168, "backbone.conv5.": 263_168, "head.fc.": 263_680}),
        ("cdnet", {"backbone.": 1_747_448, "head.squeeze.": 49_152}),
        ("cdnet", {"head.fc.": 512 * 512 + 3 * 512, "head.local_fc.": 256 * 512 + 3 * 512}),
        ("resnet18", {"backbone.": 11_176_512}),
        ("resnet50", {"backbone.": 23_508_032, "head.bn.": 4_096}),
        ("resnet50", {"backbone.conv1.": 9_408, "backbone.bn1.": 128, "backbone.layer1.": 215_808}),
        ("resnet50", {"backbone.layer2.": 1_219_584, "backbone.layer3.": 7_098_368}),
        ("resnet50", {"backbone.layer4.": 14_964_736}),
        ("resnet101", {"backbone.": 42_500_160}),
    ],
)
def test_baselines_have_the_published_parameters(name: str, parts: dict[str, int]) -> None:
    network = on_paper(name)
    assert {part: count(network, part) for part in parts} == parts


def test_totals_of_the_baselines() -> None:
    assert count(on_paper("osnet"), without="classifier") == 2_169_508
    assert count(on_paper("resnet50"), without="classifier") == 23_508_032 + 4_096
    cdnet = on_paper("cdnet")
    assert count(cdnet, "backbone.") + count(cdnet, "head.squeeze.") == 1_796_600
    assert count(cdnet, "head.fc.") + count(cdnet, "head.local_fc.") == 396_288


# Shapes


@pytest.mark.parametrize("name", ["msinet", "osnet", "cdnet"])
@pytest.mark.parametrize(("height", "width"), [(256, 128), (256, 256)])
def test_map_sizes(name: str, height: int, width: int) -> None:
    backbone = build_model(f"{name}_x0_25", 5).eval().get_submodule("backbone")
    sizes: dict[str, torch.Size] = {}
    for part in ("stem", "stage1", "down1", "stage2"):
        backbone.get_submodule(part).register_forward_hook(
            lambda _module, _inputs, output, part=part: sizes.update({part: output.shape})
        )
    with torch.no_grad():
        local_map, final_map = backbone(torch.zeros(1, 3, height, width))
    assert sizes == {
        "stem": (1, 16, height // 4, width // 4),
        "stage1": (1, 64, height // 4, width // 4),
        "down1": (1, 64, height // 8, width // 8),
        "stage2": (1, 96, height // 8, width // 8),
    }
    assert local_map.shape == (1, 96, height // 16, width // 16)
    assert final_map.shape == (1, 128, height // 16, width // 16)


def test_resnet_keeps_the_resolution_of_its_last_stage() -> None:
    local_map, final_map = on_paper("resnet50").get_submodule("backbone")(torch.empty(2, 3, 256, 128, device="meta"))
    assert local_map.shape == (2, 1024, 16, 8)
    assert final_map.shape == (2, 2048, 16, 8)


@pytest.mark.parametrize(
    ("name", "dim"), [("msinet", 768), ("osnet", 512), ("cdnet", 768), ("resnet18", 512), ("resnet50", 2048)]
)
def test_features_have_one_row_per_image(name: str, dim: int) -> None:
    network = build_model(name, 5).eval()
    with torch.no_grad():
        assert network(torch.zeros(3, 3, 32, 16)).shape == (3, dim)


def test_a_feature_does_not_depend_on_the_other_images() -> None:
    network = build_model("msinet_x0_25", 5).eval()
    images = torch.randn(3, 3, 64, 32)
    with torch.no_grad():
        batch, alone = network(images), torch.cat([network(image[None]) for image in images])
    assert batch.std() > 1e-3
    torch.testing.assert_close(batch, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("neck", NECKS)
@pytest.mark.parametrize("name", BACKBONES)
def test_every_neck_runs_on_every_backbone(name: str, neck: str) -> None:
    network = build_model(f"{name}_x0_25", 7, neck=neck)
    parts = neck in ("pcb", "rpp")
    images = torch.randn(4, 3, 96 if parts else 32, 32)
    output = network(images)
    assert isinstance(output, Output)
    assert len(output.logits) == (6 if parts else len(output.embeddings))
    assert len(output.embeddings) == (2 if neck in ("fbl", "cdnet", "transfer") else 1)
    assert all(logits.shape == (4, 7) for logits in output.logits)
    assert output.feature_map.shape[2:] == (6 if parts else 2, 2)
    sum(logits.sum() for logits in output.logits).backward()
    missed = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert not missed
    features = network.eval()(images)
    assert features.shape == (4, sum(e.shape[1] for e in output.embeddings))
    assert features.isfinite().all()


@pytest.mark.parametrize("neck", ["fbl", "bn"])
def test_the_bias_before_the_classifier_is_frozen(neck: str) -> None:
    network = on_paper("msinet", neck=neck)
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert frozen == {"head.bn.bias", "head.local_bn.bias"} & {name for name, _ in network.named_parameters()}
    assert "head.bn.bias" in frozen


@pytest.mark.parametrize("size", [(63, 33), (101, 50), (17, 16), (16, 16), (48, 250)])
@pytest.mark.parametrize("name", BACKBONES)
def test_odd_sizes(name: str, size: tuple[int, int]) -> None:
    network = build_model(f"{name}_x0_25", 5).eval()
    with torch.no_grad():
        features = network(torch.randn(2, 3, *size))
    assert features.ndim == 2
    assert features.isfinite().all()


def test_stripes_of_odd_and_single_rows() -> None:
    rows = torch.tensor([1.0, 2.0, 6.0]).view(1, 1, 3, 1).expand(2, 1, 3, 4)
    assert pool_halves(rows).tolist() == [[1.0, 4.0]] * 2  # the odd row goes below
    assert pool_halves(rows[:, :, :1]).tolist() == [[1.0, 1.0]] * 2
    assert pool_halves(rows[:, :, :2]).tolist() == [[1.0, 2.0]] * 2


# Identities of the operations (Sec. 3.2)


def pair(channels: int = 32, height: int = 3, width: int = 5) -> tuple[Tensor, Tensor]:
    return torch.randn(2, channels, height, width), torch.randn(2, channels, height, width)


def attention(gamma: float) -> CrossAttention:
    module = CrossAttention()
    nn.init.constant_(module.gamma, gamma)
    return module


def test_none_and_exchange() -> None:
    x1, x2 = pair()
    assert NoInteraction()(x1, x2) == (x1, x2)
    assert Exchange()(x1, x2) == (x2, x1)
    assert Exchange()(*Exchange()(x1, x2)) == (x1, x2)


def test_attention_starts_as_the_identity() -> None:
    x1, x2 = pair()
    out1, out2 = CrossAttention()(x1, x2)
    assert torch.equal(out1, x1)
    assert torch.equal(out2, x2)
    assert not torch.allclose(attention(0.5)(x1, x2)[0], x1)


@pytest.mark.parametrize("letter", ["G", "A"])
def test_swapping_the_inputs_swaps_the_outputs(letter: str) -> None:
    module: nn.Module = Gate(32) if letter == "G" else attention(0.7)
    x1, x2 = pair()
    out1, out2 = module(x1, x2)
    swapped1, swapped2 = module(x2, x1)
    assert not torch.allclose(out1, x1)
    torch.testing.assert_close(swapped1, out2)
    torch.testing.assert_close(swapped2, out1)


def test_a_gate_whose_last_layer_is_zero_halves_its_inputs() -> None:
    module = Gate(32)
    nn.init.zeros_(module.gate.fc2.weight)
    assert module.gate.fc2.bias is not None
    nn.init.zeros_(module.gate.fc2.bias)
    x1, x2 = pair()
    out1, out2 = module(x1, x2)
    assert torch.equal(out1, x1 / 2)
    assert torch.equal(out2, x2 / 2)


def test_gate_against_its_formula() -> None:
    module = Gate(32)
    w1, w2 = module.gate.fc1.weight[:, :, 0, 0], module.gate.fc2.weight[:, :, 0, 0]
    assert w1.shape == (2, 32)
    inputs = pair()
    for x, out in zip(inputs, module(*inputs), strict=True):
        hidden = (x.mean((2, 3)) @ w1.T + module.gate.fc1.bias).relu()
        gate = (hidden @ w2.T + module.gate.fc2.bias).sigmoid()
        torch.testing.assert_close(out, x * gate[:, :, None, None])


def test_attention_against_a_loop_over_samples() -> None:
    x1, x2 = pair()
    out1, out2 = attention(0.7)(x1, x2)
    for b in range(2):
        first, second = x1[b].double().flatten(1).numpy(), x2[b].double().flatten(1).numpy()  # (C, N)
        for own, other, out in ((first, second, out1[b]), (second, first, out2[b])):
            expected = np.empty_like(own)
            for i in range(len(own)):
                energy = np.array([np.dot(own[i], row) for row in other])
                inverted = np.exp(energy.max() - energy - (energy.max() - energy).max())
                expected[i] = 0.7 * sum(w * row for w, row in zip(inverted / inverted.sum(), own, strict=True)) + own[i]
            np.testing.assert_allclose(out.detach().flatten(1).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_attention_survives_energies_beyond_half_precision() -> None:
    x1, x2 = (100 * x.bfloat16() for x in pair())
    with torch.autocast("cpu", torch.bfloat16):
        out1, _ = attention(0.5)(x1, x2)
    assert out1.dtype == torch.bfloat16
    assert out1.isfinite().all()
    expected, _ = attention(0.5)(x1.float(), x2.float())
    torch.testing.assert_close(out1.float(), expected, rtol=2e-2, atol=1.0)


def twin_cell(fusion: str) -> MSICell:
    """A cell whose two branches have the same weights."""
    cell = MSICell(16, 64, [INTERACTIONS[letter] for letter in "GA"], ratio=1, fusion=fusion).eval()
    assert isinstance(cell.interaction2, CrossAttention)
    nn.init.constant_(cell.interaction2.gamma, 0.7)
    for part in ("entry", "half1", "half2", "fuse"):
        cell.get_submodule(f"{part}_b").load_state_dict(cell.get_submodule(f"{part}_a").state_dict())
    return cell


def test_twin_branches_give_twin_maps_and_cancel_in_a_difference() -> None:
    x = torch.randn(2, 16, 8, 8)
    cell = twin_cell("minus")
    maps: list[Tensor] = []
    for part in (cell.fuse_a, cell.fuse_b):
        part.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    out = cell(x)
    torch.testing.assert_close(maps[0], maps[1])
    torch.testing.assert_close(out, cell.shortcut(x).relu())
    assert not torch.allclose(twin_cell("sum")(x), out)


def test_fusions_join_the_branches_as_named() -> None:
    x = torch.randn(2, 16, 8, 8)
    makes = [INTERACTIONS[letter] for letter in "GE"]
    state = MSICell(16, 64, makes).state_dict()
    joins = {"sum": torch.add, "minus": torch.sub, "mul": torch.mul}
    for fusion, join in joins.items():
        cell = MSICell(16, 64, makes, fusion=fusion).eval()
        cell.load_state_dict(state)
        maps: list[Tensor] = []
        for part in (cell.fuse_a, cell.fuse_b):
            part.register_forward_hook(lambda _module, _inputs, output, maps=maps: maps.append(output))
        out = cell(x)
        torch.testing.assert_close(out, (join(*maps) + cell.shortcut(x)).relu())


# Refusals


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("msinett", {}, r"unknown network 'msinett'. Did you mean 'msinet'\? Known: .*osnet"),
        ("msinett_x0_25", {}, "unknown network 'msinett_x0_25'"),
        ("msinet", {"genotpye": SEARCHED}, "unknown option of msinet 'genotpye'. Did you mean 'genotype'"),
        ("osnet", {"genotype": SEARCHED}, "unknown option of osnet 'genotype'"),
        ("osnet", {"width": 0.5}, "unknown option of osnet 'width'"),
        ("msinet", {"genotype": "GGEGAGGNGAEX"}, "genotype 'GGEGAGGNGAEX' is not valid"),
        ("msinet", {"genotype": SEARCHED[:10]}, "not valid: it needs a multiple of six"),
        ("msinet", {"genotype": ""}, "not valid"),
        ("msinet", {"ratio": 0}, "rho must be at least 1"),
        ("msinet", {"fusion": "max"}, "unknown fusion 'max'. Known: minus, mul, sum"),
        ("cdnet", {"neck": "none"}, "unknown neck 'none'.*Known: bn, cdnet, fbl, fc"),
        ("msinet_x0_33", {}, "width 0.33"),
    ],
)
def test_wrong_names_and_values_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        on_paper(name, **options)


def test_a_network_for_nobody_is_refused() -> None:
    with pytest.raises(UserError, match="at least one training identity, got 0"):
        build_model("msinet", 0)


def test_names_carry_their_width() -> None:
    full, half = on_paper("msinet"), on_paper("msinet_x0_5")
    assert half.get_parameter("head.fc.weight").shape == (256, 256)
    assert count(half, "backbone.") < count(full, "backbone.") / 3


def test_deeper_genotypes_make_deeper_stages() -> None:
    backbone = on_paper("msinet", genotype="GA" * 9).get_submodule("backbone")
    assert [len(list(backbone.get_submodule(f"stage{i}").children())) for i in (1, 2, 3)] == [3, 3, 3]


# The untrained baseline


def test_colour_histogram_counts_the_very_bytes() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 16, 24, 3), dtype=np.uint8)
    pixels[0, :, :16] = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)  # every level, every bin border
    features = build_model("colour_histogram", 5).eval()(normalize(pixels))
    assert features.shape == (3, 512)
    for feature, image in zip(features.double().numpy(), pixels, strict=True):
        counts, _ = np.histogramdd(image.reshape(-1, 3), bins=[range(0, 257, 32)] * 3)
        np.testing.assert_allclose(feature, np.sqrt(counts.reshape(-1) / (16 * 24)), atol=1e-6)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))


def test_every_level_comes_back_from_the_normalised_image() -> None:
    network = build_model("colour_histogram", 5).eval()
    for channel, stride in ((0, 64), (1, 8), (2, 1)):
        for level in range(256):
            pixels = np.zeros((1, 1, 3), dtype=np.uint8)
            pixels[0, 0, channel] = level
            assert network(normalize(pixels)[None]).argmax() == level // 32 * stride


def test_colour_histogram_has_nothing_to_learn() -> None:
    network = build_model("colour_histogram", 5)
    assert not list(network.parameters())
    assert not network.state_dict()
    with pytest.raises(UserError, match="nothing to train"):
        network(torch.zeros(1, 3, 4, 4))
    with pytest.raises(UserError, match="no width"):
        build_model("colour_histogram_x0_5", 5)


def test_fresh_weights_follow_the_released_code() -> None:
    network = build_model("msinet", 100)
    convolution = network.get_parameter("backbone.stage3.1.fuse_a.conv.weight")  # (512, 128, 1, 1)
    assert convolution.std().item() == pytest.approx(math.sqrt(2 / 512), rel=0.02)  # fan-out
    assert network.get_parameter("head.fc.weight").std().item() == pytest.approx(0.01, rel=0.02)
    assert all(not p.any() for name, p in network.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize(
    ("name", "options"), [("resnet18_x0_25", {}), ("pcb_x0_25", {}), ("osnet_x0_25", {"neck": "bn"})]
)
def test_classifiers_of_published_necks_start_near_zero(name: str, options: dict[str, str]) -> None:
    network = build_model(name, 2000, **options)
    weights = [p for key, p in network.named_parameters() if "classifier" in key and key.endswith("weight")]
    assert weights
    for weight in weights:
        assert weight.std().item() == pytest.approx(0.001, rel=0.05)
