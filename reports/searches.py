"""Figures of searches: trajectories of the architecture parameters, and genotypes as diagrams."""

import re
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import MaxNLocator

from ablations.studies import find_study
from msinet.errors import UserError
from msinet.io import write_text
from msinet.models.genotype import SEARCHED
from reports.drawing import COLOURS, STYLE, add_title, write_figure
from reports.notes import found_by_search
from reports.results import Results, file_name
from reports.tables import Table

#: The operations of the search space: name, colour and line style.
OPERATIONS = {
    "N": ("none", "0.4", (0, (1, 1))),
    "E": ("exchange", COLOURS[4], "-."),
    "G": ("channel gate", COLOURS[0], "-"),
    "A": ("cross attention", COLOURS[1], "--"),
}
PAPER = "the paper, Table 1"


def draw_searches(results: Results, name: str, folder: Path) -> list[Path]:
    """The trajectory of each finished search of a study, and one diagram of all genotypes.

    Raises:
        UserError: no search is finished.
    """
    study = find_study(name)
    found = found_by_search(results, study)
    if not found:
        raise results.missing(name, "search")
    table = Table(study.title, (), (), study)
    stem, profile = folder / file_name(name, results.request), results.request.profile
    genotypes = {PAPER: SEARCHED}
    written: list[Path] = []
    for one in found:
        label = f"{table.label(one.factors)}, seed {one.seed}"
        genotypes[label] = str(one.record["genotype"])
        try:
            alphas = results.read(one.run_id, "alphas.csv")
        except UserError:
            print(f"{label}: no trajectory; this search has no architecture parameters")
            continue
        title = f"{label}: weights of the operations, {one.record['source']}, profile {profile}"
        part = stem.with_name(f"{stem.name}-alphas-{'-'.join(re.findall(r'[a-z0-9_]+', label.lower()))}")
        written += draw_trajectory(alphas, title, part)
    title = f"Genotypes on {found[0].record['source']}, profile {profile}; "
    title += "dot: as in the paper (3 of 12 by chance); dotted: down-sampling"
    return written + draw_genotypes(genotypes, title, stem.with_name(f"{stem.name}-genotypes"))


def draw_trajectory(data: pd.DataFrame, title: str, stem: Path) -> list[Path]:
    """The weight of each operation over the search, a panel per interaction, and the entropy of the mixtures below.

    The panel's title names the operation with the largest weight at the end. Entropy is 1 where all operations have
    equal weight and 0 where one has all the weight. The line of "none" covers that of cross attention while both
    are the same function, that is until the learned proportion of cross attention leaves 0.

    Args:
        data: alphas.csv of a search: epoch, interaction, alpha_X and weight_X (its softmax) of each operation, entropy.
        title: title of the figure.
        stem: path without suffix for the .png, .svg and .csv.
    """
    count = int(data["interaction"].max())
    cells = count // 2
    weights = data[[f"weight_{letter}" for letter in OPERATIONS]]
    low, high = min(0.2, float(weights.to_numpy().min())), float(weights.to_numpy().max())
    with mpl.rc_context(STYLE):
        figure = plt.figure(figsize=(7.1, 4.6), layout="constrained")
        grid = figure.add_gridspec(3, cells, height_ratios=(1, 1, 1.1))
        for number in range(1, count + 1):
            cell, half = (number - 1) // 2, (number - 1) % 2
            axis = figure.add_subplot(grid[half, cell])
            part = data[data["interaction"] == number].sort_values("epoch")
            for letter, (_, colour, line) in OPERATIONS.items():
                axis.plot(
                    part["epoch"],
                    part[f"weight_{letter}"],
                    ls=line,
                    color=colour,
                    lw=1.3,
                    zorder=3 if letter == "N" else 2,
                )
            kept = max(OPERATIONS, key=lambda letter: part[f"weight_{letter}"].iloc[-1])
            axis.axhline(1 / len(OPERATIONS), color="0.85", lw=0.7, zorder=0)
            axis.set_title(f"cell {cell + 1}, IM-{half + 1}: {kept}", fontsize=7.5)
            axis.set(ylim=(low - 0.02, high + 0.02), xlim=(part["epoch"].min(), part["epoch"].max()))
            axis.tick_params(labelleft=cell == 0, labelbottom=half == 1)
            if cell == 0:
                axis.set_ylabel("weight")
        below = figure.add_subplot(grid[2, :])
        for _, part in data.groupby("interaction"):
            below.plot(part["epoch"], part["entropy"], color="0.75", lw=0.8)
        mean = data.groupby("epoch")["entropy"].mean()
        below.plot(mean.index, mean, color="black", lw=1.6)
        below.set(xlabel="epoch of the search", ylabel="entropy", xlim=(mean.index.min(), mean.index.max()))
        for axis in figure.axes:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        below.set_title("entropy of the mixtures, 1: undecided (grey: each, black: their mean)", fontsize=7.5)
        below.grid(axis="y")
        handles = [
            Line2D([], [], color=colour, ls=line, label=f"{letter}: {name}")
            for letter, (name, colour, line) in OPERATIONS.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, handlelength=3)
        add_title(figure, title)
        return write_figure(figure, data, stem)


# --- Genotypes -----------------------------------------------------------------------------------


def genotype_data(genotypes: Mapping[str, str]) -> pd.DataFrame:
    """One row per architecture and interaction: architecture, cell, module (1 or 2), operation, name, as_in_paper."""
    return pd.DataFrame(
        [
            {
                "architecture": label,
                "cell": 1 + place // 2,
                "module": 1 + place % 2,
                "operation": letter,
                "name": OPERATIONS[letter][0],
                "as_in_paper": place < len(SEARCHED) == len(genotype) and letter == SEARCHED[place],
            }
            for label, genotype in genotypes.items()
            for place, letter in enumerate(genotype)
        ]
    )


