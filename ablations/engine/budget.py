"""A time budget: a run starts only if it should end in time. Importing this module does not import torch."""

import csv
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.engine.experiment import Experiment
from msinet.data.datasets import Dataset
from msinet.errors import UserError
from msinet.training.recipe import Recipe

#: Network, task (train, search, pretrain or a method without labels), image size.
Key = tuple[str, str, int, int]
#: Estimates are multiplied by this factor, because the speed of a machine varies.
MARGIN = 1.25
#: Seconds per step if no step time of a task is known, about three times those of MSINet without CUDA graphs: on a GPU
#: at any image size, on a CPU for each `UNKNOWN_AREA` pixels.
UNKNOWN_ON_GPU, UNKNOWN_ON_CPU, UNKNOWN_AREA = 0.2, 1.0, 64 * 32
#: Seconds of a run outside its training: data, evaluation, files.
OVERHEAD = 10.0


def key_of(experiment: Experiment) -> Key:
    """Settings that determine the time of a step."""
    options = "".join(f" {name}={value}" for name, value in experiment.options if name == "pam")
    recipe, task = experiment.recipe, "train"  # mechanism tpe of a search trains networks as well
    if recipe.search is not None and recipe.search.mechanism != "tpe":
        task = "search"
    if recipe.unsupervised is not None:
        task = recipe.unsupervised.method
    return experiment.model + options, task, recipe.image.height, recipe.image.width


def steps_of(experiment: Experiment, dataset: Dataset) -> int:
    """Steps of an experiment; 0 if it uses the weights of another one."""
    return 0 if experiment.same_weights else steps_in(experiment.recipe, len(dataset.train))


def steps_in(recipe: Recipe, images: int) -> int:
    """Steps of a training or iterations of a search; an estimate where an epoch is one pass over the images."""
    steps, search = recipe.sampler.steps_per_epoch, recipe.search
    if steps is None:
        share = 1.0
        if search is not None:  # the training side: its own identities, and half of the images of shared ones
            share = (1 - search.overlap) / (1 + search.side_ratio) + search.overlap / 2
        steps = int(images * share // recipe.sampler.batch)
    if search is not None and search.mechanism == "tpe":  # a batch of each side in an iteration, all for trainings
        steps *= 2
    return recipe.schedule.epochs * steps


@dataclass
class Budget:
    """The remaining time and the known step times."""

    deadline: float
    """in seconds of `time.time`, which all machines of a cluster share; their monotonic clocks differ"""
    device: str = "cpu"
    """name of the device in records and tables"""
    rates: dict[Key, float] = field(default_factory=dict)
    """seconds per step"""

    @classmethod
    def of(
        cls,
        minutes: float,
        device: str,
        steps: Path | None = None,
        records: Iterable[Mapping[Any, Any]] = (),
        *,
        graphs: bool = False,
        jobs: int = 1,
    ) -> "Budget":
        """A budget that starts now, with step times of a device from steps.csv of `bench gpu` and from finished runs.

        Args:
            minutes: total time.
            device: name of the device in records and tables.
            steps: steps.csv.
            records: of finished runs.
            graphs: whether steps are captured as CUDA graphs.
            jobs: runs that share a GPU; each is assumed to be `jobs` times slower than in steps.csv.

        Raises:
            UserError: a negative time, or no such file of step times.
        """
        if minutes < 0:
            raise UserError(f"--minutes must be at least 0, got {minutes:g}")
        budget, mode = cls(time.time() + 60 * minutes, device), "graph" if graphs else "eager"
        if steps is not None:
            try:
                with steps.open(encoding="utf-8", newline="") as stream:
                    for row in csv.DictReader(stream):
                        key = row["network"], row["task"], int(row["height"]), int(row["width"])
                        if (row["device"], row["mode"], row["precision"]) == (device, mode, "tf32"):
                            budget.rates[key] = max(1, jobs) * float(row["loop_ms"]) / 1e3
            except (OSError, ValueError, KeyError) as error:
                raise UserError(f"--step-times {steps} is not a steps.csv of `bench gpu` ({error!r:.200})") from error
        for record in records:
            if record["device"] == device:
                budget._note_record(record)
        return budget

    def _note_record(self, record: Mapping[Any, Any]) -> None:
        """Update the step time from a row of a frame of records."""
        pam = " pam=True" if record.get("option.pam") is True else ""
        mechanism, method = record.get("recipe.mechanism"), record.get("recipe.method")
        task = "search" if isinstance(mechanism, str) and mechanism != "tpe" else "train"
        task = method if isinstance(method, str) else task
        self.note((record["model"] + pam, task, int(record["recipe.height"]), int(record["recipe.width"])), record)

    def left(self) -> float:
        """Remaining seconds."""
        return self.deadline - time.time()

    def rate(self, key: Key) -> float:
        """Seconds per step. An unknown network counts as the slowest known one of its task.

        At another size, a network takes at most as long as at a larger size, and at most as much longer than at a
        smaller one as there are more pixels. If no step time of the task is known, it is assumed.
        """
        network, task, height, width = key
        bounds: dict[str, float] = {}
        for (name, other, h, w), rate in self.rates.items():
            if other == task:
                bounds[name] = min(bounds.get(name, math.inf), rate * max(1.0, height * width / (h * w)))
        assumed = UNKNOWN_ON_CPU * height * width / UNKNOWN_AREA if self.device == "cpu" else UNKNOWN_ON_GPU
        return self.rates.get(key) or bounds.get(network) or max(bounds.values(), default=assumed)

    def estimate(self, key: Key, steps: int) -> float:
        """Estimated seconds of a run; `OVERHEAD` for a run without steps."""
        return MARGIN * (OVERHEAD + steps * self.rate(key)) if steps else OVERHEAD

    def admits(self, key: Key, steps: int) -> bool:
        """Return whether a run should end in time."""
        return self.estimate(key, steps) < self.left()

    def note(self, key: Key, record: Mapping[Any, Any]) -> None:
        """Update the step time from the record of a finished run, whose seconds include those of earlier attempts."""
        steps, training, labelling = (
            0.0 if math.isnan(value := float(record.get(name) or 0)) else value  # a frame of records has gaps
            for name in ("steps", "seconds_training", "seconds_labelling")
        )
        if steps > 0 and training > 0:
            self.rates[key] = (training + labelling) / steps
