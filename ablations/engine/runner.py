"""Runs the experiments of a catalogue, one after the other, skipping what the store holds."""

import json
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from ablations.catalogue import Catalogue, Cell, Request
from ablations.experiment import Experiment
from ablations.store import State, Store
from bench.cost import count
from msinet.data import Dataset, load_dataset, open_pixels, pk_batches
from msinet.environment import pick_device
from msinet.errors import Busy, UserError
from msinet.models import build_model, load_weights
from msinet.progress import bar
from msinet.search import check_sides, read_genotype, search, search_line
from msinet.search.run import GENOTYPE
from msinet.training.checkpoint import remove_checkpoints
from msinet.training.options import RunOptions
from msinet.training.run import Record, file_hash, run

#: Suffixes under which pre-trained weights are looked for.
WEIGHTS = (".safetensors", ".pth", ".pt", ".pth.tar")


@dataclass(frozen=True)
class Planned:
    """An experiment with what is needed to run it."""

    experiment: Experiment
    run_id: str
    weights: Path | None
    """pre-trained weights to start from"""


@dataclass(frozen=True)
class Plan:
    """A catalogue made concrete for a request."""

    catalogue: Catalogue
    request: Request
    cells: tuple[Cell, ...]
    datasets: dict[str, Dataset]
    planned: dict[Experiment, Planned]
    """every experiment that can run"""
    blocked: dict[Experiment, str]
    """every experiment that cannot, and why"""
    waiting: dict[Experiment, Planned]
    """every training whose genotype is still to be found, and the search that finds it"""

    def runs(self) -> list[Planned]:
        """The runs that are known, in order, each once, although several cells may want it."""
        return list({planned.run_id: planned for planned in self.planned.values()}.values())

    def place(self, experiment: Experiment, weights: Path | None = None) -> Planned:
        """The experiment with the name of its run."""
        fingerprints = {name: self.datasets[name].fingerprint for name in (experiment.source, experiment.target)}
        return Planned(experiment, experiment.run_id(fingerprints, file_hash(weights) if weights else None), weights)


def make_plan(catalogue: Catalogue, request: Request) -> Plan:
    """Enumerate the cells, load the data sets they name and find their weights.

    Raises:
        UserError: an unknown name, or a data set that cannot be used.
    """
    request.check()
    names = request.available_datasets()
    datasets = {name: load_dataset(name, request.root) for name in names}
    cells = []
    plan = Plan(catalogue, request, (), datasets, {}, {}, {})
    store = Store(request.store)
    for cell in catalogue.cells(request, names):
        experiment = cell.experiment
        if (search := experiment.genotype_from) is not None:
            if search not in plan.planned:
                plan.planned[search] = plan.place(search)
            if (genotype := found_genotype(store, plan.planned[search])) is None:
                plan.waiting[experiment] = plan.planned[search]
            else:
                experiment = experiment.known(genotype)
        cells.append(replace(cell, experiment=experiment))
        if experiment in plan.planned or experiment in plan.blocked or experiment in plan.waiting:
            continue
        weights = None
        if experiment.init == "pretrained":
            weights = find_weights(request.weights_folder, experiment.model)
            if weights is None:
                plan.blocked[experiment] = missing_weights(request, experiment.model)
                continue
        plan.planned[experiment] = plan.place(experiment, weights)
    return replace(plan, cells=tuple(cells))


def found_genotype(store: Store, search: Planned) -> str | None:
    """What a search found, if it is finished."""
    path = store.run_folder(search.run_id) / GENOTYPE
    return read_genotype(path) if path.exists() else None


def find_weights(folder: Path | None, model: str) -> Path | None:
    """The weights file of a model, if there is one."""
    if folder is None:
        return None
    if not folder.is_dir():
        raise UserError(f"folder of pre-trained weights {folder} does not exist; pass --pretrained DIR")
    return next((path for suffix in WEIGHTS if (path := folder / f"{model}{suffix}").is_file()), None)


