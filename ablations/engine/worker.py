"""A worker: takes runs from the queue, one at a time, each in a process of its own.

The worker itself computes nothing, so that it can tell every few seconds that it lives. Each time it has, it tells the
process of the run through a pipe. A run that is told nothing for a third of the lease, as its worker was killed, stands
still or cannot reach the queue, saves its state and ends, and is killed after another third: so it is over before
another worker may take it. While it lives it holds the store's lock of the run as well, and publishing is one rename.
"""

import contextlib
import multiprocessing
import os
import platform
import secrets
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import tyro
from optuna.trial import FrozenTrial, TrialState

from ablations.catalogue import Request
from ablations.index import find_catalogue
from ablations.queue import ATTEMPTS, Job, Queue, QueueError, enqueue
from ablations.runner import Plan, execute, make_plan
from ablations.store import Store
from ablations.world import prepare
from msinet.errors import Busy, DataError, UserError
from msinet.search.run import GENOTYPE
from msinet.training.options import RunOptions

#: How the process of a run ends: the run is published; it failed; this machine cannot run it; another works on it;
#: its state was saved.
PUBLISHED, FAILED, UNFIT, BUSY, STOPPED = 0, 1, 2, 3, 4
#: Seconds that a run has to finish its step and save its state when the worker is interrupted.
PATIENCE = 60.0
#: A worker under which so many different runs failed in a row is taken to be the reason, and ends.
STRIKES = 3


def request_of(job: Job, store: Store) -> Request:
    """The request that wants the run of a job.

    Raises:
        UserError: its words are none of this version.
    """
    try:
        request = tyro.cli(Request, args=list(job.words), console_outputs=False)
    except SystemExit as error:
        raise UserError(
            f"the queue holds a request of another version: {' '.join(job.words)}; enqueue it again"
        ) from error
    return replace(request, store=store.root)


#: Carries out a job in the process of the run and says how it ended.
Perform = Callable[[Job, Store], int]


def perform(job: Job, store: Store, *, run_options: RunOptions) -> int:
    """Carry out one job as `python -m ablations run` would.

    Raises:
        UserError: this machine cannot run it: no such device, no data or other data, another version of the code.
    """
    request = request_of(job, store)
    catalogue = find_catalogue(job.name)
    prepare(catalogue, request, run_options)
    plan = make_plan(catalogue, request)
    wanted = {experiment: planned for experiment, planned in plan.planned.items() if planned.run_id == job.run_id}
    if not wanted:
        raise DataError(
            f"run {job.run_id} is not part of {job.name} here: the data under {request.root}, the weights or the code "
            "are others than where it was enqueued"
        )
    tally = execute(replace(plan, cells=(), planned=wanted, waiting={}), store, run_options)
    return FAILED if tally["failed"] else BUSY if tally["running"] else PUBLISHED


def jobs(plan: Plan) -> list[Job]:
    """What of a plan can run now. Trainings of what a search is to find come when it is found: see `Worker`."""
    paths = {name: path.resolve() for name in ("data_root", "pretrained") if (path := getattr(plan.request, name))}
    words = tuple(replace(plan.request, store=Request.store, **paths).as_args())
    return [Job(planned.run_id, plan.catalogue.name, words) for planned in plan.runs()]


def _run(work: Perform, job: Job, store: Store, there: Connection, here: Connection, patience: float) -> None:
    """Main function of the process of a run."""
    here.close()  # inherited where processes are forked: the worker alone must hold its end
    os.setsid()  # Ctrl-C in the worker's terminal goes to the worker, which decides
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_guard, args=(there, patience), daemon=True).start()
    try:
        code = work(job, store)
    except KeyboardInterrupt:
        code = STOPPED
    except Busy:
        code = BUSY
    except UserError as error:
        there.send_bytes(str(error).encode())
        code = UNFIT
    except Exception:
        there.send_bytes(traceback.format_exc().encode())
        code = UNFIT
    sys.exit(code)


def _guard(there: Connection, patience: float) -> None:
    """Interrupt this process when its worker is not heard of for so many seconds, and end it after as many more."""
    try:
        while there.poll(patience):
            there.recv_bytes()
    except (EOFError, OSError):
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(patience)
    os._exit(STOPPED)


