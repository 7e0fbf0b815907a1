"""Transformers: published parameter counts and weight layouts, their recipe, and a forward pass written out."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from bench.cost import count
from msinet.data import Augmentation, augment
from msinet.data.transforms import MEAN, STD
from msinet.errors import UserError, WeightsError
from msinet.losses import triplet_loss
from msinet.models import Output, build_model, load_weights, save_weights
from msinet.models.transformer import DROP_PATH
from msinet.training.recipe import with_settings
from msinet.training.recipes import published, resolve
from msinet.training.supervised import build_optimizer, losses, set_learning_rate

RECIPE = published("paper", "transformer").recipe
TINY = {"image": (32, 16), "depth": 3}


def tiny(**options: object) -> nn.Module:
    torch.manual_seed(0)
    return build_model("deit_small_x0_25", 5, **{**TINY, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "expected"), [("vit_base", 85_746_432), ("deit_small", 21_639_552)])
def test_backbones_have_the_published_parameters(name: str, expected: int) -> None:
    with torch.device("meta"):
        backbone = build_model(name, 751).get_submodule("backbone")
    assert sum(p.numel() for p in backbone.parameters()) == expected


@pytest.mark.parametrize("name", ["vit_base", "deit_base"])
def test_vit_and_deit_are_one_network(name: str) -> None:
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in build_model(name, 9).state_dict().items()}
        assert shapes == {key: value.shape for key, value in build_model("vit_base", 9).state_dict().items()}


def test_multiply_adds_in_closed_form() -> None:
    network = tiny()
    tokens, d = 1 + 4 * 2, 96
    linear = 3 * tokens * (3 * d * d + d * d + 8 * d * d)
    attention = 3 * 2 * tokens * tokens * d
    patches = 8 * 3 * 8 * 8 * d
    cost = count(network, 32, 16)
    assert cost.macs == linear + attention + patches
    assert not cost.uncounted


def test_an_even_number_of_heads_is_counted_as_well() -> None:
    # torch has a fused kernel for these, which no counter can see into.
    cost = count(build_model("deit_small_x0_333333", 3, image=(16, 16), depth=1), 16, 16)  # two heads
    assert cost.macs_by_operator["scaled_dot_product_attention"] == 2 * 5 * 5 * 128
    assert torch.backends.mha.get_fastpath_enabled()


def reference(state: dict[str, Tensor], images: Tensor, heads: int, depth: int) -> Tensor:
    """All tokens after the last layer norm, (B, 1 + N, D), step by step."""
    w = {key.removeprefix("backbone."): value for key, value in state.items()}
    x = ((images * STD + MEAN) - 0.5) / 0.5
    patch = w["conv_proj.weight"].shape[-1]
    d = w["conv_proj.weight"].shape[0]
    b, _, height, width = x.shape
    tokens = [
        (w["conv_proj.weight"] * x[:, None, :, i : i + patch, j : j + patch]).sum((2, 3, 4)) + w["conv_proj.bias"]
        for i in range(0, height, patch)
        for j in range(0, width, patch)
    ]
    x = torch.stack([w["class_token"][0].expand(b, d), *tokens], 1) + w["pos_embedding"]
    for n in range(depth):
        p = {key.removeprefix(f"layers.{n}."): value for key, value in w.items() if key.startswith(f"layers.{n}.")}
        y = F.layer_norm(x, (d,), p["ln_1.weight"], p["ln_1.bias"], 1e-6)
        qkv = y @ p["self_attention.in_proj_weight"].T + p["self_attention.in_proj_bias"]
        q, k, v = (part.view(b, -1, heads, d // heads).transpose(1, 2) for part in qkv.split(d, 2))
        mixed = ((q @ k.transpose(2, 3)) / math.sqrt(d // heads)).softmax(3) @ v
        mixed = mixed.transpose(1, 2).reshape(b, -1, d)
        x = x + mixed @ p["self_attention.out_proj.weight"].T + p["self_attention.out_proj.bias"]
        y = F.layer_norm(x, (d,), p["ln_2.weight"], p["ln_2.bias"], 1e-6)
        y = F.gelu(y @ p["mlp.0.weight"].T + p["mlp.0.bias"])
        x = x + y @ p["mlp.3.weight"].T + p["mlp.3.bias"]
    return F.layer_norm(x, (d,), w["ln.weight"], w["ln.bias"], 1e-6)


@pytest.mark.parametrize(("name", "heads"), [("deit_small_x0_25", 1), ("vit_base_x0_25", 3)])
def test_forward_against_its_formulas(name: str, heads: int) -> None:
    torch.manual_seed(0)
    network = build_model(name, 5, **TINY).double().eval()  # type: ignore[arg-type]
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    images = torch.randn(2, 3, 32, 16, dtype=torch.double)
    expected = reference(dict(network.state_dict()), images, heads, 3)
    network.backbone.double()
    torch.testing.assert_close(network(images), expected[:, 0], rtol=1e-6, atol=1e-6)
    local_map, final_map = network.get_submodule("backbone")(images)
    torch.testing.assert_close(local_map[:, :, 0, 0], expected[:, 0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(final_map[:, :, 3, 1], expected[:, 8], rtol=1e-6, atol=1e-6)  # the last patch


def test_training_output_and_stochastic_depth() -> None:
    network = tiny(pam=True)
    rates = [block.drop_path.p for block in network.get_submodule("backbone.layers")]  # type: ignore[union-attr]
    assert rates == [0.0, DROP_PATH / 2, DROP_PATH]
    network.train()
    output: Output = network(torch.randn(4, 3, 32, 16))
    assert output.logits[0].shape == (4, 5)
    assert output.embeddings[0].shape == (4, 96)
    assert output.feature_map.shape == (4, 96, 4, 2)
    assert output.activation is not None
    assert output.activation.shape == (4, 8)


def test_the_feature_stands_before_the_batch_norm() -> None:
    network = tiny().eval()
    images = torch.randn(2, 3, 32, 16)
    before = network(images)
    nn.init.constant_(network.get_submodule("head.bn").get_parameter("weight"), 7.0)
    assert torch.equal(network(images), before)


@pytest.mark.parametrize(("image", "patch"), [((256, 128), 16), ((128, 64), 16), ((64, 32), 8)])
def test_small_images_have_small_patches(image: tuple[int, int], patch: int) -> None:
    backbone = build_model("deit_small_x0_25", 2, image=image, depth=1).get_submodule("backbone")
    assert backbone.get_parameter("conv_proj.weight").shape[2:] == (patch, patch)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="30x16 are not a whole number of patches"):
        tiny(image=(30, 16))
    with pytest.raises(UserError, match="built for images of 32x16, not 16x32"):
        tiny().eval()(torch.zeros(1, 3, 16, 32))


def test_other_widths_and_depths_are_refused() -> None:
    with pytest.raises(UserError, match="672 channels cannot have 10 equal heads; use another width"):
        build_model("vit_base_x0_875", 2, depth=1)
    with pytest.raises(UserError, match="at least one block, got depth 0"):
        build_model("vit_base_x0_25", 2, depth=0)


# --- Published weights -----------------------------------------------------------------------------


def timm_state(grid: int, *, distilled: bool) -> dict[str, Tensor]:
    """Random weights of a tiny DeiT under timm's names."""
    torch.manual_seed(1)
    d, extra = 96, 2 if distilled else 1
    state = {
        "cls_token": torch.randn(1, 1, d),
        "pos_embed": torch.randn(1, extra + grid * grid, d),
        "patch_embed.proj.weight": torch.randn(d, 3, 8, 8),
        "patch_embed.proj.bias": torch.randn(d),
        "norm.weight": torch.randn(d),
        "norm.bias": torch.randn(d),
        "head.weight": torch.randn(1000, d),
        "head.bias": torch.randn(1000),
    }
    if distilled:
        state |= {
            "dist_token": torch.randn(1, 1, d),
            "head_dist.weight": torch.randn(1000, d),
            "head_dist.bias": torch.randn(1000),
        }
    shapes = {
        "norm1.weight": (d,),
        "norm1.bias": (d,),
        "attn.qkv.weight": (3 * d, d),
        "attn.qkv.bias": (3 * d,),
        "attn.proj.weight": (d, d),
        "attn.proj.bias": (d,),
        "norm2.weight": (d,),
        "norm2.bias": (d,),
        "mlp.fc1.weight": (4 * d, d),
        "mlp.fc1.bias": (4 * d,),
        "mlp.fc2.weight": (d, 4 * d),
        "mlp.fc2.bias": (d,),
    }
    for n in range(3):
        state |= {f"blocks.{n}.{key}": 0.1 * torch.randn(shape) for key, shape in shapes.items()}
    return state


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("distilled", [True, False])
def test_timm_and_deit_weights(tmp_path: Path, distilled: bool, wrapped: bool) -> None:
    state = timm_state(6, distilled=distilled)
    torch.save({"model": state} if wrapped else state, tmp_path / "deit.pth")
    network = tiny()
    report = load_weights(network, tmp_path / "deit.pth")
    assert report.layout == "timm ViT"
    assert all(key.startswith("head.") for key in report.missing)
    own = network.state_dict()
    assert torch.equal(own["backbone.layers.2.self_attention.in_proj_weight"], state["blocks.2.attn.qkv.weight"])
    assert torch.equal(own["backbone.layers.1.mlp.3.bias"], state["blocks.1.mlp.fc2.bias"])
    # Bilinear, half-pixel centres: patch (i, j) of 4x2 stands at ((i + .5) * 1.5 - .5, (j + .5) * 3 - .5) of 6x6.
    skip = 2 if distilled else 1
    places = state["pos_embed"][0, skip:].view(6, 6, -1)
    fitted = own["backbone.pos_embedding"][0]
    assert torch.equal(fitted[0], state["pos_embed"][0, 0])
    at_first = 0.75 * places[0, 1] + 0.25 * places[1, 1]
    torch.testing.assert_close(fitted[1], at_first)
    at_last = 0.25 * places[4, 4] + 0.75 * places[5, 4]
    torch.testing.assert_close(fitted[8], at_last)


