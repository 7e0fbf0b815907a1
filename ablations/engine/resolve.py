"""Resolves a study and a request against a store: which run fills each table cell, and the state of that run.

Commands, workers, sweeps and reports all use `resolve`. It reads the data sets' file lists for their fingerprints. If
the data are not on this machine, or the store holds reference results, it uses the fingerprints in the store's records
instead.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

from ablations.engine import store as stores
from ablations.engine.experiment import Experiment
from ablations.engine.request import Request, in_words
from ablations.engine.store import Store
from ablations.engine.study import Cell, Study
from msinet.data.datasets import Dataset
from msinet.data.layouts import main_datasets
from msinet.errors import DataError, UserError
from msinet.models.foreign import weights_hash

#: `missing` runs have not started, `waiting` ones need a search or a training first, `blocked` ones lack pre-trained
#: weights or those of their training.
State = stores.State | Literal["waiting", "blocked"]
#: Suffixes of pre-trained weights.
WEIGHTS = (".safetensors", ".pth", ".pt", ".pth.tar")


@dataclass(frozen=True)
class Run:
    """An experiment and what it needs to run."""

    experiment: Experiment
    run_id: str
    """empty while it is unknown"""
    state: State
    weights: Path | None = None
    """pre-trained weights to start from"""
    reason: str = ""
    """why it is waiting or blocked"""


@dataclass(frozen=True)
class ResolvedCell:
    """A table cell and the run that fills it."""

    cell: Cell
    """its experiment has the genotype once the search has found it"""
    run: Run
    search_id: str = ""
    """run id of the search whose genotype is trained"""

    @property
    def state(self) -> State:
        """The state of its run."""
        return self.run.state

    @property
    def run_id(self) -> str:
        """The id of its run; empty while it is unknown."""
        return self.run.run_id


@dataclass(frozen=True)
class Resolution:
    """The runs of a study for a request and a store."""

    study: Study
    request: Request
    cells: tuple[ResolvedCell, ...]
    datasets: Mapping[str, Dataset]
    """data sets on this machine"""
    fingerprints: Mapping[str, str]
    """fingerprints by data set"""
    searches: Mapping[str, Run] = field(default_factory=dict)
    """searches behind the cells, by run id"""
    trainings: Mapping[Experiment, Run] = field(default_factory=dict)
    """trainings whose weights other cells use"""

    def runs(self) -> list[Run]:
        """All runs without duplicates, each after the runs that it needs."""
        found: dict[Experiment | str, Run] = {}
        for one in self.cells:
            if one.search_id:
                found.setdefault(one.search_id, self.searches[one.search_id])
            if one.cell.experiment.same_weights:
                training = self.trainings[one.cell.experiment.training]
                found.setdefault(training.run_id or training.experiment, training)
            found.setdefault(one.run_id or one.cell.experiment, one.run)
        return list(found.values())

    @property
    def repetitions(self) -> str:
        """The number of finished seeds in words; without any, the number asked for."""
        counts = [*by_seeds(self.cells)] or [self.request.repeats]
        low, high = min(counts), max(counts)
        return (
            in_words(high) if low == high else f"{low} to {in_words(high)} per table cell, {self.usual} unless stated"
        )

    @property
    def usual(self) -> int:
        """The most common number of finished seeds of a trained table cell; without any, the number asked for."""
        found = by_seeds(self.cells)
        return max(found, key=lambda seeds: len(found[seeds]), default=self.request.repeats)


def by_seeds(cells: Iterable[ResolvedCell]) -> dict[int, list[Cell]]:
    """Trained table cells that have finished runs, by the number of seeds; each with the cell of one seed."""
    seeds = defaultdict[object, dict[int, Cell]](dict)
    for one in cells:
        if one.state == "done" and one.cell.group != "untrained":
            seeds[one.cell.group, one.cell.factors, one.cell.train, one.cell.test][one.cell.seed] = one.cell
    found = defaultdict[int, list[Cell]](list)
    for several in seeds.values():
        found[len(several)].append(next(iter(several.values())))
    return dict(sorted(found.items()))


def resolve(
    study: Study, request: Request, store: Store, *, load: Callable[[str], Dataset] | None = None, planned: bool = False
) -> Resolution:
    """Enumerate the cells of a study and find the run of each.

    Args:
        study: the study.
        request: options of the command.
        store: finished and unfinished runs.
        load: reads a data set; None: `request.load`. Callers that resolve several studies can cache it.
        planned: also cells on sets of the world that are not rendered yet, which `ablations run` will render.

    Raises:
        UserError: an unknown name, a data set that cannot be used, nothing on disk or in the store, records of several
            versions of a data set that is not on disk, or a study without cells on these sets.
    """
    request.check()
    datasets, names = _datasets(request, store, load or request.load)
    cells = study.cells(request, request.default_datasets() if planned and request.rendered and datasets else names)
    if not cells:
        raise DataError(
            f"{study.name} has nothing to run on {', '.join(names)}; name other --datasets, or pass --whole"
        )
    fingerprints = {name: dataset.fingerprint for name, dataset in datasets.items()}
    if not datasets:
        fingerprints = _recorded(cells, store)
    resolver = _Resolver(request, store, fingerprints)
    found = [resolver.cell(cell) for cell in cells]
    return Resolution(study, request, tuple(found), datasets, fingerprints, resolver.searches, resolver.trainings)


def _datasets(
    request: Request, store: Store, load: Callable[[str], Dataset]
) -> tuple[dict[str, Dataset], tuple[str, ...]]:
    """The data sets on disk, and the names of those to use."""
    if store.recorded or (not request.root.exists() and store.has_runs):
        tested = store.tested(request.profile)
        if names := request.datasets or tuple(name for name in main_datasets() if name in tested):
            return {}, tuple(dict.fromkeys(names))
    datasets = {name: load(name) for name in request.available_datasets()}
    return datasets, tuple(datasets)


def _recorded(cells: Iterable[Cell], store: Store) -> dict[str, str]:
    """Fingerprints of the data sets that finished runs of these cells used."""
    experiments = {search for cell in cells if (search := cell.experiment.genotype_from)}
    by_key = {one.key: one for one in experiments | {cell.experiment for cell in cells}}
    frame = store.frame()
    found: dict[str, str] = {}
    if frame.empty:
        return found
    for run_id, row in frame[frame["experiment"].isin(list(by_key))].iterrows():
        one = by_key[row["experiment"]]
        prints = {one.source: row["source_fingerprint"], one.target: row["target_fingerprint"]}
        if run_id != one.run_id(prints, row["weights"] if isinstance(row["weights"], str) else None):
            continue  # of another results version
        for name, fingerprint in prints.items():
            if found.setdefault(name, fingerprint) != fingerprint:
                remedy = "delete the rows of one of them" if store.recorded else "pass --data-root"
                raise UserError(f"{store.root} holds results on several versions of {name}; {remedy}")
    return found


class _Resolver:
    """Finds runs of one request."""

    def __init__(self, request: Request, store: Store, fingerprints: Mapping[str, str]) -> None:
        self.request, self.store, self.fingerprints = request, store, fingerprints
        self.searches: dict[str, Run] = {}
        self.trainings: dict[Experiment, Run] = {}
        self._weights = cache(self._find_weights)
        self._run = cache(self._find_run)

    def cell(self, cell: Cell) -> ResolvedCell:
        """A cell with its run."""
        search = cell.experiment.genotype_from
        if search is None:
            return ResolvedCell(cell, self._run(cell.experiment))
        found = self._run(search)
        if found.run_id:
            self.searches[found.run_id] = found
        genotype = self.store.genotype(found.run_id)
        if genotype is not None:
            cell = replace(cell, experiment=cell.experiment.known(genotype))
        return ResolvedCell(cell, self._run(cell.experiment), found.run_id)

    def _find_run(self, experiment: Experiment) -> Run:
        if experiment.same_weights:
            training = self.trainings[experiment.training] = self._run(experiment.training)
            own = self._find_own_run(experiment)
            if training.state != "done":
                settled = own.state in ("done", "running", "blocked")
                return own if settled else replace(own, state="waiting", reason="for its training")
            weights = self.store.weights(training.run_id)
            if own.state in ("done", "running") or self.store.recorded or weights.exists():
                return own
            reason = f"needs {weights}, which the archive of `bench gpu` leaves out; delete {weights.parent}, run again"
            return replace(own, state="blocked", reason=reason)
        return self._find_own_run(experiment)

    def _find_own_run(self, experiment: Experiment) -> Run:
        if experiment.genotype_from is not None:
            return Run(experiment, "", "waiting", reason="for its search")
        if not {experiment.source, experiment.target} <= self.fingerprints.keys():
            return Run(experiment, "", "missing")
        if experiment.init == "scratch":
            return self._with(experiment, None, None)
        if self.store.recorded:
            digest = self._newest_weights(experiment)
        else:
            weights, digest = self._weights(self.request.weights_name(experiment.model, experiment.seed))
            if weights is not None:
                return self._with(experiment, weights, digest)
            digest = None if self.request.weights_folder else self._newest_weights(experiment)
        if digest is not None:
            return self._with(experiment, None, digest)
        return Run(experiment, "", "blocked", reason=missing_weights(self.request, experiment.model))

    def _with(self, experiment: Experiment, weights: Path | None, digest: str | None) -> Run:
        run_id = experiment.run_id(self.fingerprints, digest)
        return Run(experiment, run_id, self.store.state(run_id), weights)

    def _find_weights(self, name: str) -> tuple[Path | None, str | None]:
        path = find_weights(self.request.weights_folder, name)
        return path, None if path is None else weights_hash(path)

    def _newest_weights(self, experiment: Experiment) -> str | None:
        """Weights of the newest finished run of an experiment, if no weights are on this machine."""
        prints = self.fingerprints
        known = self._recorded_weights.get(experiment.key, [])
        return next((digest for run_id, digest in known if run_id == experiment.run_id(prints, digest)), None)

    @cached_property
    def _recorded_weights(self) -> dict[str, list[tuple[str, str]]]:
        """Run ids and weights of the store's pre-trained runs by the key of their experiment, the newest first."""
        found: dict[str, list[tuple[str, str]]] = {}
        if not self.store.has_runs or (frame := self.store.frame()).empty:
            return found
        rows = frame[frame["weights"].notna()].sort_values("finished", ascending=False)
        for run_id, key, digest in zip(rows.index, rows["experiment"], rows["weights"], strict=True):
            found.setdefault(key, []).append((run_id, digest))
        return found


def find_weights(folder: Path | None, name: str) -> Path | None:
    """The weights file of that name, if there is one.

    Raises:
        UserError: the folder does not exist.
    """
    if folder is None:
        return None
    if not folder.is_dir():
        raise UserError(f"folder of pre-trained weights {folder} does not exist; pass --pretrained DIR")
    return next((path for suffix in WEIGHTS if (path := folder / f"{name}{suffix}").is_file()), None)


def missing_weights(request: Request, model: str) -> str:
    """Why a pre-trained run cannot start."""
    if request.pretrained is not None:
        return f"needs {request.pretrained / model}.pth or .safetensors"
    if request.rendered:
        return "needs pre-training on the rendered pretext set, which `ablations run` starts with"
    return "needs pre-trained weights: --pretrained DIR"
