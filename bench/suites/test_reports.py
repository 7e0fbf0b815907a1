"""The report and the claims of 500 synthetic runs. The floor is the imports of a report."""

import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

ROOT = Path(__file__).parents[2]
RUNS = 500
COMMANDS = {
    "report": ["-m", "reports", "build", "--whole"],
    "claims": ["-m", "reports", "claims"],
    "floor": ["-c", "import torch, torchvision, scipy.stats, seaborn"],
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs, after a first report, which makes the contact sheets and embeds images for ranked lists."""
    path = tmp_path_factory.mktemp("store")
    call(["tests/reports/make_store.py", str(path), str(RUNS)])
    call([*COMMANDS["report"], "--store", str(path)])
    return path


def call(arguments: list[str]) -> None:
    """Run Python in the root folder, without its output."""
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("what", COMMANDS)
def test_reports_of_500_runs(benchmark: BenchmarkFixture, store: Path, what: str) -> None:
    """Seconds of a command, its start included."""
    benchmark.group = f"reports of {RUNS} runs"
    options = [] if what == "floor" else ["--store", str(store)]
    benchmark.pedantic(call, ([*COMMANDS[what], *options],), rounds=3)
