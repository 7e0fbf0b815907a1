"""Figure 5a: one classifier or two memories, and the identities that the two sides share (Sec. 4.5)."""

from ablations.engine.experiment import Experiment
from ablations.engine.request import Request
from ablations.engine.study import Cell, Point, Row, Study, cross, home

OVERLAPS = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)
ROWS: list[Row] = [{"mechanism": "ce", "overlap": 1.0}]
ROWS += [{"mechanism": "tcm", "overlap": overlap} for overlap in OVERLAPS]


def make(row: Row, point: Point) -> Experiment:
    """The training of the genotype that a search with this mechanism and overlap finds."""
    return point.searched(**row)


def cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """A search per mechanism and overlap, and the training of its genotype."""
    return cross(request, ("searched",), ROWS, home(datasets), make)


STUDY = Study(
    name="figure5a",
    title="Figure 5a: search mechanism and overlap of the two sides",
    varies="mechanism (CE with one classifier, TCM with two memories), share of identities on both sides",
    fixed="supernet, iterations of the search, training recipe of the profile, data set (MSMT17, or first available)",
    nuisance="seed of search and training",
    cells=cells,
    label=lambda row: f"{str(row['mechanism']).upper()}, overlap {row['overlap']:g}",
    baseline=(("mechanism", "ce"), ("overlap", 1.0)),
    axis="overlap",
)
