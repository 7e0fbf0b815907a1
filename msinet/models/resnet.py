"""ResNet of the "strong baseline" (Luo et al., 2019), in Table 2: last stride 1, BNNeck."""

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from msinet.models.blocks import scaled
from msinet.models.heads import ReIDNet, assemble
from msinet.models.registry import NetworkCard, NetworkWeights, WeightLayout, register

Block = type[BasicBlock] | type[Bottleneck]


def stage(block: Block, in_channels: int, planes: int, depth: int, stride: int) -> nn.Sequential:
    """`depth` residual blocks; the first one has the stride and changes the number of channels."""
    out_channels = planes * block.expansion
    down = None
    if stride != 1 or in_channels != out_channels:
        down = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))
    blocks = [block(in_channels, planes, stride, down)]
    blocks += [block(out_channels, planes) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)


class ResNetBackbone(nn.Module):
    """torchvision's ResNet without its classifier, with its parameter names and a last stage of stride 1."""

    def __init__(self, block: Block, depths: tuple[int, int, int, int], width: float) -> None:
        super().__init__()
        planes = [scaled(base, width) for base in (64, 128, 256, 512)]
        outs = [p * block.expansion for p in planes]
        self.conv1 = nn.Conv2d(3, planes[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(planes[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = stage(block, planes[0], planes[0], depths[0], 1)
        self.layer2 = stage(block, outs[0], planes[1], depths[1], 2)
        self.layer3 = stage(block, outs[1], planes[2], depths[2], 2)
        self.layer4 = stage(block, outs[2], planes[3], depths[3], 1)  # torchvision: stride 2
        self.local_channels, self.channels = outs[2], outs[3]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))  # (B, 64, H/4, W/4)
        local_map = self.layer3(self.layer2(self.layer1(x)))  # (B, 1024, H/16, W/16)
        return local_map, self.layer4(local_map)  # (B, 2048, H/16, W/16)


def _resnet(
    block: Block, depths: tuple[int, int, int, int], num_classes: int, width: float, neck: str, *, pam: bool
) -> ReIDNet:
    return assemble(ResNetBackbone(block, depths, width), neck, num_classes, pam=pam)


TRUNK = (r"^(conv1|bn1|layer\d)\.", r"backbone.\1.")
WEIGHTS = NetworkWeights(
    "ResNet",
    r"backbone\.layer1\.",
    (
        WeightLayout(
            "torchreid PCB",
            r"conv5\.layers\.",
            (
                (r"^(conv1|bn1|layer\d)\.", r"backbone.\1."),
                (r"^conv5\.layers\.0\.", "head.reduce.conv."),
                (r"^conv5\.layers\.1\.", "head.reduce.bn."),
                (r"^classifier\.", "head.classifier."),
            ),
            lacks=r"head\.assign\.",  # refined parts start from stripes
        ),
        WeightLayout(
            "PCB_RPP_for_reID",
            r"local_conv\.",
            (
                (r"^base\.", "backbone."),
                (r"^local_conv\.", "head.reduce.conv."),
                (r"^feat_bn2d\.", "head.reduce.bn."),
                (r"^instance(\d)\.", r"head.classifier.\1."),
                (r"^local_mask\.", "head.assign."),
            ),
            extra=r"backbone\.fc\.",
            lacks=r"head\.assign\.",
        ),
        WeightLayout(
            "torchvision ResNet",
            r"layer1\.0\.conv1\.",
            (TRUNK,),
            extra=r"fc\.",  # ImageNet classifier, which no neck here has
            lacks=r"head\.|.*\.attention\.",
        ),
        WeightLayout(
            "strong baseline (BoT)",
            r"bottleneck\.",
            (TRUNK, (r"^bottleneck\.", "head.bn."), (r"^classifier\.", "head.classifier.")),
            extra=r"fc\.",
            remark="the strong baseline's released ResNet has no ReLU before its max pooling, and this one has; "
            "features differ if the weights were trained without",
        ),
        WeightLayout(
            "fast-reid",
            r"heads\.",
            (
                TRUNK,
                (r"^heads\.(bottleneck\.0|bnneck)\.", "head.bn."),
                (r"^heads\.(classifier\.)?weight$", "head.classifier.weight"),
            ),
            extra=r"pixel_(mean|std)$",
        ),
    ),
)


@register(NetworkCard(name="resnet18", label="ResNet18", order=11), WEIGHTS)
def resnet18(num_classes: int, *, width: float = 1.0, neck: str = "bn", pam: bool = False) -> ReIDNet:
    """ResNet-18 with the strong baseline's changes."""
    return _resnet(BasicBlock, (2, 2, 2, 2), num_classes, width, neck, pam=pam)


@register(
    NetworkCard(
        name="resnet50",
        label="ResNet50",
        order=10,
        colour="#CC79A7",
        marker="v",
        studies=("table2", "calibration"),
        heavy=True,
        authors={
            "optimizer": "adam",
            "lr": 3.5e-4,
            "epochs": 120,
            "warmup": 10,
            "milestones": (40, 70),
            "normalize_triplet": False,
        },
        authors_source="reid-strong-baseline (Luo et al., 2019); without its centre loss of weight 5e-4",
    ),
    WEIGHTS,
)
def resnet50(num_classes: int, *, width: float = 1.0, neck: str = "bn", pam: bool = False) -> ReIDNet:
    """ResNet-50 with the strong baseline's changes, the first row of Table 2."""
    return _resnet(Bottleneck, (3, 4, 6, 3), num_classes, width, neck, pam=pam)


@register(NetworkCard(name="resnet101", label="ResNet101", order=12), WEIGHTS)
def resnet101(num_classes: int, *, width: float = 1.0, neck: str = "bn", pam: bool = False) -> ReIDNet:
    """ResNet-101 with the strong baseline's changes."""
    return _resnet(Bottleneck, (3, 4, 23, 3), num_classes, width, neck, pam=pam)
