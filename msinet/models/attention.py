"""Attachment of attention modules to the stages of any backbone with feature maps."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from msinet.errors import UserError
from msinet.models.heads import Backbone, ReIDNet
from msinet.models.registry import build_model, with_width

#: Names of backbone stages, in order: of ResNets; of OSNet, CDNet and MSINet.
STAGES = (("layer1", "layer2", "layer3", "layer4"), ("stage1", "stage2", "stage3"))
#: Name of an attached module in its stage.
ATTENTION = "attention"


@dataclass(frozen=True)
class Stage:
    """A stage of a backbone and the size of its output for one image size."""

    blocks: nn.Sequential
    channels: int
    height: int
    width: int

    def attach(self, module: nn.Module) -> None:
        """Append a module, which must keep the shape of the map, under the name `attention`."""
        self.blocks.add_module(ATTENTION, module)


def backbone_of(name: str, width: float = 1.0) -> Backbone:
    """The backbone of a network with fresh weights, without its head.

    Args:
        name: of a network whose backbone has stages, such as resnet50 or msinet.
        width: multiplies every channel count.

    Raises:
        UserError: unknown network, or one without plain stages of feature maps (`_stages`).
    """
    network = build_model(with_width(name, width), 1)
    if not isinstance(network, ReIDNet) or not _stages(network.backbone):
        raise UserError(
            f"backbone {name!r} has no plain stages of feature maps; use a ResNet, OSNet, CDNet or MSINet, "
            "such as backbone=resnet50"
        )
    return cast(Backbone, network.backbone)


def staged_backbone(name: str, width: float, image: tuple[int, int]) -> tuple[Backbone, list[Stage]]:
    """A backbone and its stages, first one first.

    Args:
        name: as for `backbone_of`.
        width: as for `backbone_of`.
        image: (height, width) of the images; it determines the sizes of the maps.

    Raises:
        UserError: as for `backbone_of`.
    """
    shapes: list[torch.Size] = []

    def note(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        shapes.append(output.shape)

    with torch.device("meta"):  # a copy without storage gives the sizes
        twin: Any = backbone_of(name, width)
        for blocks in _stages(twin):
            blocks.register_forward_hook(note)
        twin.eval()(torch.empty(1, 3, *image))
    backbone = backbone_of(name, width)
    return backbone, [Stage(blocks, *shape[1:]) for blocks, shape in zip(_stages(backbone), shapes, strict=True)]


def _stages(backbone: object) -> list[nn.Sequential]:
    """The stages of a backbone; empty if one is missing (MGN has branches) or has attention (RGA-SC, IANet)."""
    for names in STAGES:
        found: list[Any] = [getattr(backbone, name, None) for name in names]
        if all(isinstance(blocks, nn.Sequential) and not hasattr(blocks, ATTENTION) for blocks in found):
            return found
    return []
