"""Sweeps: Optuna studies over what the paper chose by hand, judged on held-out training identities.

The overlap sweep is over what twins contrast leaves open: a trial searches and trains on three quarters of the training
identities and ranks the others. The alignment sweep is over the weight of spatial alignment, across data sets where two
are at hand: a trial trains on one and ranks held-out training identities of the other. So the test set has no say in
the choice; only what was chosen meets it, beside the paper's.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from ablations.alignment import across, weighted
from ablations.catalogue import Catalogue, Cell, Request, home
from ablations.experiment import Experiment
from ablations.queue import open_storage
from ablations.runner import execute, found_genotype, make_plan
from ablations.searches import SOURCE, retrained, trained
from ablations.store import Store
from ablations.table2 import TABLE2, column_label
from msinet.data.datasets import HELD_OUT
from msinet.errors import UserError, unknown_name
from msinet.io import exclusive, write_csv, write_json
from msinet.models.msinet import SEARCHED
from msinet.training.options import RunOptions
from msinet.training.recipe import Losses
from msinet.training.run import stable_hash

#: Shares of the full length at which a trial may be given up, each twice the one before (successive halving).
RUNGS = (0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Study:
    """What a sweep varies, and how one trial becomes an experiment."""

    name: str
    space: dict[str, tuple[float, float, bool]]
    """what can be varied, the usual first: lowest and highest value, and whether steps are of the logarithm"""
    place: Callable[[Request], tuple[str, str]]
    """training set and ranked set of the trials"""
    default: Callable[[Request, str], dict[str, float]]
    """the values of the first trial for a training set"""
    trial: Callable[[Request, tuple[str, str], dict[str, float], float], Experiment]
    """the experiment for values of what is varied, at a share of its length"""


def summary_path(request: Request, name: str = "overlap") -> Path:
    """Where the last sweep of that name, profile and data root left its outcome.

    What one world prefers is not shown beside results on another.
    """
    data = "" if request.data_root is None else f"-{request.data_root.resolve().name}"
    return request.store / "sweeps" / f"{name}-{request.profile}{data}.json"


def sweep(
    request: Request,
    run_options: RunOptions,
    study: Study,
    *,
    vary: Sequence[str] = (),
    trials: int = 8,
    grid: Sequence[float] = (),
    pruning: Literal["none", "asha"] = "none",
    storage: str = "",
) -> Path:
    """Run a study until it has so many finished trials; the same call goes on after any stop.

    The first trial is the default (overlap 0.4; weight 2). Trials that were cut off start again with the same values,
    and what they had already searched or trained is in the store.

    Args:
        request: profile, data, recipes, store.
        run_options: device, workers and the like.
        study: what it is about.
        vary: names in the study's space; empty: the usual one.
        trials: finished or pruned trials to reach.
        grid: values to try in place of the sampler's choice, each once; where one thing is varied.
        pruning: none, or asha: trials are run at a quarter, a half and the whole of their length, and only the better
            half goes on each time.
        storage: file of the journal, or a database URL; by default beside the store's other sweeps.

    Returns:
        The JSON file with the outcome; the trials stand beside it as CSV.

    Raises:
        UserError: unknown names, a grid over several things or out of range, too few data, another sweep at work.
    """
    vary = tuple(vary) or tuple(study.space)[:1]
    for name in vary:
        if name not in study.space:
            raise unknown_name("setting to vary", name, study.space)
    if trials < 1:
        raise UserError("a sweep needs at least one trial")
    low, high, _ = study.space[vary[0]]
    if grid and (len(vary) > 1 or not all(low <= value <= high for value in grid)):
        raise UserError(f"a grid is over one setting, with values in [{low:g}, {high:g}] for {vary[0]}")
    place = study.place(request)
    inner = replace(request, datasets=tuple(dict.fromkeys(place)))
    default = {name: value for name, value in study.default(inner, place[0]).items() if name in vary}
    known = make_plan(_catalogue([]), inner).datasets
    key = stable_hash(
        [
            *(known[name].fingerprint for name in dict.fromkeys(place)),
            list(vary),
            request.profile,
            request.recipe,
            request.search_recipe,
            pruning,
        ]
    )
    folder = request.store / "sweeps"
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / f"{key}.lock", f"a sweep in {folder}"):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        trial_book = optuna.create_study(
            storage=open_storage(storage or str(folder / f"{key}.journal")),
            study_name=f"{study.name}-{key}",
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
            if pruning == "asha"
            else optuna.pruners.NopPruner(),
        )
        _restart_cut_off(trial_book)
        _enqueue(trial_book, [{vary[0]: value} for value in grid] or [default])
        wanted = len(set(grid)) if grid else trials
        while (number := len(_finished(trial_book))) < wanted:
            # A sampler of its own for each trial: what is proposed depends on the finished trials alone.
            seed = int(
                np.random.SeedSequence(number).generate_state(1)[0]
            )  # neighbouring seeds would propose neighbours
            trial_book.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=4)
            trial = trial_book.ask()
            changes = {
                name: trial.suggest_float(name, low, high, log=log)
                for name, (low, high, log) in study.space.items()
                if name in vary
            }
            told = ", ".join(f"{name} {value:.3g}" for name, value in changes.items())
            tqdm.write(f"trial {number + 1} of {wanted}: {told}")
            _run_trial(trial_book, trial, inner, partial(study.trial, inner, place, changes), pruning, run_options)
        return _write_outcome(trial_book, study, request, inner, place, vary)


def _run_trial(
    study: "optuna.Study",
    trial: optuna.Trial,
    inner: Request,
    experiment_of: Callable[[float], Experiment],
    pruning: str,
    run_options: RunOptions,
) -> None:
    store = Store(inner.store)
    for rung in RUNGS if pruning == "asha" else (1.0,):
        experiment = experiment_of(rung)
        plan = make_plan(_catalogue([experiment]), inner)
        tally = execute(plan, store, run_options)
        if tally["running"] or tally["failed"]:
            study.tell(trial, state=TrialState.FAIL)
            raise UserError(
                f"a trial with {trial.params} could not be finished; what went wrong stands in {store.root}/failed"
            )
        plan = make_plan(_catalogue([experiment]), inner)
        *searches, training = plan.runs()
        record = json.loads((store.run_folder(training.run_id) / "record.json").read_text(encoding="utf-8"))
        if searches:
            trial.set_user_attr("genotype", found_genotype(store, searches[0]))
        trial.set_user_attr("run_ids", [run.run_id for run in (*searches, training)])
        trial.report(record["mAP"], step=round(rung / RUNGS[0]))
        if rung < 1 and trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)  # its value is the last one reported
            return
    study.tell(trial, record["mAP"])


def _shortened(experiment: Experiment, share: float) -> Experiment:
    recipe = experiment.recipe
    return replace(experiment, recipe=recipe.with_epochs(max(1, round(recipe.schedule.epochs * share))))


def overlap_place(request: Request) -> tuple[str, str]:
    """MSMT17's training identities, or those of the first set at hand."""
    source = home(request.available_datasets(), SOURCE) + HELD_OUT
    return source, source


