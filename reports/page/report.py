"""Shared by all sections of the report: the results and the parts of the page."""

import base64
import io
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import PIL.Image

from ablations.engine.request import Request
from ablations.engine.sweep import summary_path
from ablations.studies import STUDIES
from msinet.errors import UserError
from msinet.progress import bar
from msinet.training.options import RankingOptions
from reports.costs import read_latencies
from reports.layout import build_table, shown_table
from reports.results import Results, nearby, run_command
from reports.tables import Table
from reports.verdicts import Verdict, judge

Data = dict[str, Any]


@dataclass(frozen=True)
class Missing:
    """Something that the report lacks, the reason, and the command that makes it."""

    what: str
    why: str
    command: str = ""


@dataclass(frozen=True)
class Part:
    """A section's part of the page."""

    data: Data
    """values for the template by name"""
    missing: tuple[Missing, ...] = ()


@dataclass
class Report:
    """The results that a report shows; each is computed once."""

    results: Results
    latency: Path
    """file of `python -m bench latency`"""
    queries: int
    """queries of each set in the ranked lists"""
    run_options: RankingOptions
    out: Path
    """folder of the page"""

    @property
    def request(self) -> Request:
        """The request whose results are shown."""
        return self.results.request

    @cached_property
    def tables(self) -> dict[str, Table | str]:
        """The table of each study, or the reason that there is none."""
        return {name: self._table(name) for name in bar(iterable=STUDIES, desc="tables")}

    def _table(self, name: str) -> Table | str:
        sweep = name.removeprefix("sweep_")
        if sweep != name and not summary_path(self.request, sweep).exists():
            return "the sweep was not run or did not finish"  # without it the table has only rows of other tables
        try:
            return build_table(self.results, name)
        except UserError as error:
            return str(error)

    def shown(self, name: str) -> Table | None:
        """The table of a study, or that of the reference results if nothing was measured here."""
        table, reference = self.table(name), self.results.reference
        if (table is None or not table.done) and reference is not None and reference.found(name) is not None:
            return shown_table(self.results, name)[1]
        return table

    def table(self, name: str) -> Table | None:
        """The table of a study, if there is one."""
        found = self.tables.get(name)
        return found if isinstance(found, Table) else None

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The verdict on every claim."""
        return judge(self.results, self.latencies)

    @cached_property
    def _timings(self) -> tuple[pd.DataFrame, dict[str, object]]:
        return read_latencies(self.latency) if self.latency.exists() else (pd.DataFrame(), {})

    @property
    def latencies(self) -> pd.DataFrame:
        """Table of `python -m bench latency`; empty if there is none."""
        return self._timings[0]

    @property
    def environment(self) -> dict[str, object]:
        """Environment of the latencies."""
        return self._timings[1]

    def command(self, study: str) -> str:
        """The command that runs a study; for reference results with the seeds and data that their table has."""
        request = self.request
        if self.results.is_reference and self.table(study) is not None:
            request = self.results.resolution(study).request
        return run_command(study, request)

    def bench_file(self, name: str) -> Path:
        """The file that a command of bench writes."""
        return nearby(self.latency if name == "latency" else self.latency.with_name(f"{name}.csv"))

    def bench_command(self, name: str, *words: str) -> str:
        """The command that measures a file of bench."""
        return shlex.join(["python", "-m", "bench", name, *words, "--out", str(self.bench_file(name))])


def data_uri(content: bytes, kind: str) -> str:
    """The content of a file as a data: URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def jpeg(image: PIL.Image.Image, quality: int) -> str:
    """An image as a data: URI."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return data_uri(buffer.getvalue(), "image/jpeg")
