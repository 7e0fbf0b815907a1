"""A data set that a test may damage, and a cache of its own."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

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
