"""Runs sweeps: Optuna proposes settings; each trial is trained, then ranked on held-out training identities."""

import os
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from ablations.engine.cluster import connection
from ablations.engine.experiment import RESULTS_VERSION, Experiment
from ablations.engine.options import ClusterOptions
from ablations.engine.request import Request
from ablations.engine.resolve import Resolution, resolve
from ablations.engine.runner import execute
from ablations.engine.store import Store
from ablations.engine.study import single
from ablations.engine.sweep import Sweep, SweepOptions, Values, set_name, shortened, summary_path
from msinet.errors import UserError
from msinet.io import exclusive, stable_hash, write_csv, write_json
from msinet.terminal import INTERRUPTED
from msinet.training.options import RunOptions

#: Shares of the full length at which a trial may be pruned, each twice the one before (successive halving).
RUNGS = (0.25, 0.5, 1.0)
#: Seconds between two looks at a run that another trial or another command works on.
WAIT = 10.0


def run_sweep(
    request: Request,
    run_options: RunOptions,
    sweep: Sweep,
    options: SweepOptions | None = None,
    cluster: ClusterOptions | None = None,
) -> Path:
    """Run trials until the requested number is finished. The same call resumes after a stop.

    The first trial has the default values. Interrupted trials start again with the same values; their finished
    searches and trainings are in the store.

    Args:
        request: profile, data, recipes, store.
        run_options: device, workers and the like.
        sweep: settings to choose.
        options: number of trials, grid, pruning and storage.
        cluster: where trials are carried out; None: on this machine, one after the other.

    Returns:
        The JSON file with the outcome; the CSV file of the same name has the trials.

    Raises:
        UserError: unknown names, a grid over several settings or out of range, too few data, another sweep in
            progress, or several trials at once without a cluster.
    """
    options, cluster = options or SweepOptions(), cluster or ClusterOptions()
    if options.trials_at_once > 1 and not cluster.remote:
        raise UserError("several trials at once need --on ray or --on slurm; --on ray alone starts Ray on this machine")
    trials = _Trials(request, run_options, sweep, options, cluster)
    folder = request.store / "sweeps"
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / f"{trials.key}.lock", f"a sweep in {folder}"):
        trials.open(options.storage or str(folder / f"{trials.key}.journal"))
        with connection(cluster):
            trials.run()
        return trials.write_outcome()


def open_storage(where: str) -> optuna.storages.BaseStorage:
    """Optuna's storage: a journal file, or a database by its URL.

    Raises:
        UserError: the storage cannot be used.
    """
    from optuna.storages import JournalStorage, get_storage
    from optuna.storages.journal import JournalFileBackend

    try:
        if "://" in where:
            return get_storage(where)
        Path(where).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(where))
    except Exception as error:
        raise UserError(
            f"the trials cannot be kept in {shown(where)} ({type(error).__name__}); give a journal file, or the URL of "
            "a database whose driver is installed"
        ) from None  # the original may hold the password


def shown(where: str) -> str:
    """A storage without its password, for messages."""
    scheme, separator, rest = where.partition("://")
    return f"{scheme}{separator}***@{rest.rpartition('@')[2]}" if "@" in rest else where


