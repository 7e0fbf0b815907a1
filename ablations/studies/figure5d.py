"""Figure 5d: scale ratio of the branches of a cell (Sec. 4.5)."""

from ablations.engine.experiment import Experiment
from ablations.engine.request import Request
from ablations.engine.study import Cell, Point, Row, Study, cross, home

ROWS: list[Row] = [{"ratio": ratio} for ratio in (1, 2, 3, 4)]


def make(row: Row, point: Point) -> Experiment:
    """The training of MSINet with this ratio; the default, 3, shares the runs of the other tables."""
    return point.msinet() if row["ratio"] == 3 else point.msinet().with_options(**row)


def cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """Each ratio, trained from scratch."""
    return cross(request, ("scratch",), ROWS, home(datasets), make)


STUDY = Study(
    name="figure5d",
    title="Figure 5d: scale ratio of the branches",
    varies="light convolutions of branch b for each one of branch a (1 to 4), hence parameters and MACs",
    fixed="genotype of Table 1, recipe of the profile, data set (MSMT17, or the first available)",
    nuisance="seed",
    cells=cells,
    label=lambda row: f"{row['ratio']}:1",
    baseline=(("ratio", 1),),
    axis="ratio",
)
