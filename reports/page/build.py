"""Builds the report: gathers the parts of all sections and renders them."""

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from jinja2.utils import htmlsafe_json_dumps

from msinet.data import Dataset
from msinet.io import write_text
from msinet.training.options import RankingOptions
from reports.page.claims import claims
from reports.page.datasets import datasets
from reports.page.figures import figures
from reports.page.ranked import browser, ranked
from reports.page.report import Data, Missing, Part, Report
from reports.page.runs import runs
from reports.page.summary import summary
from reports.page.tables import tables

#: Sections in the order in which they name what is missing.
SECTIONS: tuple[Callable[[Report], Part], ...] = (summary, claims, tables, figures, ranked, runs, datasets)


def build(report: Report) -> list[Missing]:
    """Write index.html with its tables, figures and sheets; returns what is missing."""
    parts = [section(report) for section in SECTIONS]
    gaps = (gap for part in parts for gap in part.missing)
    missing = list({(gap.what, gap.command): gap for gap in gaps}.values())  # a figure may lack the runs of its table
    write_text(report.out / "index.html", render(parts, missing))
    return missing


def render(parts: list[Part], missing: list[Missing]) -> str:
    """The page."""
    context: Data = {name: value for part in parts for name, value in part.data.items()}
    context |= {"missing": [asdict(gap) for gap in missing]}
    return _page("report.html.j2", ("common.js", "report.js", "ranked.js"), context)


def build_browser(
    weights: Sequence[Path], dataset: Dataset, queries: int, run_options: RankingOptions, out: Path
) -> None:
    """Write a page with the ranked lists of given weights alone."""
    context = browser(weights, dataset, queries, run_options)
    write_text(out, _page("browser.html.j2", ("common.js", "ranked.js"), context))


def _read(name: str) -> str:
    """A file of this package."""
    return files("reports.page").joinpath(name).read_text(encoding="utf-8")


def _page(template: str, scripts: Sequence[str], context: Data) -> str:
    """A page with its style and scripts inside."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["json"] = lambda value: htmlsafe_json_dumps(value, dumps=_strict_json)
    script = "\n".join(map(_read, scripts))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    built = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return environment.get_template(template).render(
        **context, built=built, style=_read("report.css"), script=script, script_hash=digest
    )


def _strict_json(value: Any, **settings: Any) -> str:
    """JSON that every browser reads: no NaN."""
    return json.dumps(value, **settings, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
