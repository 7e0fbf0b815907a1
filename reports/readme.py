"""Documents with reference results: `python -m reports.readme` writes parts of README.md and all of docs/results.md."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ablations.engine.reference import about
from ablations.engine.request import Request
from ablations.engine.resolve import Resolution, by_seeds
from ablations.engine.study import Cell, group_label
from ablations.studies import STUDIES
from msinet.io import write_text
from reports.comparisons import Comparisons, source_of
from reports.costs import read_latencies
from reports.formats import as_markdown
from reports.layout import build_table, comparisons_of
from reports.markdown import markdown_table
from reports.notes import spread
from reports.results import Found, ReferenceResults
from reports.sizes import full_size_cost
from reports.statistics import FIXED, Effect
from reports.tables import Column, Row, Table, TableCell, network_of, random_weights, timed_as
from reports.verdicts import judge, verdict_counts

#: The row without training that is the hardest to exceed; docs/results.md has the others.
STRICTEST = "oracle_coarse"
ROOT = Path(__file__).parent.parent
README, RESULTS = ROOT / "README.md", ROOT / "docs" / "results.md"


def blocks() -> dict[str, str]:
    """The generated parts by name, as Markdown."""
    results = ReferenceResults(Request())
    found = results.found("table2")
    if found is None:
        return {"table2": "There are no reference results yet.", "claims": "There are no reference results yet."}
    return {"table2": _table(results, found), "claims": _claims(results)}


def _commands(found: Found, columns: Sequence[Column] = (), groups: Collection[str] = ()) -> str:
    """The commands that run a study, or these columns and groups: one for each number of seeds."""
    cells = [one for one in found.resolution.cells if not groups or one.cell.group in groups]
    cells = [one for one in cells if not columns or Column(one.cell.train, one.cell.test) in columns]
    commands = [_command(found.resolution, seeds, several) for seeds, several in by_seeds(cells).items()]
    return " and ".join(f"`{one}`" for one in commands)


def _command(resolution: Resolution, seeds: int, cells: Sequence[Cell]) -> str:
    """The command that runs these table cells. It names what is not the default."""
    study, request = resolution.study, replace(resolution.request, whole=False)
    usual = [cell for cell in study.cells(request, request.default_datasets()) if cell.group != "untrained"]
    words = f"python -m ablations run {study.name} --seeds {seeds}"
    whole = bool({cell.group for cell in cells} - {cell.group for cell in usual})
    words += " --whole" if whole else ""
    networks, shown = {cell.experiment.model for cell in cells}, {cell.experiment.model for cell in usual}
    if networks < shown or (networks - shown and not whole):
        words += f" --models {' '.join(sorted(networks))}"
    if {cell.train for cell in cells} <= {cell.train for cell in usual}:
        return words
    return f"{words} --datasets {' '.join(sorted({cell.train for cell in cells} | {cell.test for cell in cells}))}"


def _table(results: ReferenceResults, found: Found) -> str:
    """Table 2: a line per set and network, with the difference to MSINet."""
    table = build_table(results, "table2")
    learning = [row for row in table.rows if row.group != "untrained"]
    least = min(2, max((_seeds(row) for row in learning), default=0))
    trained = Counter(row.group for row in learning if _seeds(row) >= least)
    groups = {"untrained", *(group for group, number in trained.items() if number > 1)}  # others compare nothing
    rows = [row for row in table.rows if row.done and row.group in groups and not random_weights(row)]
    rows = [row for row in rows if row.group != "untrained" or network_of(row) == STRICTEST]
    rows.sort(key=lambda row: row.group == "untrained")  # the bounds last
    ours = {row.group: row for row in rows if network_of(row) == "msinet"}
    first = next(iter(ours.values()), None)  # without training, the difference is to the first group's
    seen = [row for row in rows if row.group != "untrained"]
    columns = [column for column in table.columns if sum(row.cells[column].done >= least for row in seen) > 1]
    compared = comparisons_of(results, "table2")
    # Columns with comparisons; if there are none, the others, which then are called early.
    columns = [column for column in columns if sum(_comparable(row, column, compared) for row in seen) > 1] or columns
    heads = ["rendered set", "network", "million parameters", "R1", "mAP", "mAP minus MSINet's", "seeds"]
    lines, effects = [], []
    for column in columns:
        for row in rows:
            cell = row.cells[column]
            if not cell.done or (row.group == "untrained" and column.train != column.test):
                continue  # without training, MS>M is the ranking of M
            values = [_set_name(column), f"{table.label(row.factors)}, {group_label(row.group)}"]
            count = full_size_cost(timed_as(row)).parameters_without_classifier
            values += [f"{count / 1e6:.2f}", _mean(cell, "R1"), _mean(cell, "mAP"), "-"]
            base = ours.get(row.group, first)
            if base is not None and row is not base and base.cells[column].done:
                effects.append(compared.effect(row, base, column, "mAP"))
                values[-1] = spread(effects[-1])
            values.append("-" if source_of(cell.runs) == FIXED else str(cell.done))
            lines.append(values)
    notes = [
        "",
        "R1 and mAP in per cent, means ± sample standard deviation over seeds. Brackets: 95 % interval of the "
        f"difference for new trainings and test identities{_kinds(effects)}. "
        f"Profile `{results.request.profile}`. "
        f"Training identities: {_training_identities(rows, columns)}. "
        f"Machine: {about(results.store.root / found.machine)}. "
        f"Covered by {_commands(found, columns, groups)}.",
    ]
    gates = [
        f"{table.label(row.factors)} {column.label}: {why}"
        for row in rows
        for column in columns
        if row.cells[column].done and (why := compared.convergence(row.cells[column].runs))
    ]
    if gates:
        notes += ["", f"**Early training.** Not converged: {'; '.join(gates)}."]
    return "\n".join([*markdown_table(heads, lines), *notes])


def _comparable(row: Row, column: Column, compared: Comparisons) -> bool:
    return row.cells[column].done > 0 and not compared.obstacle(row, column)


def _kinds(effects: Iterable[Effect]) -> str:
    """Kinds of differences between the runs of effects, without the names of versions; docs/results.md has them."""
    kinds = dict.fromkeys(remark.partition(": ")[0] for effect in effects for remark in effect.remarks)
    return f" ({'; '.join(sorted(kinds))})" if kinds else ""


def _seeds(row: Row) -> int:
    """The most seeds of any cell."""
    return max((cell.done for cell in row.cells.values()), default=0)


def _mean(cell: TableCell, metric: str) -> str:
    """The mean over seeds with its standard deviation."""
    return f"{cell.mean(metric):.1f}" + (f" ± {cell.std(metric):.1f}" if cell.done > 1 else "")


def _set_name(column: Column) -> str:
    """A column with the names of its sets: "MS>M: msmt17 to market1501"."""
    return f"{column.label}: {' to '.join(dict.fromkeys((column.train, column.test)))}"


def _training_identities(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """The number of identities in each training set."""
    found = {
        column.train: int(row.cells[column].runs["identities"].iloc[0])
        for column in columns
        for row in rows
        if row.group != "untrained" and row.cells[column].done
    }
    return ", ".join(f"{number} of {name}" for name, number in found.items())


def _claims(results: ReferenceResults) -> str:
    """How many claims have which verdict, and the decided ones; of those about costs, only the ones that fail."""
    latency = results.bench_file(Path("latency.csv"))
    verdicts = judge(results, read_latencies(latency)[0] if latency.exists() else None)
    lines = []
    for costs, topic in ((False, "accuracy"), (True, "costs")):
        counts = verdict_counts(verdicts, costs=costs)
        shown = ", ".join(f"{number} {_plural(state, number)}" for state, number in counts.items() if number)
        lines.append(f"- Claims about {topic}, {sum(counts.values())}: {shown}.")
        told = ("fails",) if costs else ("holds", "fails")
        for verdict in (v for v in verdicts if v.claim.about_costs == costs and v.status in told):
            found = [one.text for one in verdict.outcomes if costs or one.agrees is not None]  # without missing runs
            lines.append(f"  - {verdict.status}: {verdict.claim.statement}: {'; '.join(found)}")
    measured = [one.measured for verdict in verdicts for one in verdict.outcomes if one.measured is not None]
    known = [(one, one.paper) for one in measured if one.paper is not None]
    if known:  # the one whose interval is farthest from the paper's difference
        most, paper = max(known, key=lambda pair: max(pair[0].interval[0] - pair[1], pair[1] - pair[0].interval[1]))
        low, high = most.interval
        numbers = f", {most.mean:+.1f} [{low:+.1f}, {high:+.1f}]; the paper's {paper:+.1f}"
        numbers = "" if any(most.label in line for line in lines) else numbers  # those above are not repeated
        lines.append(f"- Interval farthest from the paper: {most.label}{numbers}.")
    return "\n".join(lines)


def _plural(state: str, number: int) -> str:
    """A status after a number: 1 holds, 2 hold."""
    return state.removesuffix("s") if number > 1 and state in ("holds", "fails") else state


def written(text: str) -> str:
    """A text with its generated parts replaced."""
    for name, block in blocks().items():
        pattern = rf"(<!-- reference {name}: [^\n]*-->\n).*?(<!-- end -->)"
        text, number = re.subn(pattern, lambda found, block=block: f"{found[1]}{block}\n{found[2]}", text, flags=re.S)  # type: ignore[misc]
        if number != 1:
            raise ValueError(f"the README has {number} parts called {name} instead of one")
    return text


def results_page() -> str:
    """The page of all reference results."""
    results = ReferenceResults(Request())
    tables = {name: build_table(results, name) for name in STUDIES if results.found(name) is not None}
    notes = [table.notes for table in tables.values()]
    shared = [note for note in (notes[0] if notes else ()) if all(note in others for others in notes)]
    cells = [cell for table in tables.values() for row in table.rows for cell in row.cells.values() if cell.done]
    trained = [cell for cell in cells if cell.runs["steps"].any()]
    single = sum(cell.done == 1 for cell in trained)
    parts = [
        "# Results",
        "This page shows every table with committed reference results, from the machine that `--reference` shows. "
        "`python -m reports.readme` generates it from `reference/`. [reference.md](reference.md) describes these "
        "results; [statistics.md](statistics.md) explains intervals, marks and decisions.",
        f"**{single} of {len(trained)} table cells with a trained network have a single seed.** They have no order, "
        "marks, p values or decisions. If a note gives a difference, its interval covers test identities only.",
        "Hours below a heading are those of all its runs together, training and evaluation; on `epyc-2-cores` a run "
        "has one core, and other programs ran. Tables share runs; each counts them.",
        "\n".join(["Notes on all tables:", "", *(f"- {note}" for note in shared)]),
    ]
    for name, table in tables.items():
        found = results.found(name)
        assert found is not None
        title = STUDIES[name].title
        frame = found.store.frame()
        hours = frame.filter(like="seconds_").sum().sum() / 3600
        shown = f"shown by `python -m reports table {name} --reference`"
        parts += [f"## {title}", f"Covered by {_commands(found)}, {shown}; {len(frame)} runs, {hours:.1f} hours"]
        for column in table.columns:
            rows = [row for row in table.rows if row.cells[column].done]
            if rows:
                alone = replace(table, columns=(column,), rows=rows, notes=())
                parts += [f"**{_set_name(column)}**", as_markdown(alone).split("\n", 2)[2].strip()]  # without its title
        own = [note for note in table.notes if note not in shared]
        parts.append("\n".join(f"- {note}" for note in (*own, *_not_run(table))))
    if lacking := [name for name in STUDIES if name not in tables]:
        parts.append(f"No results are committed yet of: {', '.join(lacking)}.")
    return "\n\n".join(parts) + "\n"


def _not_run(table: Table) -> Iterator[str]:
    """A note of the table cells that have no results yet, by group and row."""
    missing: dict[str, list[str]] = {}
    for row in table.rows:
        lacking = [column.label for column in table.columns if row.cells[column].planned and not row.cells[column].done]
        if lacking:
            missing.setdefault(group_label(row.group), []).append(f"{table.label(row.factors)} ({', '.join(lacking)})")
    if missing:
        yield "Not run yet: " + "; ".join(f"{group}: {', '.join(rows)}" for group, rows in missing.items()) + "."


if __name__ == "__main__":
    write_text(README, written(README.read_text(encoding="utf-8")))
    write_text(RESULTS, results_page())
