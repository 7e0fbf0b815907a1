"""The report: one HTML file that works offline, made of whatever the store holds.

This module gathers plain data from tables, verdicts, figures, ranked lists, runs and data sets; `report.html.j2` lays
them out, with `report.css` and `report.js` inlined. Everything that comes from files is escaped by Jinja, data for the
script are JSON without `<`, `>` and `&`, and the page forbids itself every script but its own and every request.
"""

import base64
import hashlib
import io
import json
import math
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import PIL.Image
import torch
from ablations.catalogue import Catalogue, Request
from ablations.index import CATALOGUES
from ablations.store import Store
from ablations.sweep import summary_path
from jinja2.utils import htmlsafe_json_dumps

from bench import networks
from bench.cost import Cost, count
from msinet.data import Dataset, load_dataset
from msinet.data.loading import decode
from msinet.data.sheets import show
from msinet.environment import describe
from msinet.errors import UserError
from msinet.io import write_text
from msinet.retrieval import METRICS
from msinet.training.recipes import PROFILES
from reports.claims import Status, Verdict, command_for
from reports.ranked import ranked_lists, spread_queries
from reports.tables import Table, as_frame, as_latex, as_markdown, build_table, grid

#: Length of the ranked lists.
TOP = 15
#: Thumbnails are at most this high and wide, in pixels, each stored once.
THUMBNAIL = 96
#: Points of a training curve, lines of a log and characters of a line or an error that the page keeps of a run.
POINTS, LINES, CHARACTERS = 200, 40, 400
ERROR_CHARACTERS = 8000
#: A vector figure beyond so many bytes is shown as pixels.
VECTOR_BYTES = 150_000
#: Tables that are no catalogue's: accuracy by level of a factor, and files of `python -m bench`.
MEASURED = {
    "difficulty": "Difficulty: accuracy by occlusion, view change and light",
    "latency": "Latency of a batch of inference",
    "throughput": "Throughput: images a second by batch size",
    "memory": "Memory of one batch of inference",
    "retrieval": "Ranking: CMC and mAP beside the bare matrix product",
}
#: Of each verdict: a mark that does not need colour, and the word.
MARKS: dict[Status, str] = {"holds": "✓", "fails": "✗", "undecided": "≈", "not run": "○"}

Data = dict[str, Any]


@dataclass(frozen=True)
class Missing:
    """Something that the report would show, why it does not, and the command that makes it."""

    what: str
    why: str
    command: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture by the stem of its files (.svg, .png, .csv)."""

    stem: Path
    title: str


def run_command(name: str, request: Request) -> str:
    """The command that runs a catalogue for a request, or the sweep whose outcome it shows."""
    what = ["sweep", name.removeprefix("sweep_")] if name.startswith("sweep_") else ["run", name]
    return shlex.join(["python", "-m", "ablations", *what, *request.as_args()])


# --- Tables --------------------------------------------------------------------------------------


def table_panel(name: str, table: Table) -> Data:
    """A catalogue's table as the page shows it, with the runs behind every measured cell and its files as text."""
    header, lines = grid(table)
    network = header.index("GMACs") + 1  # columns up to here are about the network, the others about its results
    per_column = (len(header) - network) // max(1, len(table.columns))  # with the paper's numbers beside, or without
    columns: list[Data] = [{"title": "group", "metrics": [], "numeric": False, "paper": False}]
    for place, title in enumerate(header):
        words, _, last = title.rpartition(" ")
        metrics = last.split("/") if "/" in last and place >= network else []
        if title == "paper" and place >= network:  # of the column before it
            metrics = columns[-1]["metrics"]
        columns.append(
            {
                "title": words if metrics and title != "paper" else title,
                "metrics": metrics,
                "numeric": place > 0,
                "paper": title == "paper",
            }
        )
    rows = []
    for row, (group, cells) in zip(table.rows, lines, strict=True):
        shown: list[Data] = [{"text": group, "values": [], "runs": ()}]
        for place, text in enumerate(cells):
            column, offset = divmod(place - network, per_column) if place >= network else (0, 1)
            runs = list(row.places.values())[column].run_ids if offset == 0 else ()
            shown.append({"text": text, "values": numbers(text) if place else [], "runs": runs})
        rows.append(shown)
    done, planned = progress(table)
    return {
        "name": name,
        "label": short_title(name, table.title),
        "title": table.title,
        "columns": columns,
        "rows": rows,
        "notes": table.notes,
        "done": done,
        "planned": planned,
        "files": {".csv": as_frame(table).to_csv(index=False), ".tex": as_latex(table), ".md": as_markdown(table)},
    }


