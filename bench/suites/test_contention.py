"""A training step next to a busy process, by how OpenMP threads wait. A process reads that setting at its start."""

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from msinet.environment import SPINS, TUNABLES

#: Several processes at a time, as `python -m ablations run` starts them.
PER_CORE = "one thread, a process per core"
#: Environment variables of a process that takes steps. The first entry is the baseline.
WAITING = {
    "torch's default": {},
    "more spins": {"GOMP_SPINCOUNT": "10000"},
    "ours": {"GOMP_SPINCOUNT": SPINS},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
    PER_CORE: {"OMP_NUM_THREADS": "1"},
}
#: Rounds of all settings in turn, so that a disturbance affects all of them.
ROUNDS = 5
#: Prints the median seconds of a step.
STEPS = """
import statistics, time, torch
from msinet.models import build_model
torch.manual_seed(0)
network = build_model("msinet", 100).train().to(memory_format=torch.channels_last)
optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9)
images = torch.randn(64, 3, 64, 32).to(memory_format=torch.channels_last)
labels = torch.arange(64) % 16
times = []
for _ in range(11):
    began = time.perf_counter()
    loss = sum(torch.nn.functional.cross_entropy(one, labels) for one in network(images).logits)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    times.append(time.perf_counter() - began)
print(statistics.median(times[3:]))
"""


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep CPU cores busy with this number of other processes."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def seconds_of_a_step(waiting: str, others: int) -> float:
    """Seconds of a step with a setting, next to this number of busy processes: the median, divided by the processes."""
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    env = kept | WAITING[waiting] | {"GLIBC_TUNABLES": TUNABLES}
    count = (os.cpu_count() or 1) if waiting == PER_CORE else 1
    with busy(others):
        running = [
            subprocess.Popen([sys.executable, "-c", STEPS], env=env, stdout=subprocess.PIPE, text=True)
            for _ in range(count)
        ]
        medians = [float(process.communicate()[0]) for process in running]
    return statistics.mean(medians) / count


def test_a_step_next_to_a_busy_process_contention(
    benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prints medians over the rounds and their ratios. The benchmark's column is the time of all processes."""
    settings = list(product(WAITING, (0, 1)))
    found: dict[tuple[str, int], list[float]] = {setting: [] for setting in settings}

    def run() -> None:
        for _ in range(ROUNDS):
            for setting in settings:
                found[setting].append(seconds_of_a_step(*setting))

    benchmark.pedantic(run, rounds=1)
    medians = {setting: statistics.median(seconds) for setting, seconds in found.items()}
    default = medians[settings[0]]
    with capsys.disabled():
        print(f"\ntraining step, msinet 64x32: medians of {ROUNDS} rounds")
        for waiting in WAITING:
            quiet, disturbed = medians[waiting, 0], medians[waiting, 1]
            words = f"{waiting:<30} quiet {quiet:.3f} s ({quiet / default:.2f} of the default)"
            print(f"{words}, with a busy process {disturbed:.3f} s ({disturbed / quiet:.2f} of quiet)")
            benchmark.extra_info[waiting] = [round(seconds, 3) for seconds in (quiet, disturbed)]
