"""How hard the data are: what colour alone, random weights and short trainings reach on each set and across sets."""

from dataclasses import replace

from ablations.catalogue import Catalogue, Cell, Request
from ablations.table2 import TABLE2, tasks, untrained
from ablations.table2 import cells as table2_cells

#: Trained networks of the calibration; a subset of Table 2's, whose runs it shares.
TRAINED = ("resnet50", "osnet", "msinet")


def cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """The rows that learn nothing, then the trained ones from scratch, in Table 2's columns."""
    request = replace(request, models=request.models or tuple(map(request.named, TRAINED)))
    both = table2_cells(request, datasets)
    random = [
        Cell("no training", "MSINet, random weights", column, untrained(request, request.named("msinet"), target))
        for column, _, target in tasks(request, datasets)
    ]
    colour = [cell for cell in both if cell.group == "no training"]
    scratch = [cell for cell in both if cell.group == "from scratch"]
    return [*colour, *random, *scratch]


CALIBRATION = Catalogue(
    name="calibration",
    title="Calibration: how hard the data are",
    varies="what was learned: nothing (colour, random weights), or the profile's short training of three networks",
    fixed="images, recipe of the profile",
    nuisance="seed",
    columns=TABLE2.columns,
    cells=cells,
)
