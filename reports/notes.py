"""Notes below a table: settings, orders, genotypes, and differences to the baseline."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd

from ablations.engine.experiment import Experiment
from ablations.engine.request import in_words
from ablations.engine.study import Study, group_label
from ablations.studies.table4 import METHODS
from msinet.models.genotype import SEARCHED
from msinet.models.registry import card_of, label_of
from msinet.training.recipe import Recipe
from reports.comparisons import Comparisons
from reports.genotypes import agreement
from reports.results import Factors, Results, device_of
from reports.statistics import Effect, Floats, Part, decide, equal_by_chance, p_value
from reports.tables import BEST, NOISE, SECOND, Column, Row, Table

#: Names of methods without labels as tables write them.
METHOD_LABELS = {method: name for name, method in METHODS.items()}


def notes(results: Results, table: Table, compared: Comparisons) -> list[str]:
    """All notes of a study's table."""
    study = table.study
    assert study is not None
    found = [
        *table.source_notes,
        *settings(results, study),
        *provenance(results, study),
        *legend(table),
        *bounds(table),
        *obstacles(table, compared),
        *unequal_variances(table, compared),
        *orders(table, compared),
        *genotypes(found_by_search(results, study), table),
    ]
    if study.remark:
        found.append(study.remark)
    return found + differences(table, compared)


def settings(results: Results, study: Study) -> list[str]:
    """Recipe, number of seeds, and which model is evaluated."""
    resolution = results.resolution(study.name)
    request, cells = resolution.request, [resolved.cell for resolved in resolution.cells]
    ranked = [cell.experiment for cell in cells if cell.group != "untrained"]
    if not ranked:  # only rows without training were asked for
        every = [cell.experiment for cell in cells]
        return [f"Profile {request.profile}: images {_by_network(every, _size)}. No row is trained."] if every else []
    trained = [e for e in ranked if e.recipe.schedule.epochs] or ranked  # starting weights are ranked without training
    changes = f" with {' '.join(request.recipe)}" if request.recipe else ""
    inside = [e for e in trained if not e.cross_domain or e.same_weights] or trained
    lines = [
        f"Profile {request.profile}{changes}: images {_by_network(trained, _size)}, batches "
        f"{_by_network(trained, _batch)}, {_schedules(inside)}."
    ]
    if request.recipe_of == "authors":
        lines.append(_authors(trained))
    across = [e for e in trained if e.cross_domain and not e.same_weights]
    if any(e.same_weights for e in trained):
        kind = ", training with labels" if any(e.is_unsupervised for e in across) else ""
        lines.append(
            f"Across data sets (A>B){kind}: the weights trained on A are tested on B; there is no separate training."
        )
    if across and len(inside) < len(trained):
        erases = any(e.recipe.augmentation.erase for e in inside)
        with_labels, without = ([e for e in across if e.is_unsupervised == one] for one in (False, True))
        if with_labels:
            lines.append(_across(with_labels, ", training with labels" if without else "", erases=erases))
        if without:
            lines.append(_across(without, ", without labels of B", erases=erases))
    if grids := sorted({e.recipe.losses.alignment_grid for e in trained if e.recipe.losses.alignment != "none"}):
        lines.append(f"Spatial alignment (Eq. 7): grid of the {' or '.join(grids)} image.")
    repetitions = results.repetitions_of(study.name)
    spread = "no variance estimate" if repetitions == in_words(1) else "mean ± sample standard deviation"
    lines.append(f"{repetitions}, {spread}. Models of the last epoch; nothing is selected on the test set.")
    return lines


def _by_network(experiments: Sequence[Experiment], text: Callable[[Recipe], str]) -> str:
    """Texts of the recipes; those of some networks or methods alone with their names."""
    found: dict[str, dict[str, None]] = {}
    for one in experiments:
        unsupervised = one.recipe.unsupervised
        name = METHOD_LABELS[unsupervised.method] if unsupervised else label_of(one.model)
        found.setdefault(text(one.recipe), {})[name] = None
    usual = max(found.values(), key=len)
    named = {what: "" if usual.keys() & names else f" ({', '.join(names)})" for what, names in found.items()}
    return " and ".join(f"{what}{names}" for what, names in named.items())


def _size(recipe: Recipe) -> str:
    return f"{recipe.image.height}x{recipe.image.width}"


def _batch(recipe: Recipe) -> str:
    return f"{recipe.sampler.identities}x{recipe.sampler.images}"


