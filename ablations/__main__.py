"""Command line: python -m ablations list | run | fill | sweep | status | show.

Each command imports its modules when it runs, so that `list` and `status` do not load torch.
"""

from msinet.environment import tune_process

if __name__ == "__main__":
    tune_process()

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ablations.engine.budget import Budget
from ablations.engine.options import ClusterOptions
from ablations.engine.reference import has_reference
from ablations.engine.request import Request
from ablations.engine.resolve import Resolution, resolve
from ablations.engine.status import status_lines
from ablations.engine.store import Store
from ablations.engine.study import Study, column_label, group_label
from ablations.engine.sweep import SweepOptions
from ablations.studies import STUDIES, find_study, find_sweep
from msinet.errors import UserError
from msinet.synthetic import SIZES
from msinet.terminal import INTERRUPTED, example_at_end, exit_status, expanded, quietly
from msinet.training.options import RunOptions

if TYPE_CHECKING:
    from ablations.engine.priorities import Priority

#: Seconds between two updates of the shown table. Each update starts a process, which slows down short runs.
SHOW_SECONDS = 240.0


Execution = Annotated[RunOptions, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="execution")]
Asked = Annotated[Request, tyro.conf.OmitArgPrefixes]
Cluster = Annotated[ClusterOptions, tyro.conf.OmitArgPrefixes]


@dataclass(frozen=True)
class List:
    """List all tables and figures, or all experiments of one."""

    name: Annotated[str, tyro.conf.Positional] = ""
    """table or figure; empty: all of them, with their varied, fixed and nuisance factors"""
    request: Asked = field(default_factory=Request)

    def __call__(self) -> int:
        """Print the list."""
        if not self.name:
            for study in STUDIES.values():
                print(f"{study.name}: {study.title}")
                for what in ("varies", "fixed", "nuisance"):
                    print(f"    {what}: {getattr(study, what)}")
            return 0
        study = find_study(self.name)
        self.request.check()
        rendered = self.request.rendered
        datasets = self.request.default_datasets() if rendered else self.request.available_datasets()
        for cell in study.cells(self.request, datasets):
            row, column = study.label(dict(cell.factors)), column_label(cell.train, cell.test)
            print(f"{group_label(cell.group):<13}  {row:<16}  {column:<7}  {cell.experiment}")
        return 0


@dataclass(frozen=True)
class Run:
    """Run the experiments that the store lacks and show the table. The same command resumes after a stop."""

    name: Annotated[str, tyro.conf.Positional]
    """table or figure"""
    request: Asked = field(default_factory=Request)
    jobs: int = 0
    """runs at once; 0: all on a cluster, one per core for small images on a CPU, else one"""
    run_options: Execution = field(default_factory=RunOptions)
    minutes: float = 0.0
    """time limit; a run starts only if it should end in time, as estimated from finished runs; 0: no limit"""
    step_times: Path | None = None
    """steps.csv of `bench gpu`, for estimates before any run has finished"""
    table: bool = True
    """show the table"""
    cluster: Cluster = field(default_factory=ClusterOptions)

    def __call__(self) -> int:
        """Run the study. Return 1 if a run failed or is in progress elsewhere, else the status of the table, or 0."""
        study, store = find_study(self.name), Store(self.request.store)
        if not self.request.rendered:
            self.request.check()
            self.request.available_datasets()  # a mistyped folder ends the command
        if self.table:
            show_reference(study, self.request)  # before the imports that take seconds

        from ablations.engine.prepare import prepare
        from ablations.engine.runner import execute

        budget = self._budget(store)  # its time begins before pre-trainings
        here = on_this_machine(self.run_options, self.cluster)
        request = for_device(self.request, here.device)
        prepare(study, request, here, budget)
        resolution = resolve(study, request, store)
        if request.models and study.has_fixed_networks(request, tuple(resolution.datasets)):
            print(f"--models has no effect: the networks of {study.name} are fixed")
        print_blocked(resolution)
        runs = list(resolution.runs())
        if runs and budget is None and all(one.state == "blocked" for one in runs):
            raise UserError(f"nothing of {study.name} can run: {runs[0].reason}")
        shown_at = time.monotonic()

        def show_sometimes() -> None:
            nonlocal shown_at
            if self.table and time.monotonic() - shown_at > SHOW_SECONDS:
                show(self.name, request, "--brief")
                shown_at = time.monotonic()

        tally = execute(
            resolution, store, self.run_options, show_sometimes, jobs=self.jobs, budget=budget, cluster=self.cluster
        )
        status = show(self.name, request) if self.table else 0
        print(", ".join(f"{number} {outcome}" for outcome, number in tally.items()) or "nothing to run")
        return 1 if tally["failed"] or tally["running"] else status

    def _budget(self, store: Store) -> Budget | None:
        if not self.minutes:
            return None
        from msinet.environment import describe, pick_device
        from msinet.training.graphs import use_graphs

        device = pick_device(on_this_machine(self.run_options, self.cluster).device)
        name, graphs = str(describe(device)["device"]), use_graphs(self.run_options, device)
        if device.type == "cpu" and self.run_options.device.startswith("cuda"):
            name = "GPUs of the cluster"  # unknown here, so step times are assumed
        records = store.frame().to_dict("records")
        jobs = 1 if self.cluster.remote else self.jobs  # on a cluster, each run has a GPU of its own
        budget = Budget.of(self.minutes, name, self.step_times, records, graphs=graphs, jobs=jobs)
        if self.step_times is not None and not budget.rates:
            print(f"--step-times has no rows of {name}; estimates are assumed until runs have finished")
        return budget


