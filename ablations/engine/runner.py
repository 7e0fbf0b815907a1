"""Runs what the store does not hold, one run after the other."""

import json
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ablations.engine.experiment import Experiment
from ablations.engine.resolve import Resolution, Run
from ablations.engine.store import Store
from bench.cost import count
from msinet.data import Dataset, open_pixels, pk_batches
from msinet.environment import pick_device
from msinet.errors import Busy, UserError
from msinet.models import build_model, load_weights
from msinet.progress import bar
from msinet.search import SearchRun, search, search_line
from msinet.training.checkpoint import remove_checkpoints
from msinet.training.options import RunOptions
from msinet.training.run import Training, run
from msinet.training.run_folder import RECORD, Record

Datasets = Mapping[str, Dataset]


def cost(experiment: Experiment, num_classes: int, weights: Path | None) -> Record:
    """Parameters and multiply-adds of an experiment's network at its image size.

    Raises:
        WeightsError: the pre-trained weights do not fit; this is found before any training.
    """
    options: dict[str, Any] = dict(experiment.options)
    if experiment.recipe.search is not None:
        options["mid"] = experiment.recipe.search.mid
    image = experiment.recipe.image
    model = build_model(experiment.model, num_classes, image=(image.height, image.width), **options)
    if weights is not None:
        load_weights(model, weights)
    counted = count(model, image.height, image.width)
    return {
        "parameters": counted.parameters,
        "parameters_without_classifier": counted.parameters_without_classifier,
        "parameters_at_inference": counted.parameters_at_inference,
        "macs": counted.macs,
    }


def costs_of(runs: Iterable[Run], datasets: Datasets) -> dict[Experiment, Record]:
    """The cost of each run's network, counted once for each different network and image size."""
    counted: dict[object, Record] = {}
    result = {}
    for one in runs:
        e = one.experiment
        mid = e.recipe.search.mid if e.recipe.search is not None else ""
        network = (e.model, e.options, mid, e.recipe.image, e.source, one.weights)
        if network not in counted:
            counted[network] = cost(e, datasets[e.source].num_classes, one.weights)
        result[e] = counted[network]
    return result


def check_images(
    runs: Iterable[Run], datasets: Datasets, costs: Mapping[Experiment, Record], run_options: RunOptions
) -> None:
    """Read every image that the runs need, and draw a batch, so that a broken one is named before any training.

    Raises:
        DataError: images that cannot be decoded, or too few identities for a batch.
    """
    wanted = set()
    for e in (one.experiment for one in runs):
        trains = e.is_search or bool(e.recipe.schedule.epochs and costs[e]["parameters"])
        if e.is_search:
            SearchRun(datasets[e.source], e.recipe, e.seed).check_sides()
        elif trains:
            pk_batches(datasets[e.source].labels, e.recipe.sampler.identities, e.recipe.sampler.images, (0,))
        size = (e.recipe.image.height, e.recipe.image.width)
        wanted |= {(e.source, "train", *size)} if trains else set()
        wanted |= set() if e.is_search else {(e.target, "test", *size)}
    for name, role, height, width in sorted(wanted):
        open_pixels(datasets[name], role, height, width, cache=run_options.cache, progress=run_options.progress)


def execute(
    resolution: Resolution, store: Store, run_options: RunOptions, on_finish: Callable[[], object] = lambda: None
) -> Counter[str]:
    """Run what the store does not hold yet.

    A run that fails is recorded and the next one starts; a run that another process works on is left to it. After a
    kill at any moment, the same call resumes.

    Args:
        resolution: what to run; blocked runs are left out.
        store: where finished runs are published.
        run_options: device, workers and the like.
        on_finish: called after each finished run.

    Returns:
        The number of runs that were "done" before, "finished" now, "failed", "running" elsewhere, or "blocked" as
        their search is not finished.

    Raises:
        UserError: what no run could use: the device, images, weights, a batch larger than the data.
        KeyboardInterrupt: the state of the current run was saved first.
    """
    pick_device(run_options.device)  # a wrong name is one error now, not one per run
    runs = [one for one in resolution.runs() if one.state != "blocked"]
    todo = [one for one in runs if one.state != "done"]
    tally = Counter({"done": len(runs) - len(todo)} if len(todo) < len(runs) else {})
    if todo and not resolution.datasets:
        resolution.request.available_datasets()  # raises: the data are not on this machine
    costs = costs_of(todo, resolution.datasets)
    check_images(todo, resolution.datasets, costs, run_options)
    # In a terminal the bar of the table is below that of the run; a log gets the table's alone.
    both = replace(run_options, progress=run_options.progress and sys.stderr.isatty())
    work = [_work(one.experiment, resolution.datasets, costs[one.experiment]) for one in todo]
    title = f"{resolution.study.name}: {len(todo)} runs"
    with _Meter(title, work, visible=run_options.progress, below=both.progress) as meter:
        table = _Table(resolution, store, both, costs, meter.step)
        for number, one in enumerate(todo, 1):
            meter.begin(work[number - 1])
            outcome, message = table.attempt(one)
            tally[outcome] += 1
            if message:
                tqdm.write(f"[{number}/{len(todo)}] {one.experiment}: {message}")
            meter.end(counts=outcome not in ("blocked", "running"))
            if outcome == "finished":
                on_finish()
    return tally


