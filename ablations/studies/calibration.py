"""Calibration: results of colours alone, random weights and short trainings, in-domain and cross-domain."""

from ablations.engine.request import Request
from ablations.engine.study import Cell, Study, cross, first_tasks, network_label, network_rows, table_networks
from ablations.studies import table2


def cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """Table 2's untrained rows, then networks trained from scratch."""
    columns = first_tasks(request, datasets)
    rows = network_rows(request, table_networks(request, "calibration"))
    return table2.untrained(request, rows, columns) + cross(request, ("scratch",), rows, columns, table2.make)


STUDY = Study(
    name="calibration",
    title="Calibration: how hard the data are",
    varies="training: none (colour histogram, oracles, random weights), or that of the profile",
    fixed="images, recipe of the profile",
    nuisance="seed",
    cells=cells,
    label=network_label,
)
