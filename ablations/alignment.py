"""Spatial alignment: Table 5, Figure 5e, and where the released code differs from the paper (Sec. 3.3, 4.4)."""

from typing import Any

from ablations.catalogue import Catalogue, Cell, Request
from ablations.experiment import Experiment, Init
from ablations.table2 import TABLE2, groups, tasks
from msinet.errors import DataError
from msinet.training.recipe import Variant

#: Rows of Table 5 by backbone and variant, as the paper's numbers call them.
VARIANTS: dict[str, tuple[str, Variant]] = {
    "MSINet|none": ("msinet", "none"),
    "MSINet|Self-Pos": ("msinet", "self-pos"),
    "MSINet|Self-Neg": ("msinet", "self-neg"),
    "MSINet|Unified": ("msinet", "unified"),
    "MSINet|Separated": ("msinet", "separated"),
    "MSINet|PAM-Self": ("msinet", "pam-self"),
    "OSNet|none": ("osnet", "none"),
    "OSNet|PAM-Self": ("osnet", "pam-self"),
}
#: Weights of the alignment in Figure 5e.
WEIGHTS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0)
#: What the released code does otherwise, or the paper leaves open (SPEC A.10).
READINGS: dict[str, dict[str, Any]] = {
    "as recommended: anchor grid, self pairs, mean over pairs": {},
    "partner grid (released code)": {"alignment_grid": "partner"},
    "without self pairs": {"alignment_self_pairs": False},
    "negatives over their number (Eq. 8)": {"alignment_per_pair": False},
}


def vehicle_tasks(request: Request, datasets: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """VeRi-776 and from there to VehicleID, as in the paper; without them, whatever the data at hand allow."""
    every = tasks(request, datasets)
    return [task for task in every if task[0] in ("VR", "VR>VID")] or every


def table5(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """Every variant on the vehicle sets, in-domain and across."""
    return [
        Cell(group, row, column, request.experiment(request.named(model), source, target, seed, init).aligned(variant))
        for group, init in groups(request)
        for seed in range(request.seeds)
        for row, (model, variant) in VARIANTS.items()
        for column, source, target in vehicle_tasks(request, datasets)
    ]


def across(request: Request, datasets: tuple[str, ...]) -> tuple[str, str, str]:
    """Column, training set and test set of Figure 5e: across data sets where two are at hand.

    Raises:
        DataError: no set at hand that can be trained on.
    """
    every = vehicle_tasks(request, datasets)
    if not every:
        raise DataError(
            f"nothing to train on among {', '.join(datasets) or 'no data sets'}: VehicleID alone is used only when it "
            "is named in --datasets, or with --whole"
        )
    return next((task for task in every if task[1] != task[2]), every[0])


def weighted(request: Request, source: str, target: str, seed: int, init: Init, weight: float) -> Experiment:
    """MSINet with alignment of that weight; without any it is the network of the other tables."""
    plain = request.experiment(request.named("msinet"), source, target, seed, init)
    return plain.aligned("pam-self" if weight else "none", alignment_weight=weight)


def figure5e(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """How much alignment weighs."""
    column, source, target = across(request, datasets)
    return [
        Cell(group, f"weight {weight:g}", column, weighted(request, source, target, seed, init, weight))
        for group, init in groups(request)
        for seed in range(request.seeds)
        for weight in WEIGHTS
    ]


def readings(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """Each reading of the alignment loss, one difference at a time."""
    cells = []
    for group, init in groups(request):
        for seed in range(request.seeds):
            for row, changes in READINGS.items():
                for column, source, target in vehicle_tasks(request, datasets):
                    plain = request.experiment(request.named("msinet"), source, target, seed, init)
                    cells.append(Cell(group, row, column, plain.aligned("pam-self", **changes)))
    return cells


TABLE5 = Catalogue(
    name="table5",
    title="Table 5: variants of spatial alignment",
    varies="alignment (none, self-pos, self-neg, unified, separated, PAM-self), network (MSINet, OSNet), test set",
    fixed="recipe of the profile, weight of the alignment (2), initial weights within a group",
    nuisance="seed; VehicleID's ten gallery draws",
    columns=TABLE2.columns,
    cells=table5,
    baseline="MSINet|none",
)
FIGURE5E = Catalogue(
    name="figure5e",
    title="Figure 5e: weight of spatial alignment across data sets",
    varies="weight of the alignment (lambda_sa)",
    fixed="MSINet, alignment PAM-self, cross-domain recipe of the profile (VR to VID, or the first set at hand)",
    nuisance="seed; VehicleID's ten gallery draws",
    columns=TABLE2.columns,
    cells=figure5e,
    baseline="weight 0",
)
ALIGNMENT_READINGS = Catalogue(
    name="alignment_readings",
    title="Readings of spatial alignment: the paper's words, its equation, the released code",
    varies="grid, self pairs and normaliser of the alignment, one at a time",
    fixed="MSINet, alignment PAM-self of weight 2, recipe of the profile",
    nuisance="seed; VehicleID's ten gallery draws",
    columns=TABLE2.columns,
    cells=readings,
    baseline=next(iter(READINGS)),
)
