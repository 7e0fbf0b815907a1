"""Table 4: learning without labels, and adaptation to a set without labels (Sec. 4.4).

Every method runs with ResNet50 and with MSINet. The first rows are lower bounds: the starting weights of all methods,
and a training with labels of the source that is ranked on the target without adaptation. The paper's other methods have
only its numbers (docs/table4.md).
"""

from collections.abc import Sequence
from dataclasses import replace

from ablations.engine.experiment import Experiment
from ablations.engine.request import Request
from ablations.engine.study import Cell, Point, Row, Study, Task, cross, home, pretrained_group
from msinet.models.registry import label_of, split_name, with_width
from msinet.training.recipe import Method, Recipe, Schedule, Unsupervised

#: Methods by their names in the paper.
METHODS: dict[str, Method] = {
    "MMCL": "mmcl",
    "MMT": "mmt",
    "SpCL": "spcl",
    "ClusterContrast": "clustercontrast",
    "GS": "gs",
    "HDCRL": "hdcrl",
    "IDM": "idm",
}
START, TRANSFER = "Starting weights", "Direct transfer"
#: The backbone of all methods but those that the paper's authors ran with MSINet.
PLAIN = "resnet50"
#: Source and target of the adaptation.
ADAPTATION: Task = ("market1501", "msmt17")


def name_of(method: str, network: str) -> str:
    """A row as the paper names it: GS with ResNet50, GS+MSINet with MSINet."""
    return method if network == PLAIN else f"{method}+{label_of(network)}"


def rows_of(request: Request) -> list[Row]:
    """Starting weights, direct transfer and the methods, each with every backbone."""
    found: list[Row] = []
    for method in (START, TRANSFER, *METHODS):
        learned = {START: "nothing", TRANSFER: "source"}.get(method, "target")
        for name in dict.fromkeys(map(request.named, request.models or (PLAIN, "msinet"))):
            backbone, width = split_name(name)
            row: Row = {"method": name_of(method, backbone), "backbone": backbone, "width": width, "learned": learned}
            found.append(row)
    return found


def make(row: Row, point: Point) -> Experiment | None:
    """The run of a row: methods with a source adapt to another set, the others learn from one set alone."""
    model, name = with_width(str(row["backbone"]), float(row["width"])), str(row["method"]).partition("+")[0]
    across = point.train != point.test
    if name == TRANSFER:
        return point.experiment(model) if across else None
    method = METHODS.get(name, "gs")
    if name != START and not Unsupervised(method).runs(across=across):
        return None
    source = point.train if name != START else point.test
    experiment = point.request.unsupervised(method, model, source, point.test, point.seed)
    if name != START:
        return experiment
    settings = Unsupervised(feature=experiment.recipe.method_settings.feature)
    recipe = Recipe(image=experiment.recipe.image, schedule=Schedule(epochs=0), unsupervised=settings)
    return replace(experiment, recipe=recipe)


def columns_of(datasets: Sequence[str]) -> list[Task]:
    """Market-1501 alone, or the first available set; and its adaptation to MSMT17 if both are there."""
    return home(datasets, ADAPTATION[0]) + ([ADAPTATION] if {*ADAPTATION} <= {*datasets} else [])


def cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """All methods start from pre-trained weights, or on the rendered world from those of its pretext set."""
    return cross(request, (pretrained_group(request),), rows_of(request), columns_of(datasets), make)


def label(row: Row) -> str:
    """The paper's name of the row, with the width unless it is 1."""
    width = float(row["width"])
    return str(row["method"]) + ("" if width == 1 else f" x{width:g}")


STUDY = Study(
    name="table4",
    title="Table 4: unsupervised learning, and adaptation to a set without labels",
    varies="method, backbone; recipe of each method as published, scaled by the profile",
    fixed="images, initial weights of a backbone",
    nuisance="seed (batches, augmentation; on the rendered world also the initial weights)",
    cells=cells,
    label=label,
    baseline=(("learned", "nothing"),),
    preferred_baseline=(("learned", "source"),),  # adaptation also trains with the labels of the source
    within=("backbone", "width"),
    remark="Rows without the name of a network are ResNet50's. The result is that of the last epoch. The methods' "
    "authors choose the epoch by the test set; the best epoch is recorded apart (best_on_test), if the run is "
    "evaluated on the way. JVTC+, CycAs, GCL and MPRD are not run, nor is MMCL across sets (docs/table4.md).",
)
