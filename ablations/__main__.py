"""Command line: python -m ablations list | run | sweep | status | show."""

from msinet.environment import tune_allocator

if __name__ == "__main__":
    tune_allocator()

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from ablations.alignment import ALIGNMENT_READINGS, FIGURE5E, TABLE5
from ablations.calibration import CALIBRATION
from ablations.catalogue import MAIN_DATASETS, Catalogue, Request
from ablations.cells import FIGURE5C, FIGURE5D
from ablations.discrepancies import DISCREPANCY_STUDY
from ablations.pictures import FIGURE1, FIGURE4, FIGURE6
from ablations.runner import execute, make_plan, write_status
from ablations.searches import FIGURE5A, FIGURE5B, TABLE1
from ablations.store import Store
from ablations.sweep import ALIGNMENT_SWEEP, STUDIES, SWEEP, sweep
from ablations.table2 import TABLE2
from ablations.table3 import TABLE3
from ablations.table6 import TABLE6
from ablations.world import prepare
from msinet.errors import UserError, unknown_name
from msinet.training.run import How

#: Between two looks at the growing table: rendering it starts a process, which short runs would feel.
SHOW_SECONDS = 240.0
CATALOGUES = {
    catalogue.name: catalogue
    for catalogue in (
        TABLE1,
        TABLE2,
        TABLE3,
        TABLE5,
        TABLE6,
        FIGURE1,
        FIGURE4,
        FIGURE5A,
        FIGURE5B,
        FIGURE5C,
        FIGURE5D,
        FIGURE5E,
        FIGURE6,
        CALIBRATION,
        DISCREPANCY_STUDY,
        ALIGNMENT_READINGS,
        SWEEP,
        ALIGNMENT_SWEEP,
    )
}


def find_catalogue(name: str) -> Catalogue:
    """The catalogue of that name, or the error that lists those there are."""
    if name not in CATALOGUES:
        raise unknown_name("table or figure", name, CATALOGUES)
    return CATALOGUES[name]


@dataclass(frozen=True)
class List:
    """Say what can be run; with a name, every experiment of it."""

    name: Annotated[str, tyro.conf.Positional] = ""
    """table or figure; empty: all of them, with what each varies"""
    request: Annotated[Request, tyro.conf.OmitArgPrefixes] = field(default_factory=Request)

    def __call__(self) -> int:
        """Print it."""
        if not self.name:
            for catalogue in CATALOGUES.values():
                print(f"{catalogue.name}: {catalogue.title}")
                for what in ("varies", "fixed", "nuisance"):
                    print(f"    {what}: {getattr(catalogue, what)}")
            return 0
        catalogue = find_catalogue(self.name)
        self.request.check()
        everything = self.request.datasets or tuple(MAIN_DATASETS)  # of the rendered world, before it is there
        datasets = everything if self.request.rendered else self.request.available_datasets()
        for cell in catalogue.cells(self.request, datasets):
            print(f"{cell.group:<13}  {cell.row:<16}  {cell.column:<7}  {cell.experiment}")
        return 0


@dataclass(frozen=True)
class Run:
    """Run what is not in the store yet and show the table; the same command goes on after any stop."""

    name: Annotated[str, tyro.conf.Positional]
    """table or figure"""
    request: Annotated[Request, tyro.conf.OmitArgPrefixes] = field(default_factory=Request)
    how: Annotated[How, tyro.conf.OmitArgPrefixes] = field(default_factory=How)

    def __call__(self) -> int:
        """Run it. Status 0: all is done; 1: something failed or is in progress elsewhere; 130: interrupted."""
        catalogue = find_catalogue(self.name)
        prepare(catalogue, self.request, self.how)
        plan = make_plan(catalogue, self.request)
        for reason, number in Counter(plan.blocked.values()).items():
            print(f"not run: {number} experiment(s): {reason}")
        shown_at = time.monotonic()

        def on_finish() -> None:
            nonlocal shown_at
            if time.monotonic() - shown_at > SHOW_SECONDS:
                show(self.name, self.request, brief=True)
                shown_at = time.monotonic()

        tally = execute(plan, Store(self.request.store), self.how, on_finish)
        shown = show(self.name, self.request)
        print(", ".join(f"{number} {what}" for what, number in tally.items()) or "nothing to run")
        return 1 if tally["failed"] or tally["running"] else shown


