"""Reference results of a machine: adds finished runs of a store, checks the files, lists them (docs/reference.md)."""

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro

from ablations.engine.experiment import RESULTS_VERSION, Experiment
from ablations.engine.reference import (
    EXPERIMENT,
    KEPT,
    MACHINE,
    PLACE,
    REMEDY,
    SCORES,
    TEXT,
    Files,
    Place,
    ReferenceStore,
    Row,
    compact,
    curve,
    experiment_of,
    read_machine,
    row_of,
    write_reference,
)
from ablations.engine.request import Request
from ablations.engine.resolve import Resolution, resolve
from ablations.engine.store import Store
from ablations.engine.study import column_label
from ablations.studies import STUDIES, find_study
from msinet.errors import UserError
from msinet.io import write_json
from reports.results import METRICS, device_of, run_command
from reports.statistics import query_values

#: Largest difference of a metric and the mean of its scores, which are stored in single precision.
TOLERANCE = 1e-6
#: Placeholder for a folder of the machine in the words of a request.
FOLDER = Path("DIR")
#: Columns of a row that may change although the result is the same.
DESCRIPTION = (*PLACE, "request")

# --- Requests in rows ----------------------------------------------------------------------------


def request_words(request: Request) -> str:
    """The request of a row: the words of the command line without seeds, store and folder names."""
    changes: dict[str, Any] = {o.name: FOLDER for o in fields(request) if isinstance(getattr(request, o.name), Path)}
    words = replace(request, **changes | {"store": Request.store}).as_args()
    if "--seeds" in words:
        place = words.index("--seeds")
        del words[place : place + 2]
    return shlex.join(words)


def request_of(words: str) -> Request:
    """The request that `request_words` wrote.

    Raises:
        UserError: this version of the code does not know its words.
    """
    try:
        return tyro.cli(tyro.conf.OmitArgPrefixes[Request], args=shlex.split(words), console_outputs=False)
    except (SystemExit, ValueError) as error:  # ValueError: a quotation mark without a second one
        raise UserError(f"the request {words!r} is not valid in this version of the code") from error


# --- Adding --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """The machine that runs were made on."""

    folder: Path
    """its folder among the reference results"""
    about: str = ""
    """description of the machine; empty: as before, for a new machine its processors or devices"""
    who: str = ""
    """who measured; empty: as before"""


def add(request: Request, studies: Iterable[str], machine: Machine, *, replacing: bool = False) -> Iterator[str]:
    """Write the finished runs of a store into reference results; yields a line for each study that has any.

    Args:
        request: profile, data and store of the runs. Runs of whole tables are included, with every number of seeds up
            to that of the store.
        studies: names of tables and figures.
        machine: the machine of the runs.
        replacing: replace different results of the same experiments.

    Raises:
        UserError: an unknown study, another ranking protocol, no finished run, runs whose experiments already have
            different results, or a new machine without a person.
    """
    if request.keep_same_camera:
        raise UserError("reference results have the data sets' own protocol; leave out --keep-same-camera")
    store = Store(request.store)
    merged = []
    for name in studies:
        study = find_study(name)
        if name.startswith("sweep_"):  # its rows depend on files of the sweep
            continue
        rows, files = _finished(study.name, request, store)
        if rows:
            merged.append(_merged(ReferenceStore(machine.folder, name), rows, files, replacing=replacing))
    if not merged:
        raise UserError(f"no finished run of profile {request.profile} in {request.store} belongs to these studies")
    described = _described(machine, [row for one in merged for row in one.rows])
    for one in merged:
        write_reference(one.store, one.rows, one.files)
        yield f"{one.store.table}: {len(one.rows)} runs, {one.added} of them new or replaced"
    write_json(machine.folder / MACHINE, described | _history(machine.folder))
    dirty = [row["run_id"] for one in merged for row in one.rows if "dirty" in str(row.get("code"))]
    if dirty:
        yield f"{len(set(dirty))} runs were made with uncommitted code; they cannot be reproduced"


def _finished(name: str, request: Request, store: Store) -> tuple[list[Row], dict[str, Files]]:
    """Rows and files of a study's finished runs, for any requested number of seeds."""
    places: dict[str, Place] = {}
    runs: dict[str, Experiment] = {}
    seeds = 1 + max(store.frame().get("seed", pd.Series([request.repeats - 1])).astype(int))
    for asked, number in product((request, replace(request, whole=True)), range(seeds, 0, -1)):
        resolution = resolve(find_study(name), replace(asked, seeds=number), store)
        for run in resolution.runs():
            if run.state == "done":
                runs.setdefault(run.run_id, run.experiment)
        for run_id, place in _places(resolution):
            places.setdefault(run_id, place)
    files = {run_id: _files(store, run_id) for run_id in runs}
    rows = []
    for run_id, experiment in runs.items():
        record = store.record(run_id)
        rows.append(row_of(run_id, experiment, record, places[run_id], files[run_id]))
    return rows, files