def _authors(experiments: Sequence[Experiment]) -> str:
    """Sources of the authors' recipes, and the networks that have none of their own."""
    cards = {card.name: card for card in (card_of(one.model) for one in experiments)}.values()
    own = [f"{card.label}: {card.authors_source}" for card in cards if card.authors]
    others = [card.label for card in cards if not card.authors]
    line = f"Recipes of the networks' authors. {'; '.join(own)}." if own else "Recipes of the networks' authors."
    return line + (f" Recipe above for those without one: {', '.join(others)}." if others else "")


def _schedules(experiments: Sequence[Experiment]) -> str:
    """Optimizer, learning rates and length; if there are several, with their networks."""
    found: dict[tuple[str, str], list[Experiment]] = {}
    for one in experiments:
        erased = "" if one.recipe.augmentation.erase else ", no random erasing"
        found.setdefault((one.recipe.optimizer.optimizer, _length(one.recipe) + erased), []).append(one)
    parts, networks = [], [", ".join(dict.fromkeys(label_of(e.model) for e in those)) for those in found.values()]
    for (optimizer, length), those, names in zip(found, found.values(), networks, strict=True):
        rates = " or ".join(f"{rate:g}" for rate in sorted({e.recipe.optimizer.lr for e in those}))
        rates += " depending on the network" if " or " in rates else ""
        kind = "without labels: " if all(e.is_unsupervised for e in those) and len(found) > 1 else ""
        parts.append(f"{kind}{optimizer} lr {rates}, {length}" + (f" ({names})" if len(set(networks)) > 1 else ""))
    return "; ".join(parts)


def _across(experiments: Sequence[Experiment], kind: str, *, erases: bool) -> str:
    """Length and colour jitter of trainings across data sets; `erases`: whether those inside a data set erase."""
    lengths, augmentations = _by_length(experiments), [one.recipe.augmentation for one in experiments]
    by_method = " depending on the method" if len(lengths) > 1 else ""
    jitter = ", colour jitter" if all(one.jitter for one in augmentations) else ""
    if jitter and erases and not any(one.erase for one in augmentations):
        jitter += " instead of random erasing"
    return f"Across data sets (A>B){kind}: {' or '.join(lengths)}{by_method}{jitter}."


def _by_length(experiments: Sequence[Experiment]) -> list[str]:
    return list(dict.fromkeys(_length(one.recipe) for one in experiments))


def _length(recipe: Recipe) -> str:
    steps = recipe.sampler.steps_per_epoch
    epochs = recipe.schedule.epochs
    return f"{epochs} epoch{'s' if epochs > 1 else ''}" + (f" of {steps} steps" if steps else "")


def provenance(results: Results, study: Study) -> list[str]:
    """Data sets and machines behind the measured values."""
    runs = results.finished(study.name)
    if runs.empty:
        return []
    data = {
        f"{run[end]} ({run[f'{end}_layout']}, fingerprint {run[f'{end}_fingerprint']})"
        for _, run in runs.iterrows()
        for end in ("source", "target")
    }
    return [f"Data: {'; '.join(sorted(data))}.", f"Measured on {'; '.join(machines(runs))}.", *unranked(runs)]


def unranked(runs: pd.DataFrame) -> list[str]:
    """A sentence about queries that no metric counts, if there are any."""
    counts = {
        f"{int(run['queries_without_match'])} of {int(run['queries'])} queries of {run['test']}"
        for _, run in runs.iterrows()
        if run.get("queries_without_match", 0) > 0
    }
    if not counts:
        return []
    return [f"Left out, without a match in the gallery: {', '.join(sorted(counts))}."]


def machines(runs: pd.DataFrame) -> list[str]:
    """Devices of finished runs, with their precision and the version of torch."""
    return sorted({f"{device_of(run)}, {_precision(run)}, torch {run['torch']}" for _, run in runs.iterrows()})


def _precision(run: "pd.Series[Any]") -> str:
    """The precision in which a run computed. Runs that did not record it used cuDNN's default for fp32: TF32."""
    used = run.get("precision_used")
    if isinstance(used, str):
        return used
    precision = str(run["recipe.precision"])
    return f"{precision} with TF32 convolutions" if precision == "fp32" and run["device"] != "cpu" else precision


