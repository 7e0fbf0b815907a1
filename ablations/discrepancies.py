"""Where the released code differs from the paper: one difference at a time, so that a reader learns which matter."""

from ablations.catalogue import Catalogue, Cell, Request, home
from ablations.searches import SOURCE, retrained
from ablations.table2 import TABLE2, column_label

#: The released code's search (SPEC A.10), one difference from the paper's at a time.
DISCREPANCIES: dict[str, dict[str, object]] = {
    "as the paper": {},
    "memories start at zero": {"memory_init": "zeros"},
    "architecture steps first": {"order": "alphas"},
    "validation gradients leak": {"leak": True},
    "supernet width of the input": {"mid": "in"},
    "last architecture milestone never acts": {"alpha_milestones": "without the last"},
    "halves in list order": {"halves": "list"},
    "sides by n // 5": {"split": "fifths"},
    "all of them": {
        "memory_init": "zeros",
        "order": "alphas",
        "leak": True,
        "mid": "in",
        "alpha_milestones": "without the last",
        "halves": "list",
        "split": "fifths",
    },
}


def discrepancies(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """The paper's search against each behaviour of the released code, and against all of them."""
    source = home(datasets, SOURCE)
    plain = request.search(source, 0).recipe
    assert plain.search is not None
    cells = []
    for seed in range(request.seeds):
        for row, named in DISCREPANCIES.items():
            changes = dict(named)
            if "alpha_milestones" in changes:
                changes["alpha_milestones"] = plain.search.alpha_milestones[:-1]
            search = request.search(source, seed, **changes)
            cells.append(
                Cell(
                    "searched, then trained from scratch",
                    row,
                    column_label(source, source),
                    retrained(request, source, seed, search),
                )
            )
    return cells


DISCREPANCY_STUDY = Catalogue(
    name="discrepancies",
    title="Discrepancies: the paper's search against each behaviour of the released code",
    varies="one behaviour of the released search code at a time, and all of them",
    fixed="iterations of the search, training recipe of the profile, data set (MSMT17, or the first at hand)",
    nuisance="seed of search and training",
    columns=TABLE2.columns,
    cells=discrepancies,
    baseline="as the paper",
)
