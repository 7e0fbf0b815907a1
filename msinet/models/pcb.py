"""PCB and PCB+RPP (Sun et al., ECCV 2018), of Table 3: ResNet50 whose map is cut into six parts.

The neck is `msinet.models.heads.PartNeck`; other networks use it with the option `neck=pcb` or `neck=rpp`.
"""

from functools import partial

from torchvision.models.resnet import Bottleneck

from msinet.models.heads import PARTS, PartNeck, RefinedPartNeck, ReIDNet, assemble
from msinet.models.registry import NetworkCard, register
from msinet.models.resnet import WEIGHTS, ResNetBackbone

DEPTHS = (3, 4, 6, 3)


@register(
    NetworkCard(
        name="pcb",
        label="PCB",
        order=13,
        studies=("table3",),
        rows=6,
        authors={
            "height": 384,
            "sampler": "shuffled",
            "pad": 0,
            "erase": 0.0,
            "optimizer": "nesterov",
            "lr": 0.1,
            "backbone_lr": 0.1,
            "epochs": 60,
            "warmup": 0,
            "milestones": (40,),
            "label_smoothing": 0.0,
            "triplet": False,
        },
        authors_source="PCB_RPP_for_reID (Sun et al., 2018)",
    ),
    WEIGHTS,
)
def pcb(num_classes: int, *, width: float = 1.0, parts: int = PARTS, pam: bool = False) -> ReIDNet:
    """ResNet-50 with last stride 1; each stripe of its map is classified."""
    neck = partial(PartNeck, parts=parts)
    return assemble(ResNetBackbone(Bottleneck, DEPTHS, width), neck, num_classes, pam=pam)


@register(
    NetworkCard(
        name="pcb_rpp",
        label="PCB+RPP",
        order=14,
        studies=("table3",),
        rows=6,
        authors={
            "height": 384,
            "sampler": "shuffled",
            "pad": 0,
            "erase": 0.0,
            "optimizer": "nesterov",
            "lr": 0.1,
            "backbone_lr": 0.1,
            "epochs": 50,
            "warmup": 0,
            "milestones": (20, 40),
            "label_smoothing": 0.0,
            "triplet": False,
        },
        authors_source="PCB_RPP_for_reID (Sun et al., 2018); there all layers learn alike from epoch 20",
    ),
    WEIGHTS,
)
def pcb_rpp(num_classes: int, *, width: float = 1.0, parts: int = PARTS, pam: bool = False) -> ReIDNet:
    """PCB whose stripes are replaced by learned weights of all positions after 20 of 50 epochs."""
    neck = partial(RefinedPartNeck, parts=parts)
    return assemble(ResNetBackbone(Bottleneck, DEPTHS, width), neck, num_classes, pam=pam)
