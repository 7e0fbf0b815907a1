"""Finished runs on disk. The files are the truth; a run appears whole or not at all.

STORE/runs/<run_id>/      experiment.json, record.json, history.csv, queries.csv, log.txt, model.safetensors
STORE/partial/<run_id>/   a run in progress or interrupted: log.txt, checkpoint.pt
STORE/failed/<run_id>/    error.txt, experiment.json of a run that failed; tried again by the next command
STORE/locks/<run_id>      held by the process that works on the run
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ablations.engine.experiment import Experiment
from msinet.errors import Busy, UserError
from msinet.io import exclusive, sync, write_json, write_text
from msinet.models.genotype import GENOTYPE, read_genotype

if TYPE_CHECKING:
    import pandas as pd

State = Literal["done", "running", "interrupted", "failed", "missing"]


class Store:
    """A folder of runs, created on first use. Its frame is read again after a run is published."""

    #: True: studies are resolved by the data and weights in the records, not by those on this machine.
    recorded = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self._frame: pd.DataFrame | None = None

    def run_folder(self, run_id: str) -> Path:
        """Folder of the finished run."""
        return self.root / "runs" / run_id

    def partial_folder(self, run_id: str) -> Path:
        """Folder of the run until it is finished."""
        return self.root / "partial" / run_id

    def failed_folder(self, run_id: str) -> Path:
        """Folder of a recorded failure."""
        return self.root / "failed" / run_id

    @contextmanager
    def lock(self, run_id: str, patience: float = 0.0) -> Iterator[None]:
        """Context manager: this process alone works on the run.

        Args:
            run_id: id of the run.
            patience: seconds to wait for the lock.

        Raises:
            Busy: another process works on it.
        """
        end = time.monotonic() + patience
        with ExitStack() as held:
            while True:
                try:
                    held.enter_context(exclusive(self.root / "locks" / run_id, f"run {run_id}"))
                    break
                except Busy:
                    if time.monotonic() >= end:
                        raise
                time.sleep(0.05)
            yield

    def weights(self, run_id: str) -> Path:
        """Weights of the finished run. They are missing if it was restored from the archive of `bench gpu`."""
        return self.run_folder(run_id) / "model.safetensors"

    def record(self, run_id: str) -> dict[str, Any]:
        """The record of a finished run."""
        found: dict[str, Any] = json.loads((self.run_folder(run_id) / "record.json").read_text(encoding="utf-8"))
        return found

    def done(self, run_id: str) -> bool:
        """True if the run is finished. Publishing is one rename, so the folder is proof."""
        return self.run_folder(run_id).is_dir()

    def state(self, run_id: str) -> State:
        """The state of a run."""
        if self.done(run_id):
            return "done"
        if (self.root / "locks" / run_id).exists():
            try:
                with self.lock(run_id):
                    pass
            except Busy:
                return "running"
            except UserError:
                pass  # a store without write permission, in which this user cannot know what others work on
        if self.failed_folder(run_id).is_dir():  # first: a training that failed leaves its partial folder as well
            return "failed"
        return "interrupted" if self.partial_folder(run_id).is_dir() else "missing"

    @property
    def has_runs(self) -> bool:
        """True if a run was ever finished here."""
        return (self.root / "runs").is_dir()

    def tested(self, profile: str) -> set[str]:
        """Data sets that finished runs were ranked on. Only reference results distinguish profiles."""
        del profile  # a store usually holds one profile
        return set(self.frame().get("target", ()))

    def genotype(self, run_id: str) -> str | None:
        """The genotype of a search, if it is finished."""
        path = self.run_folder(run_id) / GENOTYPE
        return read_genotype(path) if run_id and path.exists() else None

    def read(self, run_id: str, name: str) -> "pd.DataFrame":
        """A CSV file of a finished run as written, shares in [0, 1].

        Raises:
            UserError: it cannot be read, for example that of a search.
        """
        import pandas as pd

        path = self.run_folder(run_id) / name
        try:
            return pd.read_csv(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}); choose a finished training, not a search") from error

    def publish(self, run_id: str, experiment: Experiment, record: dict[str, Any]) -> None:
        """Complete a partial run and move it to the finished ones in one rename."""
        partial = self.partial_folder(run_id)
        write_json(partial / "experiment.json", experiment.to_json())
        write_json(partial / "record.json", {"run_id": run_id, "experiment": experiment.key, **record})
        for leftover in partial.glob(".*"):  # temporary files and the lock of a killed process
            leftover.unlink()
        for path in (*partial.iterdir(), partial):  # on disk before it is visible
            sync(path)
        target = self.run_folder(run_id)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(partial, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # Another process published the same run, which is possible only where locks do not work: that one stays.
            shutil.rmtree(partial)
        shutil.rmtree(self.failed_folder(run_id), ignore_errors=True)
        self._frame = None

    def fail(self, run_id: str, experiment: Experiment, error: str) -> Path:
        """Record a failure, which never counts as a result. Returns the file that holds the error.

        Args:
            run_id: id of the run.
            experiment: experiment of the run.
            error: a traceback, or the message alone.
        """
        folder = self.failed_folder(run_id)
        write_json(folder / "experiment.json", experiment.to_json())
        write_text(folder / "error.txt", error)
        return folder / "error.txt"

    def error(self, run_id: str) -> str:
        """The last line of a recorded failure."""
        path = self.failed_folder(run_id) / "error.txt"
        lines = path.read_text(encoding="utf-8").strip().splitlines() if path.exists() else []
        return lines[-1] if lines else ""

    def frame(self) -> "pd.DataFrame":
        """One row per finished run: the experiment's settings, then its record. Empty without runs.

        `experiment` is the experiment's key. Columns of the recipe are called `recipe.<name>`, options of the
        network `option.<name>`.

        Raises:
            UserError: a folder among the runs is not a finished run, or was damaged.
        """
        if self._frame is None:
            import pandas as pd  # takes a second, which `list` and `status` save

            rows = [self._row(folder) for folder in sorted((self.root / "runs").glob("*/")) if folder.is_dir()]
            empty = pd.DataFrame(index=pd.Index([], name="run_id"))
            self._frame = pd.DataFrame(rows).set_index("run_id") if rows else empty
        return self._frame

    def _row(self, folder: Path) -> dict[str, Any]:
        try:
            experiment, record = (
                json.loads((folder / name).read_text(encoding="utf-8")) for name in ("experiment.json", "record.json")
            )
            if record["run_id"] != folder.name:
                raise ValueError(f"its record is of run {record['run_id']}")
            recipe = experiment.pop("recipe")
            options = experiment.pop("options")
            return {
                **experiment,
                **{f"recipe.{name}": value for name, value in recipe.items()},
                **{f"option.{name}": value for name, value in options},
                **record,
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{folder} is not a finished run ({error!r:.200}); remove it, then run it again") from error