@dataclass(frozen=True)
class Sweep:
    """Choose a setting on held-out identities with Optuna, then train what it found; resumable."""

    study: Annotated[Literal["overlap", "alignment"], tyro.conf.Positional] = "overlap"
    """overlap of the search, or weight of spatial alignment"""
    request: Annotated[Request, tyro.conf.OmitArgPrefixes] = field(default_factory=lambda: Request(seeds=2))
    trials: int = 8
    """finished trials to reach; the first is the default: overlap 0.4, weight 2"""
    vary: tuple[str, ...] = ()
    """of the search: overlap, side_ratio, temperature, momentum; empty: overlap, or the weight"""
    grid: tuple[float, ...] = ()
    """values to try, each once, in place of the sampler's choice"""
    pruning: Literal["none", "asha"] = "none"
    """asha: run trials at a quarter, half and all of their length, and let only the better half go on"""
    storage: str = ""
    """file of the study's journal, or a database URL; empty: sweeps/ in the store"""
    how: Annotated[How, tyro.conf.OmitArgPrefixes] = field(default_factory=How)

    def __call__(self) -> int:
        """Run it. Status as of run."""
        catalogue = find_catalogue(f"sweep_{self.study}")
        prepare(catalogue, self.request, self.how)
        outcome = sweep(
            self.request, self.how, STUDIES[self.study], vary=self.vary, trials=self.trials, grid=self.grid,
            pruning=self.pruning, storage=self.storage,
        )  # fmt: skip
        print(f"written: {outcome}, {outcome.with_suffix('.csv').name}")
        return Run(catalogue.name, self.request, self.how)()


@dataclass(frozen=True)
class Status:
    """Tell what is done, running, interrupted, failed, waiting or blocked."""

    name: Annotated[str, tyro.conf.Positional]
    """table or figure"""
    request: Annotated[Request, tyro.conf.OmitArgPrefixes] = field(default_factory=Request)

    def __call__(self) -> int:
        """Print it."""
        plan = make_plan(find_catalogue(self.name), self.request)
        for line in write_status(plan, Store(self.request.store)):
            print(line)
        return 0


@dataclass(frozen=True)
class Show:
    """Show the table beside the paper's numbers, with what the store holds now."""

    name: Annotated[str, tyro.conf.Positional]
    """table or figure"""
    request: Annotated[Request, tyro.conf.OmitArgPrefixes] = field(default_factory=Request)

    def __call__(self) -> int:
        """Print it and write its files."""
        find_catalogue(self.name)
        return show(self.name, self.request)


def show(name: str, request: Request, *, brief: bool = False) -> int:
    """Have the reports wing render a table. A process of its own: this wing imports nothing from that one."""
    sys.stdout.flush()  # what this process printed stands before what that one prints, in a pipe as well
    command = [sys.executable, "-m", "reports", "table", name, *request.as_args(), *(["--brief"] if brief else [])]
    return subprocess.run(command, check=False).returncode


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; 2 for an error that the user can mend, 130 for Ctrl-C."""
    try:
        command: List | Run | Sweep | Status | Show = tyro.cli(
            Annotated[List, tyro.conf.subcommand("list")]
            | Annotated[Run, tyro.conf.subcommand("run")]
            | Annotated[Sweep, tyro.conf.subcommand("sweep")]
            | Annotated[Status, tyro.conf.subcommand("status")]
            | Annotated[Show, tyro.conf.subcommand("show")],
            prog="python -m ablations", description="The experiments behind every table and figure.", args=args,
        )  # fmt: skip
        return command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the state is saved and the same command goes on from there", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
