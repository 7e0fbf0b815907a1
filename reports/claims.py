"""The paper's testable statements as data, and what the records say of each.

A statement is a list of comparisons between rows of tables, all of which must hold. A comparison is decided over seeds:
by the 95 % confidence interval of the paired differences. A single seed decides nothing, whichever way it points; no
correction is made for there being many claims. Beside each verdict stands what the paper's own numbers say.
"""

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd
from ablations.alignment import WEIGHTS
from ablations.catalogue import Request
from ablations.index import CATALOGUES
from ablations.searches import RANDOM
from ablations.store import Store

from bench import networks
from bench.cost import count
from msinet.errors import UserError
from reports.statistics import paired
from reports.tables import INIT, Row, Table, build_table, paper_name, paper_numbers, paper_place

Status = Literal["holds", "fails", "undecided", "not run"]


@dataclass(frozen=True)
class Comparison:
    """`better` minus `worse` in one column of a table, in percentage points."""

    catalogue: str
    column: str
    better: str
    """row as the paper calls it"""
    worse: str
    init: str = "scratch"
    """scratch or imagenet: the group of `better`"""
    worse_init: str = ""
    """the group of `worse`, if it is another"""
    metric: str = "mAP"
    at_least: float = 0.0
    """the difference is larger than this"""
    within: float | None = None
    """instead: the difference is at most this large, either way"""


@dataclass(frozen=True)
class Claim:
    """A statement of the paper."""

    key: str
    statement: str
    source: str
    comparisons: tuple[Comparison, ...] = ()
    measure: "Callable[[pd.DataFrame], Outcome] | None" = None
    """instead of comparisons: decided by counting, or by the table of a latency file"""


@dataclass(frozen=True)
class Outcome:
    """What decides a comparison or a measured claim."""

    status: Status
    told: str
    """the effect in words and numbers, or what is missing"""
    agrees: bool | None = None
    """whether the mean of the differences is as the statement has it, noise aside; None: there is none"""


@dataclass(frozen=True)
class Verdict:
    """A claim and what was found."""

    claim: Claim
    status: Status
    outcomes: tuple[Outcome, ...]
    by_paper: str
    """yes, no, or - : whether the paper's own numbers bear the statement out"""

    @property
    def leans(self) -> bool | None:
        """Whether every mean of an undecided claim is as the statement has it; None: decided, or there are none."""
        means = [outcome.agrees for outcome in self.outcomes if outcome.agrees is not None]
        return all(means) if self.status == "undecided" and means else None


def _everywhere(
    catalogue: str, columns: str, better: str, worse: str, init: str = "scratch", **more: object
) -> tuple[Comparison, ...]:
    """One comparison for each column; VID tasks are judged by R1, the others by mAP."""
    return tuple(
        Comparison(catalogue, column, better, worse, init, metric="R1" if column.endswith("VID") else "mAP", **more)  # type: ignore[arg-type]
        for column in columns.split()
    )


def _parameters(*wanted: tuple[str, float]) -> Callable[[pd.DataFrame], Outcome]:
    """Parameters without classifiers, in millions, to the digit that the paper gives."""

    def measure(latencies: pd.DataFrame) -> Outcome:
        del latencies
        found = [
            (
                text,
                sum(
                    p.numel()
                    for n, p in networks.build(text, 1, (256, 128)).named_parameters()
                    if "classifier" not in n
                ),
            )
            for text, _ in wanted
        ]
        right = all(round(n / 1e6, 1) == millions for (_, n), (_, millions) in zip(found, wanted, strict=True))
        return Outcome("holds" if right else "fails", ", ".join(f"{text}: {n:,}" for text, n in found))

    return measure


def _macs_unchanged(latencies: pd.DataFrame) -> Outcome:
    """Multiply-adds at inference with and without the alignment's module."""
    del latencies
    plain, aligned = (
        count(networks.build(text, 1, (256, 128)), 256, 128).macs for text in ("msinet", "msinet pam=True")
    )
    return Outcome("holds" if plain == aligned else "fails", f"{plain:,} and {aligned:,} multiply-adds an image")