def _places(resolution: Resolution) -> Iterator[tuple[str, Place]]:
    """The first table cell of each finished run; a search is placed at the row that trains its genotype."""
    words = request_words(resolution.request)
    for one in resolution.cells:
        cell, label = one.cell, resolution.study.label(dict(one.cell.factors))
        if one.search_id:
            yield one.search_id, Place(cell.group, label, "search", cell.draw, words)
        yield one.run_id, Place(cell.group, label, column_label(cell.train, cell.test), cell.draw, words)
    for one in resolution.cells:  # trainings whose weights are ranked across sets, if they have no table cell
        if one.cell.experiment.same_weights:
            cell, training = one.cell, resolution.trainings[one.cell.experiment.training]
            column = column_label(cell.train, cell.train)
            yield (
                training.run_id,
                Place(cell.group, resolution.study.label(dict(cell.factors)), column, cell.draw, words),
            )


def _files(store: Store, run_id: str) -> Files:
    paths = {name: store.run_folder(run_id) / name for name in KEPT}
    return {n: store.read(run_id, n) for n, path in paths.items() if path.is_file() and path.stat().st_size > 1}


@dataclass(frozen=True)
class _Merged:
    """Old and new reference results of a study."""

    store: ReferenceStore
    rows: Sequence[Row]
    files: Mapping[str, Files]
    added: int


def _merged(store: ReferenceStore, rows: Sequence[Row], files: Mapping[str, Files], *, replacing: bool) -> _Merged:
    """Old and new rows, one for each experiment."""
    old = {_key(row): row for row in store.rows} if store.has_runs else {}
    kept = dict(old)
    contents: dict[str, Files] = {row["run_id"]: store.files(row["run_id"]) for row in old.values()}
    others = []
    for row in rows:
        before = old.get(row["experiment"])
        if before is not None and _same(before, row) and _same_files(contents[before["run_id"]], files[row["run_id"]]):
            continue
        if before is not None:
            others.append(f"{row['run_id']} ({experiment_of(row)})")
        kept[row["experiment"]] = row
        contents[row["run_id"]] = files[row["run_id"]]
    if others and not replacing:
        raise UserError(
            f"{store.table} has different results of {len(others)} experiments, such as run {others[0]}; "
            "--replace uses those of the store"
        )
    changed = sum(row is not old.get(key) for key, row in kept.items())
    return _Merged(
        store, list(kept.values()), {row["run_id"]: contents[row["run_id"]] for row in kept.values()}, changed
    )


def _key(row: Row) -> str:
    """The key that the row's experiment has in this version of the code; its own if this version cannot read it."""
    try:
        return experiment_of(row).key
    except UserError:
        return str(row["experiment"])


def _same(a: Row, b: Row) -> bool:
    """True if two rows are of the same run with the same outcome."""
    plain = [{n: v for n, v in row.items() if n not in DESCRIPTION and v not in (None, "")} for row in (a, b)]
    return plain[0] == plain[1]


def _same_files(old: Files, new: Files) -> bool:
    """True if the columns of a run in a store equal those of the reference.

    The reference may have more columns of the test set, which runs of other versions contributed.
    """
    return old.keys() == new.keys() and all(_same_columns(name, old[name], new[name]) for name in new)


def _same_columns(name: str, old: pd.DataFrame, new: pd.DataFrame) -> bool:
    columns = set(new) - set(KEPT[name])
    more = set(old) - columns
    if more and (name != "queries.csv" or more & set(SCORES)):
        return False
    return columns <= set(old) and all(_same_values(old[column], new[column]) for column in columns)


def _same_values(old: "pd.Series[Any]", new: "pd.Series[Any]") -> bool:
    return np.array_equal(compact(old), compact(new), equal_nan=old.dtype.kind == "f")


