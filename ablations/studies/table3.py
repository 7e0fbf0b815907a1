"""Table 3: supervised methods on the person sets (Sec. 4.4). The paper cites all rows but MSINet's from others.

Networks that are also in Table 2 share its runs. Methods that cannot be implemented from public sources
(docs/table3.md) have only the paper's numbers.
"""

from ablations.engine.request import Request
from ablations.engine.study import Cell, Study, cross, model_of, network_label, network_rows, tasks, trained_groups
from msinet.data.layouts import card_of
from msinet.models.registry import in_study


def cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """The suite's networks within each person set, pre-trained where the request has that group, else from scratch."""
    chosen = [name for name in datasets if card_of(name).kind == "person"] or datasets
    columns = [task for task in tasks(request, chosen) if task[0] == task[1]]
    rows = network_rows(request, [card.name for card in in_study("table3")])
    groups = trained_groups(request)[-1:]
    return cross(request, groups, rows, columns, lambda row, point: point.experiment(model_of(row)))


STUDY = Study(
    name="table3",
    title="Table 3: supervised methods, measured here or cited by the paper",
    varies="network (the methods without a network here have the paper's numbers alone), data set",
    fixed="recipe of the profile, initial weights: pre-trained where available, else from scratch",
    nuisance="seed",
    cells=cells,
    label=network_label,
    remark="The paper's rows do not share one protocol: OSNet's is from scratch, CDNet's and MSINet's pre-trained, "
    "PCB's on M with refined parts (RPP) and on MS of a variant that is not stated, SFT's probably with its "
    "re-ranking. Rows without a network here are only cited; docs/table3.md says why.",
)