def on_this_machine(run_options: RunOptions, cluster: ClusterOptions) -> RunOptions:
    """The options for work before runs are submitted. A cluster may have GPUs that this machine lacks."""
    lacking = cluster.remote and run_options.device.startswith("cuda")
    return replace(run_options, device="auto") if lacking else run_options


def for_device(request: Request, device: str) -> Request:
    """The request to run on a device: on a GPU there is time for all rows and columns."""
    from msinet.environment import pick_device

    if request.complete or pick_device(device).type != "cuda":
        return request
    print("on a GPU, all data sets and networks run, as with --whole; pass it to reports as well")
    return replace(request, whole=True)


@dataclass(frozen=True)
class Fill:
    """Run the reference studies by priority until the time is used up. The same command continues."""

    minutes: float = 10.0
    """total time; a run starts only if it should end in time"""
    store: Path = Path("results")
    """folder of finished runs"""
    profile: str = ""
    """profile of all studies; empty: as in the list of priorities"""
    jobs: int = 0
    """runs at once, as for `run`"""
    step_times: Path | None = None
    """steps.csv of `bench gpu`, for estimates before any run has finished"""
    run_options: Execution = field(default_factory=RunOptions)

    def __call__(self) -> int:
        """Run one study after the other, also after errors. Return 130 after Ctrl-C, 1 if a study failed, else 0."""
        from ablations.engine.priorities import PRIORITIES

        if self.minutes <= 0:
            raise UserError(f"--minutes must be above 0, got {self.minutes:g}")
        if self.profile and self.profile not in SIZES:
            raise UserError(f"fill runs on the rendered world, in profile {', '.join(SIZES)}, not {self.profile}")
        end, failed = time.monotonic() + 60 * self.minutes, False
        for wanted in PRIORITIES:
            left = (end - time.monotonic()) / 60
            if left <= 0:
                break
            print(f"{wanted.study}, {wanted.seeds} seed(s), {left:.1f} minutes left", flush=True)
            status = exit_status(self._run(wanted, left), KEPT)
            if status == INTERRUPTED:
                return status
            failed |= status != 0
        return int(failed)

    def _run(self, wanted: "Priority", minutes: float) -> Run:
        request = Request(profile=self.profile or wanted.profile, seeds=wanted.seeds, store=self.store)
        return Run(wanted.study, request, self.jobs, self.run_options, minutes, self.step_times, table=False)