def missing_weights(request: Request, model: str) -> str:
    """Why a pre-trained run cannot start."""
    if request.pretrained is not None:
        return f"needs {request.pretrained / model}.pth or .safetensors"
    if request.rendered:
        return "waits for pre-training on the rendered pretext set, with which `ablations run` begins"
    return "needs pre-trained weights: --pretrained DIR"


def states(plan: Plan, store: Store) -> dict[Experiment, State | Literal["blocked"]]:
    """What became of every experiment of the plan."""
    found: dict[Experiment, State | Literal["blocked"]] = {}
    for experiment in dict.fromkeys((*plan.planned, *(cell.experiment for cell in plan.cells))):
        if experiment in plan.waiting:
            found[experiment] = "waiting"
        elif experiment in plan.blocked:
            found[experiment] = "blocked"
        else:
            found[experiment] = store.state(plan.planned[experiment].run_id)
    return found


def cost(experiment: Experiment, num_classes: int, weights: Path | None) -> Record:
    """Parameters and multiply-adds of an experiment's network at its image size.

    Raises:
        WeightsError: the pre-trained weights do not fit, which is better known now than hours later.
    """
    options = dict(experiment.options)
    if experiment.recipe.search is not None:
        options["mid"] = experiment.recipe.search_settings.mid
    recipe = experiment.recipe
    model = build_model(experiment.model, num_classes, image=(recipe.image.height, recipe.image.width), **options)
    if weights is not None:
        load_weights(model, weights)
    counted = count(model, recipe.image.height, recipe.image.width)
    return {
        "parameters": counted.parameters,
        "parameters_without_classifier": counted.parameters_without_classifier,
        "parameters_at_inference": counted.parameters_at_inference,
        "macs": counted.macs,
    }


def check_images(todo: Sequence[Planned], plan: Plan, costs: dict[str, Record], run_options: RunOptions) -> None:
    """Read every image that the runs need, and draw a batch, so that a broken one is named before any training.

    Raises:
        DataError: images that cannot be decoded, or too few identities for a batch.
    """
    wanted = set()
    for planned in todo:
        e = planned.experiment
        if e.recipe.search is not None:
            check_sides(plan.datasets[e.source], e.recipe, e.seed)
            wanted.add((e.source, "train", e.recipe.image.height, e.recipe.image.width))
            continue
        if e.recipe.schedule.epochs and costs[planned.run_id]["parameters"]:
            pk_batches(plan.datasets[e.source].labels, e.recipe.sampler.identities, e.recipe.sampler.images, (0,))
            wanted.add((e.source, "train", e.recipe.image.height, e.recipe.image.width))
        wanted.add((e.target, "test", e.recipe.image.height, e.recipe.image.width))
    for name, role, height, width in sorted(wanted):
        open_pixels(plan.datasets[name], role, height, width, cache=run_options.cache, progress=run_options.progress)


def costs_of(todo: Sequence[Planned], plan: Plan) -> dict[str, Record]:
    """The cost of each run's network by run id, counted once for each different network and image size."""
    counted: dict[object, Record] = {}
    result = {}
    for planned in todo:
        e = planned.experiment
        mid = e.recipe.search_settings.mid if e.recipe.search is not None else ""
        what = (e.model, e.options, mid, e.recipe.image.height, e.recipe.image.width, e.source, planned.weights)
        if what not in counted:
            counted[what] = cost(e, plan.datasets[e.source].num_classes, planned.weights)
        result[planned.run_id] = counted[what]
    return result