def as_latex(data: pd.DataFrame) -> str:
    """The layout of the paper's Table 1: a column per cell, the two interactions of each cell below each other."""
    cells = sorted(data["cell"].unique())
    lines = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{ll*{{{len(cells)}}}{{c}}}}",
        r"\toprule",
        "architecture & & " + " & ".join(f"Cell {cell}" for cell in cells) + r" \\",
    ]
    for label in data["architecture"].unique():
        part = data[data["architecture"] == label]
        lines.append(r"\midrule")
        for module, row in part.groupby("module"):
            names = row.sort_values("cell")["name"].str.capitalize()
            lines.append(f"{label if module == 1 else ''} & IM-{module} & {' & '.join(names)} \\\\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def draw_genotypes(genotypes: Mapping[str, str], title: str, stem: Path) -> list[Path]:
    """Architectures below each other: cells from left to right, two interactions in each, and what the letters mean.

    An interaction that is as in the paper has a dot at its corner.

    Args:
        genotypes: genotypes by name, two letters per cell; the paper's comes first.
        title: title of the figure.
        stem: path without suffix for the .png, .svg and .csv; a .tex in the paper's layout is written as well.
    """
    data = genotype_data(genotypes)
    cells = int(data["cell"].max())
    pitch, left = 1.0, 2.6  # of a cell, and position of the first one
    width, height = left + cells * pitch + 0.1, 1.9 + 0.85 * len(genotypes)
    with mpl.rc_context(STYLE):
        figure = plt.figure(figsize=(7.1, 7.1 * height / width))
        axis = figure.add_axes((0, 0, 1, 1))
        axis.set(xlim=(0, width), ylim=(0, height), aspect="equal")
        axis.set_axis_off()
        top = height - 0.55
        for cell in range(cells):
            x = left + (cell + 0.42) * pitch
            axis.text(x, top + 0.08, f"cell {cell + 1}", ha="center")
            axis.text(x, top - 0.12, "IM-1  IM-2", ha="center", fontsize=6.5, color="0.4")
        for line, label in enumerate(genotypes):
            part = data[data["architecture"] == label]
            y = top - 0.6 - 0.85 * line
            agree = int(part["as_in_paper"].sum())
            axis.text(0.1, y, label if line == 0 else f"{label}\n{agree} of {len(part)} as in the paper", va="center")
            axis.plot([left - 0.12, left + cells * pitch - 0.08], [y, y], color="0.8", lw=1, zorder=0)
            for _, one in part.iterrows():
                x = left + (one["cell"] - 1) * pitch + 0.42 * (one["module"] - 1)
                _box(axis, x, y, str(one["operation"]), dot=line > 0 and bool(one["as_in_paper"]))
            for number in (cells // 3, 2 * cells // 3):  # down-sampling after the first two stages
                x = left + number * pitch - 0.08
                axis.plot([x, x], [y - 0.3, y + 0.3], color="0.3", lw=1, ls=(0, (1, 1.5)))
        _legend(axis, width)
        add_title(figure, title)
        write_text(stem.with_suffix(".tex"), as_latex(data))
        return [*write_figure(figure, data, stem), stem.with_suffix(".tex")]


def _box(axis: Axes, x: float, y: float, letter: str, *, dot: bool) -> None:
    colour = OPERATIONS[letter][1]
    rounded = "round,pad=0,rounding_size=0.06"
    axis.add_patch(FancyBboxPatch((x + 0.03, y - 0.19), 0.36, 0.38, boxstyle=rounded, fc=colour, ec="white", lw=0.8))
    axis.text(x + 0.21, y, letter, ha="center", va="center", color="white", weight="bold", fontsize=9)
    if dot:
        axis.add_patch(Circle((x + 0.36, y + 0.17), 0.055, fc="black", ec="white", lw=0.6, zorder=5))


def _legend(axis: Axes, width: float) -> None:
    """The operations on the two branches (a above b), drawn as two lines that pass a box."""
    step = (width - 0.3) / len(OPERATIONS)
    for number, (letter, (name, colour, _)) in enumerate(OPERATIONS.items()):
        x, upper, lower = 0.25 + number * step, 0.75, 0.51
        _box(axis, x - 0.1, (upper + lower) / 2, letter, dot=False)
        start, stop = x + 0.42, x + 1.12
        swaps = letter == "E"
        for a, b in ((upper, lower if swaps else upper), (lower, upper if swaps else lower)):
            axis.add_patch(
                FancyArrowPatch(
                    (start, a),
                    (stop, b),
                    arrowstyle="-|>",
                    mutation_scale=6,
                    color=colour,
                    lw=1.2,
                    shrinkA=0,
                    shrinkB=0,
                )
            )
        middle = (start + stop) / 2
        if letter == "G":
            for y in (upper, lower):
                axis.add_patch(Circle((middle - 0.05, y), 0.06, fc="white", ec=colour, lw=1.1))
        if letter == "A":
            axis.plot([middle - 0.12, middle + 0.08], [upper, lower], color=colour, lw=0.9, ls="--")
            axis.plot([middle - 0.12, middle + 0.08], [lower, upper], color=colour, lw=0.9, ls="--")
        said = {
            "N": "branches stay separate",
            "E": "branches are swapped",
            "G": "one gate weights both",
            "A": "keys of the other branch",
        }
        axis.text(x - 0.07, 0.31, name, weight="bold", fontsize=7, va="center")
        axis.text(x - 0.07, 0.14, said[letter], fontsize=6.5, color="0.3", va="center")
