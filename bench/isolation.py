"""Measurements in another process, so that one failure does not affect the others.

After a CUDA error a process cannot use the GPU, and a crash ends a process. Contenders are therefore measured in a
separate process. If one fails, the others continue in a new process. Importing this module does not import torch, so
that small processes start fast.
"""

import math
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")
Row = dict[str, Any]
#: Kind ("row", "error" or "late"), number of the item, and its row or its error.
Message = tuple[str, int, Any]


class Report(Protocol):
    """Receives what happens to the items, by their numbers."""

    def at(self, number: int) -> None:
        """Note that work on an item begins. If the process dies, this item has failed."""

    def row(self, number: int, row: Row) -> None:
        """Report the result of an item."""


#: Measures items and reports on them.
Work = Callable[[Sequence[Any], Report], None]


class Failure(str):
    """The error message of an item."""


class Late(Failure):
    """The message of an item that was stopped because the time was over. With more time it may succeed."""


def isolated(
    work: Work, items: Sequence[Item], *, patience: float = 300.0, deadline: float = math.inf, method: str = "spawn"
) -> Iterator[tuple[Item, Row | Failure]]:
    """Measure items in a separate process; after a failure the others continue in a new one.

    Args:
        work: a function at the top level of a module, or a partial one. Items on which it does not report are left out.
        items: values that can be pickled.
        patience: seconds without a report after which the process is killed.
        deadline: time of `time.monotonic` at which the process is killed. Items after the current one are left out.
        method: how processes are started.

    Yields:
        Each item with its row or its error, as they come.
    """
    return _attempts(lambda left: _in_a_process(work, left, patience, deadline, method), items)


def direct(work: Work, items: Sequence[Item]) -> Iterator[tuple[Item, Row | Failure]]:
    """Measure items in this process. On a CPU, an error does not make the process unusable."""
    return _attempts(lambda left: iter(_here(work, left)), items)


def _attempts(
    run: Callable[[Sequence[Item]], Iterator[Message]], items: Sequence[Item]
) -> Iterator[tuple[Item, Row | Failure]]:
    left = list(items)
    while left:
        done: set[int] = set()
        failed = False
        for kind, number, value in run(left):
            if kind == "late":
                yield left[number], Late(value)
                return
            failed = failed or kind == "error"
            if number not in done:
                done.add(number)
                yield left[number], (Failure(value) if kind == "error" else value)
        if not failed:  # `work` left the others out on purpose
            return
        left = [item for number, item in enumerate(left) if number not in done]


class _Sender:
    """A report that goes to another process."""

    def __init__(self, there: Connection) -> None:
        self.there, self.current = there, 0

    def at(self, number: int) -> None:
        self.current = number
        self.there.send(("at", number, None))

    def row(self, number: int, row: Row) -> None:
        self.there.send(("row", number, row))


def _child(work: Work, items: Sequence[Any], there: Connection) -> None:
    report = _Sender(there)
    try:
        work(items, report)
    except Exception as error:
        there.send(("error", report.current, _message(error)))
    there.send(("end", 0, None))


def _in_a_process(work: Work, items: Sequence[Any], patience: float, deadline: float, method: str) -> Iterator[Message]:
    context: Any = multiprocessing.get_context(method)
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, items, there))
    process.start()
    there.close()
    current, ended, heard = 0, False, time.monotonic()
    try:
        while not ended:
            left = deadline - time.monotonic()
            if not here.poll(max(0.0, min(patience, left))):
                process.kill()
                if left < patience:
                    yield "late", current, f"not ready after {time.monotonic() - heard:.0f} s, when the time was over"
                else:
                    yield "error", current, f"killed: no sign of life for {patience:.0f} s"
                break
            heard = time.monotonic()
            try:
                kind, number, value = here.recv()
            except EOFError:
                process.join()
                yield "error", current, f"its process ended with {_status(process.exitcode)}"
                break
            ended = kind == "end"
            if kind == "at":
                current = number
            elif not ended:
                yield kind, number, value
    finally:  # also if the caller stops early
        here.close()
        process.join(30.0 if ended else 0.0)
        process.kill()
        process.join()


class _Notes:
    """A report that is kept in a list."""

    def __init__(self) -> None:
        self.current = 0
        self.messages: list[Message] = []

    def at(self, number: int) -> None:
        self.current = number

    def row(self, number: int, row: Row) -> None:
        self.messages.append(("row", number, row))


def _here(work: Work, items: Sequence[Any]) -> list[Message]:
    report = _Notes()
    try:
        work(items, report)
    except Exception as error:
        report.messages.append(("error", report.current, _message(error)))
    return report.messages


def _message(error: Exception) -> str:
    """The error on one line, with file and line number."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    first = next((line for line in str(error).splitlines() if line.strip()), "no message")
    return f"{type(error).__name__}: {first[:300]} ({where.filename.rpartition('/')[2]}:{where.lineno})"


def _status(code: int | None) -> str:
    return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"status {code}"
