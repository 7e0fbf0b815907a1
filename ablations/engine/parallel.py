"""Runs one after the other, or several at once on one machine, each in a process with one thread.

Networks on small images gain little from a second thread: two runs with a thread each finish sooner than one after the
other with two, and threads that wait for each other collapse as soon as another program needs a core
(docs/performance.md).
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch

from ablations.engine.attempt import BLOCKED, Attempts, Outcome
from ablations.engine.resolve import Run
from msinet.errors import UserError

#: Pixels of a batch up to which a run computes with one thread: 64 images of 64x64.
SMALL = 64 * 64 * 64
#: Seconds between two looks at the runs in progress.
POLL = 0.5
#: How processes are started.
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"

OnStep = Callable[[int, float], None]
Outcomes = Generator[tuple[int, str, str], None, None]


@dataclass(frozen=True)
class Plan:
    """How many runs there are at once, and with how many threads each."""

    jobs: int
    threads: int


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def choose_jobs(runs: Sequence[Run], device: str, jobs: int = 0) -> Plan:
    """Number of runs at once and of threads.

    On a CPU, runs on small images have one thread each, however many there are at once, so that their results do not
    depend on `jobs`. Runs on larger images are one after the other, with all threads.

    Args:
        runs: to be done.
        device: cpu or cuda.
        jobs: runs at once; 0: one per core on small images on a CPU, else 1.

    Raises:
        UserError: `jobs` is below 0.
    """
    if jobs < 0:
        raise UserError(f"--jobs must be at least 0, got {jobs}")
    recipes = [one.experiment.recipe for one in runs]
    small = device == "cpu" and all(one.image.height * one.image.width * one.sampler.batch <= SMALL for one in recipes)
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


def at_once(attempts: Attempts, runs: Sequence[Run], plan: Plan, on_step: OnStep) -> Outcomes:
    """Carry out runs in several processes; yields the number, outcome and message of each as it ends.

    Runs that wait for another one begin when it is finished.

    Raises:
        UserError: a process ended unexpectedly.
        KeyboardInterrupt: all processes saved their state first.
    """
    context: Any = multiprocessing.get_context(METHOD)
    if METHOD == "forkserver":
        context.set_forkserver_preload(["ablations.engine.attempt"])  # torch is imported once for all processes
    shares, stop, started = context.Array("d", len(runs)), context.Event(), context.SimpleQueue()
    arguments = (attempts, plan.threads, shares, stop, started)
    with ProcessPoolExecutor(plan.jobs, context, _start, arguments) as pool:
        waiting = {number: run for number, run in enumerate(runs) if run.state == "waiting"}
        pending: dict[Future[Outcome], int] = {
            pool.submit(_attempt, number, run): number for number, run in enumerate(runs) if number not in waiting
        }
        try:
            while pending:
                done, _ = wait(pending, timeout=POLL, return_when=FIRST_COMPLETED)
                for number, share in enumerate(shares):
                    on_step(number, share)
                for future in done:
                    yield pending.pop(future), *future.result()
                for number in [number for number, run in waiting.items() if done and attempts.ready(run)]:
                    pending[pool.submit(_attempt, number, waiting.pop(number))] = number
        except BrokenProcessPool as error:
            raise UserError(
                "a process of a run ended unexpectedly, perhaps for lack of memory; the same command resumes, "
                "--jobs 1 needs less memory"
            ) from error
        except BaseException:  # Ctrl-C, or the caller gives up
            stop.set()
            while not started.empty():
                os.kill(started.get(), signal.SIGTERM)
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    for number in waiting:
        yield number, "blocked", BLOCKED


# --- In the process of a run ---------------------------------------------------------------------

_shared: tuple[Attempts, Any, Any, int]


def _start(attempts: Attempts, threads: int, shares: Any, stop: Any, started: Any) -> None:
    """Prepare a process."""
    global _shared
    _shared = (attempts, shares, stop, os.getppid())
    if sys.platform != "win32":
        os.setsid()  # Ctrl-C goes to the first process alone, which asks the others once
    signal.signal(signal.SIGTERM, _interrupt)
    torch.set_num_threads(threads)
    started.put(os.getpid())


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _attempt(number: int, run: Run) -> Outcome:
    """Carry out one run."""
    attempts, shares, stop, parent = _shared
    if stop.is_set():
        raise KeyboardInterrupt

    def on_step(share: float) -> None:
        shares[number] = share
        if os.getppid() != parent:  # the first process was killed
            signal.raise_signal(signal.SIGTERM)

    try:
        return attempts.attempt(run, on_step)
    except KeyboardInterrupt:
        if os.getppid() != parent:
            os._exit(1)  # nobody waits for an answer
        raise