def _faster(text: str, than: str) -> Callable[[pd.DataFrame], Outcome]:
    """Medians of a latency file at every batch that it has of both, as trained and in fp32."""

    def measure(latencies: pd.DataFrame) -> Outcome:
        if len(latencies):
            frame = latencies[(latencies["form"] == "eager") & (latencies["precision"] == "fp32")]
            times = frame.pivot_table(index="batch", columns="model", values="p50_ms")
            if {text, than} <= set(times):
                ratios = (times[text] / times[than]).dropna()
                told = ", ".join(f"{ratio:.2f} at batch {batch}" for batch, ratio in ratios.items())
                if len(ratios):
                    wins = (ratios < 1).sum()
                    status: Status = "holds" if wins == len(ratios) else "undecided" if wins else "fails"
                    return Outcome(status, f"time relative to {than}: {told}")
        return Outcome("not run", f"python -m bench latency --models {text!r} {than!r} --forms eager")

    return measure


#: In the order of the paper.
CLAIMS: tuple[Claim, ...] = (
    Claim(
        "ce-poor",
        "The model searched by classification performs worse than by contrast on the same identities",
        "Sec. 4.4, Fig. 5a",
        (Comparison("figure5a", "MS", "TCM, overlap 1", "CE, overlap 1"),),
    ),
    Claim(
        "tcm-partial",
        "Unbinding the identities of the two sides (overlap 0.4) improves on a full overlap",
        "Sec. 4.4, Fig. 5a",
        (Comparison("figure5a", "MS", "TCM, overlap 0.4", "TCM, overlap 1"),),
    ),
    Claim(
        "tcm-ce",
        "The complete search beats the classification scheme",
        "Sec. 4.4, Fig. 5a",
        (Comparison("figure5a", "MS", "TCM, overlap 0.4", "CE, overlap 1"),),
    ),
    Claim(
        "gate-best",
        "Of the four operations alone, the channel gate performs best",
        "Sec. 4.4, Fig. 5b",
        tuple(
            Comparison("figure5b", "MS", "Channel Gate everywhere", f"{other} everywhere")
            for other in ("None", "Exchange", "Cross Attention")
        ),
    ),
    Claim(
        "msinet-over-single",
        "MSINet surpasses every network of a single operation",
        "Sec. 4.4, Fig. 5b",
        tuple(
            Comparison("figure5b", "MS", "MSINet, the paper's genotype", f"{other} everywhere")
            for other in ("None", "Exchange", "Channel Gate", "Cross Attention")
        ),
    ),
    Claim(
        "msinet-over-random",
        "MSINet surpasses random architectures",
        "Sec. 4.4, Fig. 5b",
        (Comparison("figure5b", "MS", "MSINet, the paper's genotype", f"Random, {RANDOM} genotypes"),),
    ),
    Claim(
        "search-over-random",
        "What the search finds surpasses random architectures",
        "Sec. 4.4, Fig. 5b",
        (Comparison("figure5b", "MS", "TCM, searched here", f"Random, {RANDOM} genotypes"),),
    ),
    Claim(
        "minus-sum",
        "Fusion by difference is about as good as by sum (within 1 point)",
        "Sec. 4.4, Fig. 5c",
        (Comparison("figure5c", "MS", "Minus", "Sum", within=1.0),),
    ),
    Claim(
        "mul-poor",
        "Fusion by product performs worse than by sum",
        "Sec. 4.4, Fig. 5c",
        (Comparison("figure5c", "MS", "Sum", "Mul"),),
    ),
    Claim(
        "scale-helps",
        "Branches of different scale (2:1) improve on equal ones",
        "Sec. 4.4, Fig. 5d",
        (Comparison("figure5d", "MS", "2:1", "1:1"),),
    ),
    Claim(
        "scale-three",
        "A ratio of 3:1 is at least as good as 2:1",
        "Sec. 4.4, Fig. 5d",
        (Comparison("figure5d", "MS", "3:1", "2:1"),),
    ),
    Claim(
        "scale-more",
        "Beyond 3:1 little is gained (4:1 within 1 point)",
        "Sec. 4.4, Fig. 5d",
        (Comparison("figure5d", "MS", "4:1", "3:1", within=1.0),),
    ),
    Claim(
        "alignment-helps",
        "Alignment of any weight helps across data sets",
        "Sec. 4.4, Fig. 5e",
        tuple(
            Comparison("figure5e", "VR>VID", f"weight {weight:g}", "weight 0", metric="R1")
            for weight in WEIGHTS
            if weight
        ),
    ),
    Claim(
        "weight-two",
        "The best weight of alignment is 2",
        "Sec. 4.4, Fig. 5e",
        tuple(
            Comparison("figure5e", "VR>VID", "weight 2", f"weight {weight:g}", metric="R1")
            for weight in WEIGHTS
            if weight != 2
        ),
    ),
    Claim(
        "scratch-resnet",
        "From scratch, MSINet surpasses ResNet50 on every set",
        "Sec. 4.2, Table 2",
        _everywhere("table2", "M MS VR VID", "MSINet", "ResNet50"),
    ),
    Claim(
        "scratch-osnet",
        "From scratch, MSINet surpasses OSNet on every set",
        "Sec. 4.2, Table 2",
        _everywhere("table2", "M MS VR VID", "MSINet", "OSNet"),
    ),
    Claim(
        "scratch-cdnet",
        "From scratch, MSINet surpasses CDNet on every set",
        "Sec. 4.2, Table 2",
        _everywhere("table2", "M MS VR VID", "MSINet", "CDNet"),
    ),
    Claim(
        "resnet-worst",
        "ResNet50 has the worst performance from scratch",
        "Sec. 4.2, Table 2",
        (
            *_everywhere("table2", "M MS VR VID", "OSNet", "ResNet50"),
            *_everywhere("table2", "M MS VR VID", "CDNet", "ResNet50"),
        ),
    ),
    Claim(
        "scratch-over-pretrained",
        "MSINet without pre-training surpasses pre-trained ResNet50 on all metrics",
        "Sec. 4.2, Table 2",
        (
            *_everywhere("table2", "M MS VR VID", "MSINet", "ResNet50", worse_init="imagenet"),
            *(
                Comparison("table2", column, "MSINet", "ResNet50", worse_init="imagenet", metric=metric)
                for column, metric in (("M", "R1"), ("MS", "R1"), ("VR", "R1"), ("VID", "R5"))
            ),
        ),
    ),
    Claim(
        "nine-points",
        "Pre-trained, MSINet surpasses ResNet50 by 9 points of mAP on MSMT17",
        "Abstract, Table 2",
        (Comparison("table2", "MS", "MSINet", "ResNet50", "imagenet", at_least=9.0),),
    ),
    Claim(
        "pretrained-others",
        "Pre-trained, MSINet surpasses OSNet and CDNet",
        "Sec. 4.2, Table 2",
        (
            *_everywhere("table2", "M MS VR VID", "MSINet", "OSNet", "imagenet"),
            *_everywhere("table2", "M MS", "MSINet", "CDNet", "imagenet"),
        ),
    ),
    Claim(
        "across",
        "Across data sets MSINet surpasses ResNet50 and OSNet",
        "Sec. 4.2, Table 2",
        (
            *_everywhere("table2", "MS>M VR>VID", "MSINet", "ResNet50", "imagenet"),
            *_everywhere("table2", "MS>M VR>VID", "MSINet", "OSNet", "imagenet"),
        ),
    ),
    Claim(
        "sixteen-points",
        "With alignment, MSINet surpasses ResNet50 by 16 points of mAP on MSMT17 to Market-1501",
        "Sec. 1, Table 2",
        (Comparison("table2", "MS>M", "MSINet-SAM", "ResNet50", "imagenet", at_least=16.0),),
    ),
    Claim(
        "sam-across",
        "Alignment improves MSINet across data sets",
        "Sec. 4.2, Table 2",
        _everywhere("table2", "MS>M VR>VID", "MSINet-SAM", "MSINet", "imagenet"),
    ),
    Claim(
        "sam-inside",
        "Alignment costs nothing inside a data set (VeRi-776, within 0.5 points)",
        "Sec. 4.4, Table 5",
        (Comparison("table5", "VR", "MSINet|PAM-Self", "MSINet|none", "imagenet", within=0.5),),
    ),
    Claim(
        "sam-each",
        "Aligning positives or negatives alone improves across data sets",
        "Sec. 4.4, Table 5",
        (
            *_everywhere("table5", "VR>VID", "MSINet|Self-Pos", "MSINet|none", "imagenet"),
            *_everywhere("table5", "VR>VID", "MSINet|Self-Neg", "MSINet|none", "imagenet"),
        ),
    ),
    Claim(
        "sam-unified",
        "Aligning all pairs alike is worse than apart",
        "Sec. 4.4, Table 5",
        _everywhere("table5", "VR>VID", "MSINet|Separated", "MSINet|Unified", "imagenet"),
    ),
    Claim(
        "sam-pam",
        "Positive alignment by PAM performs best of all variants",
        "Sec. 4.4, Table 5",
        tuple(
            comparison
            for other in ("none", "Self-Pos", "Self-Neg", "Unified", "Separated")
            for comparison in _everywhere("table5", "VR>VID", "MSINet|PAM-Self", f"MSINet|{other}", "imagenet")
        ),
    ),
    Claim(
        "sam-osnet",
        "Alignment improves OSNet across data sets as well",
        "Sec. 4.4, Table 5",
        _everywhere("table5", "VR>VID", "OSNet|PAM-Self", "OSNet|none", "imagenet"),
    ),
    Claim(
        "transformers-ms",
        "DeiT-B and ViT-B surpass MSINet on MSMT17",
        "Sec. 4.4, Table 6",
        (
            *_everywhere("table6", "MS", "DeiT-B", "MSINet", "imagenet"),
            *_everywhere("table6", "MS", "ViT-B", "MSINet", "imagenet"),
        ),
    ),
    Claim(
        "transformers-vr",
        "MSINet surpasses every transformer on VeRi-776",
        "Sec. 4.4, Table 6",
        tuple(
            comparison
            for other in ("DeiT-S", "DeiT-B", "ViT-B")
            for comparison in _everywhere("table6", "VR", "MSINet", other, "imagenet")
        ),
    ),
    Claim(
        "size",
        "MSINet has 2.3 and MSINet-SAM 2.4 million parameters",
        "Table 2",
        measure=_parameters(("msinet", 2.3), ("msinet pam=True", 2.4)),
    ),
    Claim(
        "size-others",
        "OSNet has 2.2 and CDNet 1.8 million parameters, counted as MSINet's are",
        "Table 2",
        measure=_parameters(("osnet", 2.2), ("cdnet", 1.8)),
    ),
    Claim(
        "faster-resnet", "MSINet is faster than ResNet50", "Sec. 4.2, Table 2", measure=_faster("msinet", "resnet50")
    ),
    Claim("faster-osnet", "MSINet is faster than OSNet", "Table 2", measure=_faster("msinet", "osnet")),
    Claim("sam-free", "Alignment costs nothing at inference", "Sec. 3.3, Table 2", measure=_macs_unchanged),
)


