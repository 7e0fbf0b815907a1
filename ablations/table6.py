"""Table 6: transformers beside MSINet (Sec. 4.4; SPEC B.4)."""

from ablations.catalogue import SMOKE_WIDTH, Catalogue, Cell, Request
from ablations.table2 import TABLE2, groups, tasks
from msinet.models import split_name
from msinet.models.patches import patch_side
from msinet.training.recipe import Recipe

#: Rows by model. On small images transformers are narrow ones with small patches, and say so.
NETWORKS = {"deit_small": "DeiT-S", "deit_base": "DeiT-B", "vit_base": "ViT-B", "msinet": "MSINet"}


def model_name(request: Request, family: str) -> str:
    """The network that stands for a row: transformers are a quarter as wide in mini as well."""
    if family != "msinet" and request.profile == "mini":
        return family + SMOKE_WIDTH
    return request.named(family)


def label(model: str, recipe: Recipe) -> str:
    """As the paper calls it; another patch or width than the paper's is said."""
    family, width = split_name(model)
    side = patch_side(recipe.image.height)
    patch = f" /{side}" if family != "msinet" and side != 16 else ""
    return NETWORKS[family] + ("" if width == 1 else f" x{width:g}") + patch


def table6(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """Transformers and MSINet on MSMT17 and VeRi-776, or on what is at hand."""
    every = tasks(request, datasets)
    chosen = [task for task in every if task[0] in ("MS", "VR")] or [task for task in every if task[1] == task[2]]
    cells = []
    for group, init in groups(request):
        for seed in range(request.seeds):
            for family in NETWORKS:
                for column, source, target in chosen:
                    experiment = request.experiment(model_name(request, family), source, target, seed, init)
                    cells.append(Cell(group, label(experiment.model, experiment.recipe), column, experiment))
    return cells


TABLE6 = Catalogue(
    name="table6",
    title="Table 6: transformers beside MSINet",
    varies="network (DeiT-S, DeiT-B, ViT-B, MSINet) with the recipe that belongs to it, initial weights, data set",
    fixed="image size, batches, number of identities",
    nuisance="seed (initial weights, batches, augmentation)",
    columns=TABLE2.columns,
    cells=table6,
    baseline="MSINet",
)