def bounds(table: Table) -> list[str]:
    """Meaning of the rows and columns that only rendered sets have."""
    lines = []
    if any(str(dict(row.factors).get("network", "")).startswith("oracle") for row in table.rows):
        lines.append("Oracles know the named factors of every rendered image and see no pixels (docs/calibration.md).")
    if table.columns_with_families:
        lines.append(
            "In family: each query is ranked among the images of its own family, which differ in one or two details."
        )
    return lines


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
        line = f"{BEST} best, {SECOND} second highest mean of a column and group"
        line += " (bold and underlined in Markdown and LaTeX)"
        if any(NOISE in mark for mark in marks):
            line += f"; {NOISE} not significantly below the best (docs/statistics.md)"
        lines.append(line + ".")
    return lines


# --- Orders --------------------------------------------------------------------------------------


def obstacles(table: Table, compared: Comparisons) -> list[str]:
    """The reasons that rows are not compared, one line each."""
    cells = [(row, column) for row in table.rows if row.group != "untrained" for column in table.columns]
    cells = [(row, column) for row, column in cells if column in row.cells and row.cells[column].done]
    slow = [(row, column, why) for row, column in cells if (why := compared.convergence(row.cells[column].runs))]
    lines = []
    if slow:
        row, column, why = slow[0]
        lines.append(
            f"Not testable at this length: trainings of {len(slow)} of {len(cells)} table cells have not converged, "
            f"for example {table.label(row.factors)}, {column.label}: {why}."
        )
    rest = [(row, column) for row, column in cells if not compared.convergence(row.cells[column].runs)]
    found: dict[str, list[str]] = {}
    for row, column in rest:
        if why := compared.obstacle(row, column):
            found.setdefault(why, []).append(f"{table.label(row.factors)}, {column.label}")
    if any(row.cells[column].done == 1 for row, column in cells) and not found:
        found = {"single seed": []}
    if found:
        reasons = [
            why if len(where) in (0, len(rest)) else f"{'; '.join(where[:2])}{_more(len(where) - 2)}: {why}"
            for why, where in found.items()
        ]
        lines.append(f"Not compared: {'; '.join(reasons)}. Such rows have no order, marks or decisions.")
    return lines


def _more(number: int) -> str:
    return f" and {number} more" if number > 0 else ""


def unequal_variances(table: Table, compared: Comparisons) -> list[str]:
    """A note for each column and pool of rows that have variances of their own (docs/statistics.md)."""
    lines = []
    for column in table.columns:
        metric = column.headline
        pools: dict[str, dict[tuple[str, ...], tuple[float, str, Floats]]] = {}
        for row in table.rows:
            cell = row.cells.get(column)
            if cell is None or cell.done < 2:
                continue
            label = f"{table.label(row.factors)}, {group_label(row.group)}"
            found = compared.row(row, column, metric)
            if found.has_own_variance:
                pools.setdefault(found.source, {})[cell.run_ids] = cell.std(metric), label, found.scores.values
        for pool in pools.values():
            p = equal_by_chance([values for _, _, values in pool.values()])
            low, steady, _ = min(pool.values(), key=lambda one: one[0])
            high, wide, _ = max(pool.values(), key=lambda one: one[0])
            lines.append(
                f"Unequal variances: seed standard deviations of {column.label} {metric} are between "
                f"{low:.1f} ({steady}) and {high:.1f} ({wide}), {p_value(p)}. So each row has its own variance "
                "(docs/statistics.md)."
            )
    return lines


def orders(table: Table, compared: Comparisons) -> list[str]:
    """Orders of the rows here and in the paper: one line per group and column with two comparable rows or more."""
    return [
        line
        for group in dict.fromkeys(row.group for row in table.rows)
        for column in table.columns
        if (line := _order(table, [row for row in table.rows if row.group == group], column, compared))
    ]


