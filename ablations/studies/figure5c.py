"""Figure 5c: fusion of the branches of a cell (Sec. 4.5)."""

from ablations.engine.experiment import Experiment
from ablations.engine.request import Request
from ablations.engine.study import Cell, Point, Row, Study, cross, home

ROWS: list[Row] = [{"fusion": fusion} for fusion in ("sum", "minus", "mul")]


def make(row: Row, point: Point) -> Experiment:
    """The training of MSINet with this fusion; the default, sum, shares the runs of the other tables."""
    return point.msinet() if row["fusion"] == "sum" else point.msinet().with_options(**row)


def cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """Each fusion, trained from scratch."""
    return cross(request, ("scratch",), ROWS, home(datasets), make)


STUDY = Study(
    name="figure5c",
    title="Figure 5c: fusion of the branches",
    varies="fusion after the 1x1 convolutions: sum, difference, product",
    fixed="genotype of Table 1, recipe of the profile, data set (MSMT17, or the first available)",
    nuisance="seed",
    cells=cells,
    label=lambda row: str(row["fusion"]).capitalize(),
    baseline=(("fusion", "sum"),),
)