def test_torchvision_weights_give_torchvision_features(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.VisionTransformer(32, 8, 3, 1, 96, 384).eval()
    nn.init.normal_(theirs.heads[0].weight)
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    network = tiny(image=(32, 32)).eval()
    assert load_weights(network, tmp_path / "vit.pth").layout == "torchvision ViT"
    images = torch.rand(2, 3, 32, 32)
    tokens = theirs._process_input((images - 0.5) / 0.5)
    tokens = theirs.encoder(torch.cat([theirs.class_token.expand(2, -1, -1), tokens], 1))
    torch.testing.assert_close(network((images - MEAN) / STD), tokens[:, 0], rtol=1e-4, atol=1e-5)


def test_our_own_weights_move_to_another_image_size(tmp_path: Path) -> None:
    source = tiny(image=(32, 16))
    save_weights(source, tmp_path / "own.safetensors", {"height": "32", "width": "16"})
    target = tiny(image=(64, 32))
    load_weights(target, tmp_path / "own.safetensors")
    before = source.get_parameter("backbone.pos_embedding")
    after = target.get_parameter("backbone.pos_embedding")
    assert after.shape == (1, 1 + 32, 96)
    torch.testing.assert_close(after[0, 1], before[0, 1])  # corners stay
    torch.testing.assert_close(after[0, -1], before[0, -1])
    again = tiny(image=(32, 16))
    load_weights(again, tmp_path / "own.safetensors")
    assert torch.equal(again.get_parameter("backbone.pos_embedding"), before)


def test_positions_of_unknown_shape_are_refused(tmp_path: Path) -> None:
    state = timm_state(6, distilled=False)
    state["pos_embed"] = state["pos_embed"][:, :18]
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match="17 position embeddings do not form a square"):
        load_weights(tiny(), tmp_path / "odd.pth")


