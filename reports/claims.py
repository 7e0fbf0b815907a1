"""The paper's testable statements as data: comparisons of rows, addressed by coordinates."""

from dataclasses import dataclass
from typing import Any, Literal

from reports.results import Factors

Group = Literal["scratch", "pretrained"]


@dataclass(frozen=True)
class Comparison:
    """`better` minus `worse` in one column of a study, in percentage points."""

    study: str
    train: str
    test: str
    better: Factors
    """coordinates of the row; a narrower network has those of the full-width one"""
    worse: Factors
    group: Group = "scratch"
    """initial weights of `better`"""
    worse_group: Group | None = None
    """initial weights of `worse`, if they differ"""
    metric: str = "mAP"
    at_least: float = 0.0
    """the difference is larger than this"""
    within: float | None = None
    """instead: the absolute difference is at most this large"""

    @property
    def rows(self) -> tuple[tuple[Group, Factors], tuple[Group, Factors]]:
        """Group and coordinates of both rows."""
        return (self.group, self.better), (self.worse_group or self.group, self.worse)


@dataclass(frozen=True)
class Measurement:
    """A claim about costs instead of accuracy.

    parameters: the networks have so many million parameters without classifiers; macs: both networks need as many
    multiply-adds; time: the first network is faster than the second at every batch size of a latency file.
    """

    kind: Literal["parameters", "macs", "time"]
    networks: tuple[str, ...]
    """names with options, as `python -m bench` takes them"""
    millions: tuple[float, ...] = ()
    """parameters of each, to the digit that the paper gives"""


@dataclass(frozen=True)
class Claim:
    """A statement of the paper, decided by comparisons that must all hold, or by a measurement."""

    key: str
    statement: str
    source: str
    comparisons: tuple[Comparison, ...] = ()
    measurement: Measurement | None = None


#: Columns of Table 2 by the paper's abbreviations.
TASKS = {
    "M": ("market1501", "market1501"),
    "MS": ("msmt17", "msmt17"),
    "VR": ("veri776", "veri776"),
    "VID": ("vehicleid", "vehicleid"),
    "MS>M": ("msmt17", "market1501"),
    "VR>VID": ("veri776", "vehicleid"),
}


def row(**factors: str | int | float) -> Factors:
    """Coordinates of a row."""
    return tuple(factors.items())


def network(name: str, alignment: str = "none") -> Factors:
    """Coordinates of a network."""
    return row(network=name, alignment=alignment)


def everywhere(study: str, tasks: str, better: Factors, worse: Factors, **more: Any) -> tuple[Comparison, ...]:
    """One comparison per column; VehicleID is judged by R1, the other sets by mAP."""
    return tuple(
        Comparison(study, *TASKS[task], better, worse, metric="R1" if task.endswith("VID") else "mAP", **more)
        for task in tasks.split()
    )


def inside_cell(study: str, better: Factors, *worse: Factors, **more: Any) -> tuple[Comparison, ...]:
    """Comparisons on MSMT17 from scratch, where the paper runs its ablations of search and cell."""
    return tuple(Comparison(study, *TASKS["MS"], better, other, **more) for other in worse)


def across(study: str, better: Factors, *worse: Factors, **more: Any) -> tuple[Comparison, ...]:
    """Comparisons from VeRi-776 to VehicleID, where the paper runs its ablations of alignment."""
    return tuple(one for other in worse for one in everywhere(study, "VR>VID", better, other, **more))


RESNET, OSNET, CDNET, MSINET = (network(name) for name in ("resnet50", "osnet", "cdnet", "msinet"))
ALIGNED = network("msinet", "pam-self")
PRETRAINED: dict[str, Any] = {"group": "pretrained"}

