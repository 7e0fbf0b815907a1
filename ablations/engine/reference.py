"""Reference results: finished runs without their weights, committed as one table per study and machine.

REFERENCE/<machine>/machine.json   description of the machine, who measured, when, with which commands
REFERENCE/<machine>/<study>.csv    one row per run: experiment, metrics, costs, learning curve, environment
REFERENCE/<machine>/<study>.npz    queries and history of each run, trajectory of each search
REFERENCE/<machine>/bench/*.csv    tables of `python -m bench`

docs/reference.md describes the columns. Importing this module does not import torch or pandas.
"""

import csv
import json
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.engine.experiment import RESULTS_VERSION, Experiment
from ablations.engine.request import Request
from ablations.engine.store import State, Store
from ablations.engine.study import Study
from msinet.errors import UserError
from msinet.io import atomic_path, write_csv
from msinet.training.recipe import settings

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[np.generic]]

Row = dict[str, Any]
Files = Mapping[str, "pd.DataFrame"]
"""files of a run by name"""

MACHINE = "machine.json"
REMEDY = "restore it with git, or add the runs again (docs/reference.md)"
#: Files of a run that are kept, each with the columns that are left out.
KEPT: dict[str, tuple[str, ...]] = {"queries.csv": ("query",), "history.csv": (), "alphas.csv": ()}
#: Columns of queries that differ between runs. Others are stored once if they are equal in all runs on a test set.
SCORES = ("first_rank", "ap", "inp")
#: Files whose numbers are kept in double precision, because a decision depends on them.
EXACT = ("history.csv",)
#: Points of a learning curve in the table.
POINTS = 10
#: Columns that name the table cell of a run. They follow from the experiment.
PLACE = ("group", "row", "column", "draw")
#: Main columns of the experiment; `definition` holds all of it as JSON.
EXPERIMENT = ("profile", "model", "init", "source", "target", "seed")
#: Columns of the learning curve: `POINTS` numbers, separated by spaces.
CURVE = ("curve_epoch", "curve_loss", "curve_accuracy")
#: Columns of this format that no record has.
FORMAT = (*PLACE, "results_version", "request", *CURVE, "definition")
#: Columns in the order of the file; others follow in alphabetical order, `definition` is last.
ORDER = (
    *PLACE,
    *EXPERIMENT,
    "R1",
    "R5",
    "R10",
    "mAP",
    "mINP",
    "genotype",
    "parameters_without_classifier",
    "macs",
    "steps",
    "seconds_training",
    "seconds_evaluating",
    *CURVE,
    "device",
    "cpu",
    "threads",
    "torch",
    "code",
    "finished",
    "run_id",
    "experiment",
    "results_version",
    "request",
)
#: Columns that every row has.
REQUIRED = (
    *EXPERIMENT,
    "run_id",
    "experiment",
    "results_version",
    "definition",
    "source_fingerprint",
    "target_fingerprint",
)
#: Columns of text, some of which could be read as numbers.
TEXT = {
    *PLACE,
    *EXPERIMENT,
    *CURVE,
    *("run_id", "experiment", "request", "definition", "genotype", "weights", "source_fingerprint"),
    *("target_fingerprint", "device", "cpu", "torch", "torchvision", "numpy", "python", "code", "finished"),
    *("trained_by", "precision_used"),
} - {"draw", "seed"}


def reference_folder() -> Path:
    """Folder of the reference results: $MSINET_REFERENCE, else `reference` of this checkout."""
    return Path(os.environ.get("MSINET_REFERENCE") or Path(__file__).parents[2] / "reference")


def machines(study: str, folder: Path | None = None) -> list[str]:
    """Names of the machines that have results of a study."""
    return sorted(path.parent.name for path in (folder or reference_folder()).glob(f"*/{study}.csv"))


