"""How long networks take and how much memory: measured side by side, so that ratios hold on a noisy machine."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from bench.cost import count
from bench.machine import rates, traffic
from bench.memory import EXACT, in_a_fresh_process, peak_extra
from bench.networks import REFERENCE, Run, Spec, check_forms, paper_costs, prepare, specs
from msinet.environment import describe, pick_device
from msinet.errors import UserError
from msinet.io import write_json, write_text
from msinet.models.deploy import deploy

#: Calls before anything counts, and calls that count at least.
WARM_UP, LEAST = 2, 5


@dataclass(frozen=True)
class Timing:
    """Calls of one contender, in seconds."""

    calls: int
    p50: float
    p95: float
    p99: float


def race(
    contenders: Mapping[str, Run], *, rounds: int, seconds: float, finish: Callable[[], object]
) -> dict[str, Timing]:
    """Time contenders in turn, so that a disturbance meets all of them.

    Each is called `WARM_UP` times, then once a round, until it has `rounds` calls or, with `LEAST` at least, has used
    up its seconds. Every other round goes backwards, as the call before leaves its mark on caches and clocks.

    Args:
        contenders: what to call, by name.
        rounds: calls of each at most.
        seconds: for each, beyond which it stops.
        finish: waits for the device; called before and after each call.
    """
    for run in contenders.values():
        for _ in range(WARM_UP):
            run()
    took: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        going = [name for name, times in took.items() if len(times) < LEAST or sum(times) < seconds]
        for name in going if number % 2 == 0 else reversed(going):
            finish()
            began = time.perf_counter()
            contenders[name]()
            finish()
            took[name].append(time.perf_counter() - began)
    return {
        name: Timing(len(times), *(float(q) for q in np.percentile(times, (50, 95, 99))))
        for name, times in took.items()
    }


def measure(
    networks: list[Spec],
    *,
    forms: tuple[str, ...],
    precisions: tuple[str, ...],
    batches: tuple[int, ...],
    image: tuple[int, int],
    device: torch.device,
    rounds: int,
    seconds: float,
) -> pd.DataFrame:
    """One row per network, form, precision and batch: milliseconds, images a second, ratios to `REFERENCE`.

    With it what an image costs: parameters and multiply-adds. `ratio` is to the reference as trained (eager, fp32),
    `ratio_same` to the reference in the same form and precision.
    """
    # The reference comes in its plain form once more if that was not asked for: every ratio is taken in one race.
    wanted = [(spec, form, precision) for precision in precisions for form in forms for spec in networks]
    plain = (Spec(REFERENCE), "eager", "fp32")
    alike = [(Spec(REFERENCE), form, precision) for precision in precisions for form in forms]
    every = list(dict.fromkeys([*wanted, plain, *alike]))
    built = {spec: spec.build(751, image) for spec, _, _ in every}
    counted = {spec: count(built[spec], *image) for spec in networks}
    rows = []
    for batch in tqdm(batches, desc="batch sizes", disable=len(batches) < 2):
        runs = {
            " | ".join((spec.text, form, precision)): prepare(built[spec], form, precision, batch, image, device)
            for spec, form, precision in every
        }
        times = race(runs, rounds=rounds, seconds=seconds, finish=_finisher(device))
        base = times[" | ".join((plain[0].text, *plain[1:]))].p50
        for spec, form, precision in wanted:
            timing = times[" | ".join((spec.text, form, precision))]
            same = times[" | ".join((REFERENCE, form, precision))].p50
            rows.append(
                {
                    "model": spec.text,
                    "form": form,
                    "precision": precision,
                    "batch": batch,
                    "height": image[0],
                    "width": image[1],
                    "calls": timing.calls,
                    "p50_ms": 1e3 * timing.p50,
                    "p95_ms": 1e3 * timing.p95,
                    "p99_ms": 1e3 * timing.p99,
                    "parameters": counted[spec].parameters_at_inference,
                    "macs": counted[spec].macs,
                    "images_per_second": batch / timing.p50,
                    "ratio": timing.p50 / base,
                    "ratio_same": timing.p50 / same,
                }
            )
    return pd.DataFrame(rows)


def _finisher(device: torch.device) -> Callable[[], object]:
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def write(table: pd.DataFrame, out: Path, environment: Mapping[str, object]) -> None:
    """The rows as CSV, and what they were measured on beside them as JSON."""
    write_text(out, table.to_csv(index=False, float_format="%.6g"))
    write_json(out.with_suffix(".json"), dict(environment))
    print(f"written: {out}, {out.with_suffix('.json').name}")


def surroundings(device: torch.device, **more: object) -> dict[str, object]:
    """What a measurement depends on beside the code that is measured."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {**describe(device), "cpu_mhz": _clock(), "measured": now, **more}