def test_weights_of_another_network_are_named(tmp_path: Path) -> None:
    torch.save(timm_state(6, distilled=False), tmp_path / "deit.pth")
    with pytest.raises(WeightsError, match="vision transformer, not of OSNet"):
        load_weights(build_model("osnet_x0_25", 3), tmp_path / "deit.pth")


# --- The recipe ------------------------------------------------------------------------------------


def test_cosine_with_warm_up() -> None:
    recipe = RECIPE
    assert recipe.learning_rate(0) == pytest.approx(0.01 * 0.008)
    assert recipe.learning_rate(5) == pytest.approx(0.008 * (0.002 + 0.998 * 0.5 * (1 + math.cos(math.pi / 24))))
    assert recipe.learning_rate(60) == pytest.approx(0.008 * 0.501)
    rates = [recipe.learning_rate(epoch) for epoch in range(5, 120)]
    assert all(a > b for a, b in itertools.pairwise(rates))
    assert 0.002 * 0.008 < rates[-1] < 0.0025 * 0.008


@pytest.mark.parametrize(
    ("model", "source", "lr", "erase"),
    [
        ("vit_base", "msmt17", 0.008, 0.5),
        ("vit_base", "veri776", 0.008, 0.5),
        ("deit_base", "msmt17", 0.005, 0.8),
        ("deit_base", "veri776", 0.01, 0.8),
        ("deit_small", "msmt17", 0.005, 0.8),
    ],
)
def test_recipes_of_the_paper_profile(model: str, source: str, lr: float, erase: float) -> None:
    recipe = resolve("paper", source, model).recipe
    assert recipe.losses == RECIPE.losses
    assert (recipe.optimizer.lr, recipe.augmentation.erase, recipe.schedule.epochs) == (lr, erase, 120)
    assert recipe.image.width == (256 if source == "veri776" else 128)