@dataclass(frozen=True)
class Sweep:
    """Choose settings on held-out identities with Optuna, then train with the best ones. Resumable."""

    sweep: Annotated[str, tyro.conf.Positional] = "overlap"
    """overlap: settings of the search; alignment: weight of spatial alignment"""
    request: Asked = field(default_factory=lambda: Request(seeds=2))
    options: Annotated[SweepOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=SweepOptions)
    run_options: Execution = field(default_factory=RunOptions)
    cluster: Cluster = field(default_factory=ClusterOptions)

    def __call__(self) -> int:
        """Run the sweep, then its study. Return the status of `run`."""
        from ablations.engine.prepare import prepare
        from ablations.engine.trials import run_sweep

        chosen, study = find_sweep(self.sweep), find_study(f"sweep_{self.sweep}")
        prepare(study, self.request, on_this_machine(self.run_options, self.cluster))
        outcome = run_sweep(self.request, self.run_options, chosen, self.options, self.cluster)
        print(f"written: {outcome}, {outcome.with_suffix('.csv').name}")
        return Run(study.name, self.request, run_options=self.run_options, cluster=self.cluster)()


@dataclass(frozen=True)
class Status:
    """Print the state of every run: done, running, interrupted, failed, missing, waiting or blocked."""

    name: Annotated[str, tyro.conf.Positional]
    """table or figure"""
    request: Asked = field(default_factory=Request)
    cluster: Cluster = field(default_factory=ClusterOptions)

    def __call__(self) -> int:
        """Print the state."""
        store = Store(self.request.store)
        resolution = resolve(find_study(self.name), self.request, store, planned=True)
        if not resolution.datasets:
            print(f"no images in {self.request.root}; the records of {store.root} decide")
        for line in status_lines(resolution, store):
            print(line)
        if self.cluster.on == "ray":
            from ablations.engine.cluster import ray_line

            print(ray_line(self.cluster))
        return 0


@dataclass(frozen=True)
class Show:
    """Show the table: current results of the store and the paper's numbers."""

    name: Annotated[str, tyro.conf.Positional]
    """table or figure"""
    request: Asked = field(default_factory=Request)

    def __call__(self) -> int:
        """Print the table and write its files."""
        find_study(self.name)
        return show(self.name, self.request)


def print_blocked(resolution: Resolution) -> None:
    """Print why runs are blocked."""
    for reason, number in Counter(one.reason for one in resolution.runs() if one.state == "blocked").items():
        print(f"not run: {number} experiment(s): {reason}")


def show_reference(study: Study, request: Request) -> None:
    """Show the reference results that the request asks for, if there are any, before anything runs."""
    try:
        if has_reference(study, request):
            show(study.name, request, "--reference")
    except UserError as error:
        request.check()  # an error of the request ends the command, one of the reference results does not
        print(f"reference results are not shown: {error}", file=sys.stderr)


def show(name: str, request: Request, *words: str) -> int:
    """Render a table with `reports` in another process, because this package must not import that one."""
    sys.stdout.flush()  # in a pipe, this output must come before that of the other process
    command = [sys.executable, "-m", "reports", "table", name, *request.as_args(), *words]
    return subprocess.run(command, check=False).returncode


COMMANDS: dict[str, Callable[..., Callable[[], int]]] = {
    "list": List,
    "run": Run,
    "fill": Fill,
    "sweep": Sweep,
    "status": Status,
    "show": Show,
}
DESCRIPTION = "Run the experiments behind the tables and figures."
#: Shown after the help of each command.
EXAMPLES = {
    "list": "table2",
    "run": "table2 --seeds 3",
    "fill": "--minutes 60",
    "sweep": "overlap --trials 12",
    "status": "table2",
    "show": "table2",
}
#: Message after Ctrl-C.
KEPT = "the state is saved and the same command resumes"


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; 2 for a user error, 130 for Ctrl-C."""

    def command() -> int:
        with example_at_end("python -m ablations", args, EXAMPLES):
            chosen: Callable[[], int] = tyro.extras.subcommand_cli_from_dict(
                COMMANDS, prog="python -m ablations", description=DESCRIPTION, args=args
            )
        return int(expanded(chosen)())

    return exit_status(command, KEPT)


if __name__ == "__main__":
    sys.exit(quietly(main))
