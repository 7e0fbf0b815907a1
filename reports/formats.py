"""Tables as text, Markdown, LaTeX and CSV. Only this module turns labels and numbers into text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from ablations.engine.study import group_label
from bench.networks import paper_costs
from msinet.io import write_text
from reports.markdown import markdown_table
from reports.results import WITHIN_FAMILY, Factors
from reports.tables import BEST, NOISE, SECOND, Row, Table, TableCell

NOT_RUN = "not run"
Mark = Callable[[str, str], str]


@dataclass(frozen=True)
class Heading:
    """The head of a printed column."""

    title: str
    metrics: tuple[str, ...] = ()
    """metrics of its numbers, in order"""
    kind: Literal["measured", "reference", "paper"] = "measured"
    """origin of its numbers"""
    numeric: bool = True

    @property
    def text(self) -> str:
        """Title and metrics; columns of the reference and the paper follow those whose metrics they share."""
        shared = self.kind != "measured" or not self.metrics
        return self.title if shared else f"{self.title} {'/'.join(self.metrics)}"


@dataclass(frozen=True)
class Printed:
    """A table cell as text: numbers with marks and a remark after them, or words without a number."""

    numbers: tuple[tuple[float, str, str], ...] = ()
    """value, text and marks of each"""
    remark: str = ""
    runs: tuple[str, ...] = ()
    """ids of the runs behind the numbers"""

    def text(self, mark: Mark) -> str:
        """The cell, with marks as a format shows them."""
        return " / ".join(mark(text, marks) for _, text, marks in self.numbers) + self.remark


@dataclass(frozen=True)
class Line:
    """A printed row."""

    group: str
    cells: tuple[Printed, ...]


def plain_mark(text: str, marks: str) -> str:
    """A number followed by its marks, for plain text."""
    return text + marks


def _one(value: float | None, text: str) -> Printed:
    return Printed(remark="-") if value is None else Printed(((value, text, ""),))


def grid(table: Table) -> tuple[list[Heading], list[Line]]:
    """Headings and lines, the same for every format. The reference and the paper have columns if they have values.

    In a table of reference results, these replace the measured values.
    """
    compared = any(cell.paper for row in table.rows for cell in row.cells.values())
    families = table.columns_with_families
    referenced = {c for c in table.columns if any(row.cells[c].reference for row in table.rows)}
    headings = [Heading("network", numeric=False), Heading("params M")]
    headings += [Heading("paper", kind="paper")] if compared else []
    headings.append(Heading("GMACs"))
    for column in table.columns:
        headings.append(Heading(f"{column.label} reference" if table.is_reference else column.label, column.metrics))
        headings += [Heading("reference", column.metrics, "reference")] if column in referenced else []
        headings += [Heading("paper", column.metrics, "paper")] if compared else []
        headings += [Heading(f"{column.label} in family", ("R1",))] if column in families else []
    lines = []
    for row in table.rows:
        if not any(one.planned or one.paper or one.reference for one in row.cells.values()):
            continue  # a cited row without numbers in these columns
        parameters, macs = row.first("parameters_without_classifier"), row.first("macs")
        cells = [
            Printed(remark=table.label(row.factors)),
            _one(parameters, "" if parameters is None else f"{parameters / 1e6:.2f}"),
            *([_published_cost(row.factors)] if compared else []),
            _one(macs, "" if macs is None else f"{macs / 1e9:.3f}"),
        ]
        for column in table.columns:
            cells.append(_measured(row.cells[column], column.metrics, table.usual if table.is_reference else None))
            cells += [_reference(row.cells[column], column.metrics, table.usual)] if column in referenced else []
            cells += [_published(row.cells[column], column.metrics)] if compared else []
            cells += [_within_family(row.cells[column])] if column in families else []
        lines.append(Line(group_label(row.group), tuple(cells)))
    return headings, lines


def _published_cost(factors: Factors) -> Printed:
    """The paper's parameters of the network at full width."""
    values = dict(factors)
    options = {"none": "", "pam-self": " pam=True"}.get(str(values.get("alignment", "none")))
    stated = paper_costs().get(f"{values.get('network')}{options}")
    if stated is None:
        return Printed(remark="-")
    millions, about = stated["parameters_millions"], "~" if stated["approximate"] == "yes" else ""
    return _one(float(millions), about + millions)


def _measured(cell: TableCell, metrics: Sequence[str], usual: int | None = None) -> Printed:
    """Means of the metrics, with the number of runs if some are missing.

    Args:
        cell: with its runs.
        metrics: to print.
        usual: for reference results, whose runs nobody asked for: the number of runs that is not printed.
    """
    if not cell.done:
        return Printed(remark=NOT_RUN if cell.planned else "-")
    several = cell.planned > 1 and cell.done > 1
    numbers = [
        (mean := cell.mean(metric), f"{mean:.1f}" + (f"±{cell.std(metric):.1f}" if several else ""), metric)
        for metric in metrics
    ]
    what = "seed" if cell.runs["seed"].is_unique else "run"  # a seed has several random genotypes
    remark = ""
    if usual is None and cell.done < cell.planned:
        remark = f" ({cell.done} of {cell.planned} {what}s)"
    elif usual is not None and cell.planned > 1 and cell.done != usual:
        remark = f" ({cell.done} {what}{'s' * (cell.done > 1)})"
    return Printed(tuple((v, text, cell.marks.get(m, "")) for v, text, m in numbers), remark, cell.run_ids)


