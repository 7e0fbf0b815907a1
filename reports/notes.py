"""Notes below a table: settings, orders, genotypes, and differences to the baseline."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd

from ablations.engine.study import Study
from msinet.models.genotype import SEARCHED
from msinet.training.recipe import Recipe
from reports.results import Factors, Results
from reports.statistics import LEVEL, holm, paired
from reports.tables import BEST, NOISE, SECOND, Column, Row, Table, table_group


def notes(results: Results, table: Table) -> list[str]:
    """All notes of a study's table."""
    study = table.study
    assert study is not None
    found = [
        *settings(results, study),
        *provenance(results, study),
        *legend(table),
        *orders(table),
        *genotypes(found_by_search(results, study), table),
    ]
    if study.remark:
        found.append(study.remark)
    return found + comparisons(table)


def settings(results: Results, study: Study) -> list[str]:
    """Recipe, number of seeds, and which model is evaluated."""
    request = results.request
    cells = [resolved.cell for resolved in results.resolution(study.name).cells]
    trained = [cell.experiment for cell in cells if cell.group != "untrained"]
    sizes = dict.fromkeys(f"{e.recipe.image.height}x{e.recipe.image.width}" for e in trained)
    recipe = trained[0].recipe
    rates = " or ".join(f"{rate:g}" for rate in sorted({e.recipe.optimizer.lr for e in trained}))
    rates += " depending on the network" if " or " in rates else ""
    erased = "" if recipe.augmentation.erase else ", no random erasing"
    changes = f" with {' '.join(request.recipe)}" if request.recipe else ""
    lines = [
        f"Profile {request.profile}{changes}: images {' and '.join(sizes)}, batches {recipe.sampler.identities}x"
        f"{recipe.sampler.images}, {recipe.optimizer.optimizer} lr {rates}, {_length(recipe)}{erased}."
    ]
    across = next((e.recipe for e in trained if e.cross_domain), None)
    if across is not None:
        jitter = "colour jitter" + ("" if erased else " instead of random erasing")
        lines.append(f"Across data sets (A>B): {_length(across)}, {jitter}.")
    spread = "mean ± sample standard deviation" if request.seeds > 1 else "no variance estimate"
    lines.append(f"{request.repetitions}, {spread}. Models of the last epoch; nothing is selected on the test set.")
    return lines


def _length(recipe: Recipe) -> str:
    steps = recipe.sampler.steps_per_epoch
    epochs = recipe.schedule.epochs
    return f"{epochs} epoch{'s' if epochs > 1 else ''}" + (f" of {steps} steps" if steps else "")


def provenance(results: Results, study: Study) -> list[str]:
    """Data sets and machines behind the measured values."""
    runs = results.finished(study.name)
    if runs.empty:
        return []
    data = {f"{r['test']} ({r['target_layout']}, fingerprint {r['target_fingerprint']})" for _, r in runs.iterrows()}
    return [f"Data: {'; '.join(sorted(data))}.", f"Measured on {'; '.join(machines(runs))}."]


def machines(runs: pd.DataFrame) -> list[str]:
    """Devices of finished runs, with the version of torch."""
    return sorted(
        {f"{r['cpu'] if r['device'] == 'cpu' else r['device']}, torch {r['torch']}" for _, r in runs.iterrows()}
    )


def legend(table: Table) -> list[str]:
    """The meaning of marks and of the paper's numbers."""
    cells = [cell for row in table.rows for cell in row.cells.values()]
    lines = []
    if any(cell.paper for cell in cells):
        lines.append(
            "The paper's numbers are for its own data, ImageNet weights and schedule. (c): cited by the paper from "
            "other work. Compare the order of the rows, not the numbers, unless the profile is paper."
        )
    marks = [mark for cell in cells for mark in (*cell.marks.values(), *cell.paper_marks.values())]
    if any(cell.marks or cell.paper_marks for cell in cells):
        line = f"{BEST} best, {SECOND} second best of a column and group (bold and underlined in Markdown and LaTeX)"
        if any(NOISE in mark for mark in marks):
            line += f"; {NOISE} no significant difference to the best (paired t-test over seeds, Holm, p ≥ {LEVEL:g})"
        lines.append(line + ".")
    return lines


# --- Orders --------------------------------------------------------------------------------------


def orders(table: Table) -> list[str]:
    """Orders of the rows here and in the paper: one line per group and column with two rows or more.

    A pair is undecided if its difference is within two standard errors over the seeds; a single seed has none.
    """
    return [
        line
        for group in dict.fromkeys(row.group for row in table.rows)
        for column in table.columns
        if (line := _order(table, [row for row in table.rows if row.group == group], column))
    ]


