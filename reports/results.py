"""Results of one request as tidy frames, from which every table, figure and claim is made.

A study's frame has one row per cell: study, group, factors, train, test, seed, draw, state, run_id, search_id, and the
records of finished runs. Files store shares in [0, 1]; from here on they are in per cent. `Results` reads a store,
`ReferenceResults` the committed reference results (docs/reference.md).
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ablations.engine.experiment import Scalar
from ablations.engine.reference import ReferenceStore, machines, reference_folder
from ablations.engine.request import Request, in_words
from ablations.engine.resolve import Resolution, resolve
from ablations.engine.results import results
from ablations.engine.store import Store
from ablations.studies import STUDIES, find_study
from msinet.data.datasets import Dataset
from msinet.errors import UserError, unknown_name

#: Metrics of a ranking.
METRICS = ("R1", "R5", "R10", "mAP", "mINP")
#: Metrics of a ranking among the images of the query's own family only; rendered sets have families.
WITHIN_FAMILY = ("within_family_R1", "within_family_mAP")
#: Columns of records, histories and query files that hold shares.
SHARES = (
    *METRICS,
    *WITHIN_FAMILY,
    *(f"{metric}_std_draws" for metric in METRICS),
    "best_on_test_R1",
    "best_on_test_mAP",
    "validation_mAP",
    "accuracy",
    "ap",
)

Factors = tuple[tuple[str, Scalar], ...]


def in_percent(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy of a frame with its shares in per cent."""
    return frame.assign(**{name: 100 * frame[name] for name in SHARES if name in frame})


def device_of(record: "Mapping[Any, Any] | pd.Series[Any]") -> str:
    """The device of a run, from its record or environment: the name of the GPU or of the CPU."""
    return str(record["cpu"] if record["device"] == "cpu" else record["device"])


class NoResults(UserError):
    """There are no reference results of a study."""


class Results:
    """Studies of a request and their runs. The store is read once, and each study is resolved once.

    Args:
        request: the request whose results are shown.
        machine: machine of the reference results next to them; empty: for each study, the one with the most runs.

    Raises:
        UserError: an unknown name or setting in the request.
    """

    #: True for committed reference results, which have no weights.
    is_reference = False

    def __init__(self, request: Request, machine: str = "") -> None:
        request.check()
        self.request, self.machine = request, machine
        self.store = Store(request.store)
        self._resolutions: dict[str, Resolution] = {}
        self._frames: dict[str, pd.DataFrame] = {}
        self._files: dict[tuple[str, str], pd.DataFrame] = {}
        self._records: pd.DataFrame | None = None
        self._datasets: dict[str, Dataset] = {}

    @cached_property
    def reference(self) -> "ReferenceResults | None":
        """Reference results of the same request, to show next to these; None if it ranks by another protocol."""
        return None if self.request.keep_same_camera else ReferenceResults(self.request, self.machine)

    @property
    def seeds(self) -> int:
        """Number of seeds; for reference results, the largest number of any study."""
        return self.request.repeats

    def seeds_of(self, study: str) -> int:
        """Number of seeds of a study; for reference results, the largest number of any table cell."""
        del study  # all have the number that the request asks for
        return self.request.repeats

    @property
    def repetitions(self) -> str:
        """The number of seeds in words."""
        return in_words(self.seeds)

    def repetitions_of(self, study: str) -> str:
        """The number of seeds of a study in words: those asked for, or those of the reference results."""
        return self.resolution(study).request.repetitions

    @property
    def folder(self) -> Path:
        """Folder for tables, figures and the report, unless another is asked for."""
        return self.request.store

    def bench_file(self, path: Path) -> Path:
        """A file of `python -m bench`: the given one; reference results have their own."""
        return path

    def folder_of(self, run_id: str) -> Path:
        """Folder of a finished run; for reference results, the folder of the machine."""
        return self.store.run_folder(run_id)

    @property
    def records(self) -> pd.DataFrame:
        """Every finished run of the store by run id: its settings and its record."""
        if self._records is None:
            self._records = in_percent(self.store.frame())
        return self._records

    def dataset(self, name: str) -> Dataset:
        """A data set of the request, read once.

        Raises:
            DataError: see `Request.load`.
        """
        if name not in self._datasets:
            self._datasets[name] = self.request.load(name)
        return self._datasets[name]

    def resolution(self, study: str) -> Resolution:
        """The study with the state of each of its cells. Its request has the number of seeds of these results.

        Raises:
            UserError: unknown study, or results on several versions of a data set without a data root.
        """
        if study not in self._resolutions:
            self._resolutions[study] = resolve(find_study(study), self.request, self.store, load=self.dataset)
        return self._resolutions[study]

    def frame(self, study: str) -> pd.DataFrame:
        """The study's tidy frame; `factors` holds each row's coordinates as pairs."""
        if study not in self._frames:
            frame = self._tidy(self.resolution(study), self.store)
            # A run that finished after the store was read has no record here.
            frame.loc[(frame["state"] == "done") & ~frame["run_id"].isin(self.records.index), "state"] = "running"
            self._frames[study] = frame
        return self._frames[study]

    def _tidy(self, resolution: Resolution, store: Store) -> pd.DataFrame:
        frame = in_percent(results(resolution, store))
        frame["factors"] = pd.Series([one.cell.factors for one in resolution.cells], dtype=object)
        return frame

    def finished(self, study: str) -> pd.DataFrame:
        """Rows of the tidy frame whose run is finished."""
        frame = self.frame(study)
        return frame[frame["state"] == "done"]

    def history(self, run_id: str) -> pd.DataFrame:
        """A finished run's record of each epoch.

        Raises:
            UserError: it cannot be read.
        """
        return in_percent(self.read(run_id, "history.csv"))

    def queries(self, run_id: str) -> pd.DataFrame:
        """A finished run's record of each query; R1 is 100 where the first match has rank 1, else 0.

        Raises:
            UserError: it cannot be read; a search has none.
        """
        queries = self.read(run_id, "queries.csv")
        return in_percent(queries.assign(R1=(queries["first_rank"] == 1).astype(float)))

    def read(self, run_id: str, name: str) -> pd.DataFrame:
        """A CSV file of a finished run as written, shares in [0, 1]. Each file is read once; do not change the frame.

        Raises:
            UserError: it cannot be read.
        """
        if (run_id, name) not in self._files:
            self._files[run_id, name] = self._read(run_id, name)
        return self._files[run_id, name]

    def _read(self, run_id: str, name: str) -> pd.DataFrame:
        return self.store.read(run_id, name)

    def missing(self, study: str, what: str = "run") -> UserError:
        """The error for a figure without runs, with the command that produces them."""
        return UserError(f"no finished {what} of {study} in {self.store.root}; {run_command(study, self.request)}")


