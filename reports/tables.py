"""Tables in the paper's layout: measured values beside the paper's, from the store's records alone."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from ablations.catalogue import MAIN_DATASETS, Catalogue, Cell, Request
from ablations.experiment import Experiment
from ablations.runner import find_weights
from ablations.store import Store
from ablations.table2 import PRETEXT_GROUP
from bench.networks import paper_costs
from msinet.data import load_dataset
from msinet.errors import UserError
from msinet.io import file_hash, write_text
from msinet.models.genotype import SEARCHED
from msinet.training.recipe import Recipe
from reports.statistics import LEVEL, holm, paired

NOT_RUN = "not run"
#: Marks of a value within its column and group, as they stand in plain text.
BEST, SECOND, NOISE = "*", "+", "≈"
#: How the paper's numbers call the groups of Table 2.
INIT = {"from scratch": "scratch", "pre-trained": "imagenet", PRETEXT_GROUP: "imagenet"}


@dataclass(frozen=True)
class Place:
    """What a table shows at one row and column."""

    values: dict[str, tuple[float, float]]
    """mean and sample standard deviation (NaN of one) over seeds by metric, in per cent; empty if not run"""
    seeds: int
    planned: int
    paper: dict[str, float]
    """the paper's values by metric, in per cent; empty if it has none"""
    origin: str
    """ran: the paper's authors ran it; cited: they copied it"""
    run_ids: tuple[str, ...] = ()
    """the runs behind the values"""
    marks: dict[str, str] = field(default_factory=dict)
    """of the values by metric: some of BEST, SECOND and NOISE, or nothing"""
    paper_marks: dict[str, str] = field(default_factory=dict)
    """of the paper's values: BEST, SECOND, or nothing"""


@dataclass(frozen=True)
class Row:
    """One network of one group."""

    group: str
    label: str
    places: dict[str, Place]
    """by column"""
    parameters: int | None
    """without classifiers, from the records"""
    macs: int | None
    """at the image size of the first column that ran"""


@dataclass(frozen=True)
class Table:
    """A catalogue's results, ready to be written in any format."""

    title: str
    columns: dict[str, tuple[str, str]]
    """column and its two metrics"""
    rows: list[Row]
    notes: list[str]
    searches: dict[tuple[str, int], "pd.Series[Any]"] = field(default_factory=dict)
    """records of the searches behind its rows, by row and seed"""


def paper_numbers() -> pd.DataFrame:
    """Every number of the paper's tables, one row per cell, with its origin (ran or cited)."""
    with files("reports").joinpath("paper.csv").open(encoding="utf-8") as stream:
        return pd.read_csv(stream)


