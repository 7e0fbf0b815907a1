"""Building blocks that MSINet, OSNet and CDNet share (Sec. 3.2)."""

from collections.abc import Callable

from torch import Tensor, nn

from msinet.errors import UserError


def scaled(channels: int, width: float) -> int:
    """`channels` of the full-width network at `width` times the width.

    Raises:
        UserError: the result is not a multiple of four; cells have a quarter of the channels inside.
    """
    result = round(channels * width)
    if result < 4 or result % 4:
        raise UserError(
            f"width {width:g} turns {channels} channels into {channels * width:g}; "
            "choose a width that keeps multiples of four, such as 0.25 or 0.5"
        )
    return result


class ConvBN(nn.Sequential):
    """Convolution without bias, batch norm and, unless `linear`, ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        padding: int = 0,
        *,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.Identity() if linear else nn.ReLU(inplace=True)


class LightConv(nn.Sequential):
    """Light 3x3 convolution: linear 1x1, depth-wise 3x3, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.depthwise = nn.Conv2d(out_channels, out_channels, 3, padding=1, groups=out_channels, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)


def light_convs(channels: int, count: int) -> nn.Sequential:
    """`count` light convolutions in series, with a receptive field of 2*count + 1."""
    return nn.Sequential(*(LightConv(channels, channels) for _ in range(count)))


class ChannelGate(nn.Module):
    """g(x) * x with g = sigmoid(MLP(GAP(x))) (Eq. 4)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weights(x.mean((2, 3), keepdim=True))

    def weights(self, pooled: Tensor) -> Tensor:
        """g of pooled maps (B, C, 1, 1), in (0, 1), of the same shape."""
        gate: Tensor = self.fc2(self.relu(self.fc1(pooled))).sigmoid()
        return gate


def stem(out_channels: int) -> nn.Sequential:
    """7x7 convolution and 3x3 max pool, each of stride 2: (B, 3, H, W) to (B, C, H/4, W/4)."""
    return nn.Sequential(ConvBN(3, out_channels, 7, 2, 3), nn.MaxPool2d(3, 2, 1))


def down_sample(channels: int) -> nn.Sequential:
    """1x1 convolution, then 2x2 average pool: halves height and width."""
    return nn.Sequential(ConvBN(channels, channels), nn.AvgPool2d(2, 2))


def shortcut(in_channels: int, out_channels: int) -> nn.Module:
    """The residual path of a cell: identity, or a linear 1x1 convolution where widths differ."""
    if in_channels == out_channels:
        return nn.Identity()
    return ConvBN(in_channels, out_channels, linear=True)


#: Channels of the stem and of the three stages at full width.
WIDTHS = (64, 256, 384, 512)


class Skeleton(nn.Module):
    """The backbone of OSNet, CDNet and MSINet: stem, three stages, down-sampling after the first two.

    `forward` returns the map that feeds the local branch of a neck, (B, 384, H/16, W/16), and the final
    map, (B, 512, H/16, W/16).

    Args:
        width: multiplies every channel count.
        stage: builds stage 0, 1 or 2 from its number, input and output channels.
        conv5: whether a 1x1 convolution follows the last stage, as in OSNet.
    """

    def __init__(self, width: float, stage: Callable[[int, int, int], nn.Module], *, conv5: bool = False) -> None:
        super().__init__()
        channels = [scaled(base, width) for base in WIDTHS]
        self.stem = stem(channels[0])
        self.stage1, self.stage2, self.stage3 = (stage(i, channels[i], channels[i + 1]) for i in range(3))
        self.down1, self.down2 = down_sample(channels[1]), down_sample(channels[2])
        self.conv5 = ConvBN(channels[3], channels[3]) if conv5 else nn.Identity()
        self.local_channels, self.channels = channels[2], channels[3]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(images)  # (B, 64, H/4, W/4)
        x = self.down1(self.stage1(x))  # (B, 256, H/8, W/8)
        local_map = self.down2(self.stage2(x))  # (B, 384, H/16, W/16)
        return local_map, self.conv5(self.stage3(local_map))  # (B, 512, H/16, W/16)


def init_weights(network: nn.Module) -> None:
    """Kaiming-normal (fan-out) convolutions, N(0, 0.01) linear layers, zero biases, as in the released code."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
