"""Table 6: transformers and MSINet (Sec. 4.5)."""

from dataclasses import replace

from ablations.engine.request import Request
from ablations.engine.study import Cell, Row, Study, cross, model_of, network_rows, tasks, trained_groups
from msinet.models.patches import patch_side
from msinet.models.registry import card_of, in_study, label_of

#: Patches of the paper's transformers, in pixels.
PAPER = 16


def label(row: Row) -> str:
    """The paper's name of the network, with the width or patch if it differs from the paper's."""
    return label_of(model_of(row)) + (f" /{row['patch']}" if row["patch"] not in (0, PAPER) else "")


def patched(cell: Cell) -> Cell:
    """The cell with the side of the network's patches among its factors; 0 for networks without patches."""
    transformer = card_of(cell.experiment.model).recipe == "transformer"
    patch = patch_side(cell.experiment.recipe.image.height) if transformer else 0
    return replace(cell, factors=tuple({**dict(cell.factors), "patch": patch}.items()))


def cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """Transformers and MSINet on MSMT17 and VeRi-776, or on the available sets."""
    every = [task for task in tasks(request, datasets) if task[0] == task[1]]
    chosen = [task for task in every if task[0] in ("msmt17", "veri776")] or every
    networks = network_rows(request, [card.name for card in in_study("table6")])
    rows: list[Row] = [{"network": row["network"], "width": row["width"]} for row in networks]
    found = cross(request, trained_groups(request), rows, chosen, lambda row, point: point.experiment(model_of(row)))
    return [patched(cell) for cell in found]


STUDY = Study(
    name="table6",
    title="Table 6: transformers and MSINet",
    varies="network (transformers, MSINet) with its own recipe, initial weights, data set",
    fixed="image size, batches, number of identities",
    nuisance="seed (initial weights, batches, augmentation)",
    cells=cells,
    label=label,
    baseline=(("network", "msinet"),),
)