class _Meter:
    """Progress bar of a table. Runs count by their computation, so that the remaining time is realistic."""

    def __init__(self, title: str, work: Sequence[float], *, visible: bool, below: bool) -> None:
        self._bar = bar(
            total=sum(work),
            desc=title,
            position=1 if below else 0,
            disable=not visible or not work,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed} passed, about {remaining} left",
        )
        self._start = self._work = 0.0

    def __enter__(self) -> "_Meter":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def begin(self, work: float) -> None:
        """Start a run."""
        self._start, self._work = self._bar.n, work

    def step(self, share: float) -> None:
        """Show the share of the run that is done."""
        self._bar.update(self._start + share * self._work - self._bar.n)

    def end(self, *, counts: bool) -> None:
        """End a run; one that this process did not do leaves the total."""
        if counts:
            self.step(1.0)
        else:
            self._bar.total = (self._bar.total or 0.0) - self._work


def _work(experiment: Experiment, datasets: Datasets, costs: Record) -> float:
    """Multiply-adds of a run, in 10^9: three passes for each training image, one for each test image."""
    recipe = experiment.recipe
    train, steps = len(datasets[experiment.source].train), recipe.sampler.steps_per_epoch
    if recipe.search is not None:  # two passes each time, one of them without gradients of the weights
        steps = steps or int(train * (1 + recipe.search.overlap) / 4 // recipe.sampler.batch)
        images = 5 * recipe.schedule.epochs * steps * recipe.sampler.batch
    else:
        steps = steps or train // recipe.sampler.batch
        images = 3 * recipe.schedule.epochs * steps * recipe.sampler.batch + len(datasets[experiment.target].test)
    return images * max(1e-3, float(costs["macs"] or 0) / 1e9)


@dataclass(frozen=True)
class _Table:
    """State that the runs of one call of `execute` share."""

    resolution: Resolution
    store: Store
    run_options: RunOptions
    costs: Mapping[Experiment, Record]
    on_step: Callable[[float], None]

    def attempt(self, one: Run) -> tuple[str, str]:
        """Carry out one run; returns its outcome and a message."""
        if one.state == "waiting":
            found = self._after_search(one)
            if found is None:
                return "blocked", "not run, its search is not finished"
            one = found
        try:
            with self.store.lock(one.run_id):
                if self.store.done(one.run_id):  # finished by another process meanwhile
                    return "done", ""
                record = self._publish(one)
            return "finished", f"{_summary(record)} -> {self.store.run_folder(one.run_id)}"
        except Busy:
            return "running", "another process works on it"
        except Exception as error:  # one failure must not cost the other runs
            path = self.store.fail(one.run_id, one.experiment, _report(error))
            return "failed", f"FAILED: {error} -> {path}"

    def _after_search(self, one: Run) -> Run | None:
        """A waiting training with the genotype of its search, if that is finished."""
        assert one.experiment.genotype_from is not None
        fingerprints = self.resolution.fingerprints
        genotype = self.store.genotype(one.experiment.genotype_from.run_id(fingerprints, None))
        if genotype is None:
            return None
        experiment = one.experiment.known(genotype)
        return Run(experiment, experiment.run_id(fingerprints, None), "missing")

    def _publish(self, one: Run) -> Record:
        """Train or search, unless only the publication is missing, and publish."""
        e, folder = one.experiment, self.store.partial_folder(one.run_id)
        source, target = self.resolution.datasets[e.source], self.resolution.datasets[e.target]
        costs = self.costs.get(e) or cost(e, source.num_classes, one.weights)
        if not self.run_options.resume:
            shutil.rmtree(folder, ignore_errors=True)
        if (folder / RECORD).exists():  # killed between the end of the run and its publication
            record: Record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            remove_checkpoints(folder)
        elif e.is_search:
            search_run = SearchRun(source, e.recipe, e.seed, e.model, dict(e.options))
            record = search(folder, search_run, self.run_options, self.on_step)
        else:
            training = Training(e.model, dict(e.options), source, target, e.recipe, e.seed, one.weights)
            record = run(folder, training, self.run_options, self.on_step)
        self.store.publish(one.run_id, e, costs | record)
        return record


def _summary(record: dict[str, Any]) -> str:
    if "genotype" in record:
        return f"{search_line(record)} in {record['seconds_training']:.0f} s"
    return f"R1 {100 * record['R1']:.1f}, mAP {100 * record['mAP']:.1f} in {record['seconds_training']:.0f} s"


def _report(error: Exception) -> str:
    """The traceback of an unexpected error; the message alone of a user error."""
    return str(error) if isinstance(error, UserError) else "".join(traceback.format_exception(error))
