"""A training step next to a busy process, by how OpenMP threads wait. A process reads that setting at its start."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from msinet.environment import SPINS, TUNABLES

#: Environment variables of the process that runs the step. The first entry is the baseline.
WAITING = {
    "torch's default": {},
    "ours": {"GOMP_SPINCOUNT": SPINS},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
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


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("waiting", WAITING)
def test_a_step_beside_other_processes_contention(benchmark: BenchmarkFixture, waiting: str, others: int) -> None:
    """The column is the whole process; `median_step` in the extra information is the step."""
    benchmark.group = f"training step, msinet 64x32, {others} busy process(es)"
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    kept = {name: value for name, value in os.environ.items() if name not in names}

    def run() -> None:
        with busy(others):
            command = [sys.executable, "-c", STEPS]
            env = kept | WAITING[waiting] | {"GLIBC_TUNABLES": TUNABLES}
            found = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
        benchmark.extra_info["median_step"] = round(float(found.stdout), 3)
        print(f"{waiting}, {others} busy: {float(found.stdout):.3f} s a step")

    benchmark.pedantic(run, rounds=1)