def execute(
    plan: Plan, store: Store, run_options: RunOptions, on_finish: Callable[[], object] = lambda: None
) -> Counter[str]:
    """Run what the store does not hold yet.

    A run that fails is recorded and the next one starts; a run that another process works on is left
    to it. Killed at any moment, the same call goes on where it was.

    Args:
        plan: what to run.
        store: where finished runs are, and go.
        run_options: device, workers and the like.
        on_finish: called after each finished run.

    Returns:
        How many runs were "done" before, "finished" now, "failed", or "running" elsewhere.

    Raises:
        UserError: what no run could use: the device, images, weights, a batch larger than the data.
        KeyboardInterrupt: the state of the current run was saved first.
    """
    pick_device(run_options.device)  # a wrong name is one error now, not one per run
    tally: Counter[str] = Counter()
    todo = []
    for planned in plan.runs():
        if store.done(planned.run_id):
            tally["done"] += 1
        else:
            todo.append(planned)
    # Trainings of what is still to be found stand right after their search, under a name of their own.
    for experiment, first in plan.waiting.items():
        stand_in = Planned(experiment, f"after-{first.run_id}-{experiment.key}", None)
        todo.insert(todo.index(first) + 1 if first in todo else len(todo), stand_in)
    costs = costs_of(todo, plan)
    check_images(todo, plan, costs, run_options)
    # In a terminal the bar of the table stands below that of the run; a log gets the table's alone.
    both = replace(run_options, progress=run_options.progress and sys.stderr.isatty())
    # Time left for the whole table: runs weigh what they compute, so that a ResNet50 counts for more.
    work = {p.run_id: _work(p, plan, costs[p.run_id]) for p in todo}
    meter = bar(
        total=sum(work.values()),
        desc=f"{plan.catalogue.name}: {len(todo)} runs",
        position=1 if both.progress else 0,
        disable=not run_options.progress or not todo,
        bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed} passed, about {remaining} left",
    )
    with meter:
        for number, planned in enumerate(todo, 1):
            heading = f"[{number}/{len(todo)}] {planned.experiment}"
            if planned.experiment in plan.waiting:
                genotype = found_genotype(store, plan.waiting[planned.experiment])
                if genotype is None:
                    tally["blocked"] += 1
                    tqdm.write(f"{heading}: not run, its search is not finished")
                    work.pop(planned.run_id)
                    meter.total = sum(work.values())
                    continue
                planned = _named(planned, genotype, plan, costs, work)
            done_before = meter.n

            def on_step(share: float, run_id: str = planned.run_id, start: float = done_before) -> None:
                meter.update(start + share * work[run_id] - meter.n)

            try:
                with store.lock(planned.run_id):
                    if store.done(planned.run_id):  # finished elsewhere since the plan was made
                        tally["done"] += 1
                        continue
                    record = _one(planned, plan, store, both, costs[planned.run_id], on_step)
                tally["finished"] += 1
                tqdm.write(f"{heading}: {_summary(record)} -> {store.run_folder(planned.run_id)}")
                on_finish()
            except Busy:
                tally["running"] += 1
                meter.total = sum(work.values()) - work.pop(planned.run_id)  # no work of this process
                tqdm.write(f"{heading}: another process works on it")
            except Exception as error:  # one failure must not cost the other runs
                tally["failed"] += 1
                where = store.fail(planned.run_id, planned.experiment, _report(error))
                tqdm.write(f"{heading}: FAILED: {error} -> {where}")
            meter.update(done_before + work.get(planned.run_id, 0.0) - meter.n)
    return tally


def _named(stand_in: Planned, genotype: str, plan: Plan, costs: dict[str, Record], work: dict[str, float]) -> Planned:
    """The training that stood in for a genotype, now that it is found; costs and work pass to its run."""
    planned = plan.place(stand_in.experiment.known(genotype))
    classes = plan.datasets[planned.experiment.source].num_classes
    costs[planned.run_id] = cost(planned.experiment, classes, None)
    work[planned.run_id] = work.pop(stand_in.run_id)
    return planned


