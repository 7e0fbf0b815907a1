"""Peak memory of a call."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from msinet.errors import UserError

Result = TypeVar("Result")


def peak_extra(work: Callable[[], object]) -> int | None:
    """Largest growth of the process in bytes while `work()` runs; None outside Linux.

    Reads the kernel's high-water mark, which is reset first. Memory that the allocator reuses from earlier work does
    not count: run the work in a fresh process, or once before to measure its steady state.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    before = _status("VmRSS")
    work()
    return max(0, _status("VmHWM") - before)


#: For glibc: freed blocks of 64 KiB or more go back to the system, so that a process is never larger than the memory in
#: use. Slow; only for `peak_extra`.
EXACT = "glibc.malloc.mmap_threshold=65536:glibc.malloc.mmap_max=1000000"


def peak_and_seconds(work: Callable[[], object]) -> tuple[int | None, float]:
    """Result of `peak_extra`, and seconds of the call."""
    seconds = 0.0

    def timed() -> None:
        nonlocal seconds
        began = time.perf_counter()
        work()
        seconds = time.perf_counter() - began

    return peak_extra(timed), seconds


def in_a_fresh_process(
    what: str, work: Callable[..., Result], *arguments: object, tunables: str | None = None
) -> Result:
    """Run `work(*arguments)` in a new process, which has no memory of earlier work to reuse.

    Args:
        what: name of the measurement in an error message.
        work: a function at the top level of a module.
        arguments: values that can be pickled.
        tunables: GLIBC_TUNABLES of that process, such as `EXACT`; None: those of this process.

    Raises:
        UserError: the process died, for example because memory ran out.
    """
    with _environment("GLIBC_TUNABLES", tunables), ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(work, *arguments).result()
        except BrokenProcessPool as error:
            raise UserError(
                f"{what} was not measured: its process ended unexpectedly, perhaps because memory ran out; "
                "choose a smaller measurement or free some memory"
            ) from error


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable for processes that start in the block; None: no change."""
    before = os.environ.get(name)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        if before is not None:
            os.environ[name] = before
        elif value is not None:
            del os.environ[name]


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))
