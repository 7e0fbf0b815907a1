"""The default command, `python -m ablations run table2`, from an empty cache to its table."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_default(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Seconds of the command, with rendering and the table, in one round."""
    environment = os.environ | {"MSINET_CACHE": str(tmp_path / "cache")}
    words = [sys.executable, "-m", "ablations", "run", "table2", "--device", "cpu", "--store", str(tmp_path / "store")]
    benchmark.extra_info["cores"] = os.cpu_count()
    benchmark.pedantic(
        lambda: subprocess.run(words, cwd=ROOT, env=environment, check=True, capture_output=True), rounds=1
    )