def judge(request: Request, latencies: pd.DataFrame | None = None) -> list[Verdict]:
    """The verdict on every claim, for the profile and the data of a request.

    Args:
        request: profile, data, seeds and store; what the store lacks counts as not run.
        latencies: table of `python -m bench latency`.
    """
    frame = Store(request.store).frame()
    tables: dict[str, Table | str] = {}  # or why there is none
    for claim in CLAIMS:
        for name in (comparison.catalogue for comparison in claim.comparisons):
            if name not in tables:
                try:
                    tables[name] = build_table(CATALOGUES[name], request)
                except UserError as error:
                    tables[name] = str(error)
    verdicts = []
    for claim in CLAIMS:
        if claim.measure is not None:
            outcome = claim.measure(pd.DataFrame() if latencies is None else latencies)
            verdicts.append(Verdict(claim, outcome.status, (outcome,), "-"))
            continue
        found = [_compare(c, tables[c.catalogue], frame, request) for c in claim.comparisons]
        outcomes = tuple(outcome for outcome, _ in found)
        paper = [yes for _, yes in found if yes is not None]
        by_paper = "-" if not paper else "yes" if all(paper) else "no"
        verdicts.append(Verdict(claim, _together([o.status for o in outcomes]), outcomes, by_paper))
    return verdicts


