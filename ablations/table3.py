"""Table 3: supervised methods on the person sets (SPEC C.3). Every row of the paper but MSINet's is cited from others.

The networks among them that this suite has are Table 2's: what that table has run is not run again. The others keep
the paper's numbers, and stand as not run.
"""

from ablations.catalogue import Catalogue, Cell, Request
from ablations.table2 import TABLE2, groups, row_label, tasks

NETWORKS = ("osnet", "cdnet", "msinet")
DATASETS = ("market1501", "msmt17")


def cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """The suite's own networks within each person set, pre-trained where that is wanted, else from scratch."""
    group, init = groups(request)[-1]
    chosen = tuple(name for name in DATASETS if name in datasets) or datasets
    return [
        Cell(group, row_label(model), column, request.experiment(model, source, target, seed, init))
        for seed in range(request.seeds)
        for model in request.models or tuple(map(request.named, NETWORKS))
        for column, source, target in tasks(request, chosen)
        if source == target
    ]


TABLE3 = Catalogue(
    name="table3",
    title="Table 3: supervised methods, ours beside those that the paper cites",
    varies="network (OSNet, CDNet, MSINet; the others are the paper's numbers alone), data set",
    fixed="recipe of the profile, initial weights: pre-trained where there are such, else from scratch",
    nuisance="seed",
    columns=TABLE2.columns,
    cells=cells,
    remark="The paper's rows are not of one protocol: OSNet's is from scratch, CDNet's and MSINet's pre-trained, PCB's "
    "with refined parts (RPP), SFT's with its re-ranking; what stands as not run here is no network of this suite.",
)