#: In the order of the paper.
CLAIMS: tuple[Claim, ...] = (
    Claim(
        "ce-poor",
        "The model searched by classification performs worse than by contrast on the same identities",
        "Sec. 4.5, Fig. 5a",
        inside_cell("figure5a", row(mechanism="tcm", overlap=1.0), row(mechanism="ce", overlap=1.0)),
    ),
    Claim(
        "tcm-partial",
        "Unbinding the identities of the two sides (overlap 0.4) improves on a full overlap",
        "Sec. 4.5, Fig. 5a",
        inside_cell("figure5a", row(mechanism="tcm", overlap=0.4), row(mechanism="tcm", overlap=1.0)),
    ),
    Claim(
        "tcm-ce",
        "The complete search beats the classification scheme",
        "Sec. 4.5, Fig. 5a",
        inside_cell("figure5a", row(mechanism="tcm", overlap=0.4), row(mechanism="ce", overlap=1.0)),
    ),
    Claim(
        "gate-best",
        "Of the four operations alone, the channel gate performs best",
        "Sec. 4.5, Fig. 5b",
        inside_cell(
            "figure5b", row(architecture="gate"), *(row(architecture=a) for a in ("none", "exchange", "attention"))
        ),
    ),
    Claim(
        "msinet-over-single",
        "MSINet surpasses every network of a single operation",
        "Sec. 4.5, Fig. 5b",
        inside_cell(
            "figure5b",
            row(architecture="paper"),
            *(row(architecture=a) for a in ("none", "exchange", "gate", "attention")),
        ),
    ),
    Claim(
        "msinet-over-random",
        "MSINet surpasses random architectures",
        "Sec. 4.5, Fig. 5b",
        inside_cell("figure5b", row(architecture="paper"), row(architecture="random")),
    ),
    Claim(
        "search-over-random",
        "The searched architecture surpasses random ones",
        "Sec. 4.5, Fig. 5b",
        inside_cell("figure5b", row(architecture="tcm"), row(architecture="random")),
    ),
    Claim(
        "minus-sum",
        "Fusion by difference is about as good as by sum (within 1 point)",
        "Sec. 4.5, Fig. 5c",
        inside_cell("figure5c", row(fusion="minus"), row(fusion="sum"), within=1.0),
    ),
    Claim(
        "mul-poor",
        "Fusion by product performs worse than by sum",
        "Sec. 4.5, Fig. 5c",
        inside_cell("figure5c", row(fusion="sum"), row(fusion="mul")),
    ),
    Claim(
        "scale-helps",
        "Branches of different scale (2:1) improve on equal ones",
        "Sec. 4.5, Fig. 5d",
        inside_cell("figure5d", row(ratio=2), row(ratio=1)),
    ),
    Claim(
        "scale-three",
        "A ratio of 3:1 is at least as good as 2:1",
        "Sec. 4.5, Fig. 5d",
        inside_cell("figure5d", row(ratio=3), row(ratio=2)),
    ),
    Claim(
        "scale-more",
        "Beyond 3:1 little is gained (4:1 within 1 point)",
        "Sec. 4.5, Fig. 5d",
        inside_cell("figure5d", row(ratio=4), row(ratio=3), within=1.0),
    ),
    Claim(
        "alignment-helps",
        "Alignment of any weight helps across data sets",
        "Sec. 4.5, Fig. 5e",
        tuple(
            one
            for weight in (0.5, 1.0, 2.0, 3.0, 4.0)
            for one in across("figure5e", row(weight=weight), row(weight=0.0))
        ),
    ),
    Claim(
        "weight-two",
        "The best weight of alignment is 2",
        "Sec. 4.5, Fig. 5e",
        across("figure5e", row(weight=2.0), *(row(weight=weight) for weight in (0.0, 0.5, 1.0, 3.0, 4.0))),
    ),
    Claim(
        "scratch-resnet",
        "From scratch, MSINet surpasses ResNet50 on every set",
        "Sec. 4.3, Table 2",
        everywhere("table2", "M MS VR VID", MSINET, RESNET),
    ),
    Claim(
        "scratch-osnet",
        "From scratch, MSINet surpasses OSNet on every set",
        "Sec. 4.3, Table 2",
        everywhere("table2", "M MS VR VID", MSINET, OSNET),
    ),
    Claim(
        "scratch-cdnet",
        "From scratch, MSINet surpasses CDNet on every set",
        "Sec. 4.3, Table 2",
        everywhere("table2", "M MS VR VID", MSINET, CDNET),
    ),
    Claim(
        "resnet-worst",
        "ResNet50 has the worst performance from scratch",
        "Sec. 4.3, Table 2",
        everywhere("table2", "M MS VR VID", OSNET, RESNET) + everywhere("table2", "M MS VR VID", CDNET, RESNET),
    ),
    Claim(
        "scratch-over-pretrained",
        "MSINet without pre-training surpasses pre-trained ResNet50 on all metrics",
        "Sec. 4.3, Table 2",
        (
            *everywhere("table2", "M MS VR VID", MSINET, RESNET, worse_group="pretrained"),
            *(
                Comparison("table2", *TASKS[task], MSINET, RESNET, worse_group="pretrained", metric=metric)
                for task, metric in (("M", "R1"), ("MS", "R1"), ("VR", "R1"), ("VID", "R5"))
            ),
        ),
    ),
    Claim(
        "nine-points",
        "Pre-trained, MSINet surpasses ResNet50 by 9 points of mAP on MSMT17",
        "Abstract, Table 2",
        everywhere("table2", "MS", MSINET, RESNET, at_least=9.0, **PRETRAINED),
    ),
    Claim(
        "pretrained-others",
        "Pre-trained, MSINet surpasses OSNet and CDNet",
        "Sec. 4.3, Table 2",
        everywhere("table2", "M MS VR VID", MSINET, OSNET, **PRETRAINED)
        + everywhere("table2", "M MS", MSINET, CDNET, **PRETRAINED),
    ),
    Claim(
        "across",
        "Across data sets MSINet surpasses ResNet50 and OSNet",
        "Sec. 4.3, Table 2",
        everywhere("table2", "MS>M VR>VID", MSINET, RESNET, **PRETRAINED)
        + everywhere("table2", "MS>M VR>VID", MSINET, OSNET, **PRETRAINED),
    ),
    Claim(
        "sixteen-points",
        "With alignment, MSINet surpasses ResNet50 by 16 points of mAP on MSMT17 to Market-1501",
        "Sec. 1, Table 2",
        everywhere("table2", "MS>M", ALIGNED, RESNET, at_least=16.0, **PRETRAINED),
    ),
    Claim(
        "sam-across",
        "Alignment improves MSINet across data sets",
        "Sec. 4.3, Table 2",
        everywhere("table2", "MS>M VR>VID", ALIGNED, MSINET, **PRETRAINED),
    ),
    Claim(
        "sam-inside",
        "Alignment costs nothing inside a data set (VeRi-776, within 0.5 points)",
        "Sec. 4.5, Table 5",
        everywhere("table5", "VR", ALIGNED, MSINET, within=0.5, **PRETRAINED),
    ),
    Claim(
        "sam-each",
        "Aligning positives or negatives alone improves across data sets",
        "Sec. 4.5, Table 5",
        across("table5", network("msinet", "self-pos"), MSINET, **PRETRAINED)
        + across("table5", network("msinet", "self-neg"), MSINET, **PRETRAINED),
    ),
    Claim(
        "sam-unified",
        "Aligning all pairs alike is worse than apart",
        "Sec. 4.5, Table 5",
        across("table5", network("msinet", "separated"), network("msinet", "unified"), **PRETRAINED),
    ),
    Claim(
        "sam-pam",
        "Positive alignment by PAM performs best of all variants",
        "Sec. 4.5, Table 5",
        across(
            "table5",
            ALIGNED,
            *(network("msinet", variant) for variant in ("none", "self-pos", "self-neg", "unified", "separated")),
            **PRETRAINED,
        ),
    ),
    Claim(
        "sam-osnet",
        "Alignment improves OSNet across data sets as well",
        "Sec. 4.5, Table 5",
        across("table5", network("osnet", "pam-self"), OSNET, **PRETRAINED),
    ),
    Claim(
        "transformers-ms",
        "DeiT-B and ViT-B surpass MSINet on MSMT17",
        "Sec. 4.5, Table 6",
        tuple(
            one
            for name in ("deit_base", "vit_base")
            for one in everywhere("table6", "MS", row(network=name), row(network="msinet"), **PRETRAINED)
        ),
    ),
    Claim(
        "transformers-vr",
        "MSINet surpasses every transformer on VeRi-776",
        "Sec. 4.5, Table 6",
        tuple(
            one
            for name in ("deit_small", "deit_base", "vit_base")
            for one in everywhere("table6", "VR", row(network="msinet"), row(network=name), **PRETRAINED)
        ),
    ),
    Claim(
        "size",
        "MSINet has 2.3 and MSINet-SAM 2.4 million parameters",
        "Table 2",
        measurement=Measurement("parameters", ("msinet", "msinet pam=True"), (2.3, 2.4)),
    ),
    Claim(
        "size-others",
        "OSNet has 2.2 and CDNet 1.8 million parameters, counted as MSINet's are",
        "Table 2",
        measurement=Measurement("parameters", ("osnet", "cdnet"), (2.2, 1.8)),
    ),
    Claim(
        "faster-resnet",
        "MSINet is faster than ResNet50",
        "Sec. 4.3, Table 2",
        measurement=Measurement("time", ("msinet", "resnet50")),
    ),
    Claim(
        "faster-osnet", "MSINet is faster than OSNet", "Table 2", measurement=Measurement("time", ("msinet", "osnet"))
    ),
    Claim(
        "sam-free",
        "Alignment costs nothing at inference",
        "Sec. 3.3, Table 2",
        measurement=Measurement("macs", ("msinet", "msinet pam=True")),
    ),
)
