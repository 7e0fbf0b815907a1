"""A sweep: settings that the paper chose by hand, chosen on held-out training identities instead.

The test set has no part in the choice; only the chosen setting is evaluated on it, beside the paper's. This module
defines sweeps and their files; `ablations.engine.trials` runs them with Optuna.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ablations.engine.experiment import Experiment
from ablations.engine.request import Request
from ablations.engine.study import Task

Values = Mapping[str, float]


@dataclass(frozen=True)
class Sweep:
    """The settings that a sweep varies, and the experiment of one trial."""

    name: str
    space: dict[str, tuple[float, float, bool]]
    """lowest and highest value of each setting, and whether steps are logarithmic; the first is varied by default"""
    data: Callable[[Request], Task]
    """training set and ranked set of the trials"""
    default: Callable[[Request, str], dict[str, float]]
    """values of the first trial for a training set"""
    trial: Callable[[Request, Task, Values], Experiment]
    """experiment for values of the varied settings"""


def summary_path(request: Request, name: str) -> Path:
    """Outcome of the last sweep of that name on a profile and data root."""
    data = "" if request.data_root is None else f"-{request.data_root.resolve().name}"
    return request.store / "sweeps" / f"{name}-{request.profile}{data}.json"


def read_summary(request: Request, name: str) -> dict[str, Any] | None:
    """Outcome of the last such sweep; None before the first."""
    path = summary_path(request, name)
    found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return found


def shortened(experiment: Experiment, share: float) -> Experiment:
    """The experiment at a share of its length; likewise the search whose genotype it trains."""
    search, recipe = experiment.genotype_from, experiment.recipe
    return replace(
        experiment,
        recipe=recipe.with_epochs(max(1, round(recipe.schedule.epochs * share))),
        genotype_from=None if search is None else shortened(search, share),
    )
