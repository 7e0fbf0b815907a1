"""MGN, the multiple granularity network (Wang et al., ACM MM 2018), of Table 3."""

import math
import re
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from msinet.errors import unknown_name
from msinet.models.blocks import ConvBN, scaled
from msinet.models.heads import REDUCED, Output, ReIDNet, assemble, pool_stripes
from msinet.models.registry import NetworkCard, NetworkWeights, Notes, State, WeightLayout, register
from msinet.models.resnet import WEIGHTS as RESNET
from msinet.models.resnet import stage

Pool = Literal["max", "avg"]
#: Stripes of each branch.
STRIPES = (1, 2, 3)


class MGNBackbone(nn.Module):
    """ResNet-50 with three copies of the layers after the first block of layer3, one per branch.

    `forward` returns the maps of the second and third branch, concatenated along the channels, (B, 4096, H/16, W/16),
    and the map of the first branch, whose last stage has stride 2, (B, 2048, H/32, W/32).
    """

    def __init__(self, width: float) -> None:
        super().__init__()
        planes = [scaled(base, width) for base in (64, 128, 256, 512)]
        outs = [4 * p for p in planes]
        self.conv1 = nn.Conv2d(3, planes[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(planes[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = stage(Bottleneck, planes[0], planes[0], 3, 1)
        self.layer2 = stage(Bottleneck, outs[0], planes[1], 4, 2)
        self.layer3 = stage(Bottleneck, outs[1], planes[2], 1, 2)
        self.branches = nn.ModuleList(
            nn.Sequential(
                stage(Bottleneck, outs[2], planes[2], 5, 1), stage(Bottleneck, outs[2], planes[3], 3, last_stride)
            )
            for last_stride in (2, 1, 1)
        )
        self.local_channels, self.channels = 2 * outs[3], outs[3]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))  # (B, 64, H/4, W/4)
        x = self.layer3(self.layer2(self.layer1(x)))  # (B, 1024, H/16, W/16)
        first, *others = (branch(x) for branch in self.branches)
        return torch.cat(others, 1), first


class MGNHead(nn.Module):
    """Eight pooled vectors, each reduced and classified: three of whole maps, and two and three of stripes.

    The test feature joins the reduced vectors. The triplet loss uses those of the whole maps.

    Args:
        local_channels: of the stacked maps.
        channels: of one map.
        num_classes: training identities.
        pool: max as in the paper, or avg, the default of MGN-pytorch.

    Raises:
        UserError: unknown kind of pooling.
    """

    def __init__(self, local_channels: int, channels: int, num_classes: int, pool: Pool = "max") -> None:
        super().__init__()
        if pool not in get_args(Pool):
            raise unknown_name("pool", pool, get_args(Pool))
        self.pool: Pool = pool
        dim, vectors = min(REDUCED, channels), len(STRIPES) + sum(n for n in STRIPES if n > 1)
        self.reduce = nn.ModuleList(ConvBN(channels, dim) for _ in range(vectors))
        self.classifier = nn.ModuleList(nn.Linear(dim, num_classes) for _ in range(vectors))

    def forward(self, local_map: Tensor, final_map: Tensor) -> Tensor | Output:
        maps = (final_map, *local_map.chunk(2, 1))  # of the three branches
        whole = [pool_stripes(one, 1, self.pool) for one in maps]
        rows = math.lcm(*STRIPES)  # divide into the stripes of every branch
        stripes = [pool_stripes(one, n, self.pool, rows) for one, n in zip(maps, STRIPES, strict=True) if n > 1]
        pooled = torch.cat([*whole, *stripes], 2)  # (B, C, 8)
        vectors = [one(pooled[:, :, i, None, None]).flatten(1) for i, one in enumerate(self.reduce)]  # (B, 256) each
        if not self.training:
            return torch.cat(vectors, 1)  # (B, 2048)
        logits = tuple(one(vector) for one, vector in zip(self.classifier, vectors, strict=True))
        return Output(logits, tuple(vectors[: len(STRIPES)]), final_map)


def _copied(network: nn.Module, state: State, notes: Notes) -> State:
    """Copy the last layers of a plain ResNet-50 to each branch; other weights are unchanged."""
    found: State = {}
    for key, value in state.items():
        if match := re.match(r"backbone\.layer3\.([1-9]\d*)\.(.*)", key):
            names = [f"backbone.branches.{i}.0.{int(match[1]) - 1}.{match[2]}" for i in range(len(STRIPES))]
        elif match := re.match(r"backbone\.layer4\.(.*)", key):
            names = [f"backbone.branches.{i}.1.{match[1]}" for i in range(len(STRIPES))]
        else:
            names = [key]
        found |= dict.fromkeys(names, value)
    return found


WEIGHTS = NetworkWeights(
    "MGN",
    r"backbone\.branches\.",
    (
        WeightLayout(
            "MGN-pytorch",
            r"backone\.",
            (
                (r"^backone\.0\.", "backbone.conv1."),
                (r"^backone\.1\.", "backbone.bn1."),
                (r"^backone\.4\.", "backbone.layer1."),
                (r"^backone\.5\.", "backbone.layer2."),
                (r"^backone\.6\.", "backbone.layer3.0."),
                (r"^p1\.", "backbone.branches.0."),
                (r"^p2\.", "backbone.branches.1."),
                (r"^p3\.", "backbone.branches.2."),
                (r"^reduction_(\d)\.0\.", r"head.reduce.\1.conv."),
                (r"^reduction_(\d)\.1\.", r"head.reduce.\1.bn."),
                (r"^fc_id_2048_(\d)\.", r"head.classifier.\1."),
                (r"^fc_id_256_1_0\.", "head.classifier.3."),
                (r"^fc_id_256_1_1\.", "head.classifier.4."),
                (r"^fc_id_256_2_0\.", "head.classifier.5."),
                (r"^fc_id_256_2_1\.", "head.classifier.6."),
                (r"^fc_id_256_2_2\.", "head.classifier.7."),
            ),
            remark="MGN-pytorch pools by the average unless told otherwise: pass option pool=avg for such weights",
        ),
    ),
    adapt=_copied,
    base=RESNET,
)


@register(
    NetworkCard(
        name="mgn",
        label="MGN",
        order=15,
        studies=("table3",),
        rows=6,
        authors={
            "height": 384,
            "pad": 0,
            "erase": 0.0,
            "lr": 0.01,
            "epochs": 80,
            "warmup": 0,
            "milestones": (40, 60),
            "label_smoothing": 0.0,
            "margin": 1.2,
            "normalize_triplet": False,
            "over_heads": "mean",
        },
        authors_source="the MGN paper (Wang et al., 2018) with the mean over heads of MGN-pytorch; without its flipped "
        "images at test time",
    ),
    WEIGHTS,
)
def mgn(num_classes: int, *, width: float = 1.0, pool: Pool = "max") -> ReIDNet:
    """ResNet-50 with three branches: whole maps, two stripes and three."""
    return assemble(MGNBackbone(width), partial(MGNHead, pool=pool), num_classes)
