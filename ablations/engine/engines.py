"""The loop that submits runs to processes of any machine. Importing this module does not import torch."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, Protocol

from ablations.engine.resolve import Run

#: Outcome of an attempt and a message.
Outcome = tuple[str, str]
#: Number, outcome and message of each run as it ends.
Outcomes = Generator[tuple[int, str, str], None, None]
#: Message of a run that cannot start.
BLOCKED = "not run, what it needs is not finished"
#: Largest number of pixels per batch for which a run uses one thread: 64 images of 64x64.
SMALL = 64 * 64 * 64
#: Seconds between two checks of the runs in progress.
POLL = 0.5


class Waits(Protocol):
    """Knows which runs can start."""

    def ready(self, one: Run) -> Run | None:
        """The waiting run, ready to start; None if a run that it needs is not finished."""


def are_small(runs: Sequence[Run]) -> bool:
    """True if all runs have batches small enough for one thread on a CPU."""
    recipes = [one.experiment.recipe for one in runs]
    return all(one.image.height * one.image.width * one.sampler.batch <= SMALL for one in recipes)


class Engine(ABC):
    """Carries out runs in other processes. A handle identifies a submitted run."""

    limit: int = 0
    """largest number of submitted runs at a time; 0: no limit"""

    @abstractmethod
    def submit(self, runs: Mapping[int, Run]) -> list[Any]:
        """Submit runs, given by number, and return a handle for each."""

    @abstractmethod
    def finished(self, handles: Sequence[Any]) -> Iterable[Any]:
        """The handles of runs that have ended, after a wait of about `POLL` seconds at most."""

    @abstractmethod
    def outcome(self, handle: Any, run: Run) -> Outcome | None:
        """The outcome and message of a run that has ended; None: submit it again."""

    @abstractmethod
    def stop(self, handles: Sequence[Any]) -> None:
        """Stop runs. Their states are saved."""


def drive(engine: Engine, attempts: Waits, runs: Sequence[Run]) -> Outcomes:
    """Carry out runs with an engine; yields the number, outcome and message of each as it ends.

    A run that waits for another run is submitted when that run is finished. It may then be the same run as one in
    progress, because two searches found the same genotype. It is not submitted then, and counts as done with that one.

    Raises:
        KeyboardInterrupt: all runs saved their state first.
    """
    runs = list(runs)  # a waiting run is replaced when it becomes ready, which gives it its id
    waiting = [number for number, run in enumerate(runs) if run.state == "waiting"]
    todo = [number for number, run in enumerate(runs) if run.state != "waiting"]
    pending: dict[Any, int] = {}
    same = defaultdict[int, list[int]](list)
    try:
        while pending or todo:
            room = engine.limit - len(pending) if engine.limit else len(todo)
            next_ones, todo = todo[:room], todo[room:]
            if next_ones:
                handles = engine.submit({number: runs[number] for number in next_ones})
                pending |= dict(zip(handles, next_ones, strict=True))
            done = list(engine.finished(list(pending)))
            for handle in done:
                number = pending.pop(handle)
                outcome = engine.outcome(handle, runs[number])
                if outcome is None:
                    todo.append(number)
                    continue
                yield number, *outcome
                for other in same.pop(number, ()):
                    yield other, *(("done", "") if outcome[0] == "finished" else outcome)
            for number in list(waiting) if done else ():
                ready = attempts.ready(runs[number])
                if ready is not None:
                    waiting.remove(number)
                    runs[number] = ready
                    in_progress = {runs[other].run_id: other for other in (*pending.values(), *todo)}
                    first = in_progress.get(ready.run_id)
                    (todo if first is None else same[first]).append(number)
    except BaseException:  # Ctrl-C, or the caller stops early
        engine.stop(list(pending))
        raise
    for number in waiting:
        yield number, "blocked", BLOCKED
