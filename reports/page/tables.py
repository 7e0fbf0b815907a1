"""Tables of the report: studies next to the paper's numbers, accuracy by difficulty, and measurements of bench."""

import re
from collections.abc import Container, Iterable

import pandas as pd

from ablations.engine.study import group_label
from ablations.studies import STUDIES
from msinet.errors import UserError
from reports.costs import by_machine
from reports.factors import by_factor
from reports.formats import Printed, as_frame, as_latex, as_markdown, grid, plain_mark, write_table
from reports.page.report import Data, Missing, Part, Report
from reports.results import file_name
from reports.tables import Table

#: Tables that belong to no study: accuracy by level of a factor, and files of `python -m bench`.
MEASURED = {
    "difficulty": "Difficulty: accuracy by occlusion, view change and light",
    "latency": "Latency of a batch of inference",
    "machines": "Latency of a batch of deployed networks on every measured machine",
    "throughput": "Throughput: images per second by batch size",
    "memory": "Memory of one batch of inference",
    "retrieval": "Ranking: CMC and mAP next to the matrix product alone",
    "clustering": "Pseudo-labels of methods without labels, at the size of the training sets",
}


def tables(report: Report) -> Part:
    """The section of tables; their files are written next to the page."""
    panels: list[Data] = []
    missing: list[Missing] = []
    for name, table in report.tables.items():
        title, command = STUDIES[name].title, report.command(name)
        if report.results.is_reference and name.startswith("sweep_"):
            continue  # reference results hold no sweeps
        if isinstance(table, str):
            missing.append(Missing(title, table, command))
        elif table.done < table.planned:
            missing.append(Missing(title, f"{table.done} of {table.planned} runs", command))
        shown = report.shown(name)
        if shown is not None:
            write_table(shown, report.out / "tables" / file_name(name, report.request))
            panels.append(table_panel(name, shown, report.results.records.index))
    measured, lacking = measurements(report)
    panels += [file_panel(name, MEASURED[name], frame) for name, frame in measured.items()]
    return Part({"tables": panels, "table_files": {p["name"]: p["files"] for p in panels}}, (*missing, *lacking))


def measurements(report: Report) -> tuple[dict[str, pd.DataFrame], list[Missing]]:
    """Accuracy by difficulty, and the files that `python -m bench` left next to the latencies."""
    found: dict[str, pd.DataFrame] = {}
    missing = []
    try:
        found["difficulty"] = by_factor(report.results, "table2").drop(columns="network")
    except UserError as error:
        if report.request.rendered:
            missing.append(Missing("accuracy by difficulty", str(error), report.command("table2")))
    for name in ("latency", "throughput", "memory", "retrieval", "clustering"):
        path = report.bench_file(name)
        if path.is_file():
            found[name] = pd.read_csv(path)
        elif name != "latency":  # the figures of latency report that it is missing
            missing.append(Missing(MEASURED[name], f"{path} does not exist", report.bench_command(name)))
    machines = by_machine(report.latency)
    if len(machines):
        found["machines"] = machines
    return found, missing


def table_panel(name: str, table: Table, runs: Container[str]) -> Data:
    """A study's table with the runs behind its cells, and its files as text. Costs can be left out on a phone.

    Args:
        name: name of the study.
        table: its table.
        runs: runs that the page describes; in a report of a store, those of the reference results are not among them.
    """
    headings, lines = grid(table)
    columns = [
        {"title": h.title, "metrics": list(h.metrics), "numeric": h.numeric, "paper": h.kind != "measured"}
        | {"cost": h.numeric and not h.metrics}
        for h in headings
    ]
    rows = [(line.group, [_shown(cell, runs) for cell in line.cells]) for line in lines]
    return {
        "name": name,
        "label": short_title(name, table.title),
        "title": table.title,
        "columns": columns,
        "groups": _grouped(rows),
        "count": len(rows),
        "notes": table.notes,
        "done": table.done,
        "planned": table.planned,
        "files": {".csv": as_frame(table).to_csv(index=False), ".tex": as_latex(table), ".md": as_markdown(table)},
    }


def _grouped(rows: Iterable[tuple[str, list[Data]]]) -> list[Data]:
    """Rows by group, those without training last."""
    groups: dict[str, list[list[Data]]] = {}
    for group, cells in sorted(rows, key=lambda row: row[0] == group_label("untrained")):
        groups.setdefault(group, []).append(cells)
    return [{"name": group, "rows": members} for group, members in groups.items()]


def _words(text: str) -> Data:
    return {"text": text, "values": [], "runs": ()}


def _shown(cell: Printed, runs: Container[str]) -> Data:
    known = tuple(run for run in cell.runs if run in runs)
    return {"text": cell.text(plain_mark), "values": [value for value, _, _ in cell.numbers], "runs": known}


def short_title(name: str, title: str) -> str:
    """The number of a table or figure if its title begins with it, else the name."""
    head = title.partition(":")[0]
    return head if re.fullmatch(r"(Table|Figure) \w+", head) else name.replace("_", " ").capitalize()


def file_panel(name: str, title: str, frame: pd.DataFrame) -> Data:
    """The table of a CSV file, with numbers to four digits; a column `group` becomes headings between the rows."""
    numeric = {str(column): pd.api.types.is_numeric_dtype(frame[column]) for column in frame if column != "group"}
    rows = [
        (str(row.get("group", "")), [_plain(row[column], numeric=number) for column, number in numeric.items()])
        for _, row in frame.iterrows()
    ]
    columns = [
        {"title": column.replace("_", " "), "metrics": [], "paper": False, "numeric": number, "cost": False}
        for column, number in numeric.items()
    ]
    return {
        "name": name,
        "label": short_title(name, title),
        "title": title,
        "columns": columns,
        "groups": _grouped(rows),
        "count": len(rows),
        "notes": [],
        "done": len(rows),
        "planned": len(rows),
        "files": {".csv": frame.to_csv(index=False)},
    }


def _plain(value: object, *, numeric: bool) -> Data:
    if pd.isna(value):  # type: ignore[call-overload]
        return _words("-")
    return _words(f"{value:.4g}" if isinstance(value, float) else str(value)) | {"values": [value] if numeric else []}