def _described(machine: Machine, rows: Sequence[Row]) -> dict[str, Any]:
    """The machine and the person, as given, else as before."""
    known = read_machine(machine.folder) if (machine.folder / MACHINE).exists() else {}
    devices = dict.fromkeys(device_of(row) for row in rows)
    who = machine.who or known.get("who")
    if not who:
        raise UserError(f"{machine.folder} is new: pass --who NAME, the person who made the runs")
    return {"machine": machine.about or known.get("machine") or ", ".join(devices), "who": who}


def _history(folder: Path) -> dict[str, Any]:
    """When the runs in a folder were made, and with which commands."""
    days, seeds = set(), dict[str, int]()
    for path in sorted(folder.glob("*.csv")):
        for row in ReferenceStore(folder, path.stem).rows:
            days.add(str(row["finished"])[:10])
            key = f"{path.stem} {row['request'] or ''}"
            seeds[key] = max(seeds.get(key, 0), 1 + _seed(path, row))
    commands = []
    for key, number in sorted(seeds.items()):
        name, _, words = key.partition(" ")
        commands.append(f"{run_command(name, Request())} {words} --seeds {number}".replace("  ", " "))
    return {"when": " to ".join(sorted({min(days, default=""), max(days, default="")})), "commands": commands}


def _seed(path: Path, row: Row) -> int:
    """The seed of a row of a table.

    Raises:
        UserError: it is not a number.
    """
    if not isinstance(row["seed"], int):
        raise UserError(f"{path}: run {row['run_id']}: seed is {row['seed']}; {REMEDY}")
    return row["seed"]


# --- Checking ------------------------------------------------------------------------------------


def check(folder: Path) -> Iterator[str]:
    """The problems of all reference results; none if they are valid and from this version of the code.

    Args:
        folder: folder of the reference results, with one folder per machine.
    """
    for machine in sorted(path for path in folder.glob("*/") if path.is_dir()):
        tables = sorted(machine.glob("*.csv"))
        if not tables and (machine / "bench").is_dir():
            continue
        try:
            described = read_machine(machine)
            if tables and described != {"machine": described["machine"], "who": described["who"]} | _history(machine):
                yield f"{machine / MACHINE}: when or commands are not those of the runs; add a run again"
        except UserError as error:
            yield str(error)
        for path in machine.glob("*.npz"):
            if not path.with_suffix(".csv").exists():
                yield f"{path} has no table next to it"
        seen: dict[str, Row] = {}
        for path in tables:
            if path.stem not in STUDIES:
                yield f"{path}: no study of this code has the name {path.stem}"
                continue
            store = ReferenceStore(machine, path.stem)
            try:
                yield from (f"{path}: {problem}" for problem in check_study(store))
                for row in store.rows:
                    if not _same(seen.setdefault(row["run_id"], row), row):
                        yield f"{path}: run {row['run_id']} has other values in another table"
            except UserError as error:
                yield str(error)


def check_study(store: ReferenceStore) -> Iterator[str]:
    """The problems of the reference results of one study.

    Raises:
        UserError: a file cannot be read.
    """
    rows = store.rows
    for name in ("run_id", "experiment"):
        yield from (f"{name} {key} has {n} rows" for key, n in Counter(row[name] for row in rows).items() if n > 1)
    current = store.frame().index
    for row in rows:
        problems = list(_check_row(row))
        if not problems and row["run_id"] in current:
            problems = list(_check_files(store, row))
        yield from (f"run {row['run_id']}: {problem}" for problem in problems)
    known = {row["run_id"] for row in rows}
    stray = {name.split("/")[1] for name in store.array_names if name.startswith("runs/")} - known
    yield from (f"run {run_id} has arrays and no row" for run_id in sorted(stray))
    yield from _stale(store, [row for row in rows if row["run_id"] in current])


def _check_row(row: Row) -> Iterator[str]:
    """Problems of a row alone."""
    if row["results_version"] != RESULTS_VERSION:
        yield f"stale: results version {row['results_version']}, this code has {RESULTS_VERSION}; delete or replace it"
        return
    try:
        experiment = experiment_of(row)
    except UserError as error:
        yield f"stale: {error}"
        return
    definition = experiment.to_json()
    if experiment.key != row["experiment"]:
        yield (
            f"its definition has the key {experiment.key}, not {row['experiment']}; if the code of {row['model']} has "
            "another revision, delete or replace it"
        )
        return
    if wrong := [name for name in EXPERIMENT if definition[name] != row[name]]:
        yield f"{', '.join(wrong)}: not as in its definition"
    prints = {experiment.source: row["source_fingerprint"], experiment.target: row["target_fingerprint"]}
    two = experiment.source == experiment.target and row["source_fingerprint"] != row["target_fingerprint"]
    if two or experiment.run_id(prints, row.get("weights")) != row["run_id"]:
        yield "its experiment, data and weights have another run id"
    if missing := [name for name in ("device", "cpu", "torch", "code", "finished", "steps") if row.get(name) is None]:
        yield f"no {', '.join(missing)}"
    wrong = [name for name, value in row.items() if name not in TEXT and not _possible(name, value)]
    yield from (f"{name} is {row[name]}" for name in wrong)
    if experiment.is_search:
        if not row.get("genotype"):
            yield "a search without genotype"
    elif missing := [name for name in METRICS if row.get(name) is None]:
        yield f"no {', '.join(missing)}"
    elif not wrong and not row["R1"] <= row["R5"] <= row["R10"]:
        yield "R1, R5 and R10 do not rise"


