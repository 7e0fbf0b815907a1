"""Table 5: variants of spatial alignment (Sec. 4.5)."""

from typing import cast, get_args

from ablations.engine.experiment import Experiment
from ablations.engine.request import Request
from ablations.engine.study import (
    Cell,
    Point,
    Row,
    Study,
    cross,
    model_of,
    network_label,
    network_rows,
    trained_groups,
    vehicle_tasks,
)
from msinet.training.recipe import Variant

#: Variants by network, and how the paper names them.
NETWORKS: dict[str, tuple[Variant, ...]] = {"msinet": get_args(Variant), "osnet": ("none", "pam-self")}
LABELS: dict[str, str] = {
    "none": "none",
    "self-pos": "Self-Pos",
    "self-neg": "Self-Neg",
    "unified": "Unified",
    "separated": "Separated",
    "pam-self": "PAM-Self",
}


def label(row: Row) -> str:
    """Network and variant, as MSINet|PAM-Self."""
    return f"{network_label({**row, 'alignment': 'none'})}|{LABELS[str(row['alignment'])]}"


def make(row: Row, point: Point) -> Experiment:
    """The training of a network with a variant of alignment."""
    return point.experiment(model_of(row)).aligned(cast(Variant, row["alignment"]))


def cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """Every variant on the vehicle sets, in-domain and cross-domain."""
    rows = [
        {**row, "alignment": variant}
        for row in network_rows(Request(profile=request.profile), NETWORKS)
        for variant in NETWORKS[str(row["network"])]
    ]
    return cross(request, trained_groups(request), rows, vehicle_tasks(request, datasets), make)


STUDY = Study(
    name="table5",
    title="Table 5: variants of spatial alignment",
    varies="alignment (none, self-pos, self-neg, unified, separated, PAM-self), network (MSINet, OSNet), test set",
    fixed="recipe of the profile, weight of the alignment (2), initial weights within a group",
    nuisance="seed; VehicleID's ten gallery draws",
    cells=cells,
    label=label,
    baseline=(("alignment", "none"),),
)