@dataclass(frozen=True)
class Found:
    """The reference results shown for a study."""

    machine: str
    """name of its folder"""
    store: ReferenceStore
    resolution: Resolution
    others: tuple[str, ...] = ()
    """other machines with results of the study"""

    @property
    def done(self) -> int:
        """Table cells with a run, each seed counted."""
        return sum(one.state == "done" for one in self.resolution.cells)


class ReferenceResults(Results):
    """The committed reference results of a request, without a store, data or weights.

    Each study shows one machine, because the same seed on two machines is one repetition, not two. The number of
    seeds is that of the machine, and tables are whole. A run is called `machine/run id`.

    Args:
        request: the request whose results are shown; seeds and `whole` are ignored; its store only gives `folder`.
        machine: name of a folder; empty: for each study, the machine with the most runs.

    Raises:
        UserError: an unknown name or setting in the request.
    """

    is_reference = True

    def __init__(self, request: Request, machine: str = "") -> None:
        super().__init__(request, machine)
        known = [path.name for path in sorted(reference_folder().glob("*/"))]
        if machine and machine not in known:
            raise unknown_name("machine", machine, known)
        self.store = Store(nearby(reference_folder()))
        self._found: dict[str, Found | None] = {}
        self._homes: dict[str, ReferenceStore] = {}

    @cached_property
    def _every(self) -> list[Found]:
        """The results of all studies."""
        return [found for study in STUDIES if (found := self.found(study))]

    @property
    def reference(self) -> "ReferenceResults | None":
        """No results are shown next to these."""
        return None

    @property
    def seeds(self) -> int:
        """The largest number of seeds of any study."""
        return max((one.resolution.request.seeds for one in self._every), default=self.request.repeats)

    def seeds_of(self, study: str) -> int:
        """The largest number of seeds of a table cell; those asked for without any."""
        found = self.found(study)
        return self.request.repeats if found is None else found.resolution.request.repeats

    @property
    def repetitions(self) -> str:
        """The number of seeds in words; studies have different ones."""
        return f"up to {in_words(self.seeds)}"

    def repetitions_of(self, study: str) -> str:
        """The number of seeds of a study in words."""
        return self.resolution(study).repetitions

    @property
    def folder(self) -> Path:
        """Subfolder of the store for tables, figures and the report; local files are not overwritten."""
        return self.request.store / "reference"

    def bench_file(self, path: Path) -> Path:
        """The file of `python -m bench` with that name, of the requested machine, else of that of Table 2."""
        found = self.found("table2")
        return self.store.root / (self.machine or (found.machine if found else "")) / "bench" / path.name

    def folder_of(self, run_id: str) -> Path:
        """Folder of the machine of a run."""
        return self.store.root / run_id.rpartition("/")[0]

    @property
    def records(self) -> pd.DataFrame:
        """Every run that is shown, by machine and run id."""
        if self._records is None:
            frames = [self._named(one, one.store.frame().reset_index()) for one in self._every]
            every = pd.concat(frames).drop_duplicates("run_id") if frames else pd.DataFrame({"run_id": []})
            self._records = in_percent(every.set_index("run_id"))
        return self._records

    def found(self, study: str) -> Found | None:
        """The results of a study; None: no machine has any for the request.

        Raises:
            UserError: a file cannot be read, or holds results on several versions of a data set.
        """
        if study not in self._found:
            names = [name for name in machines(study) if self.machine in ("", name)]
            several = [one for name in names if (one := self._resolved(study, name)) and one.done]
            best = max(several, key=lambda one: one.done, default=None)
            if best is not None:
                others = tuple(one.machine for one in several if one is not best)
                best = replace(best, others=others)
            self._found[study] = best
        return self._found[study]

    def _resolved(self, study: str, machine: str) -> Found | None:
        """The results of a machine for the whole table, or for the short one, whose groups can be others (Table 3)."""
        store = ReferenceStore(self.store.root / machine, study)
        if not self.request.datasets and not store.tested(self.request.profile):
            return None
        whole, short = (replace(self.request, whole=whole) for whole in (True, False))
        return self._found_in(store, study, machine, whole) or self._found_in(store, study, machine, short)

    @staticmethod
    def _found_in(store: ReferenceStore, study: str, machine: str, request: Request) -> Found | None:
        """The results for a request, with the number of seeds that the machine has for it."""
        seeds = 1 + int(store.frame().get("seed", pd.Series([-1])).max())
        while seeds:
            resolution = resolve(find_study(study), replace(request, seeds=seeds), store)
            used = 1 + max((one.cell.seed for one in resolution.cells if one.state == "done"), default=-1)
            if used == seeds:
                return Found(machine, store, resolution)
            seeds = used  # some studies, such as Figure 5b, have other cells for another number of seeds
        return None

    def resolution(self, study: str) -> Resolution:
        """The study with the state of each of its cells.

        Raises:
            UserError: unknown study.
            NoResults: there are no reference results of it.
        """
        find_study(study)
        found = self.found(study)
        if found is None:
            where = self.store.root / self.machine
            raise NoResults(f"no reference results of {study} for this request in {where} (docs/reference.md)")
        return found.resolution

    def frame(self, study: str) -> pd.DataFrame:
        """The study's tidy frame; `factors` holds each row's coordinates as pairs."""
        if study not in self._frames:
            resolution = self.resolution(study)
            found = self.found(study)
            assert found is not None
            self._frames[study] = self._named(found, self._tidy(resolution, found.store))
        return self._frames[study]

    def _named(self, found: Found, frame: pd.DataFrame) -> pd.DataFrame:
        """The frame with runs called machine/run id; their files are found by that name from now on."""
        frame = frame.copy()
        for name in frame.columns.intersection(["run_id", "search_id"]):
            frame[name] = [f"{found.machine}/{run_id}" if run_id else "" for run_id in frame[name]]
            self._homes |= {run_id: found.store for run_id in frame[name] if run_id}
        return frame

    def _read(self, run_id: str, name: str) -> pd.DataFrame:
        if run_id not in self._homes:
            raise UserError(f"no run {run_id} among the reference results in {self.store.root}")
        return self._homes[run_id].read(run_id.rpartition("/")[2], name)

    def missing(self, study: str, what: str = "run") -> UserError:
        """The error for a figure without runs."""
        return UserError(f"no {what} of {study} among the reference results in {self.store.root}")


def run_command(study: str, request: Request) -> str:
    """The command that runs a study, or the sweep whose outcome it shows."""
    what = ["sweep", study.removeprefix("sweep_")] if study.startswith("sweep_") else ["run", study]
    return shlex.join(["python", "-m", "ablations", *what, *request.as_args()])


def nearby(path: Path) -> Path:
    """A path relative to the current folder if it lies inside, so that reports do not show where a checkout is."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def has(factors: Factors, wanted: Factors) -> bool:
    """True if coordinates contain all of the wanted ones."""
    return set(wanted) <= set(factors)


def file_name(name: str, request: Request) -> str:
    """File name with profile, data and changed settings, so that tables of different runs have different files."""
    whose = () if request.recipe_of == "paper" else (request.recipe_of,)
    data = (request.root_name,) if request.root_name else ()
    several = {"": request.recipe, "search-": request.search_recipe, "unsupervised-": request.unsupervised_recipe}
    changes = [f"{kind}{change}" for kind, changes in several.items() for change in changes]
    rules = ("same-camera",) if request.keep_same_camera else ()
    words = (re.sub(r"[^\w.=]+", "-", word) for word in (*data, *changes, *rules))
    return "-".join((name, request.profile, *whose, *words)).replace(".", "_")