def _clock() -> float | None:
    """Mean clock of the cores now, in MHz, where Linux tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    clocks = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
    return float(np.mean(clocks)) if clocks else None


def _image(height: int, width: int) -> tuple[int, int]:
    if min(height, width) < 16:
        raise UserError(f"images of {height}x{width} are too small; the networks need 16x16")
    return height, width


@dataclass(frozen=True)
class Latency:
    """Milliseconds a batch (median, 95th and 99th percentile), and ratios to ResNet50 in the same race."""

    models: tuple[str, ...] = ()
    """names, with options in quotes: "msinet genotype=GGGGGGGGGGGG"; empty: every network of the paper's tables"""
    forms: tuple[str, ...] = ("eager", "channels_last", "deployed")
    """eager, channels_last, deployed, compiled, cuda_graph, onnx"""
    precisions: tuple[str, ...] = ("fp32",)
    """fp32, bf16, and on a GPU tf32"""
    batches: tuple[int, ...] = (1, 8, 32, 128)
    """images at a time"""
    height: int = 256
    """of the images"""
    width: int = 128
    """of the images"""
    rounds: int = 100
    """calls of each contender at most"""
    seconds: float = 5.0
    """for each contender and batch size, beyond the fifth call"""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one"""
    out: Path = Path("results/bench/latency.csv")
    """file for the table; what it was measured on goes beside it as JSON"""

    def __call__(self) -> None:
        """Measure, print and write."""
        table, environment = self.run()
        print(render(table))
        write(table, self.out, environment)

    def run(self) -> tuple[pd.DataFrame, dict[str, object]]:
        """The table, and what it was measured on."""
        device = pick_device(self.device)
        check_forms(self.forms, self.precisions, device)
        for name, values in (("batch", self.batches), ("round", (self.rounds,))):
            if not values or min(values) < 1:
                raise UserError(f"there must be at least one {name}, got {values}")
        image = _image(self.height, self.width)
        table = measure(
            specs(self.models),
            forms=self.forms,
            precisions=self.precisions,
            batches=self.batches,
            image=image,
            device=device,
            rounds=max(self.rounds, LEAST),
            seconds=self.seconds,
        )
        macs, bandwidth = rates(device)
        moved = {
            text: traffic(deploy(Spec(text).build(1, image)), torch.zeros(1, 3, *image)) for text in set(table["model"])
        }
        table["map_bytes"], table["weight_bytes"] = zip(*(moved[text] for text in table["model"]), strict=True)
        return table, surroundings(
            device,
            macs_per_second=macs,
            bytes_per_second=bandwidth,
            arguments={name: str(value) for name, value in asdict(self).items()},
        )


def render(table: pd.DataFrame) -> str:
    """Median milliseconds and the ratio to ResNet50 as trained, a column per batch size, and the paper's ratio."""
    cells = [f"{p50:.1f} ({ratio:.2f})" for p50, ratio in zip(table["p50_ms"], table["ratio"], strict=True)]
    shown = _by_batch(table.assign(cell=cells), "cell")
    costs = paper_costs()
    shown["paper"] = [costs[name]["relative_time"] if name in costs else "-" for name, *_ in shown.index]
    height, width = table[["height", "width"]].iloc[0]
    return (
        f"milliseconds a batch, median (ratio to ResNet50 eager fp32 at that batch), images {height}x{width}\n"
        f"paper: its ratio to ResNet50, device, batch and precision unstated\n{_text(shown)}"
    )


