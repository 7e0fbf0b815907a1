"""Explorer of the report: every run of the store, with its configuration, curves, environment and log."""

import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablations.engine.store import Store
from msinet.environment import DESCRIBED
from msinet.errors import UserError
from reports.page.report import Data, Part, Report
from reports.results import SHARES, Results
from reports.tables import Table

#: Largest numbers per run: points of a curve, lines of a log, characters of a log line, characters of an error.
POINTS, LINES, CHARACTERS, ERROR_CHARACTERS = 200, 40, 400, 8000
#: Fields of an experiment next to its recipe and options.
EXPERIMENT = ("model", "source", "target", "profile", "seed", "init")


def runs(report: Report) -> Part:
    """The section of runs."""
    entries = run_entries(report.results, shown_in(report.tables))
    states = dict(Counter(entry["state"] for entry in entries).most_common())
    return Part({"runs": entries, "states": states, "bounds": {"points": POINTS, "lines": LINES}})


def shown_in(tables: Mapping[str, Table | str]) -> dict[str, list[str]]:
    """The table cells that show each run."""
    used: defaultdict[str, list[str]] = defaultdict(list)
    built = {name: table for name, table in tables.items() if isinstance(table, Table)}
    for name, table in built.items():
        for row in table.rows:
            for column, cell in row.cells.items():
                for run_id in cell.run_ids:
                    used[run_id].append(f"{name}: {table.label(row.factors)}, {column.label}")
    return used


def run_entries(results: Results, used: Mapping[str, Sequence[str]]) -> list[Data]:
    """Every run of the store, finished or not, or every reference result, the newest first.

    Args:
        results: results of a request; its store is shown.
        used: table cells by run.
    """
    store = results.store
    finished = [_finished(results, str(run_id), row) for run_id, row in results.records.iterrows()]
    failed = [_unfinished(store, folder) for folder in _folders(store.root / "failed")]
    names = {entry["id"] for entry in (*finished, *failed)}
    partial = [_unfinished(store, folder) for folder in _folders(store.root / "partial") if folder.name not in names]
    entries = sorted([*finished, *failed, *partial], key=lambda entry: entry["finished"], reverse=True)
    return [entry | {"used": list(used.get(entry["id"], ()))} for entry in entries]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_dir())


def _finished(results: Results, run_id: str, row: "pd.Series[Any]") -> Data:
    folder = results.folder_of(run_id)
    values = {str(name): value for name, value in row.items() if not (isinstance(value, float) and math.isnan(value))}
    settings = {name: value for name, value in values.items() if name.startswith(("recipe.", "option."))}
    asked = {name: values[name] for name in EXPERIMENT if name in values}
    measured = {name: values[name] for name in SHARES if name in values}
    environment = {name: values[name] for name in (*DESCRIBED, "finished") if name in values}
    known = {*settings, *asked, *measured, *environment, "experiment"}
    entry = _described(asked, settings)
    if "genotype" in values:
        entry["network"] += f" → {values['genotype']}"
    return entry | {
        "id": run_id,
        "state": "done",
        "folder": str(folder),
        "R1": _rounded(values.get("R1"), 2),
        "mAP": _rounded(values.get("mAP"), 2),
        "seconds": _rounded(values.get("seconds_training"), 1),
        "finished": str(values.get("finished", "")),
        "metrics": [[name.replace("_", " "), f"{value:.2f} %"] for name, value in measured.items()],
        "outcome": _pairs({name: value for name, value in values.items() if name not in known}),
        "environment": _pairs(environment),
        "history": _finished_history(results, run_id),
        "log": _tail(folder / "log.txt"),
        "error": "",
    }


def _finished_history(results: Results, run_id: str) -> Data:
    try:
        return _history(results.read(run_id, "history.csv"))
    except UserError:  # none, or empty: nothing was trained
        return {}


