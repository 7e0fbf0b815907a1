"""Data sets, a cache folder and processes for the tests of msinet."""

import multiprocessing
import shutil
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from msinet.data import Dataset, load_dataset

FOLDERS = {"market1501": "Market-1501-v15.09.15", "msmt17": "MSMT17_V1", "veri776": "VeRi", "vehicleid": "VehicleID"}


@pytest.fixture
def own_copy(data_root: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copies one set to a data root of the test and returns the set's folder."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(data_root / FOLDERS[name], tmp_path / "data" / FOLDERS[name]))

    return copy


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for decoded images."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MSINET_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def market(data_root: Path) -> Dataset:
    """Market-1501 in small. Shared by all tests: do not change it."""
    return load_dataset("market1501", data_root)


@pytest.fixture(scope="session")
def context() -> ForkServerContext:
    """Starts processes from one that has imported everything, which takes seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["msinet.cli"])
    return context