def render_throughput(table: pd.DataFrame) -> str:
    """Images a second, a column per batch size, and the batch at which each network is fastest."""
    shown = _by_batch(table, "images_per_second")
    best = shown.idxmax(axis=1)
    shown = shown.map("{:.1f}".format)
    shown["best batch"] = best.map(str)
    height, width = table[["height", "width"]].iloc[0]
    return f"images a second, {height}x{width}\n{_text(shown)}"


def render_memory(table: pd.DataFrame) -> str:
    """MiB of the weights as trained, and at the peak of a batch beyond them, a column per batch size."""
    table = table.assign(weights=table["weights_mib"].map("{:.1f}".format))
    shown = _by_batch(table, "peak_mib", "weights").map("{:.0f}".format, na_action="ignore").fillna("-")
    height, width = table[["height", "width"]].iloc[0]
    what = "MiB: the weights as trained, and the peak of a batch beyond weights and images"
    return f"{what}, {height}x{width}\n{_text(shown)}"


def _by_batch(table: pd.DataFrame, values: str, *more: str) -> pd.DataFrame:
    """A row per network, form and precision (and what else tells rows apart), a column per batch size."""
    named = table.assign(model=[Spec(text).label for text in table["model"]])
    return named.set_index(["model", "form", "precision", *more, "batch"])[values].unstack("batch", sort=False)


def _text(shown: pd.DataFrame) -> str:
    """Lines without an index that spans rows, so that each stands for itself."""
    return shown.rename_axis(columns=None).reset_index().to_string(index=False, justify="right")


@dataclass(frozen=True)
class Throughput(Latency):
    """Images a second by batch size, and the batch at which each network is fastest."""

    forms: tuple[str, ...] = ("deployed",)
    """eager, channels_last, deployed, compiled, cuda_graph, onnx"""
    batches: tuple[int, ...] = (1, 4, 16, 64)
    """images at a time"""
    out: Path = Path("results/bench/throughput.csv")
    """file for the table; what it was measured on goes beside it as JSON"""

    def __call__(self) -> None:
        """Measure, print and write."""
        table, environment = self.run()
        print(render_throughput(table))
        write(table, self.out, environment)


@dataclass(frozen=True)
class Memory:
    """Memory of one inference batch beyond weights and images, at its peak, each network in a process of its own."""

    models: tuple[str, ...] = ()
    """names, with options in quotes; empty: every network of the paper's tables"""
    forms: tuple[str, ...] = ("eager", "deployed")
    """eager, channels_last, deployed, compiled, cuda_graph, onnx"""
    precision: str = "fp32"
    """fp32, bf16, and on a GPU tf32"""
    batches: tuple[int, ...] = (1, 32)
    """images at a time"""
    height: int = 256
    """of the images"""
    width: int = 128
    """of the images"""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one"""
    out: Path = Path("results/bench/memory.csv")
    """file for the table"""

    def __call__(self) -> None:
        """Measure, print and write."""
        device = pick_device(self.device)
        check_forms(self.forms, (self.precision,), device)
        image = _image(self.height, self.width)
        cases = [(spec, form, batch) for spec in specs(self.models) for form in self.forms for batch in self.batches]
        rows = []
        for spec, form, batch in tqdm(cases, desc="memory"):
            extra, weights = in_a_fresh_process(
                _one_batch, spec, form, self.precision, batch, image, str(device), tunables=EXACT
            )
            rows.append(
                {
                    "model": spec.text,
                    "form": form,
                    "precision": self.precision,
                    "batch": batch,
                    "height": image[0],
                    "width": image[1],
                    "weights_mib": weights / 2**20,
                    "peak_mib": None if extra is None else extra / 2**20,
                }
            )
        table = pd.DataFrame(rows)
        print(render_memory(table))
        write(table, self.out, surroundings(device, allocator=EXACT))


def _one_batch(
    spec: Spec, form: str, precision: str, batch: int, image: tuple[int, int], device: str
) -> tuple[int | None, int]:
    """Bytes at the peak of a batch, and bytes of the weights as trained. Runs in a fresh process."""
    where = torch.device(device)
    network = spec.build(751, image)
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    prepare(network, form, precision, 1, image, where)()  # libraries are loaded, kernels chosen
    run = prepare(network, form, precision, batch, image, where)
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before, weights
    return peak_extra(run), weights