def overlap_default(request: Request, source: str) -> dict[str, float]:
    """What the profile searches with."""
    recipe = request.search(source, 0).recipe
    return {name: getattr(recipe.search, name) for name in OVERLAP.space}


def overlap_trial(request: Request, place: tuple[str, str], changes: dict[str, float], share: float) -> Experiment:
    """The training of what a search with these changes finds, both at a share of their length."""
    search = _shortened(request.search(place[0], 0, **changes), share)
    return _shortened(retrained(request, place[0], 0, search), share)


OVERLAP = Study(
    name="overlap",
    space={
        "overlap": (0.0, 1.0, False),
        "side_ratio": (0.5, 4.0, True),
        "temperature": (0.02, 0.2, True),
        "momentum": (0.0, 0.9, False),
    },
    place=overlap_place,
    default=overlap_default,
    trial=overlap_trial,
)


def alignment_place(request: Request) -> tuple[str, str]:
    """From the training set of Figure 5e to held-out training identities of its test set."""
    _, source, target = across(request, request.available_datasets())
    return (source + HELD_OUT, source + HELD_OUT) if source == target else (source, target + HELD_OUT)


def alignment_default(request: Request, source: str) -> dict[str, float]:
    """The paper's weight."""
    del request, source
    return {"alignment_weight": Losses().alignment_weight}


def alignment_trial(request: Request, place: tuple[str, str], changes: dict[str, float], share: float) -> Experiment:
    """MSINet with alignment of that weight, at a share of its length."""
    return _shortened(weighted(request, *place, 0, "scratch", changes["alignment_weight"]), share)


ALIGNMENT = Study(
    name="alignment",
    space={"alignment_weight": (0.0, 4.0, False)},
    place=alignment_place,
    default=alignment_default,
    trial=alignment_trial,
)
STUDIES = {study.name: study for study in (OVERLAP, ALIGNMENT)}


def _catalogue(experiments: Sequence[Experiment]) -> Catalogue:
    cells = [Cell("trial", "trial", "held out", experiment) for experiment in experiments]
    return Catalogue("trial", "One trial of the sweep", "", "", "", {"held out": ("R1", "mAP")}, lambda *_: cells)