def build_table(catalogue: Catalogue, request: Request) -> Table:
    """Fill a catalogue's table from the store.

    Args:
        catalogue: the table.
        request: profile, data sets, models, seeds, recipe and store. With a data root only results on
            exactly those data count; without one the store must hold one version of each data set. With
            pre-trained weights only results from exactly those count; without them the newest.

    Raises:
        UserError: an unknown name, or results on several versions of a data set and no data root.
    """
    request.check()
    frame = Store(request.store).frame()
    if request.root.is_dir() or not request.rendered:
        datasets = request.available_datasets()
        fingerprints = {name: load_dataset(name, request.root).fingerprint for name in datasets}
    else:
        datasets = request.datasets or tuple(n for n in MAIN_DATASETS if n in set(frame.get("target", ())))
        fingerprints = {}
        if not datasets:
            raise UserError(f"{request.store} holds no finished runs; run something or pass --data-root")
    used: list[pd.Series[Any]] = []
    versions: defaultdict[str, set[str]] = defaultdict(set)  # fingerprints by data set

    @cache
    def weights_of(model: str) -> str | None:
        file = find_weights(request.weights_folder, model)
        return file_hash(file) if file else None

    def record(experiment: Experiment) -> "pd.Series[Any] | None":
        if frame.empty:
            return None
        rows = frame[frame["experiment"] == experiment.key]
        rows = rows.loc[[name for name, row in rows.iterrows() if name == _run_id(experiment, row)]]
        if experiment.init == "pretrained" and request.weights_folder is not None:
            rows = rows[rows["weights"] == weights_of(experiment.model)]
        for role in ("source", "target"):
            if (name := getattr(experiment, role)) in fingerprints:
                rows = rows[rows[f"{role}_fingerprint"] == fingerprints[name]]
            versions[name] |= set(rows[f"{role}_fingerprint"])
            if len(versions[name]) > 1:
                raise UserError(f"{request.store} holds results on several versions of {name}; pass --data-root")
        if rows.empty:
            return None
        # The same experiment from other weights is another run: the newest is shown.
        newest = rows.sort_values("finished").iloc[-1]
        used.append(newest)
        return newest

    cells: list[Cell] = []
    searches: dict[tuple[str, int], pd.Series[Any]] = {}  # by row and seed
    for cell in catalogue.cells(request, datasets):
        search = cell.experiment.genotype_from
        if search is not None and (found := record(search)) is not None:
            searches[cell.row, search.seed] = found
            cell = replace(cell, experiment=cell.experiment.known(str(found["genotype"])))
        cells.append(cell)
    columns = {c: catalogue.columns[c] for c in catalogue.columns if any(cell.column == c for cell in cells)}
    rows = marked(_rows(cells, columns, record, f"T{catalogue.name.removeprefix('table')}"), frame)
    rendered = any("rendered" in str(row["target_layout"]) for row in used)
    title = catalogue.title + (" (rendered world, not the paper's data)" if rendered else "")
    notes = _notes(request, cells, used, rows) + orderings(rows, columns) + genotypes(searches)
    if catalogue.remark:
        notes.append(catalogue.remark)
    if catalogue.baseline:
        notes += comparisons(rows, columns, catalogue.baseline, frame)
    return Table(title, columns, rows, notes, searches)


def _run_id(experiment: Experiment, row: "pd.Series[Any]") -> str:
    """What such a run is called now: records of an earlier results version have another name."""
    fingerprints = {experiment.source: row["source_fingerprint"], experiment.target: row["target_fingerprint"]}
    return experiment.run_id(fingerprints, row["weights"] if isinstance(row["weights"], str) else None)


def _rows(
    cells: Sequence[Cell],
    columns: Mapping[str, tuple[str, str]],
    record: Callable[[Experiment], "pd.Series[Any] | None"],
    table: str,
) -> list[Row]:
    numbers = paper_numbers()
    numbers = numbers[numbers["table"] == table]
    labels = list(dict.fromkeys((cell.group, cell.row) for cell in cells))
    rows = []
    for group in dict.fromkeys(group for group, _ in labels):
        known = [label for g, label in labels if g == group]
        ours = {paper_name(label) for label in known}
        # What the paper has and no experiment asks for is shown as well, as not run.
        init = INIT.get(group, "")
        # Tables 3 and 4 state no initial weights; their rows stand beside whatever runs here.
        unstated = "-" in set(numbers["init"])
        known_init = numbers.assign(init=init) if unstated else numbers
        theirs = known_init[known_init["init"] == init]["method"].unique().tolist()
        shown = known + [method for method in theirs if method not in ours]
        if unstated:  # most of these rows are the paper's alone, and stand in its order
            shown.sort(key=lambda label: theirs.index(paper_name(label)) if paper_name(label) in theirs else -1)
        for label in shown:
            places: dict[str, Place] = {}
            first: pd.Series[Any] | None = None
            for column, metrics in columns.items():
                wanted = {c.experiment: None for c in cells if (c.group, c.row, c.column) == (group, label, column)}
                found = [row for row in map(record, wanted) if row is not None]
                first = found[0] if first is None and found else first
                paper, origin = paper_place(known_init, paper_name(label), init, column)
                ids = tuple(str(row.name) for row in found)
                places[column] = Place(_mean_std(found, metrics), len(found), len(wanted), paper, origin, ids)
            rows.append(
                Row(
                    group,
                    label,
                    places,
                    None if first is None else int(first["parameters_without_classifier"]),
                    None if first is None else int(first["macs"]),
                )
            )
    return rows