def read_machine(folder: Path) -> dict[str, Any]:
    """The contents of `machine.json`: machine, who, when, commands.

    Args:
        folder: folder of the machine.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        found = json.loads((folder / MACHINE).read_text(encoding="utf-8"))
        texts = {name: str(found[name]) for name in ("machine", "who", "when")}
        return {**texts, "commands": [str(command) for command in found["commands"]]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{folder / MACHINE} does not describe a machine ({error!r:.200}); {REMEDY}") from error


def about(folder: Path) -> str:
    """One line about a machine: name, description, who measured, and when."""
    found = read_machine(folder)
    return f"{folder.name} ({found['machine']}; {found['who']}, {found['when']})"


def has_reference(study: Study, request: Request) -> bool:
    """True if there are reference results for a table cell of the request and its protocol. Reads no data sets."""
    folder = reference_folder()
    names = machines(study.name, folder)
    if not names or request.keep_same_camera:
        return False
    request.check()
    keys = {cell.experiment.key for cell in study.cells(request, request.default_datasets())}
    rows = (row for name in names for row in ReferenceStore(folder / name, study.name).rows)
    return any(row["experiment"] in keys and row["results_version"] == RESULTS_VERSION for row in rows)


# --- Reading -------------------------------------------------------------------------------------


class ReferenceStore(Store):
    """The reference results of one study on one machine, read like a store of finished runs.

    Args:
        folder: folder of the machine.
        study: name of the study.
    """

    recorded = True

    def __init__(self, folder: Path, study: str) -> None:
        super().__init__(folder)
        self.study = study

    @property
    def table(self) -> Path:
        """File with a row per run."""
        return self.root / f"{self.study}.csv"

    @property
    def arrays(self) -> Path:
        """File with the queries, histories and trajectories."""
        return self.root / f"{self.study}.npz"

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of the table in the order of the file, from all versions of the code.

        Raises:
            UserError: the table cannot be read, or lacks a column.
        """
        try:
            with self.table.open(newline="", encoding="utf-8") as stream:
                reader = csv.DictReader(stream, strict=True)
                names = reader.fieldnames or ()
                if missing := [name for name in REQUIRED if name not in names]:
                    raise ValueError(f"no column {', '.join(missing)}")
                rows = []
                for found in reader:
                    if None in found or None in found.values():
                        raise ValueError(f"line {reader.line_num} does not have {len(names)} values")
                    rows.append({name: _value(name, text) for name, text in found.items()})
                return rows
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f"{self.table} is not a table of reference results ({error}); {REMEDY}") from error

    @cached_property
    def _arrays(self) -> "Arrays":
        import numpy as np

        try:
            with self.arrays.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
                return {name: found[name] for name in found.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{self.arrays} cannot be read ({error!r:.200}); {REMEDY}") from error

    @property
    def array_names(self) -> list[str]:
        """Names of the arrays: tests/FINGERPRINT/COLUMN and runs/RUN/FILE/COLUMN."""
        return list(self._arrays)

    @property
    def has_runs(self) -> bool:
        """True if there is a table."""
        return self.table.is_file()

    def done(self, run_id: str) -> bool:
        """True if the table has a row of this version of the code for the run."""
        return run_id in self.frame().index

    def state(self, run_id: str) -> State:
        """`done` or `missing`."""
        return "done" if self.done(run_id) else "missing"

    def tested(self, profile: str) -> set[str]:
        """Data sets that runs of a profile were ranked on."""
        return {str(row["target"]) for row in self.rows if row["profile"] == profile}

    def genotype(self, run_id: str) -> str | None:
        """The genotype of a search."""
        if not self.done(run_id):
            return None
        found = self.frame().loc[run_id].get("genotype")
        return found if isinstance(found, str) else None

    def frame(self) -> "pd.DataFrame":
        """One row per run of this version of the code, as `Store.frame`. Other rows are left out.

        Raises:
            UserError: the table cannot be read.
        """
        if self._frame is None:
            import pandas as pd

            rows = [found for row in self.rows if (found := record_of(row)) is not None]
            empty = pd.DataFrame(index=pd.Index([], name="run_id"))
            self._frame = pd.DataFrame(rows).set_index("run_id") if rows else empty
        return self._frame

    def read(self, run_id: str, name: str) -> "pd.DataFrame":
        """A file of a run: queries.csv without the names of images, history.csv, or alphas.csv of a search.

        Raises:
            UserError: the file was not kept, or cannot be read.
        """
        import pandas as pd

        columns = self._columns(run_id, name)
        if not columns:
            raise UserError(f"{self.arrays} has no {name} of run {run_id}")
        wide = {"i": "int64", "u": "int64", "f": "float64"}
        try:
            return pd.DataFrame({key: one.astype(wide.get(one.dtype.kind, one.dtype)) for key, one in columns.items()})
        except ValueError as error:
            raise UserError(f"{self.arrays}: {name} of run {run_id} is damaged ({error}); {REMEDY}") from error

    def _columns(self, run_id: str, name: str) -> "Arrays":
        stem = Path(name).stem
        own = _below(self._arrays, f"runs/{run_id}/{stem}/")
        if name != "queries.csv" or run_id not in self.frame().index:
            return own
        shared = _below(self._arrays, f"tests/{self.frame()['target_fingerprint'].astype(str)[run_id]}/")
        # A run of an oracle can have more rows than the others, and of an earlier version fewer columns.
        return {key: one for key, one in shared.items() if len(one) == len(own["ap"])} | own if own else own

    def files(self, run_id: str) -> dict[str, "pd.DataFrame"]:
        """All files of a run that were kept."""
        return {name: self.read(run_id, name) for name in KEPT if self._columns(run_id, name)}


def _below(arrays: "Arrays", prefix: str) -> "Arrays":
    return {name.removeprefix(prefix): one for name, one in arrays.items() if name.startswith(prefix)}


def _value(name: str, text: str) -> Any:
    """A value of the table: text, true or false, a number, or None."""
    if text == "" or name in TEXT:
        return text or None
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def experiment_of(row: Row) -> Experiment:
    """The experiment of a row.

    Raises:
        UserError: it is not an experiment of this version of the code.
    """
    try:
        return Experiment.from_json(json.loads(row["definition"] or ""))
    except (ValueError, RecursionError) as error:
        raise UserError(f"the definition of run {row['run_id']} is not JSON ({error})") from error


def record_of(row: Row) -> Row | None:
    """The row of `Store.frame` for a row of the table; None if it is of another version of the code."""
    try:
        experiment = experiment_of(row)
    except UserError:
        return None
    if experiment.key != row["experiment"] or row["results_version"] != RESULTS_VERSION:
        return None
    found = experiment.to_json()
    recipe, options = found.pop("recipe"), found.pop("options")
    recorded = {name: str(v) if isinstance(v, tuple) else v for name, v in settings(experiment.recipe).items()}
    return {
        **found,
        **{f"recipe.{name}": value for name, value in (recipe | recorded).items()},
        **{f"option.{name}": value for name, value in options},
        "weights": None,
        **{name: value for name, value in row.items() if name not in (*FORMAT, *EXPERIMENT) and value is not None},
    }


# --- Writing -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Labels of the table cell that a run fills, and the request for it."""

    group: str
    row: str
    column: str
    draw: int
    request: str
    """command-line arguments, without seeds, store and folders"""


def row_of(run_id: str, experiment: Experiment, record: Mapping[str, Any], place: Place, files: Files) -> Row:
    """The row of the table for a finished run.

    Args:
        run_id: id of the run.
        experiment: experiment of the run.
        record: record of the run.
        place: table cell of the run.
        files: files of the run by name.
    """
    definition = experiment.to_json()
    kept = {name: value for name, value in record.items() if not name.startswith("recipe.")}
    return {
        **{name: getattr(place, name) for name in (*PLACE, "request")},
        **{name: definition[name] for name in EXPERIMENT},
        **kept,
        **curve(files.get("history.csv")),
        "run_id": run_id,
        "experiment": experiment.key,
        "results_version": RESULTS_VERSION,
        "definition": json.dumps(definition, sort_keys=True, separators=(",", ":")),
    }


def curve(history: "pd.DataFrame | None") -> dict[str, str]:
    """The learning curve of a training: at most `POINTS` epochs, equally spaced, including the last."""
    import numpy as np

    if history is None or history.empty or not {"epoch", "loss", "accuracy"} <= set(history):
        return {}
    places = np.unique(np.linspace(0, len(history) - 1, min(POINTS, len(history))).round().astype(int))
    points = history.iloc[places]
    return {
        "curve_epoch": " ".join(f"{value:.0f}" for value in points["epoch"]),
        "curve_loss": " ".join(f"{value:.4g}" for value in points["loss"]),
        "curve_accuracy": " ".join(f"{value:.4g}" for value in points["accuracy"]),
    }


def write_reference(store: ReferenceStore, rows: Iterable[Row], files: Mapping[str, Files]) -> None:
    """Write the reference results of a study. The same input gives the same bytes.

    The arrays are written before the table, so that an interruption leaves no row without its arrays.

    Args:
        store: where to write.
        rows: as `row_of` makes them, in any order.
        files: files of each run, by run id.
    """
    import numpy as np

    sorting = ("profile", *PLACE, "seed", "run_id")
    rows = sorted(rows, key=lambda row: [str(row.get(name, "")) for name in sorting])
    names = {name for row in rows for name in row} - {"definition"}
    order = [name for name in ORDER if name in names] + sorted(names - set(ORDER)) + ["definition"]
    arrays: Arrays = {}
    targets = {row["run_id"]: row["target_fingerprint"] for row in rows}
    for run_id in sorted(targets):
        for name, frame in files[run_id].items():
            for column in frame:
                if column not in KEPT[name]:
                    found = compact(frame[column], exact=name in EXACT)
                    arrays[f"runs/{run_id}/{Path(name).stem}/{column}"] = found
    with atomic_path(store.arrays) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **_shared(arrays, targets))  # type: ignore[arg-type]  # names of arrays
    write_csv(store.table, ({name: row.get(name) for name in order} for row in rows))


