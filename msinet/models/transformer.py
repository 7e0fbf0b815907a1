"""Vision transformers as in TransReID's baseline: ViT-B, DeiT-B and DeiT-S (Table 6)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.vision_transformer import EncoderBlock
from torchvision.ops import StochasticDepth

from msinet.errors import UserError, WeightsError
from msinet.models.blocks import scaled
from msinet.models.heads import ReIDNet, TokenNeck, assemble
from msinet.models.patches import patch_side
from msinet.models.registry import NetworkCard, NetworkWeights, Notes, State, WeightLayout, register

#: Channels of an attention head at full width. Narrow networks have at least one head, of more channels.
HEAD = 64
#: Drop rate of the last block (stochastic depth); the rate rises linearly from 0 at the first block.
DROP_PATH = 0.1


class Block(EncoderBlock):  # type: ignore[misc]  # torchvision ships without types
    """torchvision's encoder block with stochastic depth on both of its branches."""

    def __init__(self, channels: int, drop: float) -> None:
        heads = max(1, channels // HEAD)
        if channels % heads:
            raise UserError(f"a transformer of {channels} channels cannot have {heads} equal heads; use another width")
        super().__init__(heads, channels, 4 * channels, dropout=0.0, attention_dropout=0.0)
        self.drop_path = StochasticDepth(drop, "row")

    def forward(self, x: Tensor) -> Tensor:  # (B, 1 + N, D), both
        normed = self.ln_1(x)
        x = x + self.drop_path(self.self_attention(normed, normed, normed, need_weights=False)[0])
        result: Tensor = x + self.drop_path(self.mlp(self.ln_2(x)))
        return result


class VisionTransformer(nn.Module):
    """Patches and a class token through `depth` blocks; names as in torchvision's vit_b_16.

    `forward` returns the class token as a map of one position, (B, D, 1, 1), and the patch tokens as a map,
    (B, D, H/patch, W/patch), both after the last layer norm.

    Args:
        image: (height, width) of the images; the position embedding depends on it.
        patch: side of a patch in pixels; 0: 16, or 8 for images of fewer than `SMALL` rows.
        channels: D of a token.
        depth: number of blocks.

    Raises:
        UserError: the image size is not a multiple of the patch size, the heads do not divide the channels, or there
            is no block.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, image: tuple[int, int], patch: int, channels: int, depth: int) -> None:
        super().__init__()
        patch = patch or patch_side(image[0])
        if patch < 1 or image[0] % patch or image[1] % patch:
            raise UserError(f"images of {image[0]}x{image[1]} are not a whole number of patches of {patch}x{patch}")
        if depth < 1:
            raise UserError(f"a transformer needs at least one block, got depth {depth}")
        self.image, self.patch = image, patch
        self.grid = image[0] // patch, image[1] // patch
        self.local_channels = self.channels = channels
        self.conv_proj = nn.Conv2d(3, channels, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.pos_embedding = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], channels))
        self.layers = nn.ModuleList(Block(channels, DROP_PATH * i / max(1, depth - 1)) for i in range(depth))
        self.ln = nn.LayerNorm(channels, eps=1e-6)
        # Images are normalised with ImageNet's statistics; these networks expect mean 0.5 and deviation 0.5.
        mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
        self.register_buffer("scale", (std / 0.5).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", ((mean - 0.5) / 0.5).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # (B, 3, H, W)
        if images.shape[2:] != self.image:
            raise UserError(
                f"this transformer was built for images of {self.image[0]}x{self.image[1]}, "
                f"not {images.shape[2]}x{images.shape[3]}"
            )
        patches = self.conv_proj(images * self.scale + self.shift)  # (B, D, h, w)
        tokens = patches.flatten(2).transpose(1, 2)  # (B, N, D)
        x = (
            torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], 1) + self.pos_embedding
        )  # (B, 1 + N, D)
        for layer in self.layers:
            x = layer(x)
        x = self.ln(x)
        return x[:, 0, :, None, None], x[:, 1:].transpose(1, 2).reshape(patches.shape)


def _transformer(
    num_classes: int, channels: int, width: float, image: tuple[int, int], patch: int, depth: int, *, pam: bool
) -> ReIDNet:
    network = assemble(VisionTransformer(image, patch, scaled(channels, width), depth), TokenNeck, num_classes, pam=pam)
    for name, parameter in network.backbone.named_parameters():
        if parameter.ndim > 1:  # not the scales of layer norms
            nn.init.trunc_normal_(parameter, std=0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    nn.init.normal_(network.get_submodule("head.classifier").get_parameter("weight"), std=0.001)
    return network


POSITIONS = "backbone.pos_embedding"
REID_NORM = "head.bn.weight"


def _fit_positions(network: nn.Module, state: State, notes: Notes) -> State:
    """Resize the position embedding bilinearly to the network's grid: (1, tokens + N, D) to (1, 1 + N', D).

    Its first row belongs to the class token. In distilled weights the second row belongs to a token that is left out.
    """
    backbone = network.get_submodule("backbone")
    assert isinstance(backbone, VisionTransformer)
    if POSITIONS not in state:
        return state
    tokens = 2 if "dist_token" in state else 1
    first, patches = state[POSITIONS][:, :1], state[POSITIONS][:, tokens:]
    grid, count = backbone.grid, patches.shape[1]
    was = math.isqrt(count), math.isqrt(count)  # published weights of ImageNet are for square images
    if "height" in notes:  # noted by us
        was = int(notes["height"]) // backbone.patch, int(notes["width"]) // backbone.patch
    elif REID_NORM in state and count == grid[0] * grid[1]:  # trained for re-identification, mostly not square
        was = grid
    if was[0] * was[1] != count and count != grid[0] * grid[1]:
        raise WeightsError(
            f"{count} position embeddings do not form a square, so they cannot be resized to "
            f"{grid[0]}x{grid[1]} patches; train from weights of square images, or at their image size"
        )
    if was != grid and was[0] * was[1] == count:
        maps = patches.reshape(1, *was, -1).movedim(3, 1)  # (1, D, h, w)
        resized = F.interpolate(maps.float(), size=grid, mode="bilinear", align_corners=False)  # (1, D, h', w')
        patches = resized.to(patches.dtype).flatten(2).transpose(1, 2)
    return {**state, POSITIONS: torch.cat([first, patches], 1)}


TIMM = (
    (r"^cls_token$", "backbone.class_token"),
    (r"^pos_embed$", "backbone.pos_embedding"),
    (r"^patch_embed\.proj\.", "backbone.conv_proj."),
    (r"^norm\.", "backbone.ln."),
    (r"^blocks\.", "backbone.layers."),
    (r"\.norm([12])\.", r".ln_\1."),
    (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
    (r"\.attn\.proj\.", ".self_attention.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
)
WEIGHTS = NetworkWeights(
    "vision transformer",
    r"backbone\.layers\.0\.",
    (
        # ImageNet heads are left out; for distilled weights (DeiT) also the second token and its head.
        WeightLayout(
            "timm ViT", r"blocks\.0\.attn\.", TIMM, extra=r"(head|head_dist|pre_logits)\.|dist_token$", lacks=r"head\."
        ),
        WeightLayout(
            "TransReID",
            r"bottleneck\.",
            (*TIMM, (r"^bottleneck\.", "head.bn."), (r"^classifier\.", "head.classifier.")),
            extra=r"fc\.",  # classifies ImageNet
        ),
        WeightLayout(
            "torchvision ViT",
            r"encoder\.layers\.encoder_layer_0\.",
            (
                (r"^(class_token$|conv_proj\.)", r"backbone.\1"),
                (r"^encoder\.layers\.encoder_layer_", "backbone.layers."),
                (r"^encoder\.(pos_embedding$|ln\.)", r"backbone.\1"),
                (r"\.mlp\.linear_1\.", ".mlp.0."),
                (r"\.mlp\.linear_2\.", ".mlp.3."),
            ),
            extra=r"heads\.",
            lacks=r"head\.",
        ),
    ),
    adapt=_fit_positions,
)


@register(
    NetworkCard(
        name="vit_base",
        label="ViT-B",
        order=60,
        studies=("table6",),
        widths=(("smoke", 0.25), ("mini", 0.25)),
        recipe="transformer",
    ),
    WEIGHTS,
)
def vit_base(
    num_classes: int,
    *,
    width: float = 1.0,
    image: tuple[int, int] = (256, 128),
    patch: int = 0,
    depth: int = 12,
    pam: bool = False,
) -> ReIDNet:
    """ViT-B/16, usually from weights trained on ImageNet-21k and -1k."""
    return _transformer(num_classes, 768, width, image, patch, depth, pam=pam)


@register(
    NetworkCard(
        name="deit_base",
        label="DeiT-B",
        order=50,
        studies=("table6",),
        widths=(("smoke", 0.25), ("mini", 0.25)),
        recipe="transformer",
        settings=(
            ("full", {"lr": 0.005, "erase": 0.8}),
            ("paper", {"lr": 0.005, "erase": 0.8}),
            ("full vehicle", {"lr": 0.01}),
            ("paper vehicle", {"lr": 0.01}),
        ),
    ),
    WEIGHTS,
)
def deit_base(
    num_classes: int,
    *,
    width: float = 1.0,
    image: tuple[int, int] = (256, 128),
    patch: int = 0,
    depth: int = 12,
    pam: bool = False,
) -> ReIDNet:
    """DeiT-B/16: the same network as ViT-B, with other pre-trained weights and another recipe."""
    return _transformer(num_classes, 768, width, image, patch, depth, pam=pam)


@register(
    NetworkCard(
        name="deit_small",
        label="DeiT-S",
        order=40,
        studies=("table6",),
        widths=(("smoke", 0.25), ("mini", 0.25)),
        recipe="transformer",
        settings=(("full", {"lr": 0.005, "erase": 0.8}), ("paper", {"lr": 0.005, "erase": 0.8})),
    ),
    WEIGHTS,
)
def deit_small(
    num_classes: int,
    *,
    width: float = 1.0,
    image: tuple[int, int] = (256, 128),
    patch: int = 0,
    depth: int = 12,
    pam: bool = False,
) -> ReIDNet:
    """DeiT-S/16: half the width of ViT-B, six attention heads."""
    return _transformer(num_classes, 384, width, image, patch, depth, pam=pam)