def marked(rows: Sequence[Row], frame: pd.DataFrame) -> list[Row]:
    """The rows with the best and second best of each column, metric and group marked, measured and the paper's.

    Values that are the same to the digit shown share a mark; nothing is marked among fewer than two rows, nor a second
    best among fewer than three. With several seeds, NOISE marks what cannot be told from the best: the paired t-test
    over the seeds, after Holm within the column, does not reject that they are alike.

    Args:
        rows: of a table.
        frame: of the store, for the runs behind the values.
    """
    marks: dict[tuple[int, str], dict[str, str]] = defaultdict(dict)
    theirs: dict[tuple[int, str], dict[str, str]] = defaultdict(dict)
    for group in dict.fromkeys(row.group for row in rows):
        members = [(i, row) for i, row in enumerate(rows) if row.group == group]
        for column in members[0][1].places:
            places = {i: row.places[column] for i, row in members}
            for metric in dict.fromkeys(m for place in places.values() for m in (*place.values, *place.paper)):
                measured = {i: place.values[metric][0] for i, place in places.items() if metric in place.values}
                for i, mark in {**dict.fromkeys(measured, ""), **_podium(measured)}.items():
                    marks[i, column][metric] = mark
                for i in _like_the_best(places, measured, metric, frame):
                    marks[i, column][metric] += NOISE
                for i, mark in _podium({i: p.paper[metric] for i, p in places.items() if metric in p.paper}).items():
                    theirs[i, column][metric] = mark
    return [
        replace(
            row,
            places={
                column: replace(place, marks=marks.get((i, column), {}), paper_marks=theirs.get((i, column), {}))
                for column, place in row.places.items()
            },
        )
        for i, row in enumerate(rows)
    ]


def _podium(values: Mapping[int, float]) -> dict[int, str]:
    """BEST and SECOND by row."""
    shown = {i: round(value, 1) for i, value in values.items()}
    places = sorted(set(shown.values()), reverse=True)
    if len(shown) < 2 or len(places) < 2:
        return {}
    levels = {places[0]: BEST}
    if len(shown) > 2:
        levels[places[1]] = SECOND
    return {i: levels[value] for i, value in shown.items() if value in levels}


def _like_the_best(
    places: Mapping[int, Place], measured: Mapping[int, float], metric: str, frame: pd.DataFrame
) -> list[int]:
    """Rows whose seeds do not tell them from the best row."""
    if len(measured) < 2:
        return []
    by_seed = {i: 100 * frame.loc[list(places[i].run_ids)].groupby("seed")[metric].mean() for i in measured}
    best = max(measured, key=lambda i: measured[i])
    others = [i for i in measured if i != best]
    found = [paired(shared) if len(shared := (by_seed[best] - by_seed[i]).dropna()) > 1 else None for i in others]
    adjusted = holm([math.nan if difference is None else difference.p for difference in found])
    return [i for i, p in zip(others, adjusted, strict=True) if p >= LEVEL]


def headline(metrics: Sequence[str]) -> str:
    """The metric that a column is judged by: mAP, or R1 where the paper gives no mAP."""
    return "mAP" if "mAP" in metrics else metrics[0]


def paper_name(label: str) -> str:
    """A network of another width has no row in the paper; its full-width sibling stands beside it."""
    return label.split(" x")[0]


def _mean_std(rows: Sequence["pd.Series[Any]"], metrics: Sequence[str]) -> dict[str, tuple[float, float]]:
    result = {}
    for metric in metrics if rows else ():
        values = pd.Series([100 * float(row[metric]) for row in rows])
        result[metric] = (float(values.mean()), float(values.std()))
    return result


def paper_place(numbers: pd.DataFrame, method: str, init: str, column: str) -> tuple[dict[str, float], str]:
    """The paper's values by metric and their origin (ran or cited) for a cell; empty if it has none."""
    match = numbers[(numbers["method"] == method) & (numbers["init"] == init) & (numbers["task"] == column)]
    if match.empty:
        return {}, ""
    row = match.iloc[0]
    return {str(row["m1"]): float(row["v1"]), str(row["m2"]): float(row["v2"])}, str(row["origin"])