def compact(values: "pd.Series[Any]", *, exact: bool = False) -> "NDArray[np.generic]":
    """Values in a small type: integers in 16 bits or more as needed, others in 32 or, if `exact`, 64; text as text."""
    import numpy as np

    found = values.to_numpy()
    if found.dtype.kind in "iu":
        small = [kind for kind in (np.int16, np.int32) if np.iinfo(kind).min <= found.min(initial=0)]
        return found.astype(next((k for k in small if found.max(initial=0) <= np.iinfo(k).max), np.int64))
    if found.dtype.kind == "f":
        return found.astype(np.float64 if exact else np.float32)
    return found if found.dtype.kind == "b" else values.astype(str).to_numpy(dtype=np.str_)


def _shared(arrays: "Arrays", targets: Mapping[str, str]) -> "Arrays":
    """The arrays. Query columns that are equal in most runs on a test set, such as identities, are stored once.

    Such a column describes the test set. So it also holds for runs of earlier versions, which do not have it. Oracles
    rank the test set several times, so their columns are longer; they keep their own.
    """
    found: Arrays = {}
    result = dict(arrays)
    for target in sorted(set(targets.values())):
        runs = [run_id for run_id, test in targets.items() if test == target]
        columns = {run_id: _below(arrays, f"runs/{run_id}/queries/") for run_id in runs}
        ranked = {run_id: those for run_id, those in columns.items() if those}
        for name in dict.fromkeys(name for those in ranked.values() for name in those if name not in SCORES):
            several = {run_id: those[name] for run_id, those in ranked.items() if name in those}
            contents = {run_id: one.tobytes() for run_id, one in several.items()}
            times = Counter(contents.values())
            most = max(times, key=lambda one: (times[one], -len(one)))
            for run_id in (run_id for run_id, one in contents.items() if one == most):
                found[f"tests/{target}/{name}"] = several[run_id]
                del result[f"runs/{run_id}/queries/{name}"]
    return found | result
