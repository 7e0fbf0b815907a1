"""Carries out the runs that the store lacks."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

from tqdm import tqdm

from ablations.engine.attempt import Attempts, cost
from ablations.engine.budget import Budget, key_of, steps_of
from ablations.engine.cluster import on_cluster
from ablations.engine.experiment import Experiment
from ablations.engine.options import ClusterOptions
from ablations.engine.parallel import at_once, choose_jobs, one_by_one
from ablations.engine.resolve import Resolution, Run
from ablations.engine.store import Store
from msinet.data import Dataset, open_pixels, pk_batches
from msinet.environment import pick_device
from msinet.progress import bar
from msinet.search import SearchRun
from msinet.training.options import RunOptions
from msinet.training.run_folder import Record

Datasets = Mapping[str, Dataset]


def costs_of(runs: Iterable[Run], datasets: Datasets) -> dict[Experiment, Record]:
    """The cost of each run's network, counted once for each different network and image size."""
    counted: dict[object, Record] = {}
    result = {}
    for one in runs:
        e = one.experiment
        mid = e.recipe.search.mid if e.recipe.search is not None else ""
        network = (e.model, e.options, mid, e.recipe.image, e.source, one.weights, e.is_unsupervised)
        if network not in counted:
            counted[network] = cost(e, datasets[e.source].num_classes, one.weights)
        result[e] = counted[network]
    return result


def check_images(
    runs: Iterable[Run], datasets: Datasets, costs: Mapping[Experiment, Record], run_options: RunOptions
) -> None:
    """Read every image that the runs need, and draw a batch, to find errors before any training.

    Raises:
        DataError: images that cannot be decoded, or too few identities for a batch.
    """
    wanted = set()
    for e in (one.experiment for one in runs):
        trains = e.is_search or bool(not e.same_weights and e.recipe.schedule.epochs and costs[e]["parameters"])
        size = (e.recipe.image.height, e.recipe.image.width)
        if e.is_unsupervised:  # its batches follow from its clusters
            wanted |= {(e.target, "train", *size)} if trains else set()
        elif e.is_search:
            SearchRun(datasets[e.source], e.recipe, e.seed).check_sides()
        elif trains:
            pk_batches(datasets[e.source].labels, e.recipe.sampler.identities, e.recipe.sampler.images, (0,))
        wanted |= {(e.source, "train", *size)} if trains else set()
        wanted |= set() if e.is_search else {(e.target, "test", *size)}
    for name, role, height, width in sorted(wanted):
        open_pixels(datasets[name], role, height, width, cache=run_options.cache, progress=run_options.progress)