def _notes(request: Request, cells: Sequence[Cell], used: Sequence["pd.Series[Any]"], rows: Sequence[Row]) -> list[str]:
    """What a reader must know to judge the numbers."""
    trained = [cell.experiment for cell in cells if cell.group != "no training"]
    sizes = dict.fromkeys(f"{e.recipe.image.height}x{e.recipe.image.width}" for e in trained)
    recipe = trained[0].recipe
    rates = " or ".join(f"{rate:g}" for rate in sorted({e.recipe.optimizer.lr for e in trained}))
    rates += " by network" if " or " in rates else ""
    erased = "" if recipe.augmentation.erase else ", no random erasing"
    notes = [
        f"Profile {request.profile}{' with ' + ' '.join(request.recipe) if request.recipe else ''}: "
        f"images {' and '.join(sizes)}, batches {recipe.sampler.identities}x{recipe.sampler.images}, "
        f"{recipe.optimizer.optimizer} lr {rates}, {_length(recipe)}{erased}."
    ]
    across = next((e.recipe for e in trained if e.cross_domain), None)
    if across is not None:
        jitter = "colour jitter" + ("" if erased else " instead of random erasing")
        notes.append(f"Across data sets (A>B): {_length(across)}, {jitter}.")
    spread = "mean ± sample standard deviation" if request.seeds > 1 else "so nothing is said about the spread"
    notes.append(f"{request.repetitions}, {spread}. Last-epoch models, no selection on the test set.")
    data = sorted({f"{r['target']} ({r['target_layout']}, fingerprint {r['target_fingerprint']})" for r in used})
    if data:
        notes.append(f"Data: {'; '.join(data)}.")
    machines = sorted({f"{r['cpu'] if r['device'] == 'cpu' else r['device']}, torch {r['torch']}" for r in used})
    if machines:
        notes.append(f"Measured on {'; '.join(machines)}.")
    if any(place.paper for row in rows for place in row.places.values()):
        notes.append(
            "The paper's numbers are for its own data, ImageNet weights and schedule; (c) marks those it cites from "
            "others. Compare the order of the rows, not the numbers, unless the profile is paper."
        )
    if any(place.marks or place.paper_marks for row in rows for place in row.places.values()):
        line = f"{BEST} best, {SECOND} second best of a column and group (bold and underlined where text can be so)"
        if any(NOISE in mark for row in rows for place in row.places.values() for mark in place.marks.values()):
            line += (
                f"; {NOISE} within the noise of the best: paired t-test by seed, after Holm within the column, "
                f"p at least {LEVEL:g}"
            )
        notes.append(line + ".")
    return notes


def orderings(rows: Sequence[Row], columns: Mapping[str, tuple[str, str]]) -> list[str]:
    """Which of the paper's orderings hold here: one line per group and column with two networks or more.

    A pair is undecided if its difference is within two standard errors over the seeds; a single seed has no
    spread, and the line says so.
    """
    lines = []
    for group in dict.fromkeys(row.group for row in rows):
        for column, metrics in columns.items():
            metric = headline(metrics)
            found = [
                (row.label, row.places[column])
                for row in rows
                if row.group == group and row.places[column].values and metric in row.places[column].paper
            ]
            if len(found) < 2:
                continue
            holds = undecided = total = 0
            for i, (_, a) in enumerate(found):
                for _, b in found[i + 1 :]:
                    theirs, ours = a.paper[metric] - b.paper[metric], a.values[metric][0] - b.values[metric][0]
                    if theirs == 0:
                        continue
                    total += 1
                    error = sum(p.values[metric][1] ** 2 / p.seeds for p in (a, b) if p.seeds > 1) ** 0.5
                    if abs(ours) <= 2 * error or ours == 0:
                        undecided += 1
                    else:
                        holds += (ours > 0) == (theirs > 0)
            here = " > ".join(name for name, _ in sorted(found, key=lambda f: -f[1].values[metric][0]))
            # What is equal in the paper may stand in any order.
            theirs_first = sorted(found, key=lambda f: (-f[1].paper[metric], -f[1].values[metric][0]))
            paper = " > ".join(name for name, _ in theirs_first)
            seeds = min(place.seeds for _, place in found)
            spread = f", {undecided} within two standard errors" if seeds > 1 else "; one seed, so no spread is known"
            same = "the paper's order" if here == paper else f"in the paper {paper}"
            lines.append(
                f"Order by {metric}, {group}, {column}: {here} "
                f"({same}; {holds} of {total} pairs as in the paper{spread})."
            )
    return lines


