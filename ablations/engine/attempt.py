"""One attempt at a run: train or search, then publish the result or record the failure."""

import json
import shutil
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ablations.engine.budget import Budget, key_of, steps_of
from ablations.engine.engines import BLOCKED, Outcome
from ablations.engine.experiment import Experiment
from ablations.engine.resolve import Run
from ablations.engine.store import Store
from bench.cost import count
from msinet.data import Dataset
from msinet.errors import Busy, UserError
from msinet.io import write_text
from msinet.models import build_model, load_weights
from msinet.models.foreign import weights_hash
from msinet.search import SearchRun, search, search_line
from msinet.training.checkpoint import remove_checkpoints
from msinet.training.options import RunOptions
from msinet.training.run import Training, run
from msinet.training.run_folder import RECORD, Record
from msinet.unsupervised import learn, load_start

OnStep = Callable[[float], None]
#: Seconds that an attempt waits for the lock of its run. `status` and reports hold it for a moment to learn the state.
PATIENCE = 2.0
#: File in a partial run that was started by `--no-resume`: the call that started it.
CALL = ".call"


@dataclass(frozen=True)
class Attempts:
    """The data that all runs of one call of `execute` share. Each process gets a copy."""

    datasets: Mapping[str, Dataset]
    fingerprints: Mapping[str, str]
    """fingerprints by data set"""
    root: Path
    """folder of the store"""
    run_options: RunOptions
    costs: Mapping[Experiment, Record]
    budget: Budget | None = None
    """remaining time; each process learns step times from its own runs"""
    call: str = field(default_factory=lambda: uuid.uuid4().hex)
    """differs in each call of `execute`"""

    @property
    def store(self) -> Store:
        """Where finished runs are published."""
        return Store(self.root)

    def use_threads(self, threads: int) -> None:
        """Set torch's number of threads in this process."""
        torch.set_num_threads(threads)

    def attempt(self, one: Run, on_step: OnStep) -> Outcome:
        """Carry out one run.

        Args:
            one: the run; if its state is waiting, that is checked again.
            on_step: called with the finished share of the run, in [0, 1].

        Returns:
            The outcome and a message, which may be empty. Outcomes: "finished"; "failed"; "done" or "running" by
            another process; "blocked" by an unfinished run; "postponed" for lack of time.
        """
        if one.state == "waiting":
            ready = self.ready(one)
            if ready is None:
                return "blocked", BLOCKED
            one = ready
        store, key = self.store, key_of(one.experiment)
        steps = steps_of(one.experiment, self.datasets[one.experiment.source])
        if self.budget is not None and not self.budget.admits(key, steps):
            return "postponed", ""
        try:
            with store.lock(one.run_id, PATIENCE):
                if store.done(one.run_id):  # finished by another process meanwhile
                    return "done", ""
                record = self._publish(one, on_step)
            if self.budget is not None:
                self.budget.note(key, record)
            return "finished", f"{_summary(record)} -> {store.run_folder(one.run_id)}"
        except Busy:
            return "running", "another process works on it"
        except Exception as error:  # one failure must not stop the other runs
            path = store.fail(one.run_id, one.experiment, _report(error))
            return "failed", f"FAILED: {error} -> {path}"

    def ready(self, one: Run) -> Run | None:
        """The run, ready to start; None if the search or training that it needs is not finished."""
        e = one.experiment
        if e.genotype_from is not None:
            genotype = self.store.genotype(e.genotype_from.run_id(self.fingerprints, None))
            if genotype is None:
                return None
            e = e.known(genotype)
        if e.same_weights and not self.store.done(self._id(e.training, one)):
            return None
        return Run(e, self._id(e, one), "missing", one.weights)

    def _id(self, e: Experiment, one: Run) -> str:
        return e.run_id(self.fingerprints, weights_hash(one.weights) if one.weights else None)

    def _publish(self, one: Run, on_step: OnStep) -> Record:
        """Train or search, unless that is done already, and publish the result."""
        e, folder = one.experiment, self.store.partial_folder(one.run_id)
        source, target = self.datasets[e.source], self.datasets[e.target]
        costs = self.costs.get(e) or cost(e, source.num_classes, one.weights)
        if not self.run_options.resume:
            self._start_again(folder)
        run_options = replace(self.run_options, resume=True)
        if (folder / RECORD).exists():  # killed between the end of the run and its publication
            record: Record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            remove_checkpoints(folder)
        elif e.is_search:
            search_run = SearchRun(source, e.recipe, e.seed, e.model, dict(e.options))
            record = search(folder, search_run, run_options, on_step)
        else:
            training = Training(e.model, dict(e.options), source, target, e.recipe, e.seed, one.weights)
            trained = self.store.run_folder(self._id(e.training, one)) if e.same_weights else None
            work = learn if e.is_unsupervised else run
            record = work(folder, replace(training, trained=trained), run_options, on_step)
        self.store.publish(one.run_id, e, costs | record)
        return record

    def _start_again(self, folder: Path) -> None:
        """Remove an unfinished run, but not one of this call: a cluster may need several attempts for it."""
        begun = folder / CALL
        if not begun.exists() or begun.read_text(encoding="utf-8") != self.call:
            shutil.rmtree(folder, ignore_errors=True)
            write_text(begun, self.call)


def cost(experiment: Experiment, num_classes: int, weights: Path | None) -> Record:
    """Parameters and multiply-adds of an experiment's network at its image size.

    Raises:
        WeightsError: the pre-trained weights do not fit the network.
    """
    options: dict[str, Any] = dict(experiment.options)
    if experiment.recipe.search is not None:
        options["mid"] = experiment.recipe.search.mid
    image = experiment.recipe.image
    classes = 1 if experiment.is_unsupervised else num_classes  # as `Training.classes`
    model = build_model(experiment.model, classes, image=(image.height, image.width), **options)
    if weights is not None:
        (load_start if experiment.is_unsupervised else load_weights)(model, weights)
    counted = count(model, image.height, image.width)
    return {
        "parameters": counted.parameters,
        "parameters_without_classifier": counted.parameters_without_classifier,
        "parameters_at_inference": counted.parameters_at_inference,
        "macs": counted.macs,
    }


def _summary(record: dict[str, Any]) -> str:
    if "genotype" in record:
        return f"{search_line(record)} in {record['seconds_training']:.0f} s"
    return f"R1 {100 * record['R1']:.1f}, mAP {100 * record['mAP']:.1f} in {record['seconds_training']:.0f} s"


def _report(error: Exception) -> str:
    """The traceback of an unexpected error; the message alone of a user error."""
    return str(error) if isinstance(error, UserError) else "".join(traceback.format_exception(error))
