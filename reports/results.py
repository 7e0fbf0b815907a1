"""Results of one request as tidy frames, from which every table, figure and claim is made.

A study's frame has one row per cell: study, group, factors, train, test, seed, draw, state, run_id, search_id, and of
finished runs what they recorded. Files store shares in [0, 1]; from here on they are in per cent.
"""

import re
import shlex
from pathlib import Path

import pandas as pd

from ablations.engine.experiment import Scalar
from ablations.engine.request import Request
from ablations.engine.resolve import Resolution, resolve
from ablations.engine.results import results
from ablations.engine.store import Store
from ablations.studies import find_study
from msinet.errors import UserError

#: Metrics of a ranking.
METRICS = ("R1", "R5", "R10", "mAP", "mINP")
#: Metrics of a ranking against the images of the query's own family alone, which rendered sets have.
WITHIN_FAMILY = ("within_family_R1", "within_family_mAP")
#: Columns of records, histories and query files that hold shares.
SHARES = (*METRICS, *WITHIN_FAMILY, *(f"{metric}_std_draws" for metric in METRICS), "accuracy", "ap")

Factors = tuple[tuple[str, Scalar], ...]


def in_percent(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy of a frame with its shares in per cent."""
    return frame.assign(**{name: 100 * frame[name] for name in SHARES if name in frame})


class Results:
    """Studies of a request and their runs. The store is read once, and each study is resolved once.

    Raises:
        UserError: an unknown name or setting in the request.
    """

    def __init__(self, request: Request) -> None:
        request.check()
        self.request = request
        self.store = Store(request.store)
        self._resolutions: dict[str, Resolution] = {}
        self._frames: dict[str, pd.DataFrame] = {}
        self._files: dict[Path, pd.DataFrame] = {}
        self._records: pd.DataFrame | None = None

    @property
    def records(self) -> pd.DataFrame:
        """Every finished run of the store by run id: its settings and its record."""
        if self._records is None:
            self._records = in_percent(self.store.frame())
        return self._records

    def resolution(self, study: str) -> Resolution:
        """The study with the state of each of its cells.

        Raises:
            UserError: unknown study, or results on several versions of a data set and no data root.
        """
        if study not in self._resolutions:
            self._resolutions[study] = resolve(find_study(study), self.request, self.store)
        return self._resolutions[study]

    def frame(self, study: str) -> pd.DataFrame:
        """The study's tidy frame; `factors` holds each row's coordinates as pairs."""
        if study not in self._frames:
            resolution = self.resolution(study)
            frame = in_percent(results(resolution, self.store))
            frame["factors"] = pd.Series([one.cell.factors for one in resolution.cells], dtype=object)
            # A run that finished after the store was read has no record here.
            frame.loc[(frame["state"] == "done") & ~frame["run_id"].isin(self.records.index), "state"] = "running"
            self._frames[study] = frame
        return self._frames[study]

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
            UserError: it cannot be read, as of a search.
        """
        queries = self.read(run_id, "queries.csv")
        return in_percent(queries.assign(R1=(queries["first_rank"] == 1).astype(float)))

    def read(self, run_id: str, name: str) -> pd.DataFrame:
        """A CSV file of a finished run as written, shares in [0, 1]. Each file is read once; do not change the frame.

        Raises:
            UserError: it cannot be read, as of a search.
        """
        path = self.store.run_folder(run_id) / name
        if path not in self._files:
            try:
                self._files[path] = pd.read_csv(path)
            except (OSError, ValueError) as error:
                raise UserError(f"{path} cannot be read ({error}); choose a finished training, not a search") from error
        return self._files[path]

    def missing(self, study: str, what: str = "run") -> UserError:
        """The error for a figure that lacks its runs, with the command that makes them."""
        return UserError(f"no finished {what} of {study} in {self.store.root}; {run_command(study, self.request)}")


def run_command(study: str, request: Request) -> str:
    """The command that runs a study, or the sweep whose outcome it shows."""
    what = ["sweep", study.removeprefix("sweep_")] if study.startswith("sweep_") else ["run", study]
    return shlex.join(["python", "-m", "ablations", *what, *request.as_args()])


def has(factors: Factors, wanted: Factors) -> bool:
    """True if coordinates contain all of the wanted ones."""
    return set(wanted) <= set(factors)


def file_name(name: str, request: Request) -> str:
    """File name with the profile and its changes, so that one table does not overwrite another."""
    changes = (re.sub(r"[^\w.=]+", "-", change) for change in request.recipe)
    whose = () if request.recipe_of == "paper" else (request.recipe_of,)
    return "-".join((name, request.profile, *whose, *changes)).replace(".", "_")