def _finished(study: "optuna.Study") -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _restart_cut_off(study: "optuna.Study") -> None:
    """A trial that was running when its process ended is tried again, before any other."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)


def _enqueue(study: "optuna.Study", wanted: Sequence[dict[str, float]]) -> None:
    """Add what no trial has or had: grids are enumerated, so that no cell runs twice."""
    known = [
        trial.params or trial.system_attrs.get("fixed_params", {})
        for trial in study.get_trials(deepcopy=False)
        if trial.state != TrialState.FAIL
    ]
    for values in dict.fromkeys(tuple(one.items()) for one in wanted):
        if dict(values) not in known:
            study.enqueue_trial(dict(values))


def _write_outcome(
    trial_book: "optuna.Study",
    study: Study,
    request: Request,
    inner: Request,
    place: tuple[str, str],
    vary: Sequence[str],
) -> Path:
    finished = sorted(_finished(trial_book), key=lambda trial: trial.number)
    path = summary_path(request, study.name)
    write_csv(
        path.with_suffix(".csv"),
        [
            {
                "trial": number,
                **trial.params,
                "mAP": trial.value,
                "state": trial.state.name.lower(),
                "genotype": trial.user_attrs.get("genotype", ""),
                "run_ids": " ".join(trial.user_attrs["run_ids"]),
            }
            for number, trial in enumerate(finished)
        ],
    )
    complete = [trial for trial in finished if trial.state == TrialState.COMPLETE]
    best = max(complete, key=lambda trial: trial.value or 0.0)
    importances: dict[str, float] = {}
    if len(vary) > 1 and len(complete) >= 4:
        importances = optuna.importance.get_param_importances(
            trial_book, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
        )
    # The default's runs are in the store if the default was a trial, as it is unless a grid leaves it out.
    default = study.trial(inner, place, study.default(inner, place[0]), 1.0)
    searched = default.genotype_from is not None
    write_json(
        path,
        {
            "set": " to ".join(dict.fromkeys(place)),
            "profile": request.profile,
            "vary": list(vary),
            "trials": len(finished),
            "states": dict(Counter(trial.state.name.lower() for trial in finished)),
            "best": best.params,
            "best_mAP": best.value,
            "best_genotype": best.user_attrs.get("genotype", ""),
            "default_genotype": found_genotype(Store(inner.store), make_plan(_catalogue([default]), inner).runs()[0])
            if searched
            else "",
            "importances": importances,
        },
    )
    return path


def overlap_cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """The sweep's best genotype and the default's on the whole training set, beside the paper's, once per seed."""
    source = home(datasets, SOURCE)
    column = column_label(source, source)
    rows = {"MSINet, the paper's genotype": SEARCHED}
    path = summary_path(request)
    if path.exists():
        outcome: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if outcome["default_genotype"]:
            rows["default search, overlap 0.4"] = outcome["default_genotype"]
        told = ", ".join(f"{name} {value:.3g}" for name, value in outcome["best"].items())
        rows[f"best of the sweep, {told}"] = outcome["best_genotype"]
    return [
        Cell("from scratch", row, column, trained(request, source, seed, genotype))
        for seed in range(request.seeds)
        for row, genotype in rows.items()
    ]


SWEEP = Catalogue(
    name="sweep_overlap",
    title="Sweep: the overlap that held-out identities prefer",
    varies="overlap of the two sides (on request side ratio, temperature, momentum), chosen on held-out identities",
    fixed="supernet, iterations of the search, training recipe of the profile, data set (MSMT17, or the first at hand)",
    nuisance="seed of the last trainings",
    columns=TABLE2.columns,
    cells=overlap_cells,
    baseline="MSINet, the paper's genotype",
)


def alignment_cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
    """No alignment, the paper's weight and the sweep's on the test set, once per seed."""
    column, source, target = across(request, datasets)
    weights = {"no alignment": 0.0, f"the paper's weight, {Losses().alignment_weight:g}": Losses().alignment_weight}
    path = summary_path(request, ALIGNMENT.name)
    if path.exists():
        best = float(json.loads(path.read_text(encoding="utf-8"))["best"]["alignment_weight"])
        weights[f"best of the sweep, {best:.3g}"] = best
    return [
        Cell("from scratch", row, column, weighted(request, source, target, seed, "scratch", weight))
        for seed in range(request.seeds)
        for row, weight in weights.items()
    ]


ALIGNMENT_SWEEP = Catalogue(
    name="sweep_alignment",
    title="Sweep: the weight of spatial alignment that held-out identities prefer",
    varies="weight of the alignment (lambda_sa) in [0, 4], chosen on held-out identities",
    fixed="MSINet, alignment PAM-self, cross-domain recipe of the profile (VR to VID, or the first set at hand)",
    nuisance="seed of the last trainings",
    columns=TABLE2.columns,
    cells=alignment_cells,
    baseline="no alignment",
)
