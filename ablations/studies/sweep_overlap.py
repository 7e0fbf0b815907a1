"""Overlap sweep: settings that the twins contrastive mechanism leaves open, chosen on held-out identities."""

from collections.abc import Sequence

from ablations.engine.experiment import Experiment
from ablations.engine.request import Request
from ablations.engine.study import Cell, Point, Row, Study, Task, cross, home
from ablations.engine.sweep import Sweep, Values, read_summary
from msinet.data.datasets import HELD_OUT
from msinet.models.genotype import SEARCHED
from msinet.training.recipe import Search

LABELS = {"paper": "MSINet, the paper's genotype", "default": "default search", "best": "best of the sweep"}


def held_out(datasets: Sequence[str]) -> Task:
    """MSMT17's training identities, or those of the first available set."""
    [(train, _)] = home(datasets)
    return train + HELD_OUT, train + HELD_OUT


def default(request: Request, train: str) -> dict[str, float]:
    """The settings of the profile's search."""
    recipe = request.search(train, 0).recipe.search_settings
    return {name: float(getattr(recipe, name)) for name in SWEEP.space}


def trial(request: Request, task: Task, values: Values) -> Experiment:
    """The training of the genotype that a search with these settings finds."""
    return Point(request, "searched", *task, seed=0).searched(**values)


SWEEP = Sweep(
    name="overlap",
    space={
        "overlap": (0.0, 1.0, False),
        "side_ratio": (0.5, 4.0, True),
        "temperature": (0.02, 0.2, True),
        "momentum": (0.0, 0.9, False),
    },
    data=lambda request: held_out(request.available_datasets()),
    default=default,
    trial=trial,
)


def label(row: Row) -> str:
    """The choice and the settings that differ from the default search, or the overlap if none differs."""
    if row["choice"] == "paper":
        return LABELS["paper"]
    changed = {name: value for name, value in row.items() if name in SWEEP.space and value != getattr(Search, name)}
    shown = changed or {"overlap": row["overlap"]}
    return ", ".join([LABELS[str(row["choice"])], *(f"{name} {value:.3g}" for name, value in shown.items())])


def cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """The paper's genotype, the default search's and the sweep's best one on the whole training set."""
    task = home(datasets)
    usual = default(request, task[0][0])
    genotypes = {"paper": SEARCHED}
    rows: list[Row] = [{"choice": "paper", **usual}]
    if (summary := read_summary(request, SWEEP.name, held_out(datasets))) is not None:
        if summary["default_genotype"]:
            genotypes["default"] = summary["default_genotype"]
            rows.append({"choice": "default", **usual})
        genotypes["best"] = summary["best_genotype"]
        rows.append({"choice": "best", **usual, **summary["best"]})
    return cross(request, ("scratch",), rows, task, lambda row, point: point.msinet(genotypes[str(row["choice"])]))


STUDY = Study(
    name="sweep_overlap",
    title="Sweep: the overlap chosen on held-out identities",
    varies="overlap of the two sides (--vary: side ratio, temperature, momentum), chosen on held-out identities",
    fixed="supernet, iterations of the search, training recipe of the profile, data set (MSMT17, or first available)",
    nuisance="seed of the last trainings",
    cells=cells,
    label=label,
    baseline=(("choice", "paper"),),
)
