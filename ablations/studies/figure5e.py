"""Figure 5e: weight of spatial alignment across data sets (Sec. 4.5)."""

from collections.abc import Sequence

from ablations.engine.experiment import Experiment
from ablations.engine.request import Request
from ablations.engine.study import Cell, Point, Row, Study, Task, cross, trained_groups, vehicle_tasks
from msinet.errors import DataError

ROWS: list[Row] = [{"weight": weight} for weight in (0.0, 0.5, 1.0, 2.0, 3.0, 4.0)]


def across(request: Request, datasets: Sequence[str]) -> Task:
    """Training and test set: cross-domain where two sets are available.

    Raises:
        DataError: no available set can be trained on.
    """
    every = vehicle_tasks(request, datasets)
    if not every:
        raise DataError(
            f"nothing to train on among {', '.join(datasets) or 'no data sets'}: VehicleID alone is used only when it "
            "is named in --datasets, or with --whole"
        )
    return next((task for task in every if task[0] != task[1]), every[0])


def weighted(plain: Experiment, weight: float) -> Experiment:
    """The experiment with alignment of that weight; weight 0 shares the run without alignment."""
    return plain.aligned("pam-self" if weight else "none", alignment_weight=weight)


def make(row: Row, point: Point) -> Experiment:
    """The training of MSINet with alignment of a row's weight."""
    return weighted(point.msinet(), float(row["weight"]))


def cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """Each weight of the alignment."""
    return cross(request, trained_groups(request), ROWS, [across(request, datasets)], make)


STUDY = Study(
    name="figure5e",
    title="Figure 5e: weight of spatial alignment across data sets",
    varies="weight of the alignment (lambda_sa)",
    fixed="MSINet, alignment PAM-self, cross-domain recipe of the profile (VR to VID, or the first available set)",
    nuisance="seed; VehicleID's ten gallery draws",
    cells=cells,
    label=lambda row: f"weight {row['weight']:g}",
    baseline=(("weight", 0.0),),
    axis="weight",
)
