"""Inside the cell: Figures 5c and 5d, from scratch on MSMT17 as in the paper (Sec. 4.4)."""

from typing import Any

from ablations.catalogue import Catalogue, Cell, Request, home
from ablations.searches import SOURCE
from ablations.table2 import TABLE2, column_label

FUSIONS = {"Sum": "sum", "Minus": "minus", "Mul": "mul"}
RATIOS = (1, 2, 3, 4)


def varied(request: Request, datasets: tuple[str, ...], rows: dict[str, dict[str, Any]]) -> list[Cell]:
    """MSINet with each row's options; an option at its default is the run of every other table."""
    source = home(datasets, SOURCE)
    return [
        Cell(
            "from scratch",
            row,
            column_label(source, source),
            request.experiment(request.named("msinet"), source, source, seed, **options),
        )
        for seed in range(request.seeds)
        for row, options in rows.items()
    ]


def figure5c(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """How the branches are fused."""
    return varied(
        request, datasets, {row: {"fusion": fusion} if fusion != "sum" else {} for row, fusion in FUSIONS.items()}
    )


def figure5d(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """How much deeper one branch is than the other."""
    return varied(request, datasets, {f"{ratio}:1": {"ratio": ratio} if ratio != 3 else {} for ratio in RATIOS})


FIGURE5C = Catalogue(
    name="figure5c",
    title="Figure 5c: fusion of the branches",
    varies="fusion after the 1x1 convolutions: sum, difference, product",
    fixed="genotype of Table 1, recipe of the profile, data set (MSMT17, or the first at hand)",
    nuisance="seed",
    columns=TABLE2.columns,
    cells=figure5c,
    baseline="Sum",
)
FIGURE5D = Catalogue(
    name="figure5d",
    title="Figure 5d: scale ratio of the branches",
    varies="light convolutions of branch b for each one of branch a: 1 to 4; parameters and MACs with it",
    fixed="genotype of Table 1, recipe of the profile, data set (MSMT17, or the first at hand)",
    nuisance="seed",
    columns=TABLE2.columns,
    cells=figure5d,
    baseline="1:1",
)
