"""Runs on this machine: one after the other, or several at once, each in its own process.

Networks on small images gain little from a second thread: two runs at once with one thread each finish sooner than two
runs one after the other with two threads. Threads that wait for each other become very slow as soon as another program
needs a core (docs/performance.md).
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch

from ablations.engine.attempt import Attempts
from ablations.engine.engines import POLL, Engine, Outcome, Outcomes, are_small, drive
from ablations.engine.resolve import Run
from msinet.errors import UserError

#: How processes are started.
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"

OnStep = Callable[[int, float], None]


@dataclass(frozen=True)
class Plan:
    """Number of runs at once, and of threads per run."""

    jobs: int
    threads: int


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def choose_jobs(runs: Sequence[Run], device: str, jobs: int = 0) -> Plan:
    """Choose the number of runs at once and of threads per run.

    On a CPU, runs on small images always have one thread each, so that their results do not depend on `jobs`. Other
    runs share all threads. By default they run one after the other.

    Args:
        runs: the runs to carry out.
        device: cpu or cuda.
        jobs: runs at once; 0: one per core on small images on a CPU, else 1.

    Raises:
        UserError: `jobs` is below 0.
    """
    if jobs < 0:
        raise UserError(f"--jobs must be at least 0, got {jobs}")
    small = device == "cpu" and are_small(runs)
    most = max(1, len(runs))
    chosen = min(most, jobs or (cores() if small else 1))
    return Plan(chosen, 1 if small else max(1, torch.get_num_threads() // chosen))


def one_by_one(attempts: Attempts, runs: Sequence[Run], plan: Plan, on_step: OnStep) -> Outcomes:
    """Carry out runs in this process; yields the number, outcome and message of each."""
    before = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    try:
        for number, run in enumerate(runs):
            yield number, *attempts.attempt(run, lambda share, number=number: on_step(number, share))  # type: ignore[misc]
    finally:
        torch.set_num_threads(before)


class Pool(Engine):
    """Processes on this machine.

    Args:
        attempts: shared data of the runs.
        plan: number of processes and threads.
        count: number of runs.
        on_step: called with the number and the finished share of a run.
    """

    def __init__(self, attempts: Attempts, plan: Plan, count: int, on_step: OnStep) -> None:
        context: Any = multiprocessing.get_context(METHOD)
        if METHOD == "forkserver":
            context.set_forkserver_preload(["ablations.engine.attempt"])  # torch is imported once for all processes
        self.on_step, self.shares = on_step, context.Array("d", count)
        self.broken = False
        # Without a lock, which a signal handler could not wait for.
        self.stopping, self.started = context.RawValue("b", 0), context.SimpleQueue()
        arguments = (attempts, plan.threads, self.shares, self.stopping, self.started, os.getpid())
        self.processes = ProcessPoolExecutor(plan.jobs, context, _start, arguments)

    def submit(self, runs: Mapping[int, Run]) -> list[Future[Outcome]]:
        """Queue runs for the next free process."""
        with self._whole():
            return [self.processes.submit(_attempt, number, run) for number, run in runs.items()]

    def finished(self, handles: Sequence[Future[Outcome]]) -> Iterable[Future[Outcome]]:
        """Wait until a run ends, for `POLL` seconds at most, and show the progress of all runs."""
        done, _ = wait(handles, timeout=POLL, return_when=FIRST_COMPLETED)
        for number, share in enumerate(self.shares):
            self.on_step(number, share)
        return done

    def outcome(self, handle: Future[Outcome], run: Run) -> Outcome:
        """The result of the process."""
        del run
        with self._whole():
            return handle.result()

    def stop(self, handles: Sequence[Future[Outcome]]) -> None:
        """Interrupt the processes and wait until they have saved their states."""
        del handles
        if not self.broken:  # else the executor has interrupted the others; a second signal would stop them at once
            self.stopping.value = 1
            while not self.started.empty():
                with suppress(ProcessLookupError):
                    os.kill(self.started.get(), signal.SIGTERM)
        self.processes.shutdown(wait=True, cancel_futures=True)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Report a lost process as a user error."""
        try:
            yield
        except BrokenProcessPool as error:
            self.broken = True
            raise UserError(
                "a process of a run ended unexpectedly, perhaps because memory ran out; the same command resumes, "
                "and --jobs 1 needs less memory"
            ) from error


def at_once(attempts: Attempts, runs: Sequence[Run], plan: Plan, on_step: OnStep) -> Outcomes:
    """Carry out runs in several processes of this machine.

    Raises:
        UserError: a process ended unexpectedly.
        KeyboardInterrupt: all processes saved their state first.
    """
    pool = Pool(attempts, plan, len(runs), on_step)
    with pool.processes:
        yield from drive(pool, attempts, runs)


# --- In the process of a run ---------------------------------------------------------------------

#: Shared data of the processes, and the process id of the first one.
_shared: tuple[Attempts, Any, Any, int]
#: Whether this process carries out a run.
_busy = False


def _start(attempts: Attempts, threads: int, shares: Any, stopping: Any, started: Any, first: int) -> None:
    """Prepare a process."""
    global _shared
    _shared = (attempts, shares, stopping, first)
    if sys.platform != "win32":
        os.setsid()  # Ctrl-C reaches only the first process, which stops the others once
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_follow, args=(first,), daemon=True).start()
    torch.set_num_threads(threads)
    started.put(os.getpid())


def _follow(first: int) -> None:
    """Interrupt this process if the first one was killed. Its parent, the fork server, may survive."""
    while _lives(first):
        time.sleep(2 * POLL)
    os.kill(os.getpid(), signal.SIGTERM)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _expected() -> bool:
    """True if the first process stops all runs and waits until their states are saved.

    A process must not end then, even if it is idle. The executor would interrupt the others a second time, while they
    save, and could wait for them forever.
    """
    _, _, stopping, first = _shared
    return bool(stopping.value) and _lives(first)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    if _busy:
        raise KeyboardInterrupt
    if not _expected():
        os._exit(1)


def _attempt(number: int, run: Run) -> Outcome:
    """Carry out one run."""
    global _busy
    attempts, shares, stopping, _ = _shared
    if stopping.value:
        raise KeyboardInterrupt

    def on_step(share: float) -> None:
        shares[number] = share

    _busy = True
    try:
        return attempts.attempt(run, on_step)
    except KeyboardInterrupt:
        if not _expected():
            os._exit(1)  # no process waits for the result
        raise
    finally:
        _busy = False