def short_title(name: str, title: str) -> str:
    """What stands before a title's colon where it is a table's or figure's number, else the name."""
    head = title.partition(":")[0]
    return head if re.fullmatch(r"(Table|Figure) \w+", head) else name.replace("_", " ").capitalize()


def numbers(text: str) -> list[float]:
    """The values of a cell, one for each part between slashes: `48.0±0.3 / 38.4` gives 48.0 and 38.4."""
    found = [re.search(r"-?\d+(\.\d+)?(e-?\d+)?", part) for part in text.split(" / ")]
    return [float(match.group()) for match in found if match]


def progress(table: Table) -> tuple[int, int]:
    """Runs that a table has, and those that it asks for."""
    places = [place for row in table.rows for place in row.places.values()]
    return sum(place.seeds for place in places), sum(place.planned for place in places)


def file_panel(name: str, title: str, frame: pd.DataFrame) -> Data:
    """Any table of a CSV file as the page shows it: numbers to four digits, no runs behind its cells."""
    rows = []
    for _, row in frame.iterrows():
        texts = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in row]
        texts = ["-" if text == "nan" else text for text in texts]
        rows.append([{"text": text, "values": numbers(text), "runs": ()} for text in texts])
    columns = [
        {
            "title": str(column).replace("_", " "),
            "metrics": [],
            "paper": False,
            "numeric": pd.api.types.is_numeric_dtype(frame[column]),
        }
        for column in frame
    ]
    return {
        "name": name,
        "label": short_title(name, title),
        "title": title,
        "columns": columns,
        "rows": rows,
        "notes": [],
        "done": len(rows),
        "planned": len(rows),
        "files": {".csv": frame.to_csv(index=False)},
    }


# --- Summary -------------------------------------------------------------------------------------


@cache
def full_size_cost(model: str) -> Cost:
    """What a network costs for one image of 256x128."""
    return count(networks.build(model, 1, (256, 128)), 256, 128)


def at_a_glance(table: Table | None, frame: pd.DataFrame, latencies: pd.DataFrame) -> Data:
    """Every network of Table 2 on one line: what it costs, and what it reaches on each task.

    Costs are those of images of 256x128. Of two metrics a column shows mAP, or the first where it has none.
    """
    form, times = milliseconds(latencies)
    tasks = dict(table.columns) if table else {}
    metric = {column: "mAP" if "mAP" in metrics else metrics[0] for column, metrics in tasks.items()}
    rows: list[Data] = []
    for row in table.rows if table else ():
        ids = [run_id for place in row.places.values() for run_id in place.run_ids]
        if not ids:
            continue
        model = str(frame.loc[ids[0], "model"])
        cost = full_size_cost(model)
        values = [row.places[c].values.get(metric[c], (None,))[0] if c in row.places else None for c in tasks]
        rows.append(
            {
                "group": row.group,
                "label": row.label,
                "ours": row.label.split(" x")[0] == "MSINet",
                "learns": cost.parameters_without_classifier > 0,
                "values": [
                    cost.parameters_without_classifier / 1e6 or None,
                    cost.macs / 1e9 or None,
                    times.get(model),
                    *values,
                ],
            }
        )
    most = [
        max((line["values"][i] for line in rows if line["values"][i] is not None), default=1.0)
        for i in range(3 + len(tasks))
    ]
    for line in rows:
        line["shares"] = [None if v is None else v / (m or 1) for v, m in zip(line["values"], most, strict=True)]
        rivals = [other["values"] for other in rows if other["group"] == line["group"] and other is not line]
        line["best"] = [
            value is not None
            and i >= 3
            and any(r[i] is not None for r in rivals)
            and all(r[i] is None or value >= r[i] for r in rivals)
            for i, value in enumerate(line["values"])
        ]
    return {
        "rows": rows,
        "form": form,
        "columns": [
            {"title": "parameters", "unit": "M", "digits": 2},
            {"title": "multiply-adds", "unit": "G", "digits": 2},
            {"title": "time an image", "unit": "ms", "digits": 1},
            *({"title": column.replace(">", " → "), "unit": metric[column], "digits": 1} for column in tasks),
        ],
    }


