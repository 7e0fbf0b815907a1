"""Table 2: four networks on four data sets and across them, from scratch and pre-trained."""

from dataclasses import replace

from ablations.catalogue import MAIN_DATASETS, Catalogue, Cell, Request
from ablations.experiment import Experiment, Init
from msinet.models import split_name
from msinet.training.recipe import Recipe, Schedule

#: Networks of the table by model name.
NETWORKS = {"resnet50": "ResNet50", "osnet": "OSNet", "cdnet": "CDNet", "msinet": "MSINet"}
#: The row that learned nothing.
BASELINE = "colour_histogram"
#: Pairs of training and test set.
CROSS_DOMAIN = (("msmt17", "market1501"), ("veri776", "vehicleid"))
#: Without numbers across data sets in the paper.
IN_DOMAIN_ONLY = ("cdnet",)
#: What stands in for ImageNet is said wherever it is shown.
PRETEXT_GROUP = "pre-trained on the rendered pretext set"


def row_label(model: str) -> str:
    """How the paper calls a model; a width other than 1 is said."""
    family, width = split_name(model)
    return NETWORKS.get(family, family) + ("" if width == 1 else f" x{width:g}")


def column_label(source: str, target: str) -> str:
    """M, MS, VR, VID, or MS>M for a set that was not trained on."""
    short = {**MAIN_DATASETS, "vehicleid_1600": "VID1600", "vehicleid_800": "VID800"}
    return short[source] if source == target else f"{short[source]}>{short[target]}"


def tasks(request: Request, datasets: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """Column, training set and test set of everything that the data at hand allow."""
    short = not request.complete and not request.datasets
    pairs = [(name, name) for name in datasets if not (short and name == "vehicleid")]
    pairs += [(a, b) for a, b in CROSS_DOMAIN if a in datasets and b in datasets]
    return [(column_label(source, target), source, target) for source, target in pairs]


def untrained(request: Request, model: str, target: str) -> Experiment:
    """A row that learns nothing: there is no seed, training set or schedule, only the target and its image size."""
    plain = request.experiment(model, target, target, 0)
    return replace(plain, recipe=Recipe(image=plain.recipe.image, schedule=Schedule(epochs=0)))


def groups(request: Request) -> list[tuple[str, Init]]:
    """Groups of rows by initial weights: from scratch, and pre-trained where that is wanted."""
    found: list[tuple[str, Init]] = [("from scratch", "scratch")]
    if request.complete:
        pretext = request.rendered and request.pretrained is None
        found.append((PRETEXT_GROUP if pretext else "pre-trained", "pretrained"))
    return found


def cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """In-domain and cross-domain cells of both groups, row by row, one per seed."""
    models = request.models or tuple(map(request.named, NETWORKS))
    found = [
        Cell("no training", "colour histogram", column, untrained(request, BASELINE, target))
        for column, _, target in tasks(request, datasets)
    ]
    for group, init in groups(request):
        for seed in range(request.seeds):
            for model in models:
                for column, source, target in tasks(request, datasets):
                    if source != target and split_name(model)[0] in IN_DOMAIN_ONLY:
                        continue
                    experiment = request.experiment(model, source, target, seed, init)
                    found.append(Cell(group, row_label(model), column, experiment))
            if init == "pretrained" and not request.models:
                # The paper has it in this group alone.
                model = request.named("msinet")
                for column, source, target in tasks(request, datasets):
                    experiment = request.experiment(model, source, target, seed, init).aligned("pam-self")
                    found.append(Cell(group, row_label(model).replace("MSINet", "MSINet-SAM"), column, experiment))
    return found


TABLE2 = Catalogue(
    name="table2",
    title="Table 2: object ReID from scratch and pre-trained, in-domain and cross-domain",
    varies="network (ResNet50, OSNet, CDNet, MSINet), initial weights, training set, test set",
    fixed="recipe of the profile: image size, batches, optimiser, schedule, losses, augmentation",
    nuisance="seed (initial weights, batches, augmentation); VehicleID's ten gallery draws",
    columns={
        "M": ("R1", "mAP"),
        "MS": ("R1", "mAP"),
        "VR": ("R1", "mAP"),
        "VID": ("R1", "R5"),
        "VID1600": ("R1", "R5"),
        "VID800": ("R1", "R5"),
        "MS>M": ("R1", "mAP"),
        "VR>VID": ("R1", "R5"),
    },
    cells=cells,
)
