"""Studies on a list of the user: its name in lists, records and tables."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ablations.__main__ import main
from ablations.engine.request import Request
from ablations.engine.resolve import resolve
from ablations.engine.store import Store
from ablations.engine.study import network_rows
from ablations.studies import find_study
from msinet.data.own import OWN
from tests.conftest import draw


@pytest.fixture(autouse=True)
def _own() -> Iterator[None]:
    """Forgets the user's sets after each test."""
    before = dict(OWN)
    yield
    OWN.clear()
    OWN.update(before)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A list of persons of one camera, some queries without a match."""
    rows = ["path,identity,camera,split"]
    for i in range(12):
        for n in range(3):
            split = "train" if i < 6 else "query" if n == 0 else "gallery"
            draw(tmp_path / "shop" / f"{i}-{n}.jpg", 11, i, 1, n, 32, 16)
            if not (i == 11 and n):
                rows.append(f"{i}-{n}.jpg,who {i},door,{split}")
    (tmp_path / "shop" / "list.csv").write_text("\n".join(rows))
    return tmp_path / "shop" / "list.csv"


def test_a_study_runs_on_a_list_under_its_name(
    shop: Path, tmp_path: Path, words: Callable[..., list[str]], capsys
) -> None:
    store = Store(tmp_path / "store")
    more = ("--keep-same-camera", "--name", "corner_shop")
    command = words("run", store.root, *more, root=shop, datasets=(), models=("msinet",), recipe=("epochs=0",))
    assert main(command) == 0
    frame = store.frame()
    assert set(frame["target"]) == {"corner_shop"}
    assert set(frame["queries_ranked"]) == {5}
    assert set(frame["queries_not_in_gallery"]) == {1}
    same = Request("smoke", shop, name="corner_shop", keep_same_camera=True)
    request = replace(same, models=("msinet",), recipe=("epochs=0",))
    resolution = resolve(find_study("table2"), request, store)
    assert {one.run.state for one in resolution.cells if one.cell.group != "pretrained"} == {"done"}
    assert {"--name", "corner_shop", "--keep-same-camera"} <= set(same.as_args())  # which other processes are given
    capsys.readouterr()
    assert main(words("status", store.root, root=shop, datasets=(), recipe=("epochs=0",))) == 2
    assert "--keep-same-camera" in capsys.readouterr().err


def test_a_network_without_a_width_has_that_of_the_profile() -> None:
    rows = network_rows(Request("smoke", models=("msinet", "msinet_x1_0", "osnet_x0_5")), ())
    assert [(row["network"], row["width"]) for row in rows] == [("msinet", 0.25), ("msinet", 1.0), ("osnet", 0.5)]
