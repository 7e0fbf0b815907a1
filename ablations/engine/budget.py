"""A time budget: a run starts only if it should end in time. Importing this module does not import torch."""

import csv
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.engine.experiment import Experiment
from msinet.data.datasets import Dataset

#: Network, task, image size.
Key = tuple[str, str, int, int]
#: Estimates are multiplied by this factor, because the speed of a machine varies.
MARGIN = 1.25
#: Seconds of a run outside its training: data, evaluation, files.
OVERHEAD = 10.0


def key_of(experiment: Experiment) -> Key:
    """Settings that determine the time of a step."""
    options = "".join(f" {name}={value}" for name, value in experiment.options if name == "pam")
    image, task = experiment.recipe.image, "search" if experiment.is_search else "train"
    return experiment.model + options, task, image.height, image.width


def steps_of(experiment: Experiment, dataset: Dataset) -> int:
    """Steps of a training or iterations of a search; an estimate where an epoch is one pass over the data set."""
    if experiment.same_weights:  # uses the weights of another training
        return 0
    recipe = experiment.recipe
    steps = recipe.sampler.steps_per_epoch
    if steps is None:
        images = len(dataset.train) * ((1 + recipe.search.overlap) / 4 if recipe.search is not None else 1)
        steps = int(images // recipe.sampler.batch)
    return recipe.schedule.epochs * steps


@dataclass
class Budget:
    """The remaining time and the known step times."""

    deadline: float
    """in seconds of `time.monotonic`"""
    rates: dict[Key, float] = field(default_factory=dict)
    """seconds per step"""

    @classmethod
    def of(
        cls, minutes: float, steps: Path | None = None, records: Iterable[Mapping[Any, Any]] = (), jobs: int = 1
    ) -> "Budget":
        """A budget that starts now, with step times from steps.csv of `bench gpu` and from records of finished runs.

        Steps in steps.csv were measured alone; `jobs` runs that share a GPU are assumed to be `jobs` times slower.
        """
        budget = cls(time.monotonic() + 60 * minutes)
        if steps is not None and steps.exists():
            with steps.open(encoding="utf-8", newline="") as stream:
                for row in csv.DictReader(stream):
                    key = row["network"], row["task"], int(row["height"]), int(row["width"])
                    if row["mode"] == "graph" and row["precision"] == "tf32":
                        budget.rates[key] = max(1, jobs) * float(row["loop_ms"]) / 1e3
        for record in records:
            budget._note_record(record)
        return budget

    def _note_record(self, record: Mapping[Any, Any]) -> None:
        steps, seconds = float(record.get("steps") or 0), float(record.get("seconds_training") or 0)
        if steps > 0 and seconds > 0:
            pam = " pam=True" if record.get("option.pam") is True else ""
            task = "search" if isinstance(record.get("genotype"), str) else "train"
            size = int(record["recipe.height"]), int(record["recipe.width"])
            self.rates[record["model"] + pam, task, *size] = seconds / steps

    def left(self) -> float:
        """Remaining seconds."""
        return self.deadline - time.monotonic()

    def estimate(self, experiment: Experiment, steps: int) -> float:
        """Estimated seconds of a run; 0 if no step time is known, `OVERHEAD` for a run without steps.

        An unknown network counts as the slowest known one at any image size.
        """
        if not steps:
            return OVERHEAD
        if not self.rates:
            return 0.0
        rate = self.rates.get(key_of(experiment), max(self.rates.values()))
        return MARGIN * (OVERHEAD + steps * rate)

    def admits(self, experiment: Experiment, steps: int) -> bool:
        """Return whether a run should end in time. While no step time is known, every run may start."""
        return self.estimate(experiment, steps) < self.left()

    def note(self, experiment: Experiment, steps: int, seconds: float) -> None:
        """Update the step time from the total seconds of a finished run."""
        if steps:
            self.rates[key_of(experiment)] = seconds / steps
