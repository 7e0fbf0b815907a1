"""The overlap sweep: an Optuna study over what the paper leaves open in twins contrast, judged on held-out identities.

A trial searches and trains on three quarters of the training identities and ranks the others, so that the test set
has no say in the choice. Only the chosen genotype meets the test set, beside the paper's and the default's.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from ablations.catalogue import Catalogue, Cell, Request, home
from ablations.experiment import Experiment
from ablations.runner import execute, found_genotype, make_plan
from ablations.searches import SOURCE, retrained, trained
from ablations.store import Store
from ablations.table2 import TABLE2, column_label
from msinet.data.layouts import HELD_OUT
from msinet.errors import UserError, unknown_name
from msinet.io import exclusive, write_csv, write_json
from msinet.models.msinet import SEARCHED
from msinet.search import SearchRecipe
from msinet.training.run import How, stable_hash

#: What can be varied: lowest and highest value, and whether steps are of the logarithm.
SPACE: dict[str, tuple[float, float, bool]] = {
    "overlap": (0.0, 1.0, False),
    "side_ratio": (0.5, 4.0, True),
    "temperature": (0.02, 0.2, True),
    "momentum": (0.0, 0.9, False),
}
#: Shares of the full length at which a trial may be given up, each twice the one before (successive halving).
RUNGS = (0.25, 0.5, 1.0)


def summary_path(request: Request) -> Path:
    """Where the last sweep of a profile left its outcome."""
    return request.store / "sweeps" / f"overlap-{request.profile}.json"


def sweep(
    request: Request, how: How, *, vary: Sequence[str] = ("overlap",), trials: int = 8, grid: Sequence[float] = (),
    pruning: Literal["none", "asha"] = "none", storage: str = "",
) -> Path:  # fmt: skip
    """Run a study until it has so many finished trials; the same call goes on after any stop.

    The first trial is the default (overlap 0.4). Trials that were cut off start again with the same values, and what
    they had already searched or trained is in the store.

    Args:
        request: profile, data, recipes, store.
        how: device, workers and the like.
        vary: names in `SPACE`.
        trials: finished or pruned trials to reach.
        grid: overlaps to try in place of the sampler's choice, each once.
        pruning: none, or asha: trials are run at a quarter, a half and the whole of their length, and only the better
            half goes on each time.
        storage: file of the journal, or a database URL; by default beside the store's other sweeps.

    Returns:
        The JSON file with the outcome; the trials stand beside it as CSV.

    Raises:
        UserError: unknown names, a grid over something else than the overlap, too few data, another sweep at work.
    """
    for name in vary:
        if name not in SPACE:
            raise unknown_name("setting to vary", name, SPACE)
    if not vary or trials < 1:
        raise UserError("a sweep needs something to vary and at least one trial")
    if grid and (tuple(vary) != ("overlap",) or not all(0 <= value <= 1 for value in grid)):
        raise UserError("a grid is over the overlap alone, with values in [0, 1]")
    source = home(request.available_datasets(), SOURCE) + HELD_OUT
    inner = replace(request, datasets=(source,))
    plain = inner.search(source, 0).recipe
    assert isinstance(plain, SearchRecipe)
    fingerprint = make_plan(_catalogue([]), inner).datasets[source].fingerprint
    key = stable_hash([fingerprint, list(vary), request.profile, request.recipe, request.search_recipe, pruning])
    folder = request.store / "sweeps"
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / f"{key}.lock", f"a sweep in {folder}"):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            storage=_storage(storage or str(folder / f"{key}.journal")), study_name=f"overlap-{key}",
            direction="maximize", load_if_exists=True,
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
            if pruning == "asha" else optuna.pruners.NopPruner(),
        )  # fmt: skip
        _restart_cut_off(study)
        _enqueue(study, [{"overlap": value} for value in grid] or [{name: getattr(plain, name) for name in vary}])
        wanted = len(set(grid)) if grid else trials
        while (number := len(_finished(study))) < wanted:
            # A sampler of its own for each trial: what is proposed depends on the finished trials alone.
            seed = int(
                np.random.SeedSequence(number).generate_state(1)[0]
            )  # neighbouring seeds would propose neighbours
            study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=4)
            trial = study.ask()
            changes = {name: trial.suggest_float(name, low, high, log=log)
                       for name, (low, high, log) in SPACE.items() if name in vary}  # fmt: skip
            told = ", ".join(f"{name} {value:.3g}" for name, value in changes.items())
            tqdm.write(f"trial {number + 1} of {wanted}: {told}")
            _run_trial(study, trial, inner, source, changes, pruning, how)
        return _write_outcome(study, request, inner, source, vary)


def _run_trial(
    study: "optuna.Study", trial: optuna.Trial, inner: Request, source: str, changes: dict[str, float],
    pruning: str, how: How,
) -> None:  # fmt: skip
    store = Store(inner.store)
    for rung in RUNGS if pruning == "asha" else (1.0,):
        experiment = trial_experiment(inner, source, changes, rung)
        plan = make_plan(_catalogue([experiment]), inner)
        tally = execute(plan, store, how)
        if tally["running"] or tally["failed"]:
            study.tell(trial, state=TrialState.FAIL)
            raise UserError(
                f"a trial with {changes} could not be finished; what went wrong stands in {store.root}/failed"
            )
        plan = make_plan(_catalogue([experiment]), inner)
        search, training = plan.runs()
        record = json.loads((store.run_folder(training.run_id) / "record.json").read_text(encoding="utf-8"))
        trial.set_user_attr("genotype", found_genotype(store, search))
        trial.set_user_attr("run_ids", [search.run_id, training.run_id])
        trial.report(record["mAP"], step=round(rung / RUNGS[0]))
        if rung < 1 and trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)  # its value is the last one reported
            return
    study.tell(trial, record["mAP"])


def trial_experiment(request: Request, source: str, changes: dict[str, float], share: float = 1.0) -> Experiment:
    """The training of what a search with these changes finds, both at a share of their length."""

    def shortened(experiment: Experiment) -> Experiment:
        recipe = experiment.recipe
        return replace(experiment, recipe=recipe.with_epochs(max(1, round(recipe.epochs * share))))

    search = shortened(request.search(source, 0, **changes))
    return shortened(retrained(request, source, 0, search))


def _catalogue(experiments: Sequence[Experiment]) -> Catalogue:
    cells = [Cell("trial", "trial", "held out", experiment) for experiment in experiments]
    return Catalogue("trial", "One trial of the sweep", "", "", "", {"held out": ("R1", "mAP")}, lambda *_: cells)


def _storage(where: str) -> "optuna.storages.BaseStorage | str":
    if "://" in where:
        return where
    # The lock by an open file works where links do not, and dies with the process.
    return optuna.storages.JournalStorage(JournalFileBackend(where, lock_obj=JournalFileOpenLock(where)))


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
        for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL
    ]  # fmt: skip
    for values in dict.fromkeys(tuple(one.items()) for one in wanted):
        if dict(values) not in known:
            study.enqueue_trial(dict(values))


def _write_outcome(study: "optuna.Study", request: Request, inner: Request, source: str, vary: Sequence[str]) -> Path:
    finished = sorted(_finished(study), key=lambda trial: trial.number)
    path = summary_path(request)
    write_csv(path.with_suffix(".csv"), [
        {"trial": number, **trial.params, "mAP": trial.value, "state": trial.state.name.lower(),
         "genotype": trial.user_attrs["genotype"], "run_ids": " ".join(trial.user_attrs["run_ids"])}
        for number, trial in enumerate(finished)
    ])  # fmt: skip
    complete = [trial for trial in finished if trial.state == TrialState.COMPLETE]
    best = max(complete, key=lambda trial: trial.value or 0.0)
    importances: dict[str, float] = {}
    if len(vary) > 1 and len(complete) >= 4:
        importances = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
        )
    default = found_genotype(Store(inner.store), make_plan(
        _catalogue([trial_experiment(inner, source, {})]), inner).runs()[0])  # fmt: skip
    write_json(path, {
        "set": source, "profile": request.profile, "vary": list(vary), "trials": len(finished),
        "states": dict(Counter(trial.state.name.lower() for trial in finished)),
        "best": best.params, "best_mAP": best.value, "best_genotype": best.user_attrs["genotype"],
        "default_genotype": default, "importances": importances,
    })  # fmt: skip
    return path


def cells(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
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
        for seed in range(request.seeds) for row, genotype in rows.items()
    ]  # fmt: skip


SWEEP = Catalogue(
    name="sweep_overlap",
    title="Sweep: the overlap that held-out identities prefer",
    varies="overlap of the two sides (on request side ratio, temperature, momentum), chosen on held-out identities",
    fixed="supernet, iterations of the search, training recipe of the profile, data set (MSMT17, or the first at hand)",
    nuisance="seed of the last trainings",
    columns=TABLE2.columns,
    cells=cells,
    baseline="MSINet, the paper's genotype",
)