def genotypes(searches: Mapping[tuple[str, int], "pd.Series[Any]"]) -> list[str]:
    """What each search found, beside the architecture of the paper's Table 1: two letters per cell, IM-1 and IM-2."""
    if not searches:
        return []
    lines = [
        "Genotypes, IM-1 and IM-2 of each cell (N none, E exchange, G channel gate, A cross attention); of twelve "
        "interactions three agree with the paper's by chance.",
        f"The paper, Table 1: {_by_cell(SEARCHED)}.",
    ]
    for (row, seed), found in searches.items():
        agree = f"{found['agreement']:.0f} of 12 as in the paper"
        entropy = "" if pd.isna(found.get("entropy")) else f", entropy of the mixtures {found['entropy']:.3f} of 1"
        collapsed = ", collapsed to no interaction at all" if found["collapsed"] else ""
        lines.append(
            f"{row}, seed {seed}: {_by_cell(str(found['genotype']))}, {agree}{entropy}, "
            f"{100 * found['skip_ratio']:.0f} % none{collapsed}, {found['seconds_training']:.0f} s."
        )
    return lines


def _by_cell(genotype: str) -> str:
    return " ".join(genotype[i : i + 2] for i in range(0, len(genotype), 2))


def comparisons(
    rows: Sequence[Row], columns: Mapping[str, tuple[str, str]], baseline: str, frame: pd.DataFrame
) -> list[str]:
    """Every row's difference to the baseline row, paired by seed: mean, 95 % confidence interval, paired t-test.

    A row named NETWORK|VARIANT is compared with the baseline's variant of its own network. p values are Holm's over
    the rows of a column. Runs of one row and seed (random genotypes) count as their mean. A single seed has no
    spread: its differences stand in one line, which says so.
    """
    lines = []
    for group in dict.fromkeys(row.group for row in rows):
        for column, metrics in columns.items():
            metric = headline(metrics)
            values: dict[str, pd.Series[float]] = {}
            for row in rows:
                if row.group == group and (ids := list(row.places[column].run_ids)):
                    values[row.label] = 100 * frame.loc[ids].groupby("seed")[metric].mean()
            bases = {label: baseline_of(label, baseline) for label in values}
            others = [label for label, base in bases.items() if base in values and base != label]
            found = [paired(values[label] - values[bases[label]]) for label in others]
            adjusted = holm([difference.p for difference in found])
            alone: dict[str, list[str]] = {}  # differences of a single seed, by the row that they are to
            for label, d, p in zip(others, found, adjusted, strict=True):
                if d.count < 2:
                    alone.setdefault(bases[label], []).append(f"{label} {d.mean:+.1f}")
                    continue
                verdict = "differs" if p < LEVEL else "within the noise"
                spread = f"[{d.low:+.1f}, {d.high:+.1f}], p {p:.3f} over {d.count} seeds: {verdict}"
                lines.append(f"{group}, {column} {metric}, {label} minus {bases[label]}: {d.mean:+.1f} {spread}.")
            for base, each in alone.items():
                shown = f"{group}, {column} {metric}, differences to {base}: {'; '.join(each)}"
                lines.append(f"{shown}. One seed, so no spread is known.")
    if any("seeds:" in line for line in lines):
        lines.append(
            "Brackets: 95 % confidence interval; p: paired t-test by seed, adjusted after Holm within a column."
        )
    return lines


def baseline_of(label: str, baseline: str) -> str:
    """The row that a row is compared with: where rows are named NETWORK|VARIANT, that of its own network."""
    network, bar, _ = label.partition("|")
    return network + bar + baseline.partition("|")[2] if bar else baseline


