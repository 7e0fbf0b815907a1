"""BAT-Net (Fang et al., ICCV 2019), in Table 3: GoogLeNet with bilinear attention and four local branches."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msinet.errors import UserError
from msinet.models.heads import Output, ReIDNet, assemble, pool
from msinet.models.registry import NetworkCard, NetworkWeights, WeightLayout, register

Widths = tuple[int, int, int, int, int, int]
#: Channels of the inception modules of each block: 1x1; 1x1 and 3x3; 1x1 and 5x5; 1x1 after the pool.
BLOCKS: tuple[tuple[Widths, ...], ...] = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 204, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 48, 128, 128), (384, 192, 384, 48, 128, 128)),
)
STEM = (64, 64, 192)


def outputs(widths: Widths) -> int:
    """Channels of an inception module's output."""
    one, _, three, _, five, pooled = widths
    return one + three + five + pooled


class Conv(nn.Sequential):
    """Convolution with bias, batch norm, ReLU; padded to keep the size at stride 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)


class Inception(nn.Module):
    """Four branches, concatenated: (B, in, H, W) to (B, out, H, W)."""

    def __init__(self, in_channels: int, widths: Widths) -> None:
        super().__init__()
        one, before_three, three, before_five, five, pooled = widths
        self.one = Conv(in_channels, one)
        self.three = nn.Sequential(Conv(in_channels, before_three), Conv(before_three, three, 3))
        self.five = nn.Sequential(Conv(in_channels, before_five), Conv(before_five, five, 5))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), Conv(in_channels, pooled))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pooled(x)], 1)


class BilinearAttention(nn.Module):
    """Attention in attention: (B, C, H, W) to the same shape.

    The products of all pairs of C/16 embedded channels at a position give a weight per channel and position. Their
    average over the map gives a weight per channel. The product of both weights passes a sigmoid.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mid = max(1, channels // 16)
        pairs = self.mid * (self.mid + 1) // 2
        self.reduce, self.local, self.whole = Conv(channels, self.mid), Conv(pairs, channels), Conv(pairs, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.reduce(x)  # (B, C/16, H, W)
        # Channel i + j times channel j, for every difference i: all pairs without repetition.
        pairs = torch.cat([y[:, i:] * y[:, : self.mid - i] for i in range(self.mid)], 1)  # (B, pairs, H, W)
        weights: Tensor = self.whole(pairs.mean((2, 3), keepdim=True)) * self.local(pairs)
        return x * weights.sigmoid()


def stripes(x: Tensor, count: int) -> tuple[Tensor, ...]:
    """Equal horizontal stripes, each stretched to the size of the whole map: (B, C, H, W) to `count` of that shape.

    Rows are interpolated with the first and last ones at the edges, so that neighbouring stripes share their edge.
    """
    height, width = x.shape[2:]
    stretched = F.interpolate(x, (count * (height - 1) + 1, width), mode="bilinear", align_corners=True)
    return tuple(stretched[:, :, k * (height - 1) : k * (height - 1) + height] for k in range(count))


def _narrow(widths: Widths, width: float) -> Widths:
    one, *others = (max(1, round(channels * width)) for channels in widths)
    return (one, *others)  # type: ignore[return-value]


def _block(in_channels: int, modules: tuple[Widths, ...], *ends: nn.Module) -> nn.Sequential:
    channels = [in_channels, *(outputs(widths) for widths in modules)]
    inceptions = [Inception(inputs, widths) for inputs, widths in zip(channels[:-1], modules, strict=True)]
    return nn.Sequential(*inceptions, *ends)


class BATBackbone(nn.Module):
    """Three blocks of inception modules; each local branch has its own second and third block.

    `forward` returns the local branches' maps, concatenated, (B, 4096, H/32, W/32), and the global branch's,
    (B, 1024, H/32, W/32), both after batch norm and the second one after ReLU.

    Args:
        width: multiplies every channel count.
        parts: local branches, one for each stripe of the first block's map; at least 1.
        attentions: bilinear attentions of the global branch, one after each of its first blocks; 1 to 3.
    """

    def __init__(self, width: float, parts: int, attentions: int) -> None:
        super().__init__()
        first, second, third = (tuple(_narrow(widths, width) for widths in block) for block in BLOCKS)
        stem = [3, *(max(1, round(channels * width)) for channels in STEM)]
        mids = [outputs(block[-1]) for block in (first, second, third)]
        convs = [Conv(a, b, k, s) for (a, b), k, s in zip(pairwise(stem), (7, 1, 3), (2, 1, 1), strict=True)]
        self.stem = nn.Sequential(convs[0], nn.MaxPool2d(3, 2, 1), *convs[1:], nn.MaxPool2d(3, 2, 1))
        self.block1 = _block(stem[-1], first, nn.MaxPool2d(3, 2, ceil_mode=True))
        self.block2 = _block(mids[0], second, nn.MaxPool2d(3, 2, 1))
        self.block3 = _block(mids[1], third)
        self.local = nn.ModuleList(
            nn.Sequential(_block(mids[0], second, nn.MaxPool2d(3, 2, 1)), _block(mids[1], third)) for _ in range(parts)
        )
        self.attentions = nn.ModuleList(
            BilinearAttention(mid) if i < attentions else nn.Identity() for i, mid in enumerate(mids)
        )
        self.channels, self.local_channels = mids[2], parts * mids[2]
        self.norm, self.local_norm = nn.BatchNorm2d(self.channels), nn.BatchNorm2d(self.local_channels)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.attentions[0](self.block1(self.stem(images)))  # (B, 480, H/16, W/16)
        parts = stripes(x, len(self.local))
        local_map = torch.cat([branch(part) for branch, part in zip(self.local, parts, strict=True)], 1)
        x = self.attentions[1](self.block2(x))  # (B, 832, H/32, W/32)
        x = self.attentions[2](self.block3(x))
        return self.local_norm(local_map), self.norm(x).relu()


class BATHead(nn.Module):
    """Dropout, linear, batch norm and ReLU on the pooled map of the global branch and on that of the local ones.

    The test feature concatenates both results, each of unit length.
    """

    def __init__(
        self, local_channels: int, channels: int, num_classes: int, dim: int = 512, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Sequential(nn.Linear(channels, dim), nn.BatchNorm1d(dim), nn.ReLU())
        self.local_fc = nn.Sequential(nn.Linear(local_channels, dim), nn.BatchNorm1d(dim), nn.ReLU())
        self.classifier, self.local_classifier = nn.Linear(dim, num_classes), nn.Linear(dim, num_classes)

    def forward(self, local_map: Tensor, final_map: Tensor) -> Tensor | Output:
        v: Tensor = self.fc(self.dropout(pool(final_map)))  # (B, 512)
        f_v: Tensor = self.local_fc(self.dropout(pool(local_map)))  # (B, 512)
        if not self.training:
            return torch.cat([F.normalize(v), F.normalize(f_v)], 1)  # (B, 1024)
        logits, local_logits = self.classifier(self.dropout(v)), self.local_classifier(self.dropout(f_v))
        return Output((logits, local_logits), (v, f_v), final_map)


WEIGHTS = NetworkWeights(
    "BAT-Net",
    r"backbone\.block1\.0\.three\.",
    (
        WeightLayout(
            "released BAT-Net",
            r"features\.inception1\.inception_3a\.",
            (
                (r"^features\.conv\.conv1\.", "backbone.stem.0."),
                (r"^features\.conv\.conv([23])\.", r"backbone.stem.\1."),
                (r"^features\.inception([123])\.", r"backbone.block\1."),
                (r"^features\.inception2_local\.(\d)\.", r"backbone.local.\1.0."),
                (r"^features\.inception3_local\.(\d)\.", r"backbone.local.\1.1."),
                (r"\.inception_\da\.", ".0."),
                (r"\.inception_\db\.", ".1."),
                (r"\.inception_\dc\.", ".2."),
                (r"\.inception_\dd\.", ".3."),
                (r"\.inception_\de\.", ".4."),
                (r"(\.\d)\.conv1\.", r"\1.one."),
                (r"\.conv3_1\.", ".three.0."),
                (r"\.conv3_3\.", ".three.1."),
                (r"\.conv5_1\.", ".five.0."),
                (r"\.conv5_5\.", ".five.1."),
                (r"\.conv_max_1\.", ".pooled.1."),
                (r"^features\.bilinearatt_global1?\.", "backbone.attentions.0."),
                (r"^features\.bilinearatt_global2\.", "backbone.attentions.1."),
                (r"^features\.bilinearatt_global3\.", "backbone.attentions.2."),
                (r"\.dimReduceLayer1\.conv\.", ".reduce."),
                (r"\.dimReduceLayer2\.conv\.", ".local."),
                (r"\.dimReduceLayer3\.conv\.", ".whole."),
                (r"^features\.norm1_1\.", "backbone.norm."),
                (r"^features\.norm1_2\.", "backbone.local_norm."),
                (r"^(backbone\.(?:stem|block|local\.).*)\.0\.(weight|bias)$", r"\1.conv.\2"),
                (r"^(backbone\.(?:stem|block|local\.).*)\.1\.(?!conv)([^.]+)$", r"\1.bn.\2"),
                (r"^fc_global\.1\.", "head.fc.0."),  # after a dropout, which has a module of its own here
                (r"^fc_global\.2\.", "head.fc.1."),
                (r"^fc_local\.1\.", "head.local_fc.0."),
                (r"^fc_local\.2\.", "head.local_fc.1."),
                (r"^classifier_global\.1\.", "head.classifier."),
                (r"^classifier_local\.1\.", "head.local_classifier."),
            ),
            extra=r"features\.part_predictor\d\.",  # part detectors that its forward pass does not use
        ),
    ),
)


@register(
    NetworkCard(
        name="batnet",
        label="BAT-Net",
        order=32,
        studies=("table3",),
        authors={
            "optimizer": "adam",
            "lr": 5e-4,
            "weight_decay": 1e-4,
            "epochs": 300,
            "warmup": 0,
            "milestones": (50, 100, 150),
            "margin": 1.0,
            "normalize_triplet": False,
            "over_heads": "mean",
        },
        authors_source="BAT-Net's second training script, with the settings of its log on Market-1501; batch-hard "
        "instead of semi-hard triplets, without its first stage of 50 epochs, pad and crop in place of its crop from "
        "1.125 of the size, erased boxes filled with the RGB mean instead of 0",
    ),
    WEIGHTS,
)
def batnet(num_classes: int, *, width: float = 1.0, parts: int = 4, attentions: int = 1, pam: bool = False) -> ReIDNet:
    """BAT-Net.

    Args:
        num_classes: training identities.
        width: multiplies every channel count.
        parts: local branches, one for each horizontal stripe.
        attentions: bilinear attentions of the global branch: 1 (after the first block) or 3 (after each block).
        pam: with a position activation module, for alignment pam-self.

    Raises:
        UserError: fewer than one part, attentions other than 1 and 3, or no channels.
    """
    if width <= 0:
        raise UserError(f"BAT-Net needs a width above 0, got {width:g}")
    if parts < 1:
        raise UserError(f"BAT-Net needs at least one part, got {parts}")
    if attentions not in (1, 3):
        raise UserError(f"BAT-Net has 1 or 3 bilinear attentions, got {attentions}")
    return assemble(BATBackbone(width, parts, attentions), BATHead, num_classes, pam=pam)