def _together(statuses: Sequence[Status]) -> Status:
    """A statement fails with one of its comparisons, and holds with all that could be made."""
    made = [status for status in statuses if status != "not run"]
    if not made:
        return "not run"
    if "fails" in made:
        return "fails"
    return "holds" if all(status == "holds" for status in statuses) else "undecided"


def _row(table: Table, init: str, name: str) -> Row | None:
    """The row of that name in the group of these initial weights."""
    for row in table.rows:
        group = INIT.get(row.group, "imagenet" if row.group.startswith("pre-trained") else "scratch")
        if group == init and paper_name(row.label) == name:
            return row
    return None


def _compare(
    comparison: Comparison, table: Table | str, frame: pd.DataFrame, request: Request
) -> tuple[Outcome, bool | None]:
    """What the records say, and whether the paper's numbers agree with the statement (None: it has none)."""
    c = comparison
    title = f"{c.better} - {c.worse}, {c.column} {c.metric}"
    paper = _by_paper(c)
    command = command_for(c, request)
    if isinstance(table, str):
        return Outcome("not run", f"{title}: {command} ({table})"), paper
    rows = _row(table, c.init, c.better), _row(table, c.worse_init or c.init, c.worse)
    places = [row.places.get(c.column) if row else None for row in rows]
    if not all(place and place.run_ids for place in places):
        return Outcome("not run", f"{title}: {command}"), paper
    by_seed = [100 * frame.loc[list(place.run_ids)].groupby("seed")[c.metric].mean() for place in places if place]
    differences = (by_seed[0] - by_seed[1]).dropna()
    if differences.empty:
        return Outcome("not run", f"{title}: no seed has both"), paper
    d = paired(differences)
    agrees = bool(abs(d.mean) <= c.within if c.within is not None else d.mean > c.at_least)
    if d.count < 2:
        return Outcome("undecided", f"{title}: {d.mean:+.1f}, one seed", agrees), paper
    status: Status = "undecided"
    if c.within is not None:
        if d.low >= -c.within and d.high <= c.within:
            status = "holds"
        elif d.low > c.within or d.high < -c.within:
            status = "fails"
    elif d.low > c.at_least:
        status = "holds"
    elif d.high < c.at_least or (math.isclose(d.high, d.low) and d.high <= c.at_least):
        status = "fails"
    told = f"{title}: {d.mean:+.1f} [{d.low:+.1f}, {d.high:+.1f}], {d.count} seeds"
    return Outcome(status, told, agrees), paper