def _length(recipe: Recipe) -> str:
    return f"{recipe.schedule.epochs} epochs" + (
        f" of {recipe.sampler.steps_per_epoch} steps" if recipe.sampler.steps_per_epoch else ""
    )


def brief(table: Table) -> Table:
    """The rows that have results, without notes: for the console while others still train."""
    rows = [row for row in table.rows if any(place.values for place in row.places.values())]
    return replace(table, rows=rows, notes=[])


#: Tables of the paper whose methods this suite does not have: title, group of its rows, and why nothing is measured.
NOT_HERE = {
    "table4": (
        "Table 4: training without labels (USL), and adaptation without labels of the target (UDA)",
        "without labels",
        "Nothing is measured: the methods (clustering and contrast on unlabelled images) are no part of this suite.",
    )
}


def paper_table(name: str) -> Table:
    """A table of `NOT_HERE`: the paper's numbers with their origin, and everything else as not run."""
    title, group, why = NOT_HERE[name]
    numbers = paper_numbers()
    numbers = numbers[numbers["table"] == f"T{name.removeprefix('table')}"]
    columns = {str(r["task"]): (str(r["m1"]), str(r["m2"])) for _, r in numbers.iterrows()}
    rows = []
    for method in numbers["method"].unique():
        places = {}
        for column in columns:
            paper, origin = paper_place(numbers, method, "-", column)
            places[column] = Place({}, 0, 0, paper, origin)
        rows.append(Row(group, method, places, None, None))
    rows = marked(rows, pd.DataFrame())
    cited = "(c) marks numbers that the paper cites from others."
    notes = [why, cited, f"{BEST} best, {SECOND} second best of a column."]
    return Table(title, columns, rows, notes)


# --- Formats -------------------------------------------------------------------------------------


Mark = Callable[[str, str], str]


def plain_mark(text: str, marks: str) -> str:
    """A number with its marks behind it, for plain text."""
    return text + marks


def grid(table: Table, mark: Mark = plain_mark) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Header and (group, cells) lines as text, the same for every format but for how `mark` shows a number's marks."""
    costs = paper_costs()
    compared = any(place.paper for row in table.rows for place in row.places.values())
    header = ["method", "params M", *(["paper"] if compared else []), "GMACs"]
    for column, metrics in table.columns.items():
        header += [f"{column} {'/'.join(metrics)}", *(["paper"] if compared else [])]
    lines = []
    for row in table.rows:
        cost = costs.get(paper_name(row.label), {})
        stated = ("~" if cost.get("approximate") == "yes" else "") + cost.get("parameters_millions", "-")
        line = [
            row.label,
            "-" if row.parameters is None else f"{row.parameters / 1e6:.2f}",
            *([stated] if compared else []),
            "-" if row.macs is None else f"{row.macs / 1e9:.3f}",
        ]
        for column, metrics in table.columns.items():
            place = row.places[column]
            line += [_measured(place, metrics, mark), *([_stated(place, metrics, mark)] if compared else [])]
        lines.append((row.group, line))
    return header, lines


def _measured(place: Place, metrics: Sequence[str], mark: Mark) -> str:
    if not place.values:
        return NOT_RUN if place.planned or place.paper else "-"
    several = place.planned > 1
    parts = []
    for metric in metrics:
        mean, std = place.values[metric]
        text = f"{mean:.1f}" + (f"±{std:.1f}" if several and place.seeds > 1 else "")
        parts.append(mark(text, place.marks.get(metric, "")))
    return " / ".join(parts) + (f" ({place.seeds} of {place.planned} seeds)" if place.seeds < place.planned else "")


def _stated(place: Place, metrics: Sequence[str], mark: Mark) -> str:
    if not place.paper:
        return "-"
    parts = [mark(f"{place.paper[metric]:.1f}", place.paper_marks.get(metric, "")) for metric in metrics]
    return " / ".join(parts) + (" (c)" if place.origin.startswith("cited") else "")


