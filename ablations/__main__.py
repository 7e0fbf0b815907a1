"""Command line: python -m ablations list | run | sweep | status | show | enqueue | worker | proxy."""

from msinet.environment import tune_allocator

if __name__ == "__main__":
    tune_allocator()

import multiprocessing
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ablations.catalogue import MAIN_DATASETS, Request
from ablations.index import CATALOGUES, find_catalogue
from ablations.queue import ATTEMPTS, Queue, QueueError, default_storage, enqueue, rebuilt, run_proxy, shown
from ablations.runner import execute, make_plan, write_status
from ablations.store import Store
from ablations.sweep import STUDIES, sweep
from ablations.worker import Worker, jobs, perform, worker_lines
from ablations.world import prepare
from msinet.errors import UserError
from msinet.io import file_errors
from msinet.training.options import RunOptions

#: Between two looks at the growing table: rendering it starts a process, which short runs would feel.
SHOW_SECONDS = 240.0


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
    run_options: Annotated[RunOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=RunOptions)

    def __call__(self) -> int:
        """Run it. Status 0: all is done; 1: something failed or is in progress elsewhere; 130: interrupted."""
        catalogue = find_catalogue(self.name)
        prepare(catalogue, self.request, self.run_options)
        plan = make_plan(catalogue, self.request)
        for reason, number in Counter(plan.blocked.values()).items():
            print(f"not run: {number} experiment(s): {reason}")
        shown_at = time.monotonic()

        def on_finish() -> None:
            nonlocal shown_at
            if time.monotonic() - shown_at > SHOW_SECONDS:
                show(self.name, self.request, brief=True)
                shown_at = time.monotonic()

        tally = execute(plan, Store(self.request.store), self.run_options, on_finish)
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
    run_options: Annotated[RunOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=RunOptions)

    def __call__(self) -> int:
        """Run it. Status as of run."""
        catalogue = find_catalogue(f"sweep_{self.study}")
        prepare(catalogue, self.request, self.run_options)
        outcome = sweep(
            self.request,
            self.run_options,
            STUDIES[self.study],
            vary=self.vary,
            trials=self.trials,
            grid=self.grid,
            pruning=self.pruning,
            storage=self.storage,
        )
        print(f"written: {outcome}, {outcome.with_suffix('.csv').name}")
        return Run(catalogue.name, self.request, self.run_options)()


@dataclass(frozen=True)
class Status:
    """Tell what is done, running, interrupted, failed, waiting or blocked."""

    name: Annotated[str, tyro.conf.Positional]
    """table or figure"""
    request: Annotated[Request, tyro.conf.OmitArgPrefixes] = field(default_factory=Request)

    storage: str = ""
    """the queue's, as given to enqueue; empty: the journal in the store, if there is one"""

    def __call__(self) -> int:
        """Print it."""
        plan = make_plan(find_catalogue(self.name), self.request)
        store = Store(self.request.store)
        workers: list[str] = []
        if self.storage or Path(default_storage(store.root)).exists():
            try:
                workers = worker_lines(Queue(self.storage or default_storage(store.root), store))
            except QueueError as error:  # the files are the truth, and tell the rest
                workers = [f"no word of the workers: {error}"]
        for line in write_status(plan, store, workers):
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


@dataclass(frozen=True)
class Enqueue:
    """Let what is not in the store wait for workers; the same command again adds what is missing."""

    name: Annotated[str, tyro.conf.Positional]
    """table or figure"""
    request: Annotated[Request, tyro.conf.OmitArgPrefixes] = field(default_factory=Request)
    storage: str = ""
    """path of a journal file, for workers of this host; postgresql+psycopg://USER@HOST/DATABASE for those of several,
    grpc://HOST:PORT of a proxy before it; empty: queue.journal in the store"""
    progress: bool = True
    """show progress bars"""

    def __call__(self) -> int:
        """Do it."""
        catalogue = find_catalogue(self.name)
        prepare(catalogue, self.request, RunOptions(progress=self.progress))
        plan = make_plan(catalogue, self.request)
        for reason, number in Counter(plan.blocked.values()).items():
            print(f"not queued: {number} experiment(s): {reason}")
        store = Store(self.request.store)
        queue = rebuilt(self.storage or default_storage(store.root), store)
        tally = enqueue(queue, jobs(plan))
        if plan.waiting:
            print(f"{len(plan.waiting)} training(s) follow when their search is finished")
        print(", ".join(f"{number} {what}" for what, number in tally.items()) or "nothing to run")
        print(f"queue: {shown(queue.where)}, store: {store.root}")
        return 0


