"""What Table 2 consists of, and what is said to a request that cannot be met."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import tyro

from ablations.__main__ import main
from ablations.catalogue import Request
from ablations.table2 import TABLE2, column_label, row_label
from msinet.data import LAYOUTS
from msinet.training.profiles import PROFILES

ALL = ("market1501", "msmt17", "veri776", "vehicleid")


def test_all_of_it() -> None:
    cells = TABLE2.cells(Request(seeds=2), ALL)
    assert Counter(cell.group for cell in cells) == {
        "no training": 6, "from scratch": 2 * 6 * 4, "pre-trained": 2 * 6 * 4,
    }  # fmt: skip
    assert {cell.column for cell in cells} == {"M", "MS", "VR", "VID", "MS>M", "VR>VID"}
    assert {cell.column for cell in cells} <= TABLE2.columns.keys()
    assert {cell.row for cell in cells} == {"colour histogram", "ResNet50", "OSNet", "CDNet", "MSINet"}
    assert {cell.experiment.seed for cell in cells if cell.group != "no training"} == {0, 1}
    assert {cell.experiment.init for cell in cells if cell.group == "pre-trained"} == {"pretrained"}
    trained = [cell.experiment for cell in cells if cell.group != "no training"]
    assert len(set(trained)) == len(trained)  # no cell asks for a run of another


def test_the_colour_histogram_is_ranked_once_per_test_set() -> None:
    # It learns nothing, so neither seeds nor training sets make a difference: six columns, four runs.
    plain = [cell for cell in TABLE2.cells(Request(seeds=3), ALL) if cell.group == "no training"]
    assert {cell.column: cell.experiment.target for cell in plain} == {
        "M": "market1501", "MS": "msmt17", "VR": "veri776", "VID": "vehicleid", "MS>M": "market1501",
        "VR>VID": "vehicleid",
    }  # fmt: skip
    assert len({cell.experiment for cell in plain}) == 4
    assert not any(cell.experiment.cross_domain for cell in plain)


@pytest.mark.parametrize(
    ("datasets", "columns"),
    [
        (("market1501",), {"M"}),
        (("msmt17", "market1501"), {"MS", "M", "MS>M"}),
        (("veri776", "vehicleid"), {"VR", "VID", "VR>VID"}),
        (("msmt17", "vehicleid"), {"MS", "VID"}),
        (("market1501", "veri776", "vehicleid_800"), {"M", "VR", "VID800"}),
    ],
)
def test_columns_follow_the_data_sets_at_hand(datasets: tuple[str, ...], columns: set[str]) -> None:
    cells = TABLE2.cells(Request(models=("osnet",)), datasets)
    assert {cell.column for cell in cells} == columns
    assert Counter(cell.group for cell in cells) == dict.fromkeys(
        ("no training", "from scratch", "pre-trained"), len(columns)
    )
    for cell in cells:
        e = cell.experiment
        assert cell.column == column_label(e.source, e.target) or cell.group == "no training"


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_known_data_set_has_a_column(name: str) -> None:
    assert column_label(name, name) in TABLE2.columns


def test_models_are_those_asked_for() -> None:
    cells = TABLE2.cells(Request(models=("osnet_x0_25", "msinet")), ("veri776",))
    assert {(cell.experiment.model, cell.row) for cell in cells} == {
        ("colour_histogram", "colour histogram"), ("osnet_x0_25", "OSNet x0.25"), ("msinet", "MSINet"),
    }  # fmt: skip


def test_the_smoke_profile_takes_quarter_widths_and_says_so() -> None:
    cells = TABLE2.cells(Request(profile="smoke"), ("market1501",))
    assert {cell.experiment.model for cell in cells if cell.group == "from scratch"} == {
        "resnet50_x0_25", "osnet_x0_25", "cdnet_x0_25", "msinet_x0_25",
    }  # fmt: skip
    assert row_label("cdnet_x0_25") == "CDNet x0.25"
    # A model that is asked for is taken as it is.
    asked = TABLE2.cells(Request(profile="smoke", models=("msinet",)), ("market1501",))
    assert {cell.row for cell in asked} == {"colour histogram", "MSINet"}


def test_recipes_of_the_paper() -> None:
    # SPEC A.7 and A.8: 350 epochs at home, 250 across with the same milestones, jitter and no erasing.
    request = Request(profile="paper", models=("msinet",))
    recipes = {c.column: c.experiment.recipe for c in TABLE2.cells(request, ALL) if c.group == "from scratch"}
    assert {c: r.epochs for c, r in recipes.items()} == {
        "M": 350, "MS": 350, "VR": 350, "VID": 350, "MS>M": 250, "VR>VID": 250,
    }  # fmt: skip
    assert {c: (r.height, r.width) for c, r in recipes.items()} == {
        "M": (256, 128), "MS": (256, 128), "MS>M": (256, 128),
        "VR": (256, 256), "VID": (256, 256), "VR>VID": (256, 256),
    }  # fmt: skip
    for column, recipe in recipes.items():
        across = ">" in column
        assert recipe.milestones == (150, 225, 300)
        assert recipe.augmentation.jitter is across
        assert recipe.augmentation.erase == (0.0 if across else 0.5)
        assert (recipe.optimizer, recipe.lr, recipe.identities, recipe.images) == ("sgd", 0.065, 16, 4)


def test_networks_of_a_column_are_trained_alike() -> None:
    # The table compares networks, so nothing else may differ between its rows.
    cells = TABLE2.cells(Request(), ALL)
    for column in {cell.column for cell in cells}:
        recipes = {c.experiment.recipe for c in cells if c.column == column and c.group != "no training"}
        assert len(recipes) == 1


def test_changes_to_the_recipe_reach_every_training() -> None:
    plain, changed = Request(profile="smoke"), Request(profile="smoke", recipe=("lr=0.5", "epochs=9", "erase=0.25"))
    for cell in TABLE2.cells(changed, ALL):
        recipe = cell.experiment.recipe
        assert cell.group == "no training" or (recipe.lr, recipe.epochs, recipe.augmentation.erase) == (0.5, 9, 0.25)
    # The histogram is the same run whatever the schedule, but not whatever the image size.
    histograms = [
        {cell.experiment.key for cell in TABLE2.cells(request, ALL) if cell.group == "no training"}
        for request in (plain, changed, Request(profile="smoke", recipe=("height=64",)))
    ]
    assert histograms[0] == histograms[1]
    assert not histograms[0] & histograms[2]


def test_the_order_is_cheap_rows_first_and_whole_columns_per_seed() -> None:
    # After a stop there is a complete table of fewer seeds rather than a torn one of all.
    cells = TABLE2.cells(Request(seeds=2), ("market1501", "msmt17"))
    groups = [cell.group for cell in cells]
    assert groups == sorted(groups, key=["no training", "from scratch", "pre-trained"].index)
    seeds = [cell.experiment.seed for cell in cells if cell.group == "from scratch"]
    assert seeds == sorted(seeds)


# Requests that cannot be met


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["table9"], ["unknown table or figure 'table9'", "table2"]),
        (["table2", "--profile", "tiny"], ["unknown profile 'tiny'", *PROFILES]),
        (["table2", "--datasets", "market1501", "vehicelid"], ["'vehicelid'", "Did you mean 'vehicleid'?", *LAYOUTS]),
        (["table2", "--models", "msinet", "resnet"], ["unknown model 'resnet'", "resnet50", "osnet", "cdnet"]),
        (["table2", "--recipe", "learning_rate=1"], ["unknown setting", "'learning_rate'", "lr", "epochs", "erase"]),
        (["table2", "--recipe", "lr"], ["'lr' is not NAME=VALUE"]),
        (["table2", "--recipe", "epochs=many"], ["epochs is a int", "'many'"]),
        (["table2", "--seeds", "0"], ["--seeds must be at least 1"]),
    ],
)
@pytest.mark.parametrize("command", ["run", "status", "list"])
def test_unknown_names_fail_with_the_known_ones(
    words: list[str], told: list[str], command: str, data_root: Path, tmp_path: Path, capfd
) -> None:
    assert main([command, *words, "--data-root", str(data_root), "--store", str(tmp_path / "store")]) == 2
    out, err = capfd.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1  # one line, no traceback
    for part in told:
        assert part in err
    assert not out
    assert not (tmp_path / "store").exists()


def test_show_knows_its_tables_before_it_starts_a_process(capfd) -> None:
    assert main(["show", "table9"]) == 2
    assert "unknown table or figure 'table9'" in capfd.readouterr().err


@pytest.mark.parametrize("command", ["run", "status"])
def test_no_data_is_told_with_what_to_pass(command: str, tmp_path: Path, capfd) -> None:
    (tmp_path / "empty").mkdir()
    for words, told in (
        ([], "pass --data-root DIR"),
        (["--data-root", str(tmp_path / "nowhere")], "nowhere does not exist"),
        (["--data-root", str(tmp_path / "empty")], "no known data set under"),
        (["--data-root", str(tmp_path / "empty"), "--datasets", "veri776"], "no veri776 under"),
    ):
        assert main([command, "table2", *words]) == 2
        err = capfd.readouterr().err
        assert told in err
        assert err.count("\n") == 1


def test_list_says_what_there_is(capsys) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for part in ("table2: Table 2", "varies: network", "fixed: recipe", "nuisance: seed"):
        assert part in out


def test_list_of_a_table_needs_no_data_and_has_one_line_per_cell(capsys) -> None:
    assert main(["list", "table2", "--seeds", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 + 2 * 2 * 6 * 4
    assert sum("msinet pretrained veri776->vehicleid seed 1" in line for line in lines) == 1


def test_list_of_a_table_with_data_has_the_columns_of_those_data(data_root: Path, capsys) -> None:
    root = data_root / "VeRi"
    assert main(["list", "table2", "--data-root", str(root), "--models", "cdnet"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[-4:] for line in lines] == [
        [init, "veri776", "seed", "0"] for init in ("scratch", "scratch", "pretrained")
    ]


def test_a_request_comes_back_from_its_own_words() -> None:
    # `run` hands the request to another process as words; what is lost there would show another table.
    request = Request(
        profile="smoke", data_root=Path("/d"), datasets=("veri776", "msmt17"), models=("osnet",), seeds=3,
        recipe=("lr=0.01", "milestones=(2, 3)"), pretrained=Path("w"), store=Path("s"),
    )  # fmt: skip
    assert tyro.cli(Request, args=request.as_args()) == request
    assert Request().as_args() == []
    assert replace(request, profile="mini", seeds=1).as_args()[:2] == ["--data-root", "/d"]
