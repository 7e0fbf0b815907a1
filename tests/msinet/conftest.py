"""Data sets, a cache folder and processes for the tests of msinet."""

import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from msinet.data import Dataset, load_dataset
from msinet.data.datasets import REGISTERED
from msinet.data.layouts import card_of
from msinet.data.own import OWN


@pytest.fixture
def own_copy(data_root: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copies one set to a data root of the test and returns the set's folder."""

    def copy(name: str) -> Path:
        folder = card_of(name).folders[0]
        return Path(shutil.copytree(data_root / folder, tmp_path / "data" / folder))

    return copy


@pytest.fixture
def registered() -> Iterator[None]:
    """Restores the registered data sets after the test."""
    before = dict(REGISTERED)
    yield
    REGISTERED.clear()
    REGISTERED.update(before)


@pytest.fixture
def own_sets() -> Iterator[None]:
    """Forgets the user's own data sets after the test."""
    before = dict(OWN)
    yield
    OWN.clear()
    OWN.update(before)


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
