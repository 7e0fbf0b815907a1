"""How much memory a piece of work takes at its peak."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
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


#: For glibc: whatever has 64 KiB or more goes back to the system when it is freed, so that a process is never larger
#: than what it holds. Slow, and for `peak_extra` alone.
EXACT = "glibc.malloc.mmap_threshold=65536:glibc.malloc.mmap_max=1000000"


def in_a_fresh_process(work: Callable[..., Result], *arguments: object, tunables: str | None = None) -> Result:
    """`work(*arguments)` in a process of its own, where no memory of earlier work is handed out again.

    Args:
        work: of a module, as the process imports it.
        arguments: that can be pickled.
        tunables: for glibc in that process, such as `EXACT`; None: those of this one.

    Raises:
        concurrent.futures.process.BrokenProcessPool: the process died, as for lack of memory.
    """
    with _environment("GLIBC_TUNABLES", tunables), ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """A variable that processes started in the block inherit; None leaves it."""
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