def milliseconds(latencies: pd.DataFrame) -> tuple[str, dict[str, float]]:
    """Milliseconds an image by model at the largest batch that was measured, deployed if it was, and how measured."""
    if latencies.empty:
        return "", {}
    plain = latencies[latencies["precision"] == "fp32"]
    for form in ("deployed", *dict.fromkeys(plain["form"])):
        part = plain[plain["form"] == form]
        if len(part):
            batch = part["batch"].max()
            part = part[part["batch"] == batch]
            size = f"{part['height'].iloc[0]}x{part['width'].iloc[0]}"
            told = f"{form.replace('_', '-')}, batch {batch}, images {size}, fp32"
            return told, dict(zip(part["model"], part["p50_ms"] / batch, strict=True))
    return "", {}


def standings(glance: Data) -> list[str]:
    """One sentence for each group of networks: where MSINet stands among them, task by task."""
    lines = []
    for group in dict.fromkeys(row["group"] for row in glance["rows"]):
        rows = [row for row in glance["rows"] if row["group"] == group and row["learns"]]
        ours = next((row for row in rows if row["ours"]), None)
        if ours is None or len(rows) < 2:
            continue
        places = []
        for i, column in enumerate(glance["columns"][3:], 3):
            values = [row["values"][i] for row in rows if row["values"][i] is not None]
            if ours["values"][i] is not None and len(values) > 1:
                rank = 1 + sum(value > ours["values"][i] for value in values)
                places.append(f"{ordinal(rank)} of {len(values)} on {column['title']}")
        if places:
            lines.append(f"{str(group).capitalize()}, MSINet is {', '.join(places)}.")
    return lines


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, ..."""
    ending = "th" if 10 < number % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


# --- Claims --------------------------------------------------------------------------------------


def claim_line(verdict: Verdict, request: Request) -> Data:
    """A claim as the page shows it. One that is open has the commands that would decide it: three seeds at least."""
    commands: list[str] = []
    if verdict.claim.measure is not None and verdict.status == "not run":
        commands = [outcome.told for outcome in verdict.outcomes]
    elif verdict.status in ("undecided", "not run"):
        seeds = max(3, request.seeds + 2 * (verdict.status == "undecided"))
        wanted = replace(request, seeds=seeds)
        commands = list(dict.fromkeys(command_for(c, wanted) for c in verdict.claim.comparisons))
    return {
        "key": verdict.claim.key,
        "statement": verdict.claim.statement,
        "source": verdict.claim.source,
        "status": verdict.status,
        "leans": verdict.leans,
        "by_paper": verdict.by_paper,
        "commands": commands,
        "outcomes": [{"status": outcome.status, "told": outcome.told} for outcome in verdict.outcomes],
    }


# --- Figures -------------------------------------------------------------------------------------


def figure_entries(drawn: Sequence[Figure], folder: Path, profile: str) -> list[Data]:
    """Figures just drawn, then what else lies in a folder and is not of another profile, each as a data: URI."""
    stems = {figure.stem.name: figure for figure in drawn}
    others = set(PROFILES) - {profile}
    for path in sorted(folder.glob("*.png")) + sorted(folder.glob("*.svg")):
        if not others & set(path.stem.split("-")):
            stems.setdefault(path.stem, Figure(path.with_suffix(""), path.stem.replace("-", " ").replace("_", " ")))
    entries = []
    for figure in stems.values():
        svg, png = figure.stem.with_suffix(".svg"), figure.stem.with_suffix(".png")
        picture = svg if svg.is_file() and (svg.stat().st_size <= VECTOR_BYTES or not png.is_file()) else png
        if not picture.is_file():
            continue
        kind = "image/svg+xml" if picture.suffix == ".svg" else "image/png"
        made = datetime.fromtimestamp(picture.stat().st_mtime, UTC)
        table = figure.stem.with_suffix(".csv")
        entries.append(
            {
                "name": figure.stem.name,
                "title": figure.title,
                "picture": data_uri(picture.read_bytes(), kind),
                "made": f"{made:%Y-%m-%d %H:%M}",
                "csv": table.read_text(encoding="utf-8") if table.is_file() else "",
            }
        )
    return entries


def data_uri(content: bytes, kind: str) -> str:
    """The content of a file as an address of itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def jpeg(image: PIL.Image.Image, quality: int) -> str:
    """An image as a data: URI."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return data_uri(buffer.getvalue(), "image/jpeg")


# --- Ranked lists --------------------------------------------------------------------------------


class Thumbnails:
    """Small copies of images, each once."""

    def __init__(self) -> None:
        self.uris: list[str] = []
        self.places: dict[Path, int] = {}

    def place(self, path: Path) -> int:
        """Where the copy of a file stands among `uris`; made at the first call.

        Raises:
            DataError: the image cannot be decoded.
        """
        if path not in self.places:
            image = PIL.Image.fromarray(decode(path))
            image.thumbnail((THUMBNAIL, THUMBNAIL), PIL.Image.Resampling.LANCZOS)
            self.places[path] = len(self.uris)
            self.uris.append(jpeg(image, 85))
        return self.places[path]


def ranked_data(
    steps: Iterable[tuple[str, list[tuple[str, str, str]]]], request: Request, queries: int, device: str
) -> tuple[Data, list[Missing]]:
    """Ranked lists of networks on the same queries, with thumbnails.

    Args:
        steps: of `ranked_steps`, perhaps behind a progress bar.
        request: whose store holds the runs, and whose data root the images.
        queries: of each set.
        device: that embeds what is not embedded yet.
    """
    store = Store(request.store)
    runs = store.frame().to_dict("index")
    thumbnails = Thumbnails()
    sets: list[Data] = []
    missing: list[Missing] = []
    for column, places in steps:
        target = str(runs[places[0][2]]["target"])
        try:
            dataset = load_dataset(target, request.root)
        except UserError as error:
            missing.append(Missing(f"ranked lists on {column}", str(error), run_command("table2", request)))
            continue
        chosen = spread_queries(dataset, queries)
        networks = []
        for group, label, run_id in places:
            try:
                lists = ranked_lists(store, run_id, dataset, chosen, TOP, device=device, progress=True)
            except UserError as error:
                missing.append(Missing(f"ranked lists of {label} on {column}", str(error)))
                continue
            networks.append(
                {
                    "name": label,
                    "group": group,
                    "run": run_id,
                    "mAP": 100 * runs[run_id]["mAP"],
                    "lists": [
                        {
                            "ap": None if math.isnan(one.ap) else 100 * one.ap,
                            "first": one.first_rank,
                            "positives": one.positives,
                            "items": [
                                [
                                    thumbnails.place(image.path),
                                    round(distance, 2),
                                    int(right),
                                    image.identity,
                                    image.camera,
                                    image.path.name,
                                ]
                                for image, distance, right in zip(one.gallery, one.distances, one.right, strict=True)
                            ],
                        }
                        for one in lists
                    ],
                }
            )
        if not networks:
            continue
        images = [dataset.test[dataset.draws[0].query[position]] for position in chosen]
        sets.append(
            {
                "name": column.replace(">", " → "),
                "about": about_lists(dataset, str(runs[places[0][2]]["source"])),
                "networks": networks,
                "queries": [[thumbnails.place(i.path), i.identity, i.camera, i.path.name] for i in images],
            }
        )
    return {"thumbnails": thumbnails.uris, "sets": sets}, missing


def about_lists(dataset: Dataset, source: str) -> str:
    """What is ranked, in a sentence."""
    trained = f", trained on {source}" if source != dataset.name else ""
    gallery = len(dataset.draws[0].gallery)
    removed = "; images of the query's identity by its own camera are left out" if dataset.remove_same_camera else ""
    return f"{dataset.name} ({dataset.layout}){trained}: {gallery:,} gallery images{removed}."


def ranked_steps(table: Table) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """By column of a table that has results: group, label and first run of every row."""
    steps = []
    for column in table.columns:
        places = [(r.group, r.label, r.places[column].run_ids[0]) for r in table.rows if r.places[column].run_ids]
        if places:
            steps.append((column, places))
    return steps


# --- Runs ----------------------------------------------------------------------------------------


def run_entries(store: Store, used: Mapping[str, Sequence[str]]) -> list[Data]:
    """Every run of the store, finished or not, the newest first: what the explorer shows.

    Args:
        store: to look at.
        used: places of tables by run.
    """
    environment = set(describe(torch.device("cpu"))) | {"finished"}
    finished = [_finished(folder, environment) for folder in _folders(store.root / "runs")]
    failed = [_unfinished(store, folder) for folder in _folders(store.root / "failed")]
    names = {entry["id"] for entry in (*finished, *failed)}
    partial = [_unfinished(store, f) for f in _folders(store.root / "partial") if f.name not in names]
    entries = sorted([*finished, *failed, *partial], key=lambda entry: entry["finished"], reverse=True)
    for entry in entries:
        entry["used"] = list(used.get(entry["id"], ()))
    return entries


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_dir())


def _finished(folder: Path, environment: set[str]) -> Data:
    # Store.frame() has read both before: they are there and can be read
    experiment, record = (
        json.loads((folder / f"{n}.json").read_text(encoding="utf-8")) for n in ("experiment", "record")
    )
    named = set(METRICS) | {f"{metric}_std_draws" for metric in METRICS}
    entry = _described(experiment)
    if "genotype" in record:
        entry["network"] += f" → {record['genotype']}"
    return entry | {
        "id": folder.name,
        "state": "done",
        "folder": str(folder),
        "R1": _percent(record.get("R1")),
        "mAP": _percent(record.get("mAP")),
        "seconds": _rounded(record.get("seconds_training")),
        "finished": str(record.get("finished", "")),
        "metrics": _pairs({k: v for k, v in record.items() if k in named}, percent=True),
        "outcome": _pairs({k: v for k, v in record.items() if k not in named | environment | {"run_id", "experiment"}}),
        "environment": _pairs({k: v for k, v in record.items() if k in environment}),
        "history": _history(folder / "history.csv"),
        "log": _tail(folder / "log.txt"),
        "error": "",
    }


def _unfinished(store: Store, folder: Path) -> Data:
    """A run that failed, was interrupted or is in progress; an interrupted one has no experiment beside it yet."""
    state = store.state(folder.name)
    path, error = folder / "experiment.json", folder / "error.txt"
    try:
        described = _described(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        described = _described({})
    newest = max((file.stat().st_mtime for file in folder.iterdir()), default=folder.stat().st_mtime)
    partial = store.partial_folder(folder.name)
    return described | {
        "id": folder.name,
        "state": state,
        "folder": str(folder),
        "R1": None,
        "mAP": None,
        "seconds": None,
        "finished": datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds"),
        "metrics": [],
        "outcome": [],
        "environment": [],
        "history": _history(partial / "history.csv"),
        "log": _tail(partial / "log.txt"),
        "error": error.read_text(encoding="utf-8", errors="replace")[-ERROR_CHARACTERS:] if error.is_file() else "",
    }


def _described(experiment: Data) -> Data:
    """What was asked for: in a few words for the table, and in full."""
    recipe = dict(experiment.get("recipe", {}))
    options = dict(experiment.get("options", ()))
    words = [str(experiment.get("model", "not known yet")), *(f"{name}={value}" for name, value in options.items())]
    if recipe.get("alignment", "none") != "none":
        words.append(f"{recipe['alignment']} x{recipe['alignment_weight']:g}")
    source, target = experiment.get("source", ""), experiment.get("target", "")
    flat = {k: v for k, v in experiment.items() if k not in ("recipe", "options")} | options | recipe
    flat |= flat.pop("augmentation", {})
    return {
        "model": str(experiment.get("model", "")),
        "network": " ".join(words),
        "data": source if source == target else f"{source} → {target}",
        "init": str(experiment.get("init", "")),
        "seed": experiment.get("seed"),
        "profile": str(experiment.get("profile", "")),
        "configuration": _pairs(flat),
    }


def _pairs(values: Mapping[str, Any], *, percent: bool = False) -> list[list[str]]:
    """Names and values as text."""
    return [
        [name.replace("_", " "), f"{100 * value:.2f} %" if percent else _text(value)] for name, value in values.items()
    ]


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _history(path: Path) -> Data:
    """Columns of a training's history against its steps, at most `POINTS` of their points, the last among them."""
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError):  # none, or empty: nothing was trained
        return {}
    if frame.empty or "epoch" not in frame:
        return {}
    x = frame["steps"].cumsum() if "steps" in frame else frame["epoch"]
    places = np.unique(np.linspace(0, len(frame) - 1, min(POINTS, len(frame))).round().astype(int))
    series = {}
    for name in frame.select_dtypes("number").drop(columns=["epoch", "steps"], errors="ignore"):
        values = [None if not math.isfinite(v) else float(f"{v:.4g}") for v in frame[name].iloc[places]]
        if any(value is not None for value in values):
            series[str(name)] = values
    return {"x": x.iloc[places].tolist(), "unit": "steps" if "steps" in frame else "epochs", "series": series}


