"""Discrepancies: the paper's search against each behaviour of the released code (docs/differences.md)."""

from ablations.engine.experiment import Experiment, Scalar
from ablations.engine.request import Request
from ablations.engine.study import Cell, Point, Row, Study, cross, home

LABELS = {
    "paper": "as the paper",
    "zero_memories": "memories start at zero",
    "alphas_first": "architecture steps first",
    "leak": "validation gradients leak",
    "input_width": "supernet width of the input",
    "no_last_milestone": "last architecture milestone never acts",
    "list_halves": "halves in list order",
    "fifths": "sides by n // 5",
    "all": "all of them",
}
#: Settings of the search by behaviour; the missing milestone depends on the recipe.
CHANGES: dict[str, dict[str, Scalar]] = {
    "zero_memories": {"memory_init": "zeros"},
    "alphas_first": {"order": "alphas"},
    "leak": {"leak": True},
    "input_width": {"mid": "in"},
    "list_halves": {"halves": "list"},
    "fifths": {"split": "fifths"},
}


def make(row: Row, point: Point) -> Experiment:
    """The training of the genotype that a search with this behaviour finds."""
    behaviour = str(row["behaviour"])
    chosen = CHANGES if behaviour == "all" else {behaviour: CHANGES.get(behaviour, {})}
    changes: dict[str, Scalar | tuple[int, ...]] = {}
    for change in chosen.values():
        changes |= change
    if behaviour in ("no_last_milestone", "all"):
        plain = point.request.search(point.train, point.seed).recipe.search_settings
        changes["alpha_milestones"] = plain.alpha_milestones[:-1]
    return point.searched(**changes)


def cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """A search per behaviour, and the training of its genotype."""
    return cross(request, ("searched",), [{"behaviour": name} for name in LABELS], home(datasets), make)


STUDY = Study(
    name="discrepancies",
    title="Discrepancies: the paper's search against each behaviour of the released code",
    varies="one behaviour of the released search code at a time, and all of them",
    fixed="iterations of the search, training recipe of the profile, data set (MSMT17, or the first available)",
    nuisance="seed of search and training",
    cells=cells,
    label=lambda row: LABELS[str(row["behaviour"])],
    baseline=(("behaviour", "paper"),),
)
