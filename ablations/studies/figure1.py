"""Figure 1: activation maps of two networks on vehicles, and distances to the nearest negatives (Sec. 1).

The runs are those of Table 2 on VeRi-776.
"""

from collections.abc import Sequence

from ablations.engine.request import Request
from ablations.engine.study import Cell, Study, cross, home, model_of, network_label, network_rows, trained_groups


def vehicle_study(name: str, title: str, networks: Sequence[str]) -> Study:
    """A study of networks whose maps or lists are drawn, on VeRi-776 or the first available set."""

    def cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
        rows, columns = network_rows(request, networks), home(datasets, "veri776")
        return cross(request, trained_groups(request), rows, columns, lambda row, at: at.experiment(model_of(row)))

    return Study(
        name=name,
        title=title,
        varies="network" if len(networks) > 1 else "nothing: there is one network",
        fixed="recipe of the profile, data set (VeRi-776, or the first available)",
        nuisance="seed",
        cells=cells,
        label=network_label,
    )


STUDY = vehicle_study(
    "figure1", "Figure 1: activation maps, and distances to the nearest negatives", ("resnet50", "msinet")
)