def _within_family(cell: TableCell) -> Printed:
    if not cell.ranked_in_family:
        return Printed(remark="-")
    return replace(_measured(cell, WITHIN_FAMILY[:1]), remark="")  # the numbers next to it are of the same runs


def _reference(cell: TableCell, metrics: Sequence[str], usual: int) -> Printed:
    if cell.reference is None:
        return Printed(remark="-")
    printed = _measured(cell.reference, metrics, usual)
    return replace(printed, remark=printed.remark + (f" {cell.agreement}" if cell.agreement else ""))


def _published(cell: TableCell, metrics: Sequence[str]) -> Printed:
    if not cell.paper:
        return Printed(remark="-")
    numbers = [(cell.paper[m], f"{cell.paper[m]:.1f}", cell.paper_marks.get(m, "")) for m in metrics]
    return Printed(tuple(numbers), " (c)" if cell.origin.startswith("cited") else "")


def brief(table: Table) -> Table:
    """The rows that have results, without notes, for the console while other rows are trained."""
    return replace(table, rows=[row for row in table.rows if row.done], notes=())


def as_text(table: Table) -> str:
    """Aligned columns for a terminal."""
    headings, lines = grid(table)
    header = [heading.text for heading in headings]
    cells = [[cell.text(plain_mark) for cell in line.cells] for line in lines]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]

    def aligned(texts: Sequence[str]) -> str:
        return "  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip()

    out = [table.title, "", aligned(header)]
    group = ""
    for line, texts in zip(lines, cells, strict=True):
        if line.group != group:
            out.append(f"-- {line.group} ".ljust(sum(widths) + 2 * (len(widths) - 1), "-"))
            group = line.group
        out.append(aligned(texts))
    return "\n".join([*out, "", *table.notes]) + "\n"


def _markdown_mark(text: str, marks: str) -> str:
    text = f"**{text}**" if BEST in marks else f"<ins>{text}</ins>" if SECOND in marks else text
    return text + (NOISE if NOISE in marks else "")


def as_markdown(table: Table) -> str:
    """A Markdown table, the best in bold, the second best underlined."""
    headings, lines = grid(table)
    rows = [[line.group, *(cell.text(_markdown_mark) for cell in line.cells)] for line in lines]
    shown = markdown_table(["group", *(heading.text for heading in headings)], rows)
    return "\n".join([f"**{table.title}**", "", *shown, "", *table.notes]) + "\n"


#: LaTeX for characters that are special in LaTeX.
TEX: Mapping[str, str] = {
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "±": r" $\pm$ ",
    ">": r"$\to$",
    "~": r"$\sim$",
    NOISE: r"$^{\approx}$",
    "|": r"$\vert$",
}


def tex(text: str) -> str:
    """Text as LaTeX shows it."""
    return "".join(TEX.get(character, character) for character in text)


def _tex_mark(text: str, marks: str) -> str:
    text = rf"\textbf{{{text}}}" if BEST in marks else rf"\underline{{{text}}}" if SECOND in marks else text
    return text + (NOISE if NOISE in marks else "")


def as_latex(table: Table) -> str:
    """A booktabs tabular, the best in bold, the second best underlined."""
    headings, lines = grid(table)
    about = next(i for i, heading in enumerate(headings) if heading.title == "GMACs")  # further columns are results
    out = [
        r"% needs \usepackage{booktabs}; if too wide: wrap in \resizebox{\linewidth}{!}{...} (graphicx)",
        r"\begin{tabular}{l" + "r" * about + "c" * (len(headings) - about - 1) + "}",
        r"\toprule",
        " & ".join(tex(heading.text) for heading in headings) + r" \\",
    ]
    group = ""
    for line in lines:
        if line.group != group:
            out += [r"\midrule", rf"\multicolumn{{{len(headings)}}}{{l}}{{\emph{{{tex(line.group)}}}}} \\"]
            group = line.group
        out.append(" & ".join(tex(cell.text(_tex_mark)) for cell in line.cells) + r" \\")
    out += [r"\bottomrule", r"\end{tabular}"]
    notes = [f"% {line}" for note in (table.title, *table.notes) for line in note.splitlines()]
    return "\n".join([*notes, *out]) + "\n"


def as_frame(table: Table) -> pd.DataFrame:
    """One row per group, row, column and metric."""
    rows = []
    for row in table.rows:
        for column, cell in row.cells.items():
            metrics = (*column.metrics, *(WITHIN_FAMILY if cell.ranked_in_family else ()))
            rows += [_record(table, row, column.label, cell, metric) for metric in metrics]
    return pd.DataFrame(rows)


def _record(table: Table, row: Row, column: str, cell: TableCell, metric: str) -> dict[str, object]:
    return {
        "group": group_label(row.group),
        "row": table.label(row.factors),
        **dict(row.factors),
        "parameters": row.first("parameters_without_classifier"),
        "macs": row.first("macs"),
        "column": column,
        "metric": metric,
        "mean": cell.mean(metric) if cell.done else None,
        "std": cell.std(metric) if cell.done else None,
        "runs": cell.done,
        "planned": cell.planned,
        **_reference_values(cell.reference, metric, cell.agreement),
        "paper": cell.paper.get(metric),
        "origin": cell.origin,
    }


def _reference_values(cell: TableCell | None, metric: str, agreement: str) -> dict[str, object]:
    """Values of the reference; empty without one, so that such tables have no reference columns."""
    if cell is None:
        return {}
    return {
        "reference": cell.mean(metric),
        "reference_std": cell.std(metric),
        "reference_runs": cell.done,
        "agreement": agreement,
    }


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