def _unfinished(store: Store, folder: Path) -> Data:
    """A run that failed, was interrupted or is in progress; an interrupted one has no experiment.json yet."""
    path, error, partial = folder / "experiment.json", folder / "error.txt", store.partial_folder(folder.name)
    try:
        experiment = json.loads(path.read_text(encoding="utf-8"))
        settings = {f"recipe.{name}": value for name, value in experiment.pop("recipe").items()}
        settings |= {f"option.{name}": value for name, value in experiment.pop("options")}
    except (OSError, ValueError, KeyError):
        experiment, settings = {}, {}
    try:
        newest = max((file.stat().st_mtime for file in folder.iterdir()), default=folder.stat().st_mtime)
    except FileNotFoundError:  # a temporary file, or the folder: the run is in progress and has just written
        newest = time.time()
    nothing: Data = {"R1": None, "mAP": None, "seconds": None, "metrics": [], "outcome": [], "environment": []}
    return (
        _described(experiment, settings)
        | nothing
        | {
            "id": folder.name,
            "state": store.state(folder.name),
            "folder": str(folder),
            "finished": datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds"),
            "history": _partial_history(partial / "history.csv"),
            "log": _tail(partial / "log.txt"),
            "error": error.read_text(encoding="utf-8", errors="replace")[-ERROR_CHARACTERS:] if error.is_file() else "",
        }
    )


def _described(experiment: Mapping[str, Any], settings: Mapping[str, Any]) -> Data:
    """A short description of an experiment for the table, and its full configuration."""
    words = [str(experiment.get("model", "not known yet"))]
    words += [f"{name.removeprefix('option.')}={v}" for name, v in settings.items() if name.startswith("option.")]
    if settings.get("recipe.alignment", "none") != "none":
        words.append(f"{settings['recipe.alignment']} x{settings['recipe.alignment_weight']:g}")
    source, target, seed = experiment.get("source", ""), experiment.get("target", ""), experiment.get("seed")
    return {
        "model": str(experiment.get("model", "")),
        "network": " ".join(words),
        "data": source if source == target else f"{source} → {target}",
        "init": "untrained" if settings.get("recipe.epochs") == 0 else str(experiment.get("init", "")),
        "seed": None if seed is None else int(seed),
        "profile": str(experiment.get("profile", "")),
        "configuration": _pairs({**experiment, **{name.partition(".")[2]: v for name, v in settings.items()}}),
    }


def _pairs(values: Mapping[str, Any]) -> list[list[str]]:
    """Names and values as text."""
    return [[name.replace("_", " "), _text(value)] for name, value in values.items()]


def _text(value: Any) -> str:
    if value is None or isinstance(value, (bool, np.bool_)):
        return {True: "yes", False: "no", None: "none"}[value if value is None else bool(value)]
    if isinstance(value, (int, np.integer)) or (isinstance(value, float) and value.is_integer() and value > 1000):
        return f"{int(value):,}"  # columns with gaps hold whole numbers as floats
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(float(value), digits)


def _partial_history(path: Path) -> Data:
    try:
        return _history(pd.read_csv(path))
    except (OSError, ValueError):  # none, or empty: nothing was trained yet
        return {}


def _history(frame: pd.DataFrame) -> Data:
    """Columns of a training's history against its steps: at most `POINTS` points, the last among them."""
    if "epoch" not in frame:
        return {}
    frame = frame.dropna(subset=[name for name in ("epoch", "steps") if name in frame])  # a line that is cut off
    if frame.empty:
        return {}
    x = frame["steps"].cumsum() if "steps" in frame else frame["epoch"]
    places = np.unique(np.linspace(0, len(frame) - 1, min(POINTS, len(frame))).round().astype(int))
    numbers = frame.select_dtypes("number").drop(columns=["epoch", "steps"], errors="ignore").iloc[places]
    series = {str(name): list(_points(values)) for name, values in numbers.items()}
    kept = {name: values for name, values in series.items() if any(value is not None for value in values)}
    return {"x": x.iloc[places].tolist(), "unit": "steps" if "steps" in frame else "epochs", "series": kept}


def _points(values: "pd.Series[Any]") -> Iterator[float | None]:
    return (float(f"{value:.4g}") if math.isfinite(value) else None for value in values)


def _tail(path: Path) -> str:
    """The last lines of a log, each with at most `CHARACTERS` characters."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    shown = [line if len(line) <= CHARACTERS else line[:CHARACTERS] + " …" for line in lines[-LINES:]]
    return "\n".join([*([f"… {len(lines) - LINES} lines before"] if len(lines) > LINES else []), *shown])
