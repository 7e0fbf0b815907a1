"""Data sets of the report: sizes and contact sheets."""

from pathlib import Path

import PIL.Image

from msinet.data import Dataset
from msinet.data.sheets import show
from msinet.errors import UserError
from msinet.progress import bar
from reports.page.report import Data, Missing, Part, Report, jpeg
from reports.results import run_command


def datasets(report: Report) -> Part:
    """The section of data sets; contact sheets are written next to the page."""
    if report.results.is_reference:
        return Part({"datasets": []})
    command = run_command("table2", report.request)
    try:
        names = report.request.available_datasets()
    except UserError as error:
        return Part({"datasets": []}, (Missing("contact sheets", str(error), command),))
    entries: list[Data] = []
    missing = []
    for name in bar(iterable=names, desc="contact sheets"):
        try:
            entries.append(entry(report.results.dataset(name), report.out / "sheets"))
        except UserError as error:
            missing.append(Missing(f"contact sheets of {name}", str(error), command))
    return Part({"datasets": entries}, tuple(missing))


def entry(dataset: Dataset, folder: Path) -> Data:
    """Sizes and contact sheets of a data set."""
    pictures: list[Data] = []
    for path in show(dataset, folder, rows=6, columns=12, height=96):
        with PIL.Image.open(path) as sheet:
            picture = jpeg(sheet.convert("RGB"), 80)
            kind = path.stem.removeprefix(f"{dataset.name}-")
            pictures.append({"kind": kind, "picture": picture, "width": sheet.width, "height": sheet.height})
    return {
        "name": dataset.name,
        "layout": dataset.layout,
        "fingerprint": dataset.fingerprint,
        "splits": [
            [role, len(images), len({i.identity for i in images}), len({i.camera for i in images})]
            for role, images in dataset.splits().items()
        ],
        "junk": dataset.junk,
        "draws": len(dataset.draws),
        "sheets": pictures,
    }