def command_for(c: Comparison, request: Request) -> str:
    """What would fill both rows: some of a table is only run when asked for, or needs weights that users have."""
    pretrained = "imagenet" in (c.init, c.worse_init)
    if (pretrained or c.column == "VID") and not request.complete:
        request = replace(request, whole=True)
    words = ["python", "-m", "ablations", "run", c.catalogue, *request.as_args()]
    if pretrained and not request.rendered and request.pretrained is None:
        words += ["--pretrained", "DIR"]
    return shlex.join(words)


def _by_paper(c: Comparison) -> bool | None:
    """Whether the paper's own numbers agree with a comparison; None: it gives none."""
    numbers = paper_numbers()
    numbers = numbers[numbers["table"] == f"T{c.catalogue.removeprefix('table')}"]
    theirs = [
        paper_place(numbers, row, init, c.column)[0].get(c.metric)
        for row, init in ((c.better, c.init), (c.worse, c.worse_init or c.init))
    ]
    if theirs[0] is None or theirs[1] is None:
        return None
    difference = round(theirs[0] - theirs[1], 1)
    return abs(difference) <= c.within if c.within is not None else difference > 0 and difference >= c.at_least


def as_frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row per claim."""
    return pd.DataFrame(
        [
            {
                "key": v.claim.key,
                "claim": v.claim.statement,
                "source": v.claim.source,
                "verdict": v.status,
                "paper's own numbers": v.by_paper,
                "evidence": "; ".join(outcome.told for outcome in v.outcomes),
            }
            for v in verdicts
        ]
    )


def as_markdown(verdicts: Sequence[Verdict], title: str) -> str:
    """A table for people, with the evidence below each statement."""
    lines = [f"**{title}**", "", "| claim | source | verdict | paper's own numbers |", "|---|---|---|---|"]
    for v in verdicts:
        evidence = "<br>".join(outcome.told for outcome in v.outcomes).replace("|", "&#124;")
        lines.append(f"| {v.claim.statement}<br><sub>{evidence}</sub> | {v.claim.source} | {v.status} | {v.by_paper} |")
    return "\n".join(lines) + "\n"
