"""Building blocks that MSINet, OSNet and CDNet share (OSNet, Sec. 3; SPEC A.1)."""

from torch import Tensor, nn

from msinet.errors import UserError


def scaled(channels: int, width: float) -> int:
    """`channels` of the full-width network at `width` times the width.

    Raises:
        UserError: the result is not a multiple of four, which the cells divide by.
    """
    result = round(channels * width)
    if result < 4 or result % 4:
        raise UserError(f"width {width:g} turns {channels} channels into {channels * width:g}; "
                        "choose a width that keeps multiples of four, such as 0.25 or 0.5")  # fmt: skip
    return result


class ConvBN(nn.Sequential):
    """Convolution without bias, batch norm and, unless `linear`, ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1,
        padding: int = 0, *, linear: bool = False,
    ) -> None:  # fmt: skip
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
    """`count` light convolutions in series: receptive field 2*count + 1."""
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
        gate: Tensor = x.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        gate = self.fc2(self.relu(self.fc1(gate))).sigmoid()  # (B, C, 1, 1)
        return x * gate


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


def init_weights(network: nn.Module) -> None:
    """Kaiming-normal (fan-out) convolutions, N(0, 0.01) linear layers, zero biases (SPEC A.2)."""
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
