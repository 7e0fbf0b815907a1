"""A worker: takes runs from the queue, one at a time, each in a process of its own.

The worker itself computes nothing, so that it can send a beat to the queue every few seconds. After each beat it sends
a message to the process of the run through a pipe. A run that receives no message for a third of the lease (its worker
was killed, is stopped or cannot reach the queue) saves its state and ends; after another third it is killed. So it is
over before another worker may take it. It also holds the store's lock of the run, and publishing is one rename.
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
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from optuna.trial import FrozenTrial

from ablations.engine.job import ATTEMPTS, Job, jobs
from ablations.engine.prepare import prepare
from ablations.engine.queue import Queue, QueueError, enqueue
from ablations.engine.resolve import resolve
from ablations.engine.runner import execute
from ablations.engine.store import Store
from ablations.engine.study import single
from msinet.errors import Busy, DataError, UserError
from msinet.models.genotype import GENOTYPE, read_genotype
from msinet.training.options import RunOptions

#: Exit status of the process of a run: the run is published; it failed; this machine cannot run it; another process
#: works on it; its state was saved.
PUBLISHED, FAILED, UNFIT, BUSY, STOPPED = 0, 1, 2, 3, 4
#: Seconds for a run to finish its step and save its state when the worker is interrupted.
PATIENCE = 60.0
#: A worker ends when this many different runs failed in a row, as it is probably the reason.
STRIKES = 3


#: Does the run of a job, in the process of the run; returns the exit status.
Perform = Callable[[Job, Store], int]


def perform(job: Job, store: Store, *, run_options: RunOptions) -> int:
    """Carry out the run of one job, in the process of the run.

    Raises:
        UserError: this machine cannot run it: no such device, no data or other data, another version of the code.
    """
    request = job.request(store)
    study = single(job.parse(job.experiment), job.study)
    prepare(study, request, run_options)
    resolution = resolve(study, request, store)
    if resolution.runs()[-1].run_id != job.run_id:  # a training whose weights it ranks with comes before it
        raise DataError(
            f"run {job.run_id} of {job.study} is another run here: the data under {request.root}, the weights or the "
            "code differ from those where it was enqueued"
        )
    tally = execute(resolution, store, run_options)
    return FAILED if tally["failed"] else BUSY if tally["running"] else PUBLISHED


def _run(work: Perform, job: Job, store: Store, there: Connection, here: Connection, patience: float) -> None:
    """Main function of the process of a run."""
    here.close()  # inherited where processes are forked; only the worker may hold its end
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
    """Interrupt this process if its worker sends nothing for `patience` seconds, and end it after as many more."""
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
    """Takes runs from a queue until it is empty."""

    queue: Queue
    work: Perform
    name: str = field(default_factory=lambda: f"{platform.node()}-{os.getpid()}-{secrets.token_hex(2)}")
    lease: float = 90.0
    """seconds without a beat after which other workers consider this one lost"""
    attempts: int = ATTEMPTS
    """attempts at a run before it has failed for good"""
    max_runs: int = 0
    """runs after which the worker ends; 0: no limit"""
    idle_exit: float | None = None
    """idle seconds after which the worker ends although others still work; None: it ends when nothing is left"""
    outage: float = 600.0
    """seconds to wait for a queue that cannot be reached"""
    data_root: Path | None = None
    """folder of the data sets on this machine, if not as in the job"""
    pretrained: Path | None = None
    """folder of the weights on this machine, if not as in the job"""
    method: str = "forkserver"
    """how processes are started; forkserver imports torch once, before the queue is opened or a device is used"""
    _runs: int = field(default=0, init=False)
    _failed: bool = field(default=False, init=False)
    _strikes: set[str] = field(default_factory=set, init=False)
    _retired_at: float = field(default=0.0, init=False)

    def __call__(self) -> int:
        """Take and carry out runs. Returns 0, or 1 if a run failed here.

        Raises:
            QueueError: the queue could not be reached for too long.
            UserError: this machine cannot do the runs, or several runs in a row failed.
            KeyboardInterrupt: SIGINT or SIGTERM arrived; the run saved its state and is queued again.
        """
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            # Importing torch in the first process may take longer than the time between two beats.
            first = multiprocessing.get_context(self.method).Process(target=_nothing)  # type: ignore[attr-defined]
            first.start()
            first.join()
            return self._loop()
        finally:
            signal.signal(signal.SIGTERM, before)

    def _loop(self) -> int:
        idle_since = lost_since = 0.0
        while True:
            try:
                if lost_since:
                    self.queue.open()
                trial = self._turn()
                left = trial is not None or any(not other.state.is_finished() for other in self.queue.trials())
                lost_since = 0.0
            except QueueError as error:
                if not lost_since:
                    lost_since = time.monotonic()
                    self._say(f"{error}; trying again for {self.outage / 60:.0f} min")
                elif time.monotonic() - lost_since > self.outage:
                    raise
                time.sleep(self.lease / 45)
                continue
            if trial is not None:
                idle_since = 0.0
                if self._runs == self.max_runs:
                    self._say(f"done: {self._runs} run(s)")
                    return int(self._failed)
                continue
            idle_since = idle_since or time.monotonic()
            if not left or (self.idle_exit is not None and time.monotonic() - idle_since > self.idle_exit):
                self._say("others work on what is left" if left else "nothing is left to do")
                return int(self._failed)
            time.sleep(self.lease / 45)  # 2 s

    def _turn(self) -> FrozenTrial | None:
        """Take a trial and do its run; None if there is none to take."""
        if time.monotonic() - self._retired_at > self.lease / 9:
            self._retired_at = time.monotonic()
            self._retire()
        trial = self.queue.take(self.name, self.lease)
        if trial is None:
            self.queue.repair()
            return None
        self._runs += 1
        published = self._one(trial)
        if published:
            self._strikes.clear()
        elif published is False:
            self._failed = True
            self._strikes.add(trial.user_attrs["run_id"])
            if len(self._strikes) >= STRIKES:
                raise UserError(
                    f"{STRIKES} different runs failed in a row on {platform.node()}: this worker ends so that it does "
                    f"not fail all; {self.queue.store.root / 'failed'} holds their errors"
                )
        return trial

    def _retire(self) -> None:
        for trial in self.queue.retire(self.lease, self.attempts):
            job = Job.from_attrs(trial.user_attrs)
            worker = (trial.user_attrs.get("beat") or {}).get("worker", "unknown")
            self._say(f"run {job.run_id}: worker {worker} was lost")
            if job.attempt >= self.attempts and not self.queue.store.done(job.run_id):
                self.queue.store.fail(job.run_id, None, f"worker {worker} was lost at attempt {job.attempt}\n")

    def _one(self, trial: FrozenTrial) -> bool | None:
        """True if the run was published, False if it failed, None if neither."""
        job, store = Job.from_attrs(trial.user_attrs), self.queue.store
        if not store.done(job.run_id):
            self._say(f"run {job.run_id}, attempt {job.attempt}")
            code, message = self._process(trial, job)
        if store.done(job.run_id):  # however its process ended after that
            if (store.run_folder(job.run_id) / GENOTYPE).exists():
                self._follow(trial)
            self.queue.finish(trial)
            return True
        if code is None:
            return None
        if code in (STOPPED, BUSY, UNFIT):  # no fault of the run
            self.queue.fail(trial, message or "given back", following=job.attempt)
            if code == UNFIT:
                raise UserError(message)
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
        """Run the process of a job with beats; its exit status (None: another worker took over) and its message."""
        context: Any = multiprocessing.get_context(self.method)
        here, there = context.Pipe()
        arguments = (self.work, self._here(job), self.queue.store, there, here, self.lease / 3)
        process = context.Process(target=_run, args=arguments)
        process.start()
        there.close()
        ours, count, message = True, 0, ""
        try:
            while ours:
                process.join(self.lease / 9)
                if process.exitcode is not None:
                    break
                count += 1
                began = time.monotonic()
                try:
                    ours = self.queue.beat(trial, self.name, self.lease, count)
                except QueueError as error:  # the run ends if this continues
                    self._say(str(error))
                    continue
                if ours and time.monotonic() - began < self.lease / 4:
                    with contextlib.suppress(OSError):  # it has just ended
                        here.send_bytes(b".")
            if ours and here.poll():
                with contextlib.suppress(EOFError, OSError):
                    message = here.recv_bytes().decode()
        except KeyboardInterrupt:
            self._say(f"run {job.run_id} saves its state")
            self._stop(process, here, PATIENCE)
            with contextlib.suppress(QueueError):  # otherwise other workers notice after the lease
                if not self.queue.store.done(job.run_id):
                    self.queue.fail(trial, "interrupted", following=job.attempt)
            raise
        if not ours:
            self._say(f"run {job.run_id} was taken over by another worker")
            self._stop(process, here, self.lease)
            return None, ""
        here.close()
        return process.exitcode, message

    @staticmethod
    def _stop(process: Any, here: Connection, patience: float) -> None:
        here.close()  # then the run saves its state and ends
        try:
            process.join(patience)
        finally:
            process.kill()
            process.join()

    def _follow(self, trial: FrozenTrial) -> None:
        """After a search: queue the trainings of its genotype."""
        latest = next(one for one in self.queue.trials() if one.number == trial.number)
        job, store, found = self._here(Job.from_attrs(latest.user_attrs)), self.queue.store, []
        for training in map(job.parse, job.trainings):
            request = job.request(store)
            known = training.known(read_genotype(store.run_folder(job.run_id) / GENOTYPE))
            found += jobs(resolve(single(known, job.study), request, store))
        added = enqueue(self.queue, found, again=False)["added"]
        self._say(f"search {job.run_id} is finished: {added} run(s) more")

    def _here(self, job: Job) -> Job:
        """The job with the paths of this machine."""
        return replace(
            job, data_root=str(self.data_root or job.data_root), pretrained=str(self.pretrained or job.pretrained)
        )

    def _say(self, what: str) -> None:
        print(f"{datetime.now().astimezone():%H:%M:%S} {self.name}: {what}", flush=True)


def _nothing() -> None:
    pass


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
