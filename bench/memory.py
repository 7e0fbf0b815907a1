"""How much memory a piece of work takes at its peak."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")


def peak_extra(work: Callable[[], object]) -> int | None:
    """Bytes by which the process grows at most while `work()` runs; None where Linux does not tell.

    The kernel's own high-water mark is set back before, so that nothing is sampled and nothing missed. What an
    allocator kept from earlier work and hands out again does not count: run the work in a fresh process, or once
    before if its steady state is wanted.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    before = _status("VmRSS")
    work()
    return max(0, _status("VmHWM") - before)


def in_a_fresh_process(work: Callable[..., Result], *arguments: object) -> Result:
    """`work(*arguments)` in a process of its own, where no memory of earlier work is handed out again.

    Raises:
        concurrent.futures.process.BrokenProcessPool: the process died, as for lack of memory.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))
