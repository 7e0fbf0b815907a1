"""Figure 5b: single operations, random, published and searched architectures (Sec. 4.5)."""

import numpy as np

from ablations.engine.experiment import Experiment
from ablations.engine.request import Request
from ablations.engine.study import Cell, Point, Row, Study, cross, home
from msinet.models.genotype import OPERATIONS, SEARCHED

#: Least number of random architectures in a comparison, because they are a random effect.
GENOTYPES = 10
#: Smaller numbers by profile, for quick trials.
FEWER = {"smoke": 3}
#: Architectures of a single operation, by the operation's letter.
SINGLE = {"none": "N", "exchange": "E", "gate": "G", "attention": "A"}
LABELS = {
    "none": "None everywhere",
    "exchange": "Exchange everywhere",
    "gate": "Channel Gate everywhere",
    "attention": "Cross Attention everywhere",
    "random": "Random genotypes",
    "paper": "MSINet, the paper's genotype",
    "tpe": "TPE, searched here",
    "tcm": "TCM, searched here",
}


def draws_per_seed(request: Request) -> int:
    """Random genotypes of each seed. Two seeds have `GENOTYPES` together, and further seeds as many more each."""
    return -(-FEWER.get(request.profile, GENOTYPES) // min(2, request.repeats))


def random_genotype(seed: int, draw: int) -> str:
    """A genotype drawn uniformly from all 4^12; each seed and draw has its own."""
    rng = np.random.default_rng((seed, draw))
    return "".join(rng.choice(list(OPERATIONS), len(SEARCHED)))


def make(row: Row, point: Point) -> Experiment:
    """The training of a given architecture, or of one that a search finds."""
    name = str(row["architecture"])
    if name in ("tpe", "tcm"):
        return point.searched(mechanism=name)
    if name == "random":
        return point.msinet(random_genotype(point.seed, point.draw))
    return point.msinet(SINGLE[name] * len(SEARCHED) if name in SINGLE else SEARCHED)


def cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """Each architecture, trained from scratch; random genotypes are draws of one row and differ between seeds."""
    rows: list[Row] = []
    draws = draws_per_seed(request)
    for name in LABELS:
        rows += [{"architecture": name, "draw": draw} for draw in range(draws if name == "random" else 1)]
    return cross(request, ("scratch",), rows, home(datasets), make)


STUDY = Study(
    name="figure5b",
    title="Figure 5b: single operations, random, published and searched architectures",
    varies="genotype, or the search that finds it (TCM, or TPE with as many training passes)",
    fixed="training recipe of the profile, data set (MSMT17, or the first available)",
    nuisance="seed of search and training; ten or more random genotypes (three or more in smoke), other ones per seed",
    cells=cells,
    label=lambda row: LABELS[str(row["architecture"])],
    baseline=(("architecture", "random"),),
)
