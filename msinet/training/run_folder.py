"""The folder of a run: lock, log, device, record, result and removal of checkpoints."""

import gc
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from msinet import distributed
from msinet.environment import describe, pick_device
from msinet.errors import UserError
from msinet.io import exclusive
from msinet.precision import precision_used
from msinet.training.checkpoint import remove_checkpoints
from msinet.training.fit import OnStep, Result, Task, fit
from msinet.training.graphs import use_graphs
from msinet.training.options import RunOptions
from msinet.training.recipe import Recipe, settings

Record = dict[str, Any]  # flat: text, numbers, booleans and None
#: The record of a run; it is written last and exists only after a complete run.
RECORD = "record.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, locked against other processes."""

    path: Path
    result: Path
    """file that is written last"""
    device: torch.device
    options: RunOptions

    @property
    def graphs(self) -> bool:
        """True if steps are captured as CUDA graphs here."""
        return use_graphs(self.options, self.device)

    def log(self, message: str) -> None:
        """Append a line with the time to log.txt; only the first of several processes writes."""
        if not distributed.leads():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "log.txt").open("a", encoding="utf-8") as stream:
            stream.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {message}\n")

    def set_aside(self, *others: Path) -> None:
        """Rename the result of an earlier run, and other files of it, to X.before.*, until this run has ended.

        Call this when the inputs are known to be good.
        """
        if distributed.leads():
            for path in (self.result, *others):
                if path.exists():
                    path.replace(before(path))

    def remove_set_aside(self, *others: Path) -> None:
        """Remove what `set_aside` renamed, also in an earlier attempt at this run."""
        for path in (self.result, *others):
            before(path).unlink(missing_ok=True)

    def fit(self, task: Task, identity: str, on_step: OnStep | None, title: str) -> Result:
        """Train a task with its checkpoints in this folder."""
        return fit(task, self.path, identity, self.options, on_step, title)

    def record(self, found: Mapping[str, Any], recipe: Recipe) -> Record:
        """The flat record of a run: its results, every setting as `recipe.<name>`, the environment, the time.

        `precision_used` is the precision in which the device computed: on a CPU tf32 is fp32.
        """
        values = {f"recipe.{name}": str(v) if isinstance(v, tuple) else v for name, v in settings(recipe).items()}
        used = {"precision_used": precision_used(recipe.precision, self.device)}
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        return {**found, **values, **used, **describe(self.device), "finished": finished}


def before(path: Path) -> Path:
    """The name of a file of an earlier run while the new one is in progress."""
    return path.with_name(f"{path.stem}.before{path.suffix}")


@contextmanager
def run_folder(folder: Path, options: RunOptions, kind: str, result: Path | None = None) -> Iterator[RunFolder]:
    """Context manager: hold the lock of a run's folder, choose device and algorithms, and clean up at the end.

    If the block succeeds, the checkpoints are removed. If the result lies outside the folder, the folder is removed.

    Args:
        folder: of the run; an unfinished run in it is resumed.
        options: device, resume and the like.
        kind: of run, for messages.
        result: file that is written last; None: record.json in `folder`.

    Raises:
        Busy: another process works in the folder.
        UserError: the folder holds a finished run that is not to be replaced, or the device cannot be used.
    """
    inside = result is None
    name, result = (folder, folder / RECORD) if result is None else (result, result)
    lock = folder / ".lock" if inside else result.with_name(f".{result.stem}.lock")
    with exclusive(lock, f"a {kind} in {name}") if distributed.leads() else nullcontext():
        distributed.barrier()
        try:
            if distributed.leads() and result.exists() and options.resume:
                weights = folder / WEIGHTS
                hint = f" (its schedule has ended; --weights {weights} starts from its weights)" * weights.is_file()
                raise UserError(
                    f"{name} holds a finished {kind}; choose another --out{hint}, or --no-resume to start again"
                )
            options.prepare()
            device = pick_device(options.device)
            yield RunFolder(folder, result, device, options)
            if device.type == "cuda":
                gc.collect()  # reference cycles of task and graphs keep GPU memory
            if distributed.leads():
                remove_checkpoints(folder) if inside else shutil.rmtree(folder)
            distributed.barrier()
        finally:
            if distributed.leads() and result.exists():
                lock.unlink(missing_ok=True)  # while it is still held: a finished run needs no lock