def as_text(table: Table) -> str:
    """For a terminal: aligned columns."""
    header, lines = grid(table)
    lines = lines or [("", [""] * len(header))]
    widths = [max(len(line[i]) for line in [header, *(cells for _, cells in lines)]) for i in range(len(header))]
    out = [table.title, "", "  ".join(h.ljust(w) for h, w in zip(header, widths, strict=True)).rstrip()]
    group = ""
    for name, cells in lines:
        if name != group:
            out.append(f"-- {name} ".ljust(sum(widths) + 2 * (len(widths) - 1), "-"))
            group = name
        out.append("  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip())
    return "\n".join([*out, "", *table.notes]) + "\n"


def as_markdown(table: Table) -> str:
    """For a README: the best in bold, the second best underlined."""

    def mark(text: str, marks: str) -> str:
        text = f"**{text}**" if BEST in marks else f"<ins>{text}</ins>" if SECOND in marks else text
        return text + (NOISE if NOISE in marks else "")

    header, lines = grid(table, mark)
    out = [f"**{table.title}**", "", f"| group | {' | '.join(header)} |", "|" + "---|" * (len(header) + 1)]
    out += [f"| {group} | {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |" for group, cells in lines]
    return "\n".join([*out, "", *table.notes]) + "\n"


def as_latex(table: Table) -> str:
    """For a paper: a booktabs tabular, the best in bold, the second best underlined."""

    def mark(text: str, marks: str) -> str:
        text = rf"\textbf{{{text}}}" if BEST in marks else rf"\underline{{{text}}}" if SECOND in marks else text
        return text + (NOISE if NOISE in marks else "")

    header, lines = grid(table, mark)

    def tex(text: str) -> str:
        for plain, escaped in (
            ("_", r"\_"),
            ("%", r"\%"),
            ("&", r"\&"),
            ("#", r"\#"),
            ("±", r" $\pm$ "),
            (">", r"$\to$"),
            ("~", r"$\sim$"),
            (NOISE, r"$^{\approx}$"),
            ("|", r"$\vert$"),
        ):
            text = text.replace(plain, escaped)
        return text

    before = header.index("GMACs")  # columns about the network, apart from its name
    out = [
        r"% needs \usepackage{booktabs}; too wide: \resizebox{\linewidth}{!}{...} round it (graphicx)",
        r"\begin{tabular}{l" + "r" * before + "c" * (len(header) - before - 1) + "}",
        r"\toprule",
        " & ".join(map(tex, header)) + r" \\",
    ]
    group = ""
    for name, cells in lines:
        if name != group:
            out += [r"\midrule", rf"\multicolumn{{{len(header)}}}{{l}}{{\emph{{{tex(name)}}}}} \\"]
            group = name
        out.append(" & ".join(map(tex, cells)) + r" \\")
    out += [r"\bottomrule", r"\end{tabular}"]
    notes = [f"% {line}" for note in (table.title, *table.notes) for line in note.splitlines()]
    return "\n".join([*notes, *out]) + "\n"


def as_frame(table: Table) -> pd.DataFrame:
    """One row per group, network, column and metric, for further work."""
    return pd.DataFrame(
        [
            {
                "group": row.group,
                "method": row.label,
                "parameters": row.parameters,
                "macs": row.macs,
                "column": column,
                "metric": metric,
                "mean": place.values.get(metric, (None, None))[0],
                "std": place.values.get(metric, (None, None))[1],
                "seeds": place.seeds,
                "planned": place.planned,
                "paper": place.paper.get(metric),
                "origin": place.origin,
            }
            for row in table.rows
            for column, place in row.places.items()
            for metric in table.columns[column]
        ]
    )


def write_table(table: Table, stem: Path) -> list[Path]:
    """Write the table as STEM.txt, .md, .tex and .csv; returns the files."""
    contents = {
        ".txt": as_text(table),
        ".md": as_markdown(table),
        ".tex": as_latex(table),
        ".csv": as_frame(table).to_csv(index=False),
    }
    for suffix, text in contents.items():
        write_text(stem.with_suffix(suffix), text)
    return [stem.with_suffix(suffix) for suffix in contents]
