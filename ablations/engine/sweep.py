"""A sweep: it chooses settings on held-out training identities. The paper chose them by hand.

The test set has no part in the choice; only the chosen setting and the paper's are evaluated on it. This module
defines sweeps and their files; `ablations.engine.trials` runs them with Optuna.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ablations.engine.experiment import Experiment
from ablations.engine.request import Request
from ablations.engine.study import Task
from msinet.errors import UserError, unknown_name
from msinet.io import stable_hash

Values = Mapping[str, float]


@dataclass(frozen=True)
class Sweep:
    """The settings that a sweep varies, and the experiment of one trial."""

    name: str
    space: dict[str, tuple[float, float, bool]]
    """lowest value, highest value and logarithmic scale of each setting; the first setting is varied by default"""
    data: Callable[[Request], Task]
    """training set and ranked set of the trials"""
    default: Callable[[Request, str], dict[str, float]]
    """values of the first trial for a training set"""
    trial: Callable[[Request, Task, Values], Experiment]
    """experiment for values of the varied settings"""


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep searches its space."""

    trials: int = 8
    """total number of trials; the first has the default values: overlap 0.4, weight 2"""
    vary: tuple[str, ...] = ()
    """settings to vary: overlap, side_ratio, temperature, momentum; empty: overlap, or alignment_weight"""
    grid: tuple[float, ...] = ()
    """values to try, each once, instead of the sampler's proposals"""
    pruning: Literal["none", "asha"] = "none"
    """asha: run trials at a quarter, half and full length; after each stage only the better half continues"""
    storage: str = ""
    """journal file or database URL of the trials; empty: a journal in STORE/sweeps/"""
    trials_at_once: int = 1
    """trials at once on a cluster; with several, proposals depend on which trials finish first"""

    def varied(self, sweep: Sweep) -> tuple[str, ...]:
        """The settings to vary.

        Raises:
            UserError: an unknown setting, no trial, or a grid over several settings or out of range.
        """
        vary = self.vary or tuple(sweep.space)[:1]
        for name in vary:
            if name not in sweep.space:
                raise unknown_name("setting to vary", name, sweep.space)
        if self.trials < 1 or self.trials_at_once < 1:
            raise UserError("--trials and --trials-at-once must be at least 1")
        low, high, _ = sweep.space[vary[0]]
        if self.grid and (len(vary) > 1 or not all(low <= value <= high for value in self.grid)):
            raise UserError(f"a grid is over one setting, with values in [{low:g}, {high:g}] for {vary[0]}")
        return vary


def summary_path(request: Request, name: str) -> Path:
    """File with the outcome of the last sweep of that name for a profile, a data root, its protocol and the recipes."""
    settings = [request.recipe, request.search_recipe, request.recipe_of, request.name, request.keep_same_camera]
    if request.data_root is not None:
        settings.append(str(request.root.resolve()))
    usual = replace(
        request, data_root=None, recipe=(), search_recipe=(), recipe_of="paper", name="", keep_same_camera=False
    )
    words = [name, request.profile, request.root_name, "" if usual == request else stable_hash(settings)[:6]]
    return request.store / "sweeps" / f"{'-'.join(filter(None, words))}.json"


def set_name(task: Task) -> str:
    """Data sets of a sweep's trials, as its outcome names them."""
    return " to ".join(dict.fromkeys(task))


def read_summary(request: Request, name: str, task: Task) -> dict[str, Any] | None:
    """Outcome of the last such sweep; None if there is none, or if it was on other data sets than `task`."""
    path = summary_path(request, name)
    found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return found if found is not None and found["set"] == set_name(task) else None


def shortened(experiment: Experiment, share: float) -> Experiment:
    """The experiment at a share of its length; likewise the search whose genotype it trains."""
    search, recipe = experiment.genotype_from, experiment.recipe
    return replace(
        experiment,
        recipe=recipe.with_epochs(max(1, round(recipe.schedule.epochs * share))),
        genotype_from=None if search is None else shortened(search, share),
    )