def _order(table: Table, rows: Sequence[Row], column: Column, compared: Comparisons) -> str:
    metric = column.headline
    rows = [row for row in rows if row.cells[column].done and metric in row.cells[column].paper]
    rows = [row for row in rows if not compared.obstacle(row, column)]
    if len(rows) < 2:
        return ""
    rows = sorted(rows, key=lambda row: -row.cells[column].mean(metric))
    pairs = list(combinations(range(len(rows)), 2))
    effects = [compared.effect(rows[i], rows[j], column, metric) for i, j in pairs]
    decided = compared.higher(rows, column, metric)
    theirs = [row.cells[column].paper[metric] for row in rows]
    ranked = [(i, j) for i, j in pairs if theirs[i] != theirs[j]]
    same = sum(theirs[i] > theirs[j] for i, j in decided)
    reverse = sum(theirs[i] < theirs[j] for i, j in decided)
    labels = [table.label(row.factors) for row in rows]
    here = labels[0]
    for i, label in enumerate(labels[1:]):
        here += (" > " if (i, i + 1) in decided else f" {NOISE} ") + label
    # Rows that tie in the paper keep their order here.
    paper = " > ".join(labels[i] for i in sorted(range(len(rows)), key=lambda i: (-theirs[i], i)))
    return (
        f"Order by {metric}, {group_label(rows[0].group)}, {column.label}: {here}; in the paper {paper}. "
        f"Of {len(ranked)} pairs, {same} as in the paper, {reverse} reversed, {len(ranked) - same - reverse} undecided"
        f"{remarks_of(effects)}."
    )


def remarks_of(effects: Iterable[Effect]) -> str:
    """The remarks of effects on different devices and versions, in brackets."""
    found: dict[str, set[str]] = {}
    for effect in effects:
        for remark in effect.remarks:
            kind, _, names = remark.partition(": ")
            found.setdefault(kind, set()).update(names.split(", "))
    lines = [f"{kind}: {', '.join(sorted(names))}" for kind, names in found.items()]
    return f" ({'; '.join(lines)})" if lines else ""


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
        "By chance, three of twelve interactions agree with the paper.",
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
    for factors in dict.fromkeys(one.factors for one in found):
        several = [str(one.record["genotype"]) for one in found if one.factors == factors]
        if len(several) > 1:
            lines.append(f"{table.label(factors)}: {agreement(several)}.")
    return lines


def _by_cell(genotype: str) -> str:
    return " ".join(genotype[i : i + 2] for i in range(0, len(genotype), 2))


# --- Differences to the baseline -----------------------------------------------------------------

LEGEND = (
    "Brackets: 95 % interval over new trainings and test identities, or over test identities for this training only. "
    "p: adjusted by Holm's method within a column (docs/statistics.md)."
)


def baseline_pairs(table: Table, rows: Sequence[Row], column: Column) -> list[tuple[Row, Row]]:
    """Rows of one group with runs in a column, each with its baseline row."""
    found = {row.factors: row for row in rows if row.cells[column].done}
    bases = {factors: table.baseline_of(factors, found) for factors in found}
    return [(found[own], found[base]) for own, base in bases.items() if base is not None and base != own]


def differences(table: Table, compared: Comparisons) -> list[str]:
    """Every row's difference to its baseline row with its interval, and p values where it can be tested."""
    lines = []
    for group in dict.fromkeys(row.group for row in table.rows):
        for column in table.columns:
            pairs = baseline_pairs(table, [row for row in table.rows if row.group == group], column)
            lines += _differences(table, pairs, column, compared)
    return [*lines, LEGEND] if lines else []


def _differences(table: Table, pairs: Sequence[tuple[Row, Row]], column: Column, compared: Comparisons) -> list[str]:
    metric = column.headline
    effects = [compared.effect(row, base, column, metric) for row, base in pairs]
    decisions = decide([[Part(effect)] for effect in effects])
    words = {"holds": "higher", "fails": "lower"}
    lines, untested = [], dict[str, list[tuple[str, Effect]]]()
    for (row, base), effect, decision in zip(pairs, effects, decisions, strict=True):
        where = f"{group_label(row.group)}, {column.label} {metric}"
        label, other = table.label(row.factors), table.label(base.factors)
        if effect.obstacle:
            single = f", {effect.scope}" if not effect.trainings else ""
            head = f"{where}, not tested, differences to {other}{single}"
            untested.setdefault(head, []).append((f"{label} {spread(effect)}", effect))
        else:
            p, verdict = min(decision.holds, decision.fails), words.get(decision.status, "undecided")
            lines.append(
                f"{where}, {label} minus {other}: {spread(effect)}, {p_value(p)}: {verdict}{remarks_of([effect])}."
            )
    for head, found in untested.items():
        texts = "; ".join(text for text, _ in found)
        lines.append(f"{head}: {texts}{remarks_of(effect for _, effect in found)}.")
    return lines


def spread(effect: Effect) -> str:
    """A difference with its interval, if it has one."""
    if not effect.has_interval:
        return f"{effect.mean:+.1f}"
    low, high = effect.interval
    return f"{effect.mean:+.1f} [{low:+.1f}, {high:+.1f}]"
