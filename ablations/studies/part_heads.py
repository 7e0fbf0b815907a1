"""Part heads: those of PCB and PCB+RPP on MSINet and ResNet50 (not in the paper)."""

from dataclasses import replace
from itertools import product

from ablations.engine.experiment import Experiment
from ablations.engine.request import Request
from ablations.engine.study import Cell, Point, Row, Study, cross, home, model_of, network_rows
from msinet.models.registry import CARDS, label_of
from msinet.training.recipe import with_settings

#: Heads by the option `neck`, and their names in tables.
HEADS = {"": "own head", "pcb": "PCB head", "rpp": "PCB+RPP head"}


def make(row: Row, point: Point) -> Experiment:
    """The training of a network with a head, on images that are high enough for six parts."""
    experiment = point.experiment(model_of(row))
    image = experiment.recipe.image
    height = CARDS["pcb"].height(image.height)
    width = height if image.width == image.height else image.width
    experiment = replace(experiment, recipe=with_settings(experiment.recipe, {"height": height, "width": width}))
    return experiment.with_options(neck=row["head"]) if row["head"] else experiment


def cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """Each network with each head, trained from scratch."""
    networks = network_rows(request, ("msinet", "resnet50"))
    rows = [{**network, "head": head} for network, head in product(networks, HEADS)]
    return cross(request, ("scratch",), rows, home(datasets), make)


STUDY = Study(
    name="part_heads",
    title="Part heads on MSINet and ResNet50",
    varies="head: the network's own, PCB's stripes, or PCB+RPP's refined parts",
    fixed="images of the same size, recipe of the profile, data set (MSMT17, or the first available)",
    nuisance="seed",
    cells=cells,
    label=lambda row: f"{label_of(model_of(row))}, {HEADS[str(row['head'])]}",
    baseline=(("head", ""),),
)