def test_biases_learn_faster() -> None:
    network = tiny()
    optimizer = build_optimizer(network, RECIPE)
    set_learning_rate(optimizer, 0.1)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    named = {name: rates[id(p)] for name, p in network.named_parameters() if p.requires_grad}
    assert len(named) == len(rates)
    assert {name for name, rate in named.items() if rate == 0.2} == {name for name in named if name.endswith("bias")}
    assert set(named.values()) == {0.1, 0.2}


def test_soft_margin_against_a_loop() -> None:
    torch.manual_seed(0)
    embeddings, labels = torch.randn(8, 5, dtype=torch.double), torch.tensor([0, 0, 1, 1, 2, 2, 2, 3])
    terms = []
    for i in range(8):
        distance = [float((embeddings[i].float() - e.float()).norm()) for e in embeddings]
        positive = max(d for j, d in enumerate(distance) if labels[j] == labels[i])
        negative = min(d for j, d in enumerate(distance) if labels[j] != labels[i])
        terms.append(math.log(1 + math.exp(positive - negative)))
    assert float(triplet_loss(embeddings, labels, None, normalize=False)) == pytest.approx(np.mean(terms), rel=1e-4)


def test_the_recipe_chooses_the_soft_margin() -> None:
    torch.manual_seed(0)
    output = Output((torch.randn(4, 3),), (torch.randn(4, 5),), torch.zeros(4, 5, 1, 1))
    labels = torch.tensor([0, 0, 1, 1])
    soft = losses(output, labels, RECIPE)["triplet"]
    assert soft == triplet_loss(output.embeddings[0], labels, None, normalize=False)
    hard = losses(output, labels, with_settings(RECIPE, {"soft_margin": False}))["triplet"]
    assert hard == triplet_loss(output.embeddings[0], labels, 0.3, normalize=False)


def test_erased_boxes_are_noise_around_grey() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    recipe = Augmentation(flip=0.0, pad=0, erase=1.0, erase_fill="noise")
    black = (0 - MEAN) / STD
    found = []
    for seed in range(40):
        image = augment(pixels, np.random.default_rng(seed), recipe)
        erased = (image != black).all(0)
        assert erased.any()
        assert not erased.all()
        found.append((image * STD + MEAN)[:, erased])
    values = torch.cat(found, 1)  # (3, erased pixels)
    assert values.mean().item() == pytest.approx(0.5, abs=0.01)
    assert values.std().item() == pytest.approx(0.5, abs=0.01)
