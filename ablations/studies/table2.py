"""Table 2: networks in-domain and cross-domain, from scratch and pre-trained (Sec. 4.3)."""

from collections.abc import Sequence

from ablations.engine.experiment import Experiment
from ablations.engine.request import Request
from ablations.engine.study import (
    Cell,
    Point,
    Row,
    Study,
    Task,
    cross,
    first_tasks,
    model_of,
    network_label,
    network_rows,
    table_networks,
    trained_groups,
)
from msinet.data.datasets import JOIN
from msinet.models.registry import card_of

#: Rows that show how far colours alone, or all but small details, suffice. Oracles need rendered images.
BOUNDS = ("colour_histogram",)
ORACLES = ("oracle_colours", "oracle_coarse")


def untrained(request: Request, networks: Sequence[Row], columns: Sequence[Task]) -> list[Cell]:
    """The rows without training: bounds of coarse cues and, unless networks are named, random weights."""
    names = (*BOUNDS, *(ORACLES if request.rendered else ()))
    rows: list[Row] = [{"network": name, "width": 1.0, "alignment": "none"} for name in names]
    rows += [] if request.models else networks

    def ranked(row: Row, point: Point) -> Experiment | None:
        if row["network"] in ORACLES and JOIN in point.test:
            return None  # joined sets have no list of factors
        return point.untrained(model_of(row))

    return cross(request, ("untrained",), rows, columns, ranked)


def make(row: Row, point: Point) -> Experiment | None:
    """The training of a row's network, if it learns. In the paper only the pre-trained group has aligned networks."""
    if not card_of(str(row["network"])).learns:
        return None
    if row["alignment"] == "none":
        return point.experiment(model_of(row))
    return point.experiment(model_of(row)).aligned("pam-self") if point.init == "pretrained" else None


def cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """The untrained rows, then the networks and their variants with spatial alignment."""
    columns = first_tasks(request, datasets)
    networks = table_networks(request, "table2")
    rows = network_rows(request, networks)
    without = untrained(request, rows, columns)
    if not request.models:
        aligned = [name for name in networks if "pam=True" in dict(card_of(name).variants)]
        rows += [{**row, "alignment": "pam-self"} for row in network_rows(request, aligned)]
    return without + cross(request, trained_groups(request), rows, columns, make)


STUDY = Study(
    name="table2",
    title="Table 2: object ReID from scratch and pre-trained, in-domain and cross-domain",
    varies="network, initial weights, training set, test set",
    fixed="recipe of the profile: image size, batches, optimizer, schedule, losses, augmentation",
    nuisance="seed (initial weights, batches, augmentation); VehicleID's ten gallery draws; ten orders of an oracle",
    cells=cells,
    label=network_label,
    remark="The paper's numbers of pre-trained ResNet50 on M equal those of the strong baseline (BoT). Those of "
    "OSNet on MS>M equal torchreid's for a training on all of MSMT17, queries and gallery included.",
)