def _possible(name: str, value: Any) -> bool:
    """True if a column that is no text may have this value. Records may have further columns of text."""
    share = name in METRICS or name.endswith(tuple(f"_{metric}" for metric in METRICS))
    if isinstance(value, str):
        return not share and name != "steps"
    return value is None or (math.isfinite(value) and 0 <= value <= (1 if share else math.inf))


def _check_files(store: ReferenceStore, row: Row) -> Iterator[str]:
    """Problems of a run's queries and history, and of what the row says about them."""
    files = store.files(row["run_id"])
    history = files.get("history.csv")
    if row["steps"] > 0 and not experiment_of(row).is_search:
        needed = ["epoch", "steps", "loss"]
        method = experiment_of(row).recipe.unsupervised
        needed += (
            [] if method is not None and method.method == "mmcl" else ["accuracy"]
        )  # its images have several labels
        if history is None or not {*needed} <= set(history):
            yield f"no history with {', '.join(needed)}"
        elif history["steps"].sum() != row["steps"]:
            yield f"{history['steps'].sum()} steps in its history, {row['steps']} in its row"
        elif any(row.get(name) != value for name, value in curve(history).items()):
            yield "its learning curve is not that of its history"
    if experiment_of(row).is_search:
        return
    if (queries := files.get("queries.csv")) is None:
        yield "no queries"
        return
    draws = [part for _, part in queries.groupby("draw")]
    unmatched = int((draws[0]["positives"] == 0).sum())
    for name, found in (("draws", len(draws)), ("queries", len(draws[0])), ("queries_without_match", unmatched)):
        if found != row.get(name):
            yield f"{found} {name.replace('_', ' ')} in its scores, {row.get(name)} in its row"
    for metric in METRICS:
        mean = float(np.mean([np.nanmean(query_values(part, metric)) for part in draws])) / 100
        if not abs(mean - row[metric]) <= TOLERANCE:
            yield f"{metric} is {row[metric]:.6f}, and {mean:.6f} by its scores"


def _stale(store: ReferenceStore, rows: Sequence[Row]) -> Iterator[str]:
    """Rows whose experiment belongs to no table cell of this version of the code."""
    left = {str(row["run_id"]): row for row in rows}
    most = 1 + max((experiment_of(row).seed for row in rows), default=0)
    for words in dict.fromkeys(str(row.get("request") or "") for row in rows):
        try:
            request = request_of(words)
            for seeds in range(1, 1 + most):
                for run in resolve(find_study(store.study), replace(request, seeds=seeds), store).runs():
                    left.pop(run.run_id, None)
        except UserError as error:
            yield str(error)
    yield from (
        f"run {run_id}: stale, {experiment_of(row)} belongs to no table cell of this code: delete or replace it"
        for run_id, row in left.items()
    )


# --- Listing -------------------------------------------------------------------------------------


def listing(folder: Path) -> Iterator[str]:
    """The machines with their studies, numbers of runs and seeds, and commands."""
    for machine in sorted(path.parent for path in folder.glob(f"*/{MACHINE}")):
        described = read_machine(machine)
        yield f"{machine.name}: {described['machine']}; {described['who']}, {described['when']}"
        for path in sorted(machine.glob("*.csv")):
            rows = ReferenceStore(machine, path.stem).rows
            profiles = Counter(str(row["profile"]) for row in rows)
            seeds = 1 + max((_seed(path, row) for row in rows), default=-1)
            text = ", ".join(f"{number} runs in {profile}" for profile, number in profiles.items())
            yield f"    {path.stem}: {text}, up to {seeds} seeds"
        yield from (f"    {command}" for command in described["commands"])
