"""Calibration: what colour, random weights and short trainings reach on each data set and across them."""

from ablations.engine.experiment import Experiment
from ablations.engine.request import Request
from ablations.engine.study import Cell, Point, Row, Study, cross, model_of, network_label, network_rows, tasks
from ablations.studies import table2
from msinet.models.registry import in_study


def make(row: Row, point: Point) -> Experiment | None:
    """The evaluation of an untrained network, or Table 2's training from scratch."""
    return point.untrained(model_of(row)) if point.group == "untrained" else table2.make(row, point)


def cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """The untrained rows (colour histogram, MSINet with random weights), then networks trained from scratch."""
    columns = tasks(request, datasets)
    untrained = [table2.UNTRAINED, *network_rows(Request(profile=request.profile), ["msinet"])]
    rows = network_rows(request, [card.name for card in in_study("calibration")])
    return cross(request, ("untrained",), untrained, columns, make) + cross(request, ("scratch",), rows, columns, make)


STUDY = Study(
    name="calibration",
    title="Calibration: how hard the data are",
    varies="training: none (colour histogram, random weights), or the profile's short training of three networks",
    fixed="images, recipe of the profile",
    nuisance="seed",
    cells=cells,
    label=network_label,
)
