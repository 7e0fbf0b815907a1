"""The paper's testable statements as data: comparisons of rows, addressed by coordinates."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from msinet.models.registry import in_study, label_of
from reports.results import Factors

Group = Literal["scratch", "pretrained", "either", "any"]
"""initial weights; pretrained: on ImageNet; either: on ImageNet, else on the rendered pretext set, else from
scratch; any: the only group of the table, as in Table 3"""
#: Points of loss up to which a change counts as harmless.
HARMLESS = 0.5
#: Largest slight difference, in percentage points; more is a large one.
SLIGHT = 1.0


@dataclass(frozen=True)
class Comparison:
    """`better` minus `worse` in one column of a study lies between two bounds, in percentage points."""

    study: str
    train: str
    test: str
    better: Factors
    """coordinates of the row"""
    worse: Factors
    group: Group = "scratch"
    """initial weights of `better`"""
    worse_group: Group | None = None
    """initial weights of `worse`, if they differ"""
    metric: str = "mAP"
    low: float = 0.0
    """the difference is larger than this"""
    high: float = math.inf
    """the difference is smaller than this"""
    averaged: tuple[Factors, ...] = ()
    """rows whose mean by seed replaces `better`"""
    subtracted: tuple[tuple[Group, Factors], tuple[Group, Factors]] | None = None
    """two rows whose difference is subtracted from the difference"""

    @property
    def terms(self) -> tuple[tuple[float, Group, tuple[Factors, ...]], ...]:
        """Terms of the bounded sum: weight, group, and coordinates; several rows stand for their mean."""
        found: list[tuple[float, Group, tuple[Factors, ...]]] = [
            (1.0, self.group, self.averaged or (self.better,)),
            (-1.0, self.worse_group or self.group, (self.worse,)),
        ]
        if self.subtracted:
            (group, first), (other, second) = self.subtracted
            found += [(-1.0, group, (first,)), (1.0, other, (second,))]
        return tuple(found)

    @property
    def rows(self) -> tuple[tuple[Group, Factors], ...]:
        """Group and coordinates of every row."""
        return tuple((group, factors) for _, group, several in self.terms for factors in several)


@dataclass(frozen=True)
class Selection:
    """Searches select an operation more often in the last cells than in the first ones."""

    study: str
    row: Factors
    """row whose searches count"""
    operation: str
    """letter of the operation"""


@dataclass(frozen=True)
class Measurement:
    """A claim about costs instead of accuracy.

    parameters: the networks have the stated parameters, all without classifiers or all at inference; fewer: most of
    the other networks have more than twice the first one's parameters at inference; macs: both networks need the same
    number of multiply-adds; training: multiply-adds for an image, times the epochs of its authors' recipe, are fewer
    for the first network than for the second; time: the first network is faster than the second at every batch size of
    a latency file.
    """

    kind: Literal["parameters", "fewer", "macs", "training", "time"]
    networks: tuple[str, ...]
    """names with options, as `python -m bench` takes them"""
    millions: tuple[float, ...] = ()
    """parameters of each network, rounded as in the paper"""
    cited: tuple[tuple[str, float], ...] = ()
    """fewer: other methods without a network here, and their parameters in millions as the paper cites them"""


@dataclass(frozen=True)
class Claim:
    """A statement of the paper, decided by comparisons that must all hold, by searches, or by a measurement."""

    key: str
    statement: str
    source: str
    comparisons: tuple[Comparison, ...] = ()
    measurement: Measurement | None = None
    selection: Selection | None = None
    not_run: str = ""
    """reason that the suite cannot judge it; the paper's own numbers may still be compared"""

    @property
    def about_costs(self) -> bool:
        """True for parameters, operations and time; False for accuracy and genotypes."""
        return self.measurement is not None


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
IMAGENET: dict[str, Any] = {"group": "pretrained"}
EITHER: dict[str, Any] = {"group": "either"}
CE, FULL_OVERLAP, TCM = (
    row(mechanism=name, overlap=overlap) for name, overlap in (("ce", 1.0), ("tcm", 1.0), ("tcm", 0.4))
)
WEIGHTS = tuple(row(weight=weight) for weight in (0.5, 1.0, 2.0, 3.0, 4.0))
#: Networks of Table 3 that are larger than those of Table 2.
COMPLICATED = tuple(card.name for card in in_study("table3") if "table2" not in card.studies)
#: Networks of Table 3 but MSINet.
COMPARED = tuple(card.name for card in in_study("table3") if card.name != "msinet")
COMPARABLE: dict[str, Any] = {"group": "any", "low": -SLIGHT}