def _order(table: Table, rows: Sequence[Row], column: Column) -> str:
    metric = column.headline
    found = [row for row in rows if row.cells[column].done and metric in row.cells[column].paper]
    if len(found) < 2:
        return ""
    cells = [row.cells[column] for row in found]
    errors = [cell.std(metric) ** 2 / cell.done if cell.done > 1 else 0.0 for cell in cells]
    ours, theirs = [cell.mean(metric) for cell in cells], [cell.paper[metric] for cell in cells]
    pairs = [(i, j) for i, j in combinations(range(len(found)), 2) if theirs[i] != theirs[j]]
    decided = [
        (i, j) for i, j in pairs if ours[i] != ours[j] and abs(ours[i] - ours[j]) > 2 * (errors[i] + errors[j]) ** 0.5
    ]
    holds = sum((ours[i] > ours[j]) == (theirs[i] > theirs[j]) for i, j in decided)
    labels = [table.label(row.factors) for row in found]
    here = " > ".join(labels[i] for i in sorted(range(len(found)), key=lambda i: -ours[i]))
    # Ties of the paper follow the order here.
    paper = " > ".join(labels[i] for i in sorted(range(len(found)), key=lambda i: (-theirs[i], -ours[i])))
    same = "the paper's order" if here == paper else f"in the paper {paper}"
    undecided = f", {len(pairs) - len(decided)} within two standard errors"
    if min(cell.done for cell in cells) < 2:
        undecided = "; single seed, no variance estimate"
    return (
        f"Order by {metric}, {table_group(found[0].group)}, {column.label}: {here} "
        f"({same}; {holds} of {len(pairs)} pairs as in the paper{undecided})."
    )


# --- Genotypes -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FoundGenotype:
    """A finished search behind a row."""

    factors: Factors
    seed: int
    run_id: str
    record: "pd.Series[Any]"


def found_by_search(results: Results, study: Study) -> list[FoundGenotype]:
    """The finished searches of a study, by row and seed."""
    frame, records = results.frame(study.name), results.records
    found = frame[frame["search_id"].isin(records.index)].drop_duplicates(["factors", "seed"])
    return [
        FoundGenotype(row["factors"], int(row["seed"]), str(row["search_id"]), records.loc[row["search_id"]])
        for _, row in found.iterrows()
    ]


def genotypes(found: Sequence[FoundGenotype], table: Table) -> list[str]:
    """The genotype of each search next to that of the paper's Table 1."""
    if not found:
        return []
    lines = [
        "Genotypes: IM-1 and IM-2 of each cell (N none, E exchange, G channel gate, A cross attention). "
        "By chance three of twelve interactions agree with the paper.",
        f"The paper, Table 1: {_by_cell(SEARCHED)}.",
    ]
    for one in found:
        record = one.record
        entropy = "" if pd.isna(record.get("entropy")) else f", entropy of the mixtures {record['entropy']:.3f} of 1"
        collapsed = ", collapsed to no interaction" if record["collapsed"] else ""
        lines.append(
            f"{table.label(one.factors)}, seed {one.seed}: {_by_cell(str(record['genotype']))}, "
            f"{record['agreement']:.0f} of 12 as in the paper{entropy}, {record['skip_ratio']:.0%} none{collapsed}, "
            f"{record['seconds_training']:.0f} s."
        )
    return lines


def _by_cell(genotype: str) -> str:
    return " ".join(genotype[i : i + 2] for i in range(0, len(genotype), 2))


# --- Differences to the baseline -----------------------------------------------------------------


def comparisons(table: Table) -> list[str]:
    """Every row's difference to its baseline row, paired by seed: mean, 95 % confidence interval, paired t-test.

    p values are adjusted by Holm's method within a group and column. Runs of one row and seed count as their mean.
    """
    lines = []
    for group in dict.fromkeys(row.group for row in table.rows):
        for column in table.columns:
            lines += _compare(table, [r for r in table.rows if r.group == group and r.cells[column].done], column)
    if any("seeds:" in line for line in lines):
        lines.append(
            "Brackets: 95 % confidence interval. p: paired t-test over seeds, adjusted by Holm's method in a column."
        )
    return lines


def _compare(table: Table, rows: Sequence[Row], column: Column) -> list[str]:
    metric = column.headline
    values = {row.factors: row.cells[column].by_seed(metric) for row in rows}
    bases = {factors: table.baseline_of(factors, values) for factors in values}
    pairs = [(factors, base) for factors, base in bases.items() if base is not None and base != factors]
    differences = {pair: (values[pair[0]] - values[pair[1]]).dropna() for pair in pairs}
    pairs = [pair for pair in pairs if len(differences[pair])]  # others share no seed
    found = [paired(differences[pair]) for pair in pairs]
    lines, single = [], dict[str, list[str]]()
    for (factors, base), d, p in zip(pairs, found, holm([difference.p for difference in found]), strict=True):
        label, other = table.label(factors), table.label(base)
        if d.count < 2:
            single.setdefault(other, []).append(f"{label} {d.mean:+.1f}")
            continue
        verdict = "differs" if p < LEVEL else "not significant"
        spread = f"[{d.low:+.1f}, {d.high:+.1f}], p {p:.3f} over {d.count} seeds: {verdict}"
        lines.append(f"{_place(rows, column)}, {label} minus {other}: {d.mean:+.1f} {spread}.")
    for base_label, each in single.items():
        lines.append(f"{_place(rows, column)}, differences to {base_label}: {'; '.join(each)}. Single seed.")
    return lines


def _place(rows: Sequence[Row], column: Column) -> str:
    return f"{table_group(rows[0].group)}, {column.label} {column.headline}"