@dataclass(frozen=True)
class Work:
    """Take runs from the queue until none is left; start as many as you like, on any machine that sees the store."""

    store: Path = Path("results")
    """folder of finished runs, as this machine sees it"""
    storage: str = ""
    """as given to enqueue"""
    data_root: Path | None = None
    """where the data sets are on this machine, if not where enqueue had them"""
    pretrained: Path | None = None
    """where the pre-trained weights are on this machine, if not where enqueue had them"""
    max_runs: int = 0
    """end after so many runs; 0: no limit"""
    idle_exit: float | None = None
    """end after so many seconds without a run, although others still work; None: when nothing is left"""
    attempts: int = ATTEMPTS
    """at one run, before it has failed for good"""
    lease: float = 90.0
    """seconds without a sign of life after which a worker counts as dead"""
    run_options: Annotated[RunOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=RunOptions)

    def __call__(self) -> int:
        """Work. Status 0: nothing is left; 1: a run failed here; 2: this machine cannot; 130: interrupted."""
        if self.lease < 1 or self.attempts < 1 or self.max_runs < 0:
            raise UserError("a lease is at least 1 s, and attempts are at least 1")
        multiprocessing.set_forkserver_preload(["ablations.worker"])
        queue = Queue(self.storage or default_storage(self.store), Store(self.store))
        return Worker(
            queue,
            partial(perform, run_options=self.run_options),
            lease=self.lease,
            attempts=self.attempts,
            max_runs=self.max_runs,
            idle_exit=self.idle_exit,
            data_root=self.data_root,
            pretrained=self.pretrained,
        )()


@dataclass(frozen=True)
class Proxy:
    """Stand between many workers and one database, so that they share its connections; ends with Ctrl-C."""

    storage: str
    """URL of the database"""
    host: str = "localhost"
    """address to listen on; whoever reaches it can change the queue"""
    port: int = 13000
    """to listen on; workers are given grpc://HOST:PORT"""

    def __call__(self) -> int:
        """Serve."""
        run_proxy(self.storage, self.host, self.port)
        return 0


def show(name: str, request: Request, *, brief: bool = False) -> int:
    """Have the reports wing render a table. A process of its own: this wing imports nothing from that one."""
    sys.stdout.flush()  # what this process printed stands before what that one prints, in a pipe as well
    command = [sys.executable, "-m", "reports", "table", name, *request.as_args(), *(["--brief"] if brief else [])]
    return subprocess.run(command, check=False).returncode


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; 2 for an error that the user can mend, 130 for Ctrl-C."""
    try:
        command: List | Run | Sweep | Status | Show | Enqueue | Work | Proxy = tyro.cli(
            Annotated[List, tyro.conf.subcommand("list")]
            | Annotated[Run, tyro.conf.subcommand("run")]
            | Annotated[Sweep, tyro.conf.subcommand("sweep")]
            | Annotated[Status, tyro.conf.subcommand("status")]
            | Annotated[Show, tyro.conf.subcommand("show")]
            | Annotated[Enqueue, tyro.conf.subcommand("enqueue")]
            | Annotated[Work, tyro.conf.subcommand("worker")]
            | Annotated[Proxy, tyro.conf.subcommand("proxy")],
            prog="python -m ablations",
            description="The experiments behind every table and figure.",
            args=args,
        )
        with file_errors():
            return command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the state is saved and the same command goes on from there", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