def architecture(name: str) -> Factors:
    """Coordinates of a row of Figure 5b."""
    return row(architecture=name)


def unsupervised(better: str, worse: str, task: tuple[str, str], metric: str, **bounds: Any) -> Comparison:
    """A comparison in Table 4, of methods with their backbones."""
    return Comparison("table4", *task, row(method=better), row(method=worse), "either", metric=metric, **bounds)


def gains_by_pretraining(task: str) -> Comparison:
    """ResNet50's gain by pre-training minus MSINet's."""
    return Comparison(
        "table2",
        *TASKS[task],
        RESNET,
        RESNET,
        "pretrained",
        "scratch",
        subtracted=(("pretrained", MSINET), ("scratch", MSINET)),
    )


def transformers(task: str, *names: str, above: bool) -> tuple[Comparison, ...]:
    """Transformers above MSINet, or MSINet above them, pre-trained on ImageNet."""
    ours = row(network="msinet")
    pairs = [(row(network=name), ours) if above else (ours, row(network=name)) for name in names]
    return tuple(one for pair in pairs for one in everywhere("table6", task, *pair, **IMAGENET))


SEARCH: tuple[Claim, ...] = (
    Claim(
        "deep-attention",
        "Searches select cross attention more often in the last three cells than in the first three",
        "Sec. 4.2, Table 1",
        selection=Selection("table1", row(genotype="searched"), "A"),
    ),
    Claim(
        "ce-poor",
        "The model searched by classification performs worse than the one searched by contrast on the same identities",
        "Sec. 4.5, Fig. 5a",
        inside_cell("figure5a", FULL_OVERLAP, CE),
    ),
    Claim(
        "tcm-slight",
        "Contrast instead of classification, on the same identities, gains 1 point at most",
        "Sec. 4.5, Fig. 5a",
        inside_cell("figure5a", FULL_OVERLAP, CE, low=-math.inf, high=SLIGHT),
    ),
    Claim(
        "tcm-partial",
        "Unbinding the identities of the two sides (overlap 0.4) improves on a full overlap",
        "Sec. 4.5, Fig. 5a",
        inside_cell("figure5a", TCM, FULL_OVERLAP),
    ),
    Claim(
        "tcm-large",
        "Unbinding the identities improves by a large margin (more than 1 point)",
        "Sec. 4.5, Fig. 5a",
        inside_cell("figure5a", TCM, FULL_OVERLAP, low=SLIGHT),
    ),
    Claim(
        "tcm-ce",
        "The complete search surpasses the classification scheme",
        "Sec. 4.5, Fig. 5a",
        inside_cell("figure5a", TCM, CE),
    ),
    Claim(
        "gate-best",
        "Of the four operations alone, the channel gate performs best",
        "Sec. 4.5, Fig. 5b",
        inside_cell("figure5b", architecture("gate"), *(architecture(a) for a in ("none", "exchange", "attention"))),
    ),
    Claim(
        "attention-degraded",
        "Frequent exchange degrades: cross attention everywhere is worse than in a few cells (the paper's genotype)",
        "Sec. 4.5, Fig. 5b",
        inside_cell("figure5b", architecture("paper"), architecture("attention")),
    ),
    Claim(
        "msinet-over-single",
        "MSINet surpasses every network of a single operation",
        "Sec. 4.5, Fig. 5b",
        inside_cell(
            "figure5b", architecture("paper"), *(architecture(a) for a in ("none", "exchange", "gate", "attention"))
        ),
    ),
    Claim(
        "msinet-over-random",
        "MSINet surpasses random architectures",
        "Sec. 4.5, Fig. 5b",
        inside_cell("figure5b", architecture("paper"), architecture("random")),
    ),
    Claim(
        "search-over-random",
        "The searched architecture surpasses random ones",
        "Sec. 4.5, Fig. 5b",
        inside_cell("figure5b", architecture("tcm"), architecture("random")),
    ),
)
CELL: tuple[Claim, ...] = (
    Claim(
        "minus-sum",
        "Fusion by difference is about as good as by sum (within 1 point)",
        "Sec. 4.5, Fig. 5c",
        inside_cell("figure5c", row(fusion="minus"), row(fusion="sum"), low=-SLIGHT, high=SLIGHT),
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
        "scale-chosen",
        "Branches of the chosen scale ratio (3:1) improve on equal ones",
        "Sec. 4.5, Fig. 5d",
        inside_cell("figure5d", row(ratio=3), row(ratio=1)),
    ),
    Claim(
        "scale-three",
        "A ratio of 3:1 is at least as good as 2:1 (loss of 0.5 points at most)",
        "Sec. 4.5, Fig. 5d",
        inside_cell("figure5d", row(ratio=3), row(ratio=2), low=-HARMLESS),
    ),
    Claim(
        "scale-more",
        "Beyond a scale ratio of 3:1 little is gained (4:1 gains 1 point at most)",
        "Sec. 4.5, Fig. 5d",
        inside_cell("figure5d", row(ratio=4), row(ratio=3), low=-math.inf, high=SLIGHT),
    ),
    Claim(
        "alignment-helps",
        "Alignment generally helps across data sets: the mean over its weights is higher than without alignment",
        "Sec. 4.5, Fig. 5e",
        across("figure5e", WEIGHTS[0], row(weight=0.0), averaged=WEIGHTS, **EITHER),
    ),
    Claim(
        "weight-two",
        "The best weight of alignment is 2",
        "Sec. 4.5, Fig. 5e",
        across("figure5e", row(weight=2.0), *(row(weight=weight) for weight in (0.0, 0.5, 1.0, 3.0, 4.0)), **EITHER),
    ),
)
BACKBONES: tuple[Claim, ...] = (
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
        "resnet-depends",
        "On the person sets, ResNet50 depends on ImageNet pre-training more than MSINet",
        "Sec. 4.3, Table 2",
        tuple(gains_by_pretraining(task) for task in ("M", "MS")),
    ),
    Claim(
        "scratch-over-pretrained",
        "MSINet without pre-training surpasses ResNet50 pre-trained on ImageNet on all metrics",
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
        "Pre-trained on ImageNet, MSINet surpasses ResNet50 on MSMT17, in the paper by 9 points of mAP",
        "Sec. 1, Table 2",
        everywhere("table2", "MS", MSINET, RESNET, **IMAGENET),
    ),
    Claim(
        "pretrained-others",
        "Pre-trained on ImageNet, MSINet surpasses OSNet and CDNet",
        "Sec. 4.3, Table 2",
        everywhere("table2", "M MS VR VID", MSINET, OSNET, **IMAGENET)
        + everywhere("table2", "M MS", MSINET, CDNET, **IMAGENET),
    ),
    Claim(
        "across",
        "Across data sets, pre-trained on ImageNet, MSINet surpasses ResNet50 and OSNet",
        "Sec. 4.3, Table 2",
        everywhere("table2", "MS>M VR>VID", MSINET, RESNET, **IMAGENET)
        + everywhere("table2", "MS>M VR>VID", MSINET, OSNET, **IMAGENET),
    ),
    Claim(
        "sixteen-points",
        "With alignment and pre-trained on ImageNet, MSINet surpasses ResNet50 from MSMT17 to Market-1501, in the "
        "paper by 16 points of mAP",
        "Sec. 1, Table 2",
        everywhere("table2", "MS>M", ALIGNED, RESNET, **IMAGENET),
    ),
    Claim(
        "sam-across",
        "Alignment improves MSINet across data sets",
        "Sec. 4.3, Table 2",
        everywhere("table2", "MS>M VR>VID", ALIGNED, MSINET, **EITHER),
    ),
    Claim(
        "sam-harmless",
        "Alignment does not damage supervised performance on M, MS and VID (loss of 0.5 points at most)",
        "Sec. 4.3, Table 2",
        everywhere("table2", "M MS VID", ALIGNED, MSINET, low=-HARMLESS, **EITHER),
    ),
)
OTHERS: tuple[Claim, ...] = (
    Claim(
        "rga-sc",
        "MSINet achieves even higher performance than RGA-SC",
        "Sec. 4.4, Table 3",
        tuple(
            Comparison("table3", *TASKS[task], MSINET, network("rga_sc"), "any", metric=metric)
            for task in ("M", "MS")
            for metric in ("R1", "mAP")
        ),
    ),
    Claim(
        "complicated",
        "MSINet is comparable to more complicated methods (loss of 1 point at most): "
        + ", ".join(label_of(name) for name in COMPLICATED),
        "Sec. 4.4, Table 3",
        tuple(one for name in COMPLICATED for one in everywhere("table3", "M MS", MSINET, network(name), **COMPARABLE)),
    ),
    Claim(
        "gs",
        "In GS, MSINet is slightly lower on R1 (1 point at most) and much higher on mAP (more than 1 point)",
        "Sec. 4.4, Table 4",
        (
            unsupervised("GS", "GS+MSINet", TASKS["M"], "R1", high=SLIGHT),
            unsupervised("GS+MSINet", "GS", TASKS["M"], "mAP", low=SLIGHT),
        ),
    ),
    Claim(
        "hdcrl",
        "In HDCRL, MSINet surpasses ResNet50",
        "Sec. 4.4, Table 4",
        tuple(unsupervised("HDCRL+MSINet", "HDCRL", TASKS["M"], metric) for metric in ("R1", "mAP")),
    ),
    Claim(
        "idm",
        "In IDM, MSINet surpasses ResNet50 by a large margin (more than 1 point)",
        "Sec. 4.4, Table 4",
        tuple(
            unsupervised("IDM+MSINet", "IDM", ("market1501", "msmt17"), metric, low=SLIGHT) for metric in ("R1", "mAP")
        ),
    ),
    Claim(
        "negatives",
        "Compared with ResNet50, MSINet largely increases the distance between queries and their nearest negatives",
        "Sec. 1, Fig. 1",
        not_run="python -m reports figure1 draws the distances; they are not tested, because necks differ in scale",
    ),
)
ALIGNMENT: tuple[Claim, ...] = (
    Claim(
        "sam-inside",
        "Alignment costs nothing inside a data set (VeRi-776, loss of 0.5 points at most)",
        "Sec. 4.5, Table 5",
        everywhere("table5", "VR", ALIGNED, MSINET, low=-HARMLESS, **EITHER),
    ),
    Claim(
        "sam-each",
        "Aligning positives or negatives alone improves across data sets",
        "Sec. 4.5, Table 5",
        across("table5", network("msinet", "self-pos"), MSINET, **EITHER)
        + across("table5", network("msinet", "self-neg"), MSINET, **EITHER),
    ),
    Claim(
        "sam-unified",
        "Aligning all pairs alike is worse than aligning positives and negatives separately",
        "Sec. 4.5, Table 5",
        across("table5", network("msinet", "separated"), network("msinet", "unified"), **EITHER),
    ),
    Claim(
        "sam-pam",
        "Positive alignment by PAM performs best of all variants",
        "Sec. 4.5, Table 5",
        across(
            "table5",
            ALIGNED,
            *(network("msinet", variant) for variant in ("none", "self-pos", "self-neg", "unified", "separated")),
            **EITHER,
        ),
    ),
    Claim(
        "sam-osnet",
        "Alignment improves OSNet across data sets as well",
        "Sec. 4.5, Table 5",
        across("table5", network("osnet", "pam-self"), OSNET, **EITHER),
    ),
    Claim(
        "transformers-ms",
        "DeiT-B and ViT-B surpass MSINet on MSMT17",
        "Sec. 4.5, Table 6",
        transformers("MS", "deit_base", "vit_base", above=True),
    ),
    Claim(
        "deit-small-ms",
        "MSINet surpasses DeiT-S on MSMT17",
        "Sec. 4.5, Table 6",
        transformers("MS", "deit_small", above=False),
    ),
    Claim(
        "transformers-vr",
        "MSINet surpasses every transformer on VeRi-776",
        "Sec. 4.5, Table 6",
        transformers("VR", "deit_small", "deit_base", "vit_base", above=False),
    ),
)
COSTS: tuple[Claim, ...] = (
    Claim(
        "size",
        "MSINet has 2.3 and MSINet-SAM 2.4 million parameters",
        "Table 2",
        measurement=Measurement("parameters", ("msinet", "msinet pam=True"), (2.3, 2.4)),
    ),
    Claim(
        "size-others",
        "OSNet's 2.2, CDNet's 1.8 and MSINet's 2.3 million parameters are counted in one way",
        "Table 2",
        measurement=Measurement("parameters", ("osnet", "cdnet", "msinet"), (2.2, 1.8, 2.3)),
    ),
    Claim(
        "size-compared",
        "MSINet has much fewer parameters at inference (less than half) than most of the compared methods; Auto-ReID "
        "has 13 million",
        "Sec. 4.4, Table 3",
        measurement=Measurement("fewer", ("msinet", *COMPARED), cited=(("Auto-ReID", 13.0),)),
    ),
    Claim(
        "training-rga",
        "MSINet has less training consumption than RGA-SC (multiply-adds for an image, times the epochs of the "
        "authors' recipe; RGA-SC's is for CUHK03)",
        "Sec. 4.4, Table 3",
        measurement=Measurement("training", ("msinet", "rga_sc")),
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
        "Sec. 4.3, Table 2",
        measurement=Measurement("macs", ("msinet", "msinet pam=True")),
    ),
)
CLAIMS = SEARCH + CELL + BACKBONES + OTHERS + ALIGNMENT + COSTS
