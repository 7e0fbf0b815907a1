"""Table 1: the architecture that the twins contrastive mechanism finds (Sec. 4.2)."""

from ablations.engine.experiment import Experiment
from ablations.engine.request import Request
from ablations.engine.study import Cell, Point, Row, Study, cross, home

LABELS = {"paper": "paper's genotype", "searched": "searched here"}


def make(row: Row, point: Point) -> Experiment:
    """The training of the paper's genotype, or of the one that a search finds."""
    return point.msinet() if row["genotype"] == "paper" else point.searched()


def cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """Both genotypes, trained from scratch."""
    return cross(request, ("scratch",), [{"genotype": name} for name in LABELS], home(datasets), make)


STUDY = Study(
    name="table1",
    title="Table 1: the architecture that twins contrast finds",
    varies="genotype: the paper's, or searched here (overlap 0.4)",
    fixed="training recipe of the profile, data set (MSMT17, or the first available)",
    nuisance="seed of search and training",
    cells=cells,
    label=lambda row: LABELS[str(row["genotype"])],
    baseline=(("genotype", "paper"),),
)
