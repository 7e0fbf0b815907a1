"""Latency and memory of networks, timed in turn so that ratios hold on a noisy machine."""

import functools
import math
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import nn

from bench.cost import count
from bench.forms import Run, prepare
from bench.isolation import Failure, Report, direct, isolated
from bench.machine import traffic
from bench.memory import peak_extra
from bench.networks import REFERENCE, build, label, paper_costs
from bench.tables import Rows
from msinet.environment import describe, pick_device
from msinet.io import write_json
from msinet.models.deployment import deploy

#: Calls before the first measured one, and the smallest number of measured calls if there are as many rounds.
WARM_UP, LEAST = 2, 15
Key = TypeVar("Key")


def race(
    contenders: Mapping[Key, Run],
    *,
    rounds: int,
    seconds: float,
    finish: Callable[[], object],
    begin: Callable[[Key], object] = lambda _: None,
    references: Collection[Key] = (),
) -> dict[Key, list[float]]:
    """Time contenders in turn, so that a disturbance affects all of them.

    Each is called `WARM_UP` times, then once per round, until it has `rounds` calls, or `LEAST` calls and used up its
    seconds. Every other round runs in reverse order, because a call affects the next one through caches and clocks.

    Args:
        contenders: calls by name.
        rounds: largest number of calls of each.
        seconds: time after which a contender stops.
        finish: waits for the device; called before and after each call.
        begin: called with the name of a contender before its calls.
        references: names of contenders that go on as long as any other one.

    Returns:
        Seconds of the calls of each contender, from the first round on, without gaps.
    """
    for name, run in contenders.items():
        begin(name)
        for _ in range(WARM_UP):
            run()
    took: dict[Key, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        going = [name for name, times in took.items() if len(times) < LEAST or sum(times) < seconds]
        going = [name for name in took if name in going or (name in references and going)]
        for name in going if number % 2 == 0 else reversed(going):
            finish()
            begin(name)
            began = time.perf_counter()
            contenders[name]()
            finish()
            took[name].append(time.perf_counter() - began)
    return took


def ratios(times: Sequence[float], others: Sequence[float]) -> list[float]:
    """First quartile, median and third quartile of the ratios of two contenders in the same rounds."""
    shared = min(len(times), len(others))
    return [float(q) for q in np.percentile(np.divide(times[:shared], others[:shared]), (25, 50, 75))]


class Contender(NamedTuple):
    """A network in a form and a precision."""

    network: str
    form: str
    precision: str


@dataclass(frozen=True)
class Conditions:
    """Batch size, image size, device and length of races."""

    batch: int
    image: tuple[int, int]
    device: str
    rounds: int
    seconds: float
    apart: bool = False
    """one race for each network and the reference, so that its rows come before the next network is measured"""


def time_contenders(
    contenders: Sequence[Contender], report: Report, conditions: Conditions, deadline: float = math.inf
) -> None:
    """Race contenders and report on each: its calls, p50, p95 and p99 in seconds, and ratios to its references.

    A race starts only if the longest one so far would still end before the deadline. Later contenders are left out.
    """
    here, device = conditions, pick_device(conditions.device)
    finish = _finisher(device)
    runs: dict[int, Run] = {}
    every = races(contenders, apart=here.apart)
    began, longest = time.monotonic(), 0.0
    for numbers in every:
        runs = {number: run for number, run in runs.items() if number in numbers}  # those of the reference
        built: dict[str, nn.Module] = {}
        for number in numbers:
            if number not in runs:
                report.at(number)
                network, form, precision = contenders[number]
                if network not in built:
                    built[network] = build(network, 751, here.image)
                run = prepare(built[network], form, precision, here.batch, here.image, device)
                run()
                finish()  # an error of the GPU shows here, and not at the next contender
                runs[number] = run
        always = [number for number in runs if contenders[number].network == REFERENCE]
        took = race(runs, rounds=here.rounds, seconds=here.seconds, finish=finish, begin=report.at, references=always)
        now = time.monotonic()
        began, longest = now, max(longest, now - began)
        last = numbers is every[-1] or now + longest > deadline
        by_contender = {contenders[number]: times for number, times in took.items()}
        for number, times in took.items():
            # The reference stays an item until the last race, so that a new process after a failure measures it too.
            if contenders[number].network != REFERENCE or last:
                report.row(number, _summary(times, *(by_contender.get(one) for one in references(contenders[number]))))
        if last:
            return


def _summary(times: Sequence[float], plain: Sequence[float] | None, same: Sequence[float] | None) -> dict[str, object]:
    """Calls, percentiles of their seconds, and ratios to the references; NaN without one."""
    p50, p95, p99 = (float(q) for q in np.percentile(times, (50, 95, 99)))
    low, middle, high = ratios(times, plain) if plain else (math.nan,) * 3
    return {
        "calls": len(times),
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "ratio": middle,
        "ratio_low": low,
        "ratio_high": high,
        "ratio_same": ratios(times, same)[1] if same else math.nan,
    }


def references(one: Contender) -> tuple[Contender, Contender]:
    """The reference in the form eager in fp32, and in the form and precision of a contender."""
    return Contender(REFERENCE, "eager", "fp32"), one._replace(network=REFERENCE)


def races(contenders: Sequence[Contender], *, apart: bool) -> list[list[int]]:
    """Numbers of the contenders of each race: all of them, or those of one network and of the reference."""
    networks = dict.fromkeys(one.network for one in contenders)
    others = [one for one in networks if one != REFERENCE]
    together = [{one, REFERENCE} for one in others] if apart and others else [set(networks)]
    return [[number for number, one in enumerate(contenders) if one.network in names] for names in together]


def measure(
    contenders: Sequence[Contender], conditions: Conditions, *, patience: float = 300.0, deadline: float = math.inf
) -> Iterator[tuple[Contender, dict[str, object] | Failure]]:
    """A row per contender: milliseconds, images per second, ratios to `REFERENCE`, parameters, MACs and bytes moved.

    `ratio` is to the reference in the form eager in fp32, `ratio_same` to the reference in the same form and precision:
    medians over the rounds of one race. `ratio_low` and `ratio_high` are the quartiles of `ratio`. A contender that
    fails has its error in place of a row. On a GPU, races run in another process, because an error there makes the
    process unusable; rows come after each race.

    Args:
        contenders: networks, forms and precisions.
        conditions: of the races.
        patience: on a GPU, seconds without a sign of life after which a contender fails.
        deadline: time of `time.monotonic` before which the races should end; on a GPU they are stopped then.
    """
    every = list(dict.fromkeys([*contenders, *(other for one in contenders for other in references(one))]))
    on_cpu = torch.device(conditions.device).type == "cpu"
    for network in dict.fromkeys(one.network for one in contenders if on_cpu):
        with suppress(Exception):  # its race reports the error
            _sizes(network, conditions.image)  # here: counting during a race would disturb it
    work = functools.partial(time_contenders, conditions=conditions, deadline=deadline)
    found = direct(work, every) if on_cpu else isolated(work, every, patience=patience, deadline=deadline)
    for contender, one in found:
        if contender not in contenders:
            continue
        if isinstance(one, Failure):
            yield contender, one
            continue
        p50, batch = float(one["p50"]), conditions.batch
        yield (
            contender,
            {
                "model": contender.network,
                "form": contender.form,
                "precision": contender.precision,
                "batch": batch,
                "height": conditions.image[0],
                "width": conditions.image[1],
                "calls": one["calls"],
                **{f"{name}_ms": 1e3 * one[name] for name in ("p50", "p95", "p99")},
                **_sizes(contender.network, conditions.image),
                "images_per_second": batch / p50,
                **{name: one[name] for name in ("ratio", "ratio_low", "ratio_high", "ratio_same")},
            },
        )


#: The columns of a row of `measure`.
COLUMNS = (
    *("model", "form", "precision", "batch", "height", "width", "calls", "p50_ms", "p95_ms", "p99_ms"),
    *("parameters", "macs", "images_per_second", "ratio", "ratio_low", "ratio_high", "ratio_same"),
    *("map_bytes", "weight_bytes"),
)
KEYS = ("model", "form", "precision", "batch", "height", "width")
#: The columns of a row of peak memory, after those of `KEYS`.
MEMORY_COLUMNS = (*KEYS, "weights_mib", "peak_mib")


@functools.cache
def _sizes(text: str, image: tuple[int, int]) -> dict[str, int]:
    """Parameters at inference, MACs, and the bytes that the deployed network's layers move for one image."""
    cost = count(build(text, 751, image), *image)
    maps, weights = traffic(deploy(build(text, 1, image)), torch.zeros(1, 3, *image))
    return {"parameters": cost.parameters_at_inference, "macs": cost.macs, "map_bytes": maps, "weight_bytes": weights}


def _finisher(device: torch.device) -> Callable[[], object]:
    return functools.partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None


def finish(rows: Rows, out: Path, environment: Mapping[str, object]) -> None:
    """Write the machine and the arguments of a complete table as JSON, and give the table its name."""
    write_json(out.with_suffix(".json"), dict(environment))  # first: no new table is next to an old description
    os.replace(rows.path, out)
    print(f"written: {out}, {out.with_suffix('.json').name}")


def surroundings(device: torch.device, **more: object) -> dict[str, object]:
    """Machine, versions and time of a measurement, and further entries for its JSON file."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {**describe(device), "cpu_mhz": _clock(), "measured": now, **more}


def _clock() -> float | None:
    """Mean clock of the cores now, in MHz; None outside Linux."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    clocks = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
    return float(np.mean(clocks)) if clocks else None


def render(table: pd.DataFrame) -> str:
    """Median milliseconds and the ratio to eager ResNet50, a column per batch size, and the paper's ratio."""
    cells = [f"{p50:.1f} ({ratio:.2f})" for p50, ratio in zip(table["p50_ms"], table["ratio"], strict=True)]
    shown = _by_batch(table.assign(cell=cells), "cell")
    paper = {label(text): row["relative_time"] for text, row in paper_costs().items()}
    shown["paper"] = [paper.get(name, "-") for name, *_ in shown.index]
    height, width = table[["height", "width"]].iloc[0]
    return (
        f"milliseconds a batch, median (ratio to ResNet50 eager fp32 at that batch), images {height}x{width}\n"
        f"paper: its ratio to ResNet50, device, batch and precision unstated\n{_text(shown)}"
    )


def render_throughput(table: pd.DataFrame) -> str:
    """Images per second, a column per batch size, and the smallest batch size within 5 % of the fastest one."""
    shown = _by_batch(table, "images_per_second")
    best = shown.ge(0.95 * shown.max(axis=1), axis=0).idxmax(axis=1)
    shown = shown.map("{:.1f}".format)
    shown["best batch"] = best.map(str)
    height, width = table[["height", "width"]].iloc[0]
    return f"images a second, {height}x{width}\n{_text(shown)}"


def render_memory(table: pd.DataFrame) -> str:
    """MiB of the weights as trained and of the peak of a batch beyond them, a column per batch size."""
    table = table.assign(weights=table["weights_mib"].map("{:.1f}".format))
    shown = _by_batch(table, "peak_mib", "weights").map("{:.0f}".format, na_action="ignore").fillna("-")
    height, width = table[["height", "width"]].iloc[0]
    what = "MiB: the weights as trained, and the peak of a batch beyond weights and images"
    return f"{what}, {height}x{width}\n{_text(shown)}"


def _by_batch(table: pd.DataFrame, values: str, *more: str) -> pd.DataFrame:
    """A row per network, form and precision (and further columns), a column per batch size."""
    named = table.assign(model=table["model"].map(label))
    keys = ["model", "form", "precision", *more]
    wide = named.set_index([*keys, "batch"])[values].unstack("batch")  # sorted: pandas 2 mixes values up otherwise
    return wide.loc[list(dict.fromkeys(named[keys].itertuples(index=False, name=None))), table["batch"].unique()]


def _text(shown: pd.DataFrame) -> str:
    """The table as text, with every row complete."""
    return shown.rename_axis(columns=None).reset_index().to_string(index=False, justify="right")


def one_batch(
    text: str, form: str, precision: str, batch: int, image: tuple[int, int], device: str
) -> tuple[int | None, int]:
    """Peak bytes of a batch without weights and images, and bytes of the weights. Must run in a fresh process."""
    where = pick_device(device)
    network = build(text, 751, image)
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    prepare(network, form, precision, 1, image, where)()  # loads libraries, chooses kernels
    run = prepare(network, form, precision, batch, image, where)
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
        before = torch.cuda.memory_allocated(where)
        run()
        torch.cuda.synchronize(where)
        return torch.cuda.max_memory_allocated(where) - before, weights
    return peak_extra(run), weights
