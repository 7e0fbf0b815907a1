"""The state of a study's runs, as lines of text. Importing this module does not import torch."""

from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from statistics import fmean

from ablations.engine.budget import key_of
from ablations.engine.experiment import Experiment
from ablations.engine.resolve import Resolution, Run
from ablations.engine.store import Store

#: Share of a run's time that is left, by state.
LEFT = {"running": 0.5, "interrupted": 1.0, "missing": 1.0, "waiting": 1.0, "failed": 1.0}


def status_lines(resolution: Resolution, store: Store) -> Iterable[str]:
    """One line per run, then the remaining time and the number of runs by state."""
    runs = resolution.runs()
    width = max(len(str(one.experiment)) for one in runs)
    for one in runs:
        note = store.error(one.run_id) if one.state == "failed" else one.reason
        yield f"{one.run_id or '-' * 12}  {one.state:<11}  {one.experiment!s:<{width}}  {note}".rstrip()
    counts = Counter(one.state for one in runs)
    left = seconds_left(runs, store)
    if left is not None and counts["running"]:
        remaining = timedelta(seconds=round(left / counts["running"]))
        yield f"about {remaining} left at the pace of the finished runs, {counts['running']} at a time"
    yield ", ".join(f"{number} {state}" for state, number in counts.items() if number)


def seconds_left(runs: Iterable[Run], store: Store) -> float | None:
    """Seconds that the unfinished runs take one after the other; None without a finished run.

    A run is assumed to take the mean time of the finished runs of its network and task, or of all. A running one counts
    half.
    """
    took: dict[tuple[object, ...], list[float]] = {}
    for one in runs:
        if one.state == "done":
            record = store.record(one.run_id)
            parts = ("seconds_training", "seconds_labelling", "seconds_evaluating")
            seconds = sum(float(record.get(part, 0)) for part in parts)
            took.setdefault(_kind(one.experiment), []).append(seconds)
    every = [seconds for one in took.values() for seconds in one]
    if not every:
        return None
    return sum(LEFT.get(one.state, 0.0) * fmean(took.get(_kind(one.experiment), every)) for one in runs)


def _kind(experiment: Experiment) -> tuple[object, ...]:
    """Network and task, and whether anything is trained."""
    return *key_of(experiment)[:2], experiment.recipe.schedule.epochs > 0 and not experiment.same_weights
