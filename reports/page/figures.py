"""Figures of the report: those drawn from available results, and those that are already in the store."""

import math
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import PIL.Image

from ablations.studies import STUDIES
from msinet.errors import UserError
from msinet.models.registry import in_study
from msinet.progress import bar
from msinet.training.recipes import PROFILES
from reports.costs import accuracy_data, draw_accuracy, draw_roofline
from reports.curves import draw_study_curves
from reports.drawing import DPI
from reports.factors import by_factor, draw_study_factors
from reports.figures import draw_study
from reports.page.report import Data, Missing, Part, Report, data_uri
from reports.results import file_name
from reports.searches import draw_searches

#: Vector figures of more bytes are shown as PNG if that is smaller.
VECTOR_BYTES = 150_000
#: Figures of images. The other ones are drawings, whose colours the dark theme changes.
IMAGES = ("figure1", "figure4", "figure6")
#: Width in inches from which a figure has a row of its own.
WIDE = 6


@dataclass(frozen=True)
class Figure:
    """A figure of the report, before it is drawn."""

    title: str
    draw: Callable[[], list[Path]]
    command: str
    """command that produces the results it lacks"""


def figures(report: Report) -> Part:
    """The section of figures."""
    drawn: dict[Path, str] = {}
    missing = []
    for figure in bar(iterable=list(planned(report)), desc="figures"):
        try:
            drawn |= titled(figure.title, figure.draw())
        except UserError as error:
            missing.append(Missing(figure.title, str(error), figure.command))
    if report.results.is_reference:
        what = "activation maps (Figures 1 and 4), ranked lists (Figure 6), contact sheets"
        why = "they need weights and images, which reference results do not have; a report of a store shows them"
        missing.append(Missing(what, why, shlex.join(["python", "-m", "reports", "build", *report.request.as_args()])))
    entries = figure_entries(drawn, report.results.folder / "figures", report.request.profile)
    return Part({"figures": entries, "figure_files": {e["name"]: e["csv"] for e in entries}}, tuple(missing))


def titled(title: str, paths: Iterable[Path]) -> dict[Path, str]:
    """The title of each picture without suffix; of several pictures, the title that is written in each."""
    pictures = [path for path in paths if path.suffix == ".png"]
    return {path.with_suffix(""): title if len(pictures) == 1 else own_title(path) for path in pictures}


def own_title(picture: Path) -> str:
    """The title of a figure that `write_figure` wrote; of another picture, the words of its file name."""
    title = ""
    if picture.suffix == ".png":
        with PIL.Image.open(picture) as image:
            title = str(image.info.get("Title", ""))
    return title or picture.stem.replace("-", " ").replace("_", " ")


def planned(report: Report) -> Iterator[Figure]:
    """All figures of the report."""
    request, results, folder = report.request, report.results, report.out / "figures"
    for name, study in STUDIES.items():
        if study.baseline and (table := report.table(name)):
            yield Figure(table.title, partial(draw_study, results, name, folder), report.command(name))
    if not report.results.is_reference:
        yield from pictures(report)
    for name in ("table1", "figure5a"):
        title = f"Searches of {name}: trajectories and genotypes"
        yield Figure(title, partial(draw_searches, results, name, folder), report.command(name))
    table2 = report.command("table2")
    yield Figure("Table 2 while training", partial(draw_study_curves, results, "table2", folder), table2)
    if request.rendered:
        yield Figure("Table 2 by factor of the query", lambda: _factors(report), table2)
    yield from costs(report)


def pictures(report: Report) -> Iterator[Figure]:
    """Figures of images, which need the weights of runs."""
    for name, images in (("figure1", 8), ("figure4", 5), ("figure6", 3)):
        yield Figure(STUDIES[name].title, partial(_picture, report, name, images), report.command(name))


def _picture(report: Report, name: str, images: int) -> list[Path]:
    from reports import pictures  # it imports torch, which a report of reference results does not need

    draw = getattr(pictures, name)
    written: list[Path] = draw(report.results, report.out / "figures", images, report.run_options)
    return written


def _factors(report: Report) -> list[Path]:
    data = by_factor(report.results, "table2")
    return draw_study_factors(data, report.results, "table2", report.out / "figures")


def costs(report: Report) -> Iterator[Figure]:
    """The roofline, and accuracy against latency."""
    request, latencies = report.request, report.latencies
    latency = report.bench_command("latency")
    if latencies.empty:
        title = "accuracy against latency, and the roofline"
        yield Figure(title, lambda: _raise(f"{report.latency} does not exist"), latency)
        return
    folder = report.out / "figures"
    roofline = partial(draw_roofline, latencies, report.environment, folder / "roofline")
    yield Figure("Roofline: deployed networks relative to a measured product and copy", roofline, latency)
    batch, command, table2 = int(latencies["batch"].max()), report.command("table2"), report.table("table2")
    if table2 is not None and any(row.first("parameters") for row in table2.rows):
        # There are results, so the latencies must be of networks of another width.
        timed = tuple(map(request.named, request.models or (card.name for card in in_study("table2"))))
        command = report.bench_command("latency", "--models", *timed, "--batches", str(batch))
    for column in ("M", "MS", "VR"):
        title = f"{column}: accuracy against latency, deployed, batch {batch}"
        yield Figure(title, partial(_accuracy, report, column, batch, title), command)


def _accuracy(report: Report, column: str, batch: int, title: str) -> list[Path]:
    data = accuracy_data(report.latencies, report.results, "table2", column, "deployed", batch)
    name = f"{file_name('table2', report.request)}-{column}-cost"
    return draw_accuracy(data, title, report.out / "figures" / name)


def _raise(message: str) -> list[Path]:
    raise UserError(message)


def figure_entries(drawn: dict[Path, str], folder: Path, profile: str) -> list[Data]:
    """Figures for the page: those drawn, then the others of a folder, except those of another profile."""
    stems = {stem.name: (stem, title) for stem, title in drawn.items()}
    others = set(PROFILES) - {profile}
    for path in (*sorted(folder.glob("*.png")), *sorted(folder.glob("*.svg"))):
        if not others & set(path.stem.split("-")):
            stems.setdefault(path.stem, (path.with_suffix(""), own_title(path)))
    return list(_entries(stems.values()))


def _entries(stems: Iterable[tuple[Path, str]]) -> Iterator[Data]:
    for stem, title in stems:
        svg, png, table = (stem.with_suffix(suffix) for suffix in (".svg", ".png", ".csv"))
        sizes = {path: path.stat().st_size for path in (svg, png) if path.is_file()}
        if not sizes:
            continue
        picture = svg if sizes.get(svg, math.inf) <= VECTOR_BYTES else min(sizes, key=lambda path: sizes[path])
        kind = "image/svg+xml" if picture.suffix == ".svg" else "image/png"
        yield {
            "name": stem.name,
            "title": title,
            "drawing": not stem.name.startswith(IMAGES),
            "wide": png in sizes and _inches(png) >= WIDE,
            "picture": data_uri(picture.read_bytes(), kind),
            "made": f"{datetime.fromtimestamp(picture.stat().st_mtime, UTC):%Y-%m-%d %H:%M}",
            "csv": table.read_text(encoding="utf-8") if table.is_file() else "",
        }


def _inches(png: Path) -> float:
    """Width of a figure that `write_figure` wrote."""
    with PIL.Image.open(png) as image:
        return image.width / DPI
