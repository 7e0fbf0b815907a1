"""SFT (Luo et al., ICCV 2019), in Table 3: features of a batch are mixed by similarity during training."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msinet import distributed
from msinet.errors import UserError
from msinet.models.attention import backbone_of
from msinet.models.heads import Output, ReIDNet, assemble, pool
from msinet.models.registry import NetworkCard, register
from msinet.models.resnet import WEIGHTS
from msinet.models.sam import at_least_float
from msinet.precision import no_autocast


def spectral_transform(features: Tensor, temperature: float) -> Tensor:
    """Spectral feature transformation: each row becomes the mean of all rows, weighted by similarity.

    The weights are softmax(cosine / temperature) over all rows, the row itself included. This is one step of the
    random walk of spectral clustering.

    Args:
        features: (..., B, D).
        temperature: above 0.

    Returns:
        (..., B, D), on the scale of `features`.
    """
    with no_autocast(features):  # a low temperature amplifies errors of the cosines
        features = at_least_float(features)
        units = F.normalize(features, dim=-1)
        return (units @ units.transpose(-1, -2) / temperature).softmax(-1) @ features


class SFTHead(nn.Module):
    """Classifies the pooled map and its transformed version with the same bottleneck and cosine classifier.

    Logits are `scale` times a cosine; AM-softmax adds a margin in the loss (setting `identity_margin`). The test
    feature is the pooled map. Transform, bottleneck and classifier are used only in training.
    """

    training_only = ("fc", "bn", "act")

    def __init__(
        self, local_channels: int, channels: int, num_classes: int, temperature: float = 0.1, scale: float = 15.0
    ) -> None:
        super().__init__()
        self.temperature, self.scale = temperature, scale
        self.fc = nn.Linear(channels, channels // 4, bias=False)
        self.bn = nn.BatchNorm1d(channels // 4)
        self.act = nn.PReLU(channels // 4)
        self.classifier = nn.Linear(channels // 4, num_classes, bias=False)

    def forward(self, local_map: Tensor, final_map: Tensor) -> Tensor | Output:
        v = pool(final_map)  # (B, C)
        if not self.training:
            return v
        if distributed.world() > 1:
            raise UserError("SFT mixes the features of a whole batch: train it in one process, without torchrun")
        both = torch.cat([v, spectral_transform(v, self.temperature)])  # (2B, C)
        units = F.normalize(self.act(self.bn(self.fc(both))))  # (2B, C/4)
        logits, transformed = (self.scale * units @ F.normalize(self.classifier.weight).T).chunk(2)  # (B, ids) each
        return Output((logits, transformed), (v,), final_map)


@register(
    NetworkCard(
        name="sft",
        label="SFT",
        order=34,
        studies=("table3",),
        authors={
            "images": 8,
            "pad": 0,
            "lr": 0.1,
            "epochs": 140,
            "warmup": 20,
            "milestones": (80, 100),
            "label_smoothing": 0.0,
            "identity_margin": 4.5,
            "triplet": False,
        },
        authors_source="SFT_REID (Luo et al., 2019): margin 0.3 at scale 15; without a crop, which is not verified",
    ),
    WEIGHTS,
)
def sft(
    num_classes: int,
    *,
    width: float = 1.0,
    backbone: str = "resnet50",
    temperature: float = 0.1,
    scale: float = 15.0,
    pam: bool = False,
) -> ReIDNet:
    """SFT on ResNet50 or, for a controlled comparison, on another `backbone`.

    Args:
        num_classes: training identities.
        width: multiplies every channel count.
        backbone: network whose backbone is used, such as msinet.
        temperature: of the transform.
        scale: of the cosine classifier's logits.
        pam: with a position activation module, for alignment pam-self.

    Raises:
        UserError: a backbone without stages of feature maps, or a temperature or scale that is not above 0.
    """
    if temperature <= 0 or scale <= 0:
        raise UserError(f"SFT needs a temperature and a scale above 0, got {temperature:g} and {scale:g}")

    def head(local_channels: int, channels: int, identities: int) -> SFTHead:
        return SFTHead(local_channels, channels, identities, temperature, scale)

    return assemble(backbone_of(backbone, width), head, num_classes, pam=pam)
