"""Readings of spatial alignment: the paper's text, Eq. 8, and the released code (Sec. 3.3)."""

from ablations.engine.experiment import Experiment
from ablations.engine.request import Request
from ablations.engine.study import Cell, Point, Row, Study, cross, trained_groups, vehicle_tasks

#: Settings of each reading, where the released code differs or the paper does not say (docs/differences.md).
READINGS: dict[str, dict[str, str | bool]] = {
    "recommended": {},
    "partner_grid": {"alignment_grid": "partner"},
    "no_self_pairs": {"alignment_self_pairs": False},
    "equation_8": {"alignment_per_pair": False},
}
LABELS = {
    "recommended": "as recommended: anchor grid, self pairs, mean over pairs",
    "partner_grid": "partner grid (released code)",
    "no_self_pairs": "without self pairs",
    "equation_8": "negatives over their number (Eq. 8)",
}


def make(row: Row, point: Point) -> Experiment:
    """The training of MSINet with one reading of the alignment."""
    return point.msinet().aligned("pam-self", **READINGS[str(row["reading"])])


def cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """The recommended reading, and readings that differ from it in one setting."""
    rows = [{"reading": name} for name in READINGS]
    return cross(request, trained_groups(request), rows, vehicle_tasks(request, datasets), make)


STUDY = Study(
    name="alignment_readings",
    title="Readings of spatial alignment: the paper's words, its equation, the released code",
    varies="grid, self pairs and normaliser of the alignment, one at a time",
    fixed="MSINet, alignment PAM-self of weight 2, recipe of the profile",
    nuisance="seed; VehicleID's ten gallery draws",
    cells=cells,
    label=lambda row: LABELS[str(row["reading"])],
    baseline=(("reading", "recommended"),),
)