def _tail(path: Path) -> str:
    """The last lines of a log, each cut to a bound."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    shown = [line if len(line) <= CHARACTERS else line[:CHARACTERS] + " …" for line in lines[-LINES:]]
    return "\n".join([*([f"… {len(lines) - LINES} lines before"] if len(lines) > LINES else []), *shown])


# --- Data sets -----------------------------------------------------------------------------------


def dataset_entries(names: Iterable[str], request: Request, folder: Path) -> Iterator[Data | Missing]:
    """Sizes and contact sheets of the data sets, drawn into a folder and embedded at the size of the page."""
    for name in names:
        try:
            dataset = load_dataset(name, request.root)
            sheets = show(dataset, folder, rows=6, columns=12, height=96)
        except UserError as error:
            yield Missing(f"contact sheets of {name}", str(error), run_command("table2", request))
            continue
        pictures: list[Data] = []
        for path in sheets:
            with PIL.Image.open(path) as sheet:
                pictures.append(
                    {
                        "kind": path.stem.removeprefix(f"{name}-"),
                        "picture": jpeg(sheet.convert("RGB"), 80),
                        "width": sheet.width,
                        "height": sheet.height,
                    }
                )
        parts = [
            [role, len(images), len({i.identity for i in images}), len({i.camera for i in images})]
            for role, images in dataset.splits().items()
        ]
        yield {
            "name": name,
            "layout": dataset.layout,
            "fingerprint": dataset.fingerprint,
            "splits": parts,
            "junk": dataset.junk,
            "draws": len(dataset.draws),
            "sheets": pictures,
        }


# --- The page ------------------------------------------------------------------------------------


def gather(
    request: Request,
    verdicts: Sequence[Verdict],
    built: Mapping[str, Table | str],
    drawn: Sequence[Figure],
    missing: Sequence[Missing],
    latencies: pd.DataFrame,
    measured: Mapping[str, pd.DataFrame],
    ranked: Data,
    datasets: Sequence[Data],
    machine: str = "",
    latency_command: str = "python -m bench latency",
) -> Data:
    """Everything that the template shows, as plain data.

    Args:
        request: profile, data, seeds and store.
        verdicts: of `reports.claims.judge`.
        built: by catalogue its table, or why there is none.
        drawn: figures made for this report.
        missing: what could not be made so far; what tables lack is added.
        latencies: of `python -m bench latency`; may be empty.
        measured: further tables by name, with a title from `MEASURED`.
        ranked: of `ranked_data`.
        datasets: of `dataset_entries`.
        machine: that the latencies were measured on.
        latency_command: that measures them.
    """
    store = Store(request.store)
    frame = store.frame()
    panels, gaps = [], []
    used: defaultdict[str, list[str]] = defaultdict(list)
    for name, table in built.items():
        if isinstance(table, str):
            gaps.append(Missing(CATALOGUES[name].title, table, run_command(name, request)))
            continue
        panels.append(table_panel(name, table))
        done, planned = progress(table)
        if done < planned:
            gaps.append(Missing(CATALOGUES[name].title, f"{done} of {planned} runs", run_command(name, request)))
        for row in table.rows:
            for column, place in row.places.items():
                for run_id in place.run_ids:
                    used[run_id].append(f"{name}: {row.label}, {column}")
    panels += [file_panel(name, MEASURED.get(name, name), data) for name, data in measured.items()]
    figures = figure_entries(drawn, request.store / "figures", request.profile)
    runs = run_entries(store, used)
    table2 = built.get("table2")
    glance = at_a_glance(table2 if isinstance(table2, Table) else None, frame, latencies)
    resnet, ours = full_size_cost("resnet50"), full_size_cost("msinet")
    _, times = milliseconds(latencies)
    claims = [claim_line(verdict, request) for verdict in verdicts]
    statuses: Counter[Status] = Counter(verdict.status for verdict in verdicts)
    devices = sorted({str(row["cpu"] if row["device"] == "cpu" else row["device"]) for _, row in frame.iterrows()})
    return {
        "request": {
            "profile": request.profile,
            "recipe": list(request.recipe),
            "seeds": request.seeds,
            "rendered": request.rendered,
            "root": str(request.root),
            "store": str(request.store),
        },
        "built": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "states": dict(Counter(run["state"] for run in runs).most_common()),
        "devices": devices,
        "versions": sorted(set(frame.get("torch", ()))),
        "machine": machine,
        "costs": {
            "parameters": ours.parameters_without_classifier,
            "inference": ours.parameters_at_inference,
            "macs": ours.macs,
            "fewer_parameters": resnet.parameters_without_classifier / ours.parameters_without_classifier,
            "fewer_macs": resnet.macs / ours.macs,
            "time": times["msinet"] / times["resnet50"] if {"msinet", "resnet50"} <= set(times) else None,
        },
        "glance": glance,
        "standings": standings(glance),
        "leaning": Counter(verdict.leans for verdict in verdicts),
        "claims": claims,
        "decided": [c for status in ("holds", "fails") for c in claims if c["status"] == status],
        "verdicts": [{"status": status, "mark": mark, "count": statuses[status]} for status, mark in MARKS.items()],
        "marks": MARKS,
        "tables": panels,
        "figures": figures,
        "downloads": {
            "tables": {panel["name"]: panel["files"] for panel in panels},
            "figures": {figure["name"]: figure["csv"] for figure in figures},
        },
        "ranked": ranked,
        "top": TOP,
        "thumbnail": THUMBNAIL,
        "runs": runs,
        "datasets": list(datasets),
        "missing": [asdict(gap) for gap in (*gaps, *missing)],
        "bounds": {"points": POINTS, "lines": LINES},
        "latency_command": latency_command,
    }


def render(context: Data) -> str:
    """The page of what `gather` gave."""
    folder = files("reports")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["json"] = lambda value: htmlsafe_json_dumps(value, dumps=_strict_json)
    style, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = environment.from_string(folder.joinpath("report.html.j2").read_text(encoding="utf-8"))
    return template.render(**context, style=style, script=script, script_hash=digest)


def _strict_json(value: Any, **settings: Any) -> str:
    """JSON that every browser reads: no NaN."""
    return json.dumps(value, **settings, allow_nan=False, separators=(",", ":"), ensure_ascii=True)


def write_page(context: Data, path: Path) -> None:
    """Render and write the page atomically."""
    write_text(path, render(context))


def build_tables(request: Request, catalogues: Iterable[Catalogue]) -> dict[str, Table | str]:
    """By catalogue its table, or why there is none."""
    built: dict[str, Table | str] = {}
    for catalogue in catalogues:
        sweep = catalogue.name.removeprefix("sweep_")
        if sweep != catalogue.name and not summary_path(request, sweep).exists():
            # What its table could show are rows of other tables.
            built[catalogue.name] = "the sweep was not run, or not to its end"
            continue
        try:
            built[catalogue.name] = build_table(catalogue, request)
        except UserError as error:
            built[catalogue.name] = str(error)
    return built