def _values(trial: FrozenTrial) -> dict[str, float]:
    """The values of a trial, also before it began: those it was queued with. Empty: the sampler proposes them."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


class _Trials:
    """The trials of one sweep."""

    def __init__(
        self, request: Request, run_options: RunOptions, sweep: Sweep, options: SweepOptions, cluster: ClusterOptions
    ) -> None:
        self.sweep, self.options, self.run_options, self.cluster = sweep, options, run_options, cluster
        self.vary = options.varied(sweep)
        self.task = sweep.data(request)
        names = tuple(dict.fromkeys(self.task))
        self.outer, self.request = request, replace(request, datasets=names)
        self.store = Store(request.store)
        self.default = sweep.default(self.request, self.task[0])
        fingerprints = [request.load(name).fingerprint for name in names]
        settings: list[object] = [list(self.vary), request.profile, request.recipe, request.search_recipe]
        settings.append(options.pruning)
        # Version 3 is left out, so that sweeps that were begun before the version was part of the key continue.
        settings += [RESULTS_VERSION] if RESULTS_VERSION > 3 else []
        self.key = stable_hash([*fingerprints, *settings])

    def open(self, storage: str) -> None:
        """Open the existing trials, queue interrupted ones again, then the grid or the default values."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        halving = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
        self.book = optuna.create_study(
            storage=open_storage(storage),
            study_name=f"{self.sweep.name}-{self.key}",
            direction="maximize",
            load_if_exists=True,
            pruner=halving if self.options.pruning == "asha" else optuna.pruners.NopPruner(),
        )
        for trial in self.book.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.book.tell(trial.number, state=TrialState.FAIL)
            if values := _values(trial):
                self.book.enqueue_trial(values)
        known = [_values(trial) for trial in self.book.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]
        default = {name: value for name, value in self.default.items() if name in self.vary}
        for values in self.grid or [default]:
            if values not in known:
                self.book.enqueue_trial(values)

    @property
    def grid(self) -> list[dict[str, float]]:
        """The values of the grid, each once."""
        return [{self.vary[0]: value} for value in dict.fromkeys(self.options.grid)]

    def finished(self) -> list[FrozenTrial]:
        """Complete and pruned trials in order."""
        trials = self.book.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return sorted(trials, key=lambda trial: trial.number)

    def counts(self) -> tuple[int, int]:
        """Number of finished trials, and of those that are still to finish.

        With a grid those are its values without a trial, whatever an earlier call has tried.
        """
        done = [trial.params for trial in self.finished()]
        left = sum(values not in done for values in self.grid) if self.grid else self.options.trials - len(done)
        return len(done), left

    def run(self) -> None:
        """Run trials until the requested ones are finished."""
        if self.options.trials_at_once > 1:
            self.run_several()
            return
        while (counts := self.counts())[1] > 0:
            self.run_trial(*self.next_trial(counts[0], sum(counts)))

    def run_several(self) -> None:
        """Run several trials at once on a cluster."""
        begun = set[Future[None]]()
        with ThreadPoolExecutor(self.options.trials_at_once) as threads:
            try:
                while (counts := self.counts())[1] > 0 or begun:
                    done, left = counts
                    while len(begun) < min(self.options.trials_at_once, left):
                        begun.add(threads.submit(self.run_trial, *self.next_trial(done + len(begun), done + left)))
                    ended, begun = wait(begun, return_when=FIRST_COMPLETED)
                    for one in ended:
                        one.result()  # raises the error of its trial
            except KeyboardInterrupt:
                # The threads would continue until their trials end. Ray ends the tasks of a command that has exited.
                tqdm.write("interrupted; the same command resumes from the last checkpoints")
                os._exit(INTERRUPTED)

    def next_trial(self, number: int, wanted: int) -> tuple[optuna.Trial, Values]:
        """The next trial and its values."""
        # A new sampler for each trial, so that a proposal depends only on the other trials. Consecutive seeds would
        # give similar proposals.
        seed = int(np.random.SeedSequence(number).generate_state(1)[0])
        several = self.options.trials_at_once > 1
        self.book.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=4, constant_liar=several)
        trial = self.book.ask()
        values = {
            name: trial.suggest_float(name, low, high, log=log)
            for name, (low, high, log) in self.sweep.space.items()
            if name in self.vary
        }
        shown = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
        tqdm.write(f"trial {number + 1} of {wanted}: {shown}")
        return trial, values

    def run_trial(self, trial: optuna.Trial, values: Values) -> None:
        """Run one trial at each share of its length and report its mAP."""
        for rung in RUNGS if self.options.pruning == "asha" else (1.0,):
            experiment = shortened(self.sweep.trial(self.request, self.task, values), rung)
            tally = self.executed(experiment)
            if tally["failed"]:
                self.book.tell(trial, state=TrialState.FAIL)
                raise UserError(f"a trial with {trial.params} failed; {self.store.root}/failed holds the error")
            *searches, training = self.resolved(experiment).runs()
            record = self.store.record(training.run_id)
            if searches:
                trial.set_user_attr("genotype", self.store.genotype(searches[0].run_id))
            trial.set_user_attr("run_ids", [one.run_id for one in (*searches, training)])
            trial.report(record["mAP"], step=round(rung / RUNGS[0]))
            if rung < 1 and trial.should_prune():
                self.book.tell(trial, state=TrialState.PRUNED)  # its value is the last reported one
                return
        self.book.tell(trial, record["mAP"])

    def executed(self, experiment: Experiment) -> Counter[str]:
        """Carry out the runs of one trial; returns their number by outcome.

        Another trial may have found the same genotype and be training it. Its run is then waited for.
        """
        while True:
            tally = execute(self.resolved(experiment), self.store, self.run_options, cluster=self.cluster)
            if not tally["running"]:
                return tally
            tqdm.write(f"the trial waits until another process has finished its run: {experiment}")
            time.sleep(WAIT)

    def resolved(self, experiment: Experiment) -> Resolution:
        """The runs of one trial."""
        return resolve(single(experiment, "trial"), self.request, self.store)

    def default_genotype(self) -> str:
        """The genotype of the default values; empty if it is unknown or nothing is searched."""
        searches = self.resolved(self.sweep.trial(self.request, self.task, self.default)).searches
        return next((genotype for run_id in searches if (genotype := self.store.genotype(run_id))), "")

    def write_outcome(self) -> Path:
        """Write the best values, and all trials as CSV."""
        trials = self.finished()
        path = summary_path(self.outer, self.sweep.name)
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
                for number, trial in enumerate(trials)
            ],
        )
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        best = max(complete, key=lambda trial: trial.value or 0.0)
        importances: dict[str, float] = {}
        if len(self.vary) > 1 and len(complete) >= 4:
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            importances = optuna.importance.get_param_importances(self.book, evaluator=evaluator)
        outcome = {
            "set": set_name(self.task),
            "profile": self.request.profile,
            "vary": list(self.vary),
            "trials": len(trials),
            "states": dict(Counter(trial.state.name.lower() for trial in trials)),
            "best": best.params,
            "best_mAP": best.value,
            "best_genotype": best.user_attrs.get("genotype", ""),
            "default_genotype": self.default_genotype(),
            "importances": importances,
        }
        write_json(path, outcome)
        return path