def execute(
    resolution: Resolution,
    store: Store,
    run_options: RunOptions,
    on_finish: Callable[[], object] = lambda: None,
    jobs: int = 0,
    budget: Budget | None = None,
    cluster: ClusterOptions | None = None,
) -> Counter[str]:
    """Carry out the runs that the store lacks.

    A failed run is recorded and the next one starts. A run that another process works on is skipped. After a kill at
    any time, the same call resumes.

    Args:
        resolution: what to run; blocked runs are left out.
        store: where finished runs are published.
        run_options: device, workers and the like.
        on_finish: called after each finished run.
        jobs: runs at once, each in its own process; 0: see `choose_jobs`, on a cluster all.
        budget: remaining time; None: no limit.
        cluster: where runs are carried out; None: on this machine.

    Returns:
        The number of runs by outcome: "done" before or as another run of the study, "finished" now, "failed", "running"
        elsewhere, "blocked" by an unfinished run, "postponed" for lack of time.

    Raises:
        UserError: a device, images, weights or batch size that no run can use, or a process of a run ended
            unexpectedly.
        KeyboardInterrupt: the states of the current runs were saved first.
    """
    cluster = cluster or ClusterOptions()
    # A wrong name is one error now, not one per run. A cluster may have devices that this machine lacks.
    device = pick_device("cpu" if cluster.remote else run_options.device)
    runs = [one for one in resolution.runs() if one.state != "blocked"]
    todo = [one for one in runs if one.state != "done"]
    tally = Counter({"done": len(runs) - len(todo)} if len(todo) < len(runs) else {})
    if todo and not resolution.datasets:
        resolution.request.available_datasets()  # raises: the data are not on this machine
    costs = costs_of(todo, resolution.datasets)
    check_images(todo, resolution.datasets, costs, run_options)
    plan = choose_jobs(todo, device.type, jobs)
    alone = plan.jobs == 1 and not cluster.remote
    # In a terminal, the table's bar is below the run's bar. Logs and several runs at once have only the table's bar.
    inner = replace(run_options, progress=alone and run_options.progress and sys.stderr.isatty())
    attempts = Attempts(resolution.datasets, resolution.fingerprints, store.root, inner, costs, budget)
    work = [_work(one.experiment, resolution.datasets, costs[one.experiment]) for one in todo]
    title = f"{resolution.study.name}: {len(todo)} runs" + (
        f" on {cluster.on}" if cluster.remote else "" if alone else f", {plan.jobs} at once"
    )
    with _Meter(title, work, visible=run_options.progress, below=inner.progress) as meter:
        if cluster.remote:
            outcomes = (
                on_cluster(cluster, attempts, todo, jobs) if todo else one_by_one(attempts, todo, plan, meter.step)
            )
        else:
            outcomes = (one_by_one if alone else at_once)(attempts, todo, plan, meter.step)
        with closing(outcomes):
            for number, outcome, message in outcomes:
                tally[outcome] += 1
                if message:
                    tqdm.write(f"[{tally.total()}/{len(runs)}] {todo[number].experiment}: {message}")
                meter.end(number, counts=outcome not in ("blocked", "running", "postponed"))
                if outcome == "finished":
                    on_finish()
    return tally


#: Format of the bar, and the share of the work from which on the remaining time is shown: the first runs of a table
#: only rank, which takes seconds and says nothing about trainings.
PASSED, FORETOLD = "{desc} {percentage:3.0f}% |{bar}| {elapsed} passed", 0.02


class _Meter:
    """Progress bar of a table. Runs are weighted by their computation, so that the remaining time is realistic."""

    def __init__(self, title: str, work: Sequence[float], *, visible: bool, below: bool) -> None:
        self._work, self._shares, self._ended = list(work), [0.0] * len(work), set[int]()
        self._bar = bar(
            total=sum(work), desc=title, position=1 if below else 0, disable=not visible or not work, bar_format=PASSED
        )

    def __enter__(self) -> "_Meter":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self, number: int, share: float) -> None:
        """Show the share of a run that is done. Late reports of a run that has ended are ignored."""
        self._shares[number] = 1.0 if number in self._ended else share
        done = sum(share * work for share, work in zip(self._shares, self._work, strict=True))
        if done > FORETOLD * sum(self._work):
            self._bar.bar_format = PASSED + ", about {remaining} left"
        self._bar.update(done - self._bar.n)

    def end(self, number: int, *, counts: bool) -> None:
        """End a run. A run that this process did not carry out is removed from the total."""
        if not counts:
            self._bar.total = (self._bar.total or 0.0) - self._work[number]
            self._work[number] = 0.0
        self._ended.add(number)
        self.step(number, 1.0)


def _work(experiment: Experiment, datasets: Datasets, costs: Record) -> float:
    """Multiply-adds of a run, in 10^9: three passes for each training image, one for each test image."""
    images = steps_of(experiment, datasets[experiment.source]) * experiment.recipe.sampler.batch
    if key_of(experiment)[1] == "search":  # two passes each time, one of them without gradients of the weights
        images *= 5
    else:
        images = 3 * images + len(datasets[experiment.target].test)
    return images * float(max(1e-3, costs["macs"] / 1e9))
