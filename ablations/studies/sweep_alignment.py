"""Alignment sweep: the weight of spatial alignment, chosen on held-out identities across data sets."""

from collections.abc import Sequence

from ablations.engine.experiment import Experiment
from ablations.engine.request import Request
from ablations.engine.study import Cell, Point, Row, Study, Task, cross
from ablations.engine.sweep import Sweep, Values, read_summary
from ablations.studies import figure5e
from msinet.data.datasets import HELD_OUT
from msinet.training.recipe import Losses

LABELS = {"none": "no alignment", "paper": "the paper's weight", "best": "best of the sweep"}
PAPER = Losses().alignment_weight


def held_out(request: Request, datasets: Sequence[str]) -> Task:
    """The training set of Figure 5e, and held-out training identities of its test set."""
    train, test = figure5e.across(request, datasets)
    return train + HELD_OUT * (train == test), test + HELD_OUT


def default(request: Request, train: str) -> dict[str, float]:
    """The paper's weight."""
    del request, train
    return {"alignment_weight": PAPER}


def trial(request: Request, task: Task, values: Values) -> Experiment:
    """The training of MSINet with alignment of that weight."""
    return figure5e.weighted(Point(request, "scratch", *task, seed=0).msinet(), values["alignment_weight"])


SWEEP = Sweep(
    name="alignment",
    space={"alignment_weight": (0.0, 4.0, False)},
    data=lambda request: held_out(request, request.available_datasets()),
    default=default,
    trial=trial,
)


def label(row: Row) -> str:
    """The choice and its weight."""
    weight = "" if row["choice"] == "none" else f", {row['weight']:.3g}"
    return LABELS[str(row["choice"])] + weight


def cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """No alignment, the paper's weight and the sweep's on the test set."""
    rows: list[Row] = [{"choice": "none", "weight": 0.0}, {"choice": "paper", "weight": PAPER}]
    if (summary := read_summary(request, SWEEP.name, held_out(request, datasets))) is not None:
        rows.append({"choice": "best", "weight": float(summary["best"]["alignment_weight"])})
    return cross(request, ("scratch",), rows, [figure5e.across(request, datasets)], figure5e.make)


STUDY = Study(
    name="sweep_alignment",
    title="Sweep: the weight of spatial alignment chosen on held-out identities",
    varies="weight of the alignment (lambda_sa) in [0, 4], chosen on held-out identities",
    fixed="MSINet, alignment PAM-self, cross-domain recipe of the profile (VR to VID, or the first available set)",
    nuisance="seed of the last trainings",
    cells=cells,
    label=label,
    baseline=(("choice", "none"),),
)