def _one(
    planned: Planned, plan: Plan, store: Store, run_options: RunOptions, costs: Record, on_step: Callable[[float], None]
) -> Record:
    experiment = planned.experiment
    folder = store.partial_folder(planned.run_id)
    if not run_options.resume:
        shutil.rmtree(folder, ignore_errors=True)
    whole = folder / "record.json"
    if whole.exists():  # killed between the end of the run and its publication
        record: Record = json.loads(whole.read_text(encoding="utf-8"))
        remove_checkpoints(folder)
    elif experiment.recipe.search is not None:
        record = search(
            folder,
            model=experiment.model,
            options=dict(experiment.options),
            source=plan.datasets[experiment.source],
            recipe=experiment.recipe,
            seed=experiment.seed,
            run_options=run_options,
            on_step=on_step,
        )
    else:
        record = run(
            folder,
            model=experiment.model,
            options=dict(experiment.options),
            source=plan.datasets[experiment.source],
            target=plan.datasets[experiment.target],
            recipe=experiment.recipe,
            seed=experiment.seed,
            weights=planned.weights,
            run_options=run_options,
            on_step=on_step,
        )
    store.publish(planned.run_id, experiment, costs | record)
    return record


def _work(planned: Planned, plan: Plan, costs: Record) -> float:
    """Multiply-adds of a run, in 10^9: three passes' worth for each training image, one for each test image."""
    recipe = planned.experiment.recipe
    batch = recipe.sampler.identities * recipe.sampler.images
    train, test = plan.datasets[planned.experiment.source].train, plan.datasets[planned.experiment.target].test
    if recipe.search is not None:  # two passes each time, one of them without gradients of the weights
        per_epoch = recipe.sampler.steps_per_epoch or len(train) * (1 + recipe.search_settings.overlap) / 4 // batch
        images = 5 * recipe.schedule.epochs * per_epoch * batch
    else:
        per_epoch = recipe.sampler.steps_per_epoch or len(train) // batch
        images = 3 * recipe.schedule.epochs * per_epoch * batch + len(test)
    return images * max(1e-3, float(costs["macs"] or 0) / 1e9)


def _summary(record: dict[str, Any]) -> str:
    if "genotype" in record:
        return f"{search_line(record)} in {record['seconds_training']:.0f} s"
    return f"R1 {100 * record['R1']:.1f}, mAP {100 * record['mAP']:.1f} in {record['seconds_training']:.0f} s"


def _report(error: Exception) -> str:
    """The traceback of an unexpected error; the message alone where the message says it all."""
    return str(error) if isinstance(error, UserError) else "".join(traceback.format_exception(error))


def write_status(plan: Plan, store: Store, workers: Sequence[str] = ()) -> Iterable[str]:
    """Lines that tell the state of every experiment, then of the workers, then the time that is left."""
    found = states(plan, store)
    width = max(len(str(experiment)) for experiment in found)
    for experiment, state in found.items():
        note = plan.blocked.get(experiment, "")
        if experiment in plan.waiting:
            note = "for its search"
        if state == "failed":
            note = store.error(plan.planned[experiment].run_id)
        run_id = plan.planned[experiment].run_id if experiment in plan.planned else "-" * 12
        yield f"{run_id}  {state:<11}  {experiment!s:<{width}}  {note}".rstrip()
    yield from workers
    counts = Counter(found.values())
    running = counts["running"]
    left = seconds_left(found, plan, store)
    if left is not None and running:
        told = str(timedelta(seconds=round(left / running)))
        yield f"about {told} left at the pace of the finished runs, {running} at a time"
    yield ", ".join(f"{count} {state}" for state, count in counts.items())


def seconds_left(found: dict[Experiment, Any], plan: Plan, store: Store) -> float | None:
    """Time that the unfinished runs of a plan would take one after the other; None if nothing tells.

    A run takes what the finished ones of its network took in the mean, or those of any network; one that is running
    counts half.
    """
    took: dict[str, list[float]] = {}
    for experiment, state in found.items():
        if state == "done":
            path = store.run_folder(plan.planned[experiment].run_id) / "record.json"
            record = json.loads(path.read_text(encoding="utf-8"))
            took.setdefault(experiment.model, []).append(
                float(record["seconds_training"]) + float(record.get("seconds_evaluating", 0))
            )
    every = [seconds for one in took.values() for seconds in one]
    share = {"running": 0.5, "interrupted": 1.0, "waiting": 1.0, "failed": 1.0}
    if not every:
        return None
    return sum(
        share.get(state, 0.0) * float(np.mean(took.get(experiment.model, every))) for experiment, state in found.items()
    )
