"""Figures 1, 4 and 6: networks trained on the vehicle set, to be looked at (Sec. 1, 4.2, 4.4).

They are Table 2's networks on VeRi-776: what the table has run is not run again.
"""

from collections.abc import Sequence
from functools import partial

from ablations.catalogue import Catalogue, Cell, Request, home
from ablations.table2 import TABLE2, column_label, groups, row_label

#: The paper shows vehicles.
SOURCE = "veri776"


def trained(models: Sequence[str], request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """Each network on the vehicle set, or the first set at hand, from every kind of initial weights that is wanted."""
    source = home(datasets, SOURCE)
    column = column_label(source, source)
    return [
        Cell(group, row_label(model), column, request.experiment(model, source, source, seed, init))
        for group, init in groups(request)
        for seed in range(request.seeds)
        for model in request.models or tuple(map(request.named, models))
    ]


def _catalogue(name: str, title: str, models: Sequence[str]) -> Catalogue:
    return Catalogue(
        name=name,
        title=title,
        varies="network" if len(models) > 1 else "nothing: one network is looked at",
        fixed="recipe of the profile, data set (VeRi-776, or the first at hand)",
        nuisance="seed",
        columns=TABLE2.columns,
        cells=partial(trained, models),
    )


FIGURE1 = _catalogue(
    "figure1", "Figure 1: activation maps, and distances to the nearest negatives", ("resnet50", "msinet")
)
FIGURE4 = _catalogue("figure4", "Figure 4: maps after each MSI cell", ("msinet",))
FIGURE6 = _catalogue("figure6", "Figure 6: ranked lists", ("resnet50", "msinet"))
