"""Milliseconds of a training step and of a search iteration, eager and as CUDA graphs, on random images."""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from bench.isolation import Report
from bench.networks import build
from msinet.environment import pick_device
from msinet.models.heads import ReIDNet
from msinet.precision import precision_used, use_precision
from msinet.search.memory import Memory
from msinet.search.split import split_identities
from msinet.search.twins import Twins, TwinsSearch
from msinet.training.batches import Batches
from msinet.training.fit import Task
from msinet.training.graphs import READ_EVERY, StaticStep, use_graphs
from msinet.training.options import RunOptions
from msinet.training.recipe import ImageSize, Losses, Recipe, Sampler, Schedule, Search
from msinet.training.supervised import Supervised

#: Identities, and images per identity, of the random set.
IDENTITIES, IMAGES = 96, 8
#: Steps before the first measured one, including warm-up and capture.
BEFORE = 8
COLUMNS = (
    *("network", "task", "height", "width", "batch", "precision", "mode", "device"),
    *("loop_ms", "replay_ms", "steps", "peak_mib", "precision_used"),
)
KEYS = COLUMNS[:8]


class Step(NamedTuple):
    """A training step or search iteration to measure."""

    network: str
    """with options, such as "msinet pam=True", which trains with spatial alignment"""
    task: str
    """train or search"""
    height: int
    width: int
    precision: str
    mode: str
    """eager or graph"""
    identities: int = 16
    """identities per batch, with four images each"""


def recipe_of(step: Step) -> Recipe:
    """The paper's recipe at a size and precision, long enough for any measurement."""
    losses = Losses(alignment="pam-self") if "pam=True" in step.network else Losses()
    recipe = Recipe(
        image=ImageSize(step.height, step.width),
        sampler=Sampler(identities=step.identities, images=4, steps_per_epoch=100),
        schedule=Schedule(epochs=1000),
        losses=losses,
        precision=step.precision,  # type: ignore[arg-type]
        search=Search() if step.task == "search" else None,
    )
    return replace(recipe, augmentation=replace(recipe.augmentation, pad=min(10, step.width // 8)))


def task_of(step: Step, device: torch.device) -> Task:
    """The training or search of a contender, ready for its first step."""
    recipe = recipe_of(step)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (IDENTITIES * IMAGES, step.height, step.width, 3), dtype=np.uint8)
    labels = np.repeat(np.arange(IDENTITIES), IMAGES)
    graphs = step.mode == "graph" and use_graphs(RunOptions(), device)
    torch.manual_seed(0)
    network = build(step.network, IDENTITIES, (step.height, step.width))
    if recipe.search is None:
        network = network.to(device).to(memory_format=torch.channels_last)
        return Supervised(network, Batches(pixels, labels, recipe, 0, device), graphs=graphs)
    assert isinstance(network, ReIDNet)
    sides = split_identities(labels, recipe.search.overlap)
    memories = (Memory(side.classes, network.channels) for side in sides)
    twins = Twins(network, *memories).to(device).to(memory_format=torch.channels_last)
    task = TwinsSearch(twins, pixels, sides, recipe, 0, graphs=graphs)
    task.initialize()
    return task


def graphs_of(task: Task) -> list[StaticStep]:
    """The captured steps of a task; empty if it has none."""
    return [step for step in vars(task).values() if isinstance(step, StaticStep)]


def time_steps(steps: Sequence[Step], report: Report, *, device: str, seconds: float) -> None:
    """Measure contenders one after the other and report milliseconds of each.

    `loop_ms` is the time of a step in `fit`, with its batch and reading of losses; `replay_ms` that of the graphs.

    Raises:
        RuntimeError: a step of mode graph was not captured.
    """
    where = pick_device(device)
    RunOptions().prepare()  # the algorithms of cuDNN that runs use
    for number, step in enumerate(steps):
        report.at(number)
        report.row(number, _row(step, where, seconds))


def _row(step: Step, device: torch.device, seconds: float) -> dict[str, object]:
    use_precision(step.precision)
    gc.collect()  # a task and its graphs refer to each other
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    task = task_of(step, device)
    task.network.train()
    task.begin_epoch(0, 0)
    counter = iter(range(1, 10**9))  # not 0, in which the released order of a search leaves out a step

    def take() -> object:
        return task.step(0, next(counter))

    for _ in range(BEFORE):
        take()
    graphs = graphs_of(task)
    if step.mode == "graph" and not (graphs and all(graph.replay for graph in graphs)):
        raise RuntimeError("the step was not captured")
    loop, count = _milliseconds(take, device, seconds, task.read_every)
    replay = None
    if graphs:
        replay, _ = _milliseconds(lambda: [graph.replay() for graph in graphs if graph.replay], device, seconds / 2, 1)
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return {
        **step._asdict(),
        "batch": 4 * step.identities,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "loop_ms": loop,
        "replay_ms": replay,
        "steps": count,
        "peak_mib": peak,
        "precision_used": precision_used(step.precision, device),
    }


def _milliseconds(
    work: Callable[[], object], device: torch.device, seconds: float, read_every: int
) -> tuple[float, int]:
    """Best of three means, and the number of calls. Values are read as often as `fit` reads them."""

    def run(count: int) -> float:
        _wait(device)
        began = time.perf_counter()
        for number in range(count):
            work()
            if read_every == 1 or number % READ_EVERY == READ_EVERY - 1:
                _wait(device)
        _wait(device)
        return (time.perf_counter() - began) / count

    count = max(2, min(200, int(seconds / 3 / max(run(2), 1e-5))))
    return 1e3 * min(run(count) for _ in range(3)), count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def contenders(networks: Mapping[tuple[int, int], Sequence[str]], modes: Sequence[str]) -> list[Step]:
    """All contenders by importance: what estimates the time of runs, MSINet and the search, then the other networks.

    Args:
        networks: the networks to train, by image size; the smallest size comes first.
        modes: graph, eager; the mode of runs comes first.
    """
    found = [
        Step(network, "train", *size, precision, mode)
        for network in dict.fromkeys(["msinet", *(one for names in networks.values() for one in names)])
        for size, names in networks.items()
        if network in ("msinet", *names)
        for precision in ("tf32", "bf16", "fp32")
        for mode in modes
    ]
    searches = [
        Step("supernet", "search", *size, precision, mode)
        for size in networks
        for precision in ("tf32", "fp32")
        for mode in modes
    ]
    own = [one for one in found if one.network == "msinet"]
    ordered = [*own, *searches, *found[len(own) :]]
    estimates = ("tf32", modes[0], min(networks))
    return sorted(ordered, key=lambda one: (one.precision, one.mode, (one.height, one.width)) != estimates)