@dataclass
class Worker:
    """Takes runs from a queue until there are none."""

    queue: Queue
    work: Perform
    name: str = field(default_factory=lambda: f"{platform.node()}-{os.getpid()}-{secrets.token_hex(2)}")
    lease: float = 90.0
    """seconds without a sign of life after which others take a worker for dead"""
    attempts: int = ATTEMPTS
    """at one run, before it has failed for good"""
    max_runs: int = 0
    """to end after; 0: no limit"""
    idle_exit: float | None = None
    """seconds without anything to do to end after, although others still work; None: to end when nothing is left"""
    outage: float = 600.0
    """seconds to wait for a queue that is gone"""
    data_root: Path | None = None
    """where the data sets are on this machine, if not where the coordinator has them"""
    pretrained: Path | None = None
    """where the weights are on this machine"""
    method: str = "forkserver"
    """how processes are started; one that imports torch once, before the queue is opened and any device is touched"""

    def __call__(self) -> int:
        """Work. Returns 0, or 1 if a run failed here.

        Raises:
            QueueError: the queue has been gone for too long.
            UserError: this machine cannot do what is asked, or nothing but failures came of it.
            KeyboardInterrupt: SIGINT or SIGTERM arrived; the run saved its state and waits in the queue again.
        """
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            # The first process has torch imported, which may take longer than a sign of life can wait.
            first = multiprocessing.get_context(self.method).Process(target=_nothing)  # type: ignore[attr-defined]
            first.start()
            first.join()
            return self._loop()
        finally:
            signal.signal(signal.SIGTERM, before)

    def _loop(self) -> int:
        runs, failed = 0, False
        strikes: set[str] = set()
        idle = lost = looked = 0.0
        while True:
            try:
                if lost:
                    self.queue.open()
                if time.monotonic() - looked > self.lease / 9:
                    looked = time.monotonic()
                    self._retire()
                trial = self.queue.take(self.name, self.lease)
                if trial is not None:
                    idle = 0.0
                    runs += 1
                    published = self._one(trial)
                else:
                    self.queue.mend()
                    left = any(not trial.state.is_finished() for trial in self.queue.trials())
                lost = 0.0
            except QueueError as error:
                if not lost:
                    lost = time.monotonic()
                    self._say(f"{error}; trying again for {self.outage / 60:.0f} min")
                elif time.monotonic() - lost > self.outage:
                    raise
                time.sleep(self.lease / 45)
                continue
            if trial is None:
                idle = idle or time.monotonic()
                if not left or (self.idle_exit is not None and time.monotonic() - idle > self.idle_exit):
                    self._say("nothing is left to do" if not left else "others work on what is left")
                    return int(failed)
                time.sleep(self.lease / 45)  # 2 s
                continue
            if published is False:
                failed = True
                strikes.add(trial.user_attrs["run_id"])
                if len(strikes) >= STRIKES:
                    raise UserError(
                        f"{STRIKES} different runs failed in a row on {platform.node()}: this worker ends rather than "
                        f"fail them all; {self.queue.store.root / 'failed'} tells why they did"
                    )
            elif published:
                strikes.clear()
            if runs == self.max_runs:
                self._say(f"done: {runs} run(s)")
                return int(failed)

    def _retire(self) -> None:
        for trial in self.queue.retire(self.lease, self.attempts):
            job, worker = Job.of(trial), (trial.user_attrs.get("beat") or {}).get("worker", "unknown")
            self._say(f"run {job.run_id}: worker {worker} was lost")
            if job.attempt >= self.attempts and not self.queue.store.done(job.run_id):
                self.queue.store.fail(job.run_id, None, f"worker {worker} was lost at attempt {job.attempt}\n")

    def _one(self, trial: FrozenTrial) -> bool | None:
        """Whether the run was published, or failed; None: neither."""
        job, store = Job.of(trial), self.queue.store
        if not store.done(job.run_id):
            self._say(f"run {job.run_id}, attempt {job.attempt}")
            code, told = self._process(trial, job)
        if store.done(job.run_id):  # whatever became of the process after that
            self._follow(job)
            self.queue.finish(trial)
            return True
        if code is None:
            return None
        if code in (STOPPED, BUSY, UNFIT):  # no fault of the run
            self.queue.fail(trial, told or "given back", following=job.attempt)
            if code == UNFIT:
                raise UserError(told)
            return None
        if code == FAILED:
            error = store.error(job.run_id)
        else:
            error = "the process of the run ended with " + (
                f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
            )
        final = job.attempt >= self.attempts
        if final and code != FAILED:
            store.fail(job.run_id, None, error + "\n")
        self.queue.fail(trial, error, following=None if final else job.attempt + 1)
        self._say(f"run {job.run_id}, attempt {job.attempt} of {self.attempts} failed: {error}")
        return False

    def _process(self, trial: FrozenTrial, job: Job) -> tuple[int | None, str]:
        """Run the process of a job to its end, with signs of life; its status, None if the run is no longer ours."""
        context: Any = multiprocessing.get_context(self.method)
        here, there = context.Pipe()
        arguments = (self.work, self._here(job), self.queue.store, there, here, self.lease / 3)
        process = context.Process(target=_run, args=arguments)
        process.start()
        there.close()
        ours, count, told = True, 0, ""
        try:
            while ours:
                process.join(self.lease / 9)
                if process.exitcode is not None:
                    break
                count += 1
                began = time.monotonic()
                try:
                    ours = self.queue.beat(trial, self.name, self.lease, count)
                except QueueError as error:  # the run notices, and ends if this goes on
                    self._say(str(error))
                    continue
                if ours and time.monotonic() - began < self.lease / 4:
                    with contextlib.suppress(OSError):  # it has just ended
                        here.send_bytes(b".")
            if ours and here.poll():
                with contextlib.suppress(EOFError, OSError):
                    told = here.recv_bytes().decode()
        except KeyboardInterrupt:
            self._say(f"run {job.run_id} saves its state")
            self._stop(process, here, PATIENCE)
            with contextlib.suppress(QueueError):  # else others notice after the lease
                if not self.queue.store.done(job.run_id):
                    self.queue.fail(trial, "interrupted", following=job.attempt)
            raise
        if not ours:
            self._say(f"run {job.run_id} was taken over by another worker")
            self._stop(process, here, self.lease)
            return None, ""
        here.close()
        return process.exitcode, told

    @staticmethod
    def _stop(process: Any, here: Connection, patience: float) -> None:
        here.close()  # at this the run saves its state and ends
        try:
            process.join(patience)
        finally:
            process.kill()
            process.join()

    def _follow(self, job: Job) -> None:
        """After a search: let the trainings of what it found wait."""
        if (self.queue.store.run_folder(job.run_id) / GENOTYPE).exists():
            plan = make_plan(find_catalogue(job.name), request_of(self._here(job), self.queue.store))
            added = enqueue(self.queue, jobs(plan), again=False)["added"]
            self._say(f"search {job.run_id} is finished: {added} run(s) more")

    def _here(self, job: Job) -> Job:
        """The job with the paths of this machine."""
        paths = {"--data-root": self.data_root, "--pretrained": self.pretrained}
        words = [word for name, path in paths.items() if path is not None for word in (name, str(path))]
        return replace(job, words=(*job.words, *words))

    def _say(self, what: str) -> None:
        print(f"{datetime.now().astimezone():%H:%M:%S} {self.name}: {what}", flush=True)


def _nothing() -> None:
    pass


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def worker_lines(queue: Queue) -> list[str]:
    """What each worker has done and does, by what it told the queue."""
    found: dict[str, dict[str, Any]] = {}
    for trial in queue.trials():
        beat = trial.user_attrs.get("beat")
        if not beat:
            continue
        mine = found.setdefault(beat["worker"], {"finished": 0, "ended otherwise": 0, "now": ""})
        if trial.state == TrialState.RUNNING:
            age = (datetime.now(UTC) - datetime.fromisoformat(beat["at"])).total_seconds()
            seen = "" if age < beat["lease"] else f", not heard of for {age / 60:.0f} min"
            mine["now"] = f"run {trial.user_attrs['run_id']}, attempt {trial.user_attrs['attempt']}{seen}"
        elif trial.state.is_finished():  # a trial may have been taken while it was read
            mine["finished" if trial.state == TrialState.COMPLETE else "ended otherwise"] += 1
    return [
        f"worker {name}: {mine['now'] or 'no run now'}; {mine['finished']} finished, "
        f"{mine['ended otherwise']} ended otherwise"
        for name, mine in found.items()
    ]
