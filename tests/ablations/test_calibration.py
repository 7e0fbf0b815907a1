"""The calibration: what learns nothing beside Table 2's trained networks, whose runs it shares."""

from collections import Counter
from pathlib import Path

import pytest

from ablations.__main__ import main
from ablations.calibration import CALIBRATION
from ablations.catalogue import Request
from ablations.runner import make_plan
from ablations.table2 import TABLE2

ALL = ("market1501", "msmt17", "veri776", "vehicleid")


@pytest.mark.parametrize(
    "settings", [{"whole": True}, {"data_root": Path("/photographs")}, {"whole": True, "seeds": 2}]
)
def test_all_of_it(settings) -> None:
    cells = CALIBRATION.cells(Request(**settings), ALL)
    seeds = settings.get("seeds", 1)
    assert Counter((cell.group, cell.row) for cell in cells) == {
        ("no training", "colour histogram"): 6,
        ("no training", "MSINet, random weights"): 6,
        ("from scratch", "ResNet50"): 6 * seeds,
        ("from scratch", "OSNet"): 6 * seeds,
        ("from scratch", "MSINet"): 6 * seeds,
    }
    assert {cell.column for cell in cells} == {"M", "MS", "VR", "VID", "MS>M", "VR>VID"}
    assert {cell.column for cell in cells} <= CALIBRATION.columns.keys()


def test_by_default_it_has_the_columns_of_table_2_and_so_no_training_of_its_own() -> None:
    here, there = (catalogue.cells(Request(), ALL) for catalogue in (CALIBRATION, TABLE2))
    assert {cell.column for cell in here} == {cell.column for cell in there} == {"M", "MS", "VR", "MS>M", "VR>VID"}
    assert {c.experiment for c in here if c.group == "from scratch"} < {c.experiment for c in there}


def test_random_weights_are_never_trained() -> None:
    for profile in ("smoke", "mini"):
        cells = CALIBRATION.cells(Request(profile=profile, recipe=("epochs=9", "lr=0.5")), ALL)
        random = [cell.experiment for cell in cells if cell.row == "MSINet, random weights"]
        assert {e.recipe.schedule.epochs for e in random} == {0}
        assert {e.model for e in random} == {"msinet_x0_25" if profile == "smoke" else "msinet"}
        assert not any(e.cross_domain or e.init == "pretrained" for e in random)
        assert len(set(random)) == 4  # one per test set
        for e in random:
            trained = [c.experiment for c in cells if c.group == "from scratch" and c.experiment.target == e.target]
            assert {(t.recipe.image.height, t.recipe.image.width) for t in trained} == {
                (e.recipe.image.height, e.recipe.image.width)
            }
            assert all(t.recipe.schedule.epochs == 9 for t in trained)


def test_its_trainings_are_those_of_table_2(data_root: Path) -> None:
    request = Request(profile="smoke", data_root=data_root, seeds=2)
    here, there = (make_plan(catalogue, request) for catalogue in (CALIBRATION, TABLE2))
    trained = {p.run_id for p in here.planned.values() if p.experiment.recipe.schedule.epochs}
    assert len(trained) == 2 * 3 * 6
    assert trained < {p.run_id for p in there.planned.values()}
    colour = {p.run_id for p in here.planned.values() if p.experiment.model == "colour_histogram"}
    assert colour == {p.run_id for p in there.planned.values() if p.experiment.model == "colour_histogram"}
    assert len({p.run_id for p in here.runs()} - {p.run_id for p in there.runs()}) == 4  # the random weights


def test_it_needs_no_weights() -> None:
    for settings in ({}, {"whole": True}, {"profile": "smoke"}, {"pretrained": Path("w")}):
        cells = CALIBRATION.cells(Request(**settings), ALL)
        assert {cell.experiment.init for cell in cells} == {"scratch"}


def test_networks_are_those_asked_for() -> None:
    cells = CALIBRATION.cells(Request(models=("cdnet",)), ("market1501",))
    assert [cell.row for cell in cells] == ["colour histogram", "MSINet, random weights", "CDNet"]


def test_list_prints_it(capsys) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "calibration: Calibration: how hard the data are" in out
    assert main(["list", "calibration"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 * 5
    assert sum("MSINet, random weights" in line for line in lines) == 5
