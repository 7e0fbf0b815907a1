"""Table 3 end to end: every network of the table is pre-trained on the pretext set and trained on rendered images."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ablations.__main__ import main
from ablations.engine.request import Request
from ablations.engine.resolve import resolve
from ablations.engine.results import results
from ablations.engine.store import Store
from ablations.studies import find_study
from msinet.models.registry import in_study


@pytest.mark.slow
def test_every_network_is_trained(
    words: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("MSINET_CACHE", str(tmp_path / "cache"))
    store = tmp_path / "store"
    assert main(words("run", store, study="table3", models=(), recipe=())) == 0, capsys.readouterr().err
    request = Request(profile="smoke", datasets=("market1501",), store=store)
    frame = results(resolve(find_study("table3"), request, Store(store)), Store(store))
    assert list(frame["factor.network"]) == [card.name for card in in_study("table3")]
    assert set(frame["state"]) == {"done"}
    assert set(frame["group"]) == {"pretext"}
    assert frame["mAP"].between(0, 1).all()
    assert (frame["steps"] == 6).all()
