"""What the search is worth: Table 1, Figures 5a and 5b, and the overlap sweep's last step (Sec. 4.4)."""

from dataclasses import replace

import numpy as np

from ablations.catalogue import Catalogue, Cell, Request, home
from ablations.experiment import Experiment
from ablations.table2 import TABLE2, column_label
from msinet.models.genotype import OPERATIONS, SEARCHED

#: Overlap ratios of Figure 5a.
RATIOS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
#: Genotypes drawn at random in Figure 5b.
RANDOM = 3
#: The paper searches on MSMT17.
SOURCE = "msmt17"


def retrained(request: Request, source: str, seed: int, search: Experiment) -> Experiment:
    """The training from scratch of what a search finds."""
    plain = request.experiment(request.named("msinet"), source, source, seed)
    return replace(plain, genotype_from=search)


def trained(request: Request, source: str, seed: int, genotype: str) -> Experiment:
    """The training from scratch of a given genotype; the paper's own is the model's default."""
    plain = request.experiment(request.named("msinet"), source, source, seed)
    return plain if genotype == SEARCHED else plain.known(genotype)


def random_genotypes(count: int) -> list[str]:
    """Genotypes drawn uniformly from the 4^12, always the same ones."""
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(list(OPERATIONS), len(SEARCHED))) for _ in range(count)]


def table1(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """The searched architecture beside the paper's, both trained from scratch."""
    source = home(datasets, SOURCE)
    column = column_label(source, source)
    cells = []
    for seed in range(request.seeds):
        cells += [
            Cell("from scratch", "paper's genotype", column, trained(request, source, seed, SEARCHED)),
            Cell(
                "from scratch", "searched here", column, retrained(request, source, seed, request.search(source, seed))
            ),
        ]
    return cells


def figure5a(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """One classifier against two memories, and how many identities the two sides share."""
    source = home(datasets, SOURCE)
    searches = [("CE, overlap 1", {"mechanism": "ce", "overlap": 1.0})]
    searches += [(f"TCM, overlap {ratio:g}", {"overlap": ratio}) for ratio in reversed(RATIOS)]
    return [
        Cell(
            "searched, then trained from scratch",
            row,
            column_label(source, source),
            retrained(request, source, seed, request.search(source, seed, **changes)),
        )
        for seed in range(request.seeds)
        for row, changes in searches
    ]


def figure5b(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """Networks of a single operation, random ones, the paper's, and what searches of equal cost find."""
    source = home(datasets, SOURCE)
    column = column_label(source, source)
    names = {"N": "None", "E": "Exchange", "G": "Channel Gate", "A": "Cross Attention"}
    cells = []
    for seed in range(request.seeds):
        fixed = [(f"{names[letter]} everywhere", letter * len(SEARCHED)) for letter in names]
        fixed += [(f"Random, {RANDOM} genotypes", genotype) for genotype in random_genotypes(RANDOM)]
        fixed += [("MSINet, the paper's genotype", SEARCHED)]
        cells += [
            Cell("from scratch", row, column, trained(request, source, seed, genotype)) for row, genotype in fixed
        ]
        for row, changes in (("TPE, searched here", {"mechanism": "tpe"}), ("TCM, searched here", {})):
            search = request.search(source, seed, **changes)
            cells.append(Cell("from scratch", row, column, retrained(request, source, seed, search)))
    return cells


TABLE1 = Catalogue(
    name="table1",
    title="Table 1: the architecture that twins contrast finds",
    varies="genotype: the paper's, or searched here (overlap 0.4)",
    fixed="training recipe of the profile, data set (MSMT17, or the first at hand)",
    nuisance="seed of search and training",
    columns=TABLE2.columns,
    cells=table1,
    baseline="paper's genotype",
)
FIGURE5A = Catalogue(
    name="figure5a",
    title="Figure 5a: search mechanism and overlap of the two sides",
    varies="mechanism (CE with one classifier, TCM with two memories), share of identities on both sides",
    fixed="supernet, iterations of the search, training recipe of the profile, data set (MSMT17, or the first at hand)",
    nuisance="seed of search and training",
    columns=TABLE2.columns,
    cells=figure5a,
    baseline="CE, overlap 1",
)
FIGURE5B = Catalogue(
    name="figure5b",
    title="Figure 5b: single operations, random, published and searched architectures",
    varies="genotype, or the search that finds it (TCM, or TPE with as many training passes)",
    fixed="training recipe of the profile, data set (MSMT17, or the first at hand)",
    nuisance="seed of search and training; three random genotypes",
    columns=TABLE2.columns,
    cells=figure5b,
    baseline=f"Random, {RANDOM} genotypes",
)
