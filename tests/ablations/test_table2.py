"""What Table 2 consists of, and what is said to a request that cannot be met."""

from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import tyro
from msinet.training.profiles import PROFILES

from ablations.__main__ import main
from ablations.catalogue import PRETEXT, Request
from ablations.table2 import PRETEXT_GROUP, TABLE2, column_label, row_label
from msinet.data import LAYOUTS
from msinet.models import split_name

ALL = ("market1501", "msmt17", "veri776", "vehicleid")
#: Stands for a folder of photographs; what a table consists of is known without reading it.
PHOTOGRAPHS = Path("/photographs")


def photographs(**settings: Any) -> Request:
    return Request(data_root=PHOTOGRAPHS, **settings)


def test_all_of_it() -> None:
    # Six columns of four networks; SPEC C.2 has nothing of CDNet across data sets, and MSINet-SAM pre-trained alone.
    cells = TABLE2.cells(photographs(seeds=2), ALL)
    assert Counter(cell.group for cell in cells) == {
        "no training": 6,
        "from scratch": 2 * (6 * 4 - 2),
        "pre-trained": 2 * (6 * 5 - 2),
    }
    across = [cell for cell in cells if ">" in cell.column and cell.group != "no training"]
    assert Counter(cell.row for cell in across) == {"ResNet50": 8, "OSNet": 8, "MSINet": 8, "MSINet-SAM": 4}
    assert {cell.column for cell in cells} == {"M", "MS", "VR", "VID", "MS>M", "VR>VID"}
    assert {cell.column for cell in cells} <= TABLE2.columns.keys()
    assert {cell.row for cell in cells} == {"colour histogram", "ResNet50", "OSNet", "CDNet", "MSINet", "MSINet-SAM"}
    assert {cell.experiment.seed for cell in cells if cell.group != "no training"} == {0, 1}
    assert {cell.experiment.init for cell in cells if cell.group == "pre-trained"} == {"pretrained"}
    trained = [cell.experiment for cell in cells if cell.group != "no training"]
    assert len(set(trained)) == len(trained)  # no cell asks for a run of another


def test_the_colour_histogram_is_ranked_once_per_test_set() -> None:
    # It learns nothing, so neither seeds nor training sets make a difference: six columns, four runs.
    plain = [cell for cell in TABLE2.cells(photographs(seeds=3), ALL) if cell.group == "no training"]
    assert {cell.column: cell.experiment.target for cell in plain} == {
        "M": "market1501",
        "MS": "msmt17",
        "VR": "veri776",
        "VID": "vehicleid",
        "MS>M": "market1501",
        "VR>VID": "vehicleid",
    }
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
    cells = TABLE2.cells(photographs(models=("osnet",)), datasets)
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
    cells = TABLE2.cells(photographs(models=("osnet_x0_25", "msinet")), ("veri776",))
    assert {(cell.experiment.model, cell.row) for cell in cells} == {
        ("colour_histogram", "colour histogram"),
        ("osnet_x0_25", "OSNet x0.25"),
        ("msinet", "MSINet"),
    }


def test_the_smoke_profile_takes_quarter_widths_and_says_so() -> None:
    cells = TABLE2.cells(Request(profile="smoke"), ("market1501",))
    assert {cell.experiment.model for cell in cells if cell.group == "from scratch"} == {
        "resnet50_x0_25",
        "osnet_x0_25",
        "cdnet_x0_25",
        "msinet_x0_25",
    }
    assert row_label("cdnet_x0_25") == "CDNet x0.25"
    # A model that is asked for is taken as it is.
    asked = TABLE2.cells(Request(profile="smoke", models=("msinet",)), ("market1501",))
    assert {cell.row for cell in asked} == {"colour histogram", "MSINet"}


def test_recipes_of_the_paper() -> None:
    # SPEC A.7 and A.8: 350 epochs at home, 250 across with the same milestones, jitter and no erasing.
    request = photographs(profile="paper", models=("msinet",))
    recipes = {c.column: c.experiment.recipe for c in TABLE2.cells(request, ALL) if c.group == "from scratch"}
    assert {c: r.epochs for c, r in recipes.items()} == {
        "M": 350,
        "MS": 350,
        "VR": 350,
        "VID": 350,
        "MS>M": 250,
        "VR>VID": 250,
    }
    assert {c: (r.height, r.width) for c, r in recipes.items()} == {
        "M": (256, 128),
        "MS": (256, 128),
        "MS>M": (256, 128),
        "VR": (256, 256),
        "VID": (256, 256),
        "VR>VID": (256, 256),
    }
    for column, recipe in recipes.items():
        across = ">" in column
        assert recipe.schedule.milestones == (150, 225, 300)
        assert recipe.augmentation.jitter is across
        assert recipe.augmentation.erase == (0.0 if across else 0.5)
        assert (recipe.optimizer.optimizer, recipe.optimizer.lr, recipe.sampler.identities, recipe.sampler.images) == (
            "sgd",
            0.065,
            16,
            4,
        )


@pytest.mark.parametrize("profile", PROFILES)
def test_networks_of_a_column_are_trained_alike(profile: str) -> None:
    # The table compares networks, so nothing else may differ between its rows: in mini the learning rate alone, and
    # in MSINet-SAM the alignment.
    cells = TABLE2.cells(photographs(profile=profile), ALL)
    for column in {cell.column for cell in cells}:
        trained = [
            replace(c.experiment, recipe=replace(c.experiment.recipe, alignment="none"))
            for c in cells
            if c.column == column and c.group != "no training"
        ]
        recipes = {replace(e.recipe, lr=1.0) if profile == "mini" else e.recipe for e in trained}
        assert len(recipes) == 1
        for family in {split_name(e.model)[0] for e in trained}:  # neither does it depend on the initial weights
            assert len({e.recipe for e in trained if split_name(e.model)[0] == family}) == 1


def test_changes_to_the_recipe_reach_every_training() -> None:
    plain, changed = Request(profile="smoke"), Request(profile="smoke", recipe=("lr=0.5", "epochs=9", "erase=0.25"))
    for cell in TABLE2.cells(changed, ALL):
        recipe = cell.experiment.recipe
        assert cell.group == "no training" or (
            recipe.optimizer.lr,
            recipe.schedule.epochs,
            recipe.augmentation.erase,
        ) == (0.5, 9, 0.25)
    # The histogram is the same run whatever the schedule, but not whatever the image size.
    histograms = [
        {cell.experiment.key for cell in TABLE2.cells(request, ALL) if cell.group == "no training"}
        for request in (plain, changed, Request(profile="smoke", recipe=("height=64",)))
    ]
    assert histograms[0] == histograms[1]
    assert not histograms[0] & histograms[2]


def test_the_order_is_row_by_row_within_a_seed() -> None:
    # After a stop there is a complete table of fewer seeds, of whole rows, rather than a torn one of all.
    cells = TABLE2.cells(photographs(seeds=2), ("market1501", "msmt17"))
    groups = [cell.group for cell in cells]
    assert groups == sorted(groups, key=["no training", "from scratch", "pre-trained"].index)
    names = ["ResNet50", "OSNet", "CDNet", "MSINet", "MSINet-SAM"]
    for group in ("from scratch", "pre-trained"):
        places = [(c.experiment.seed, names.index(c.row)) for c in cells if c.group == group]
        assert places == sorted(places)
        first = [c.column for c in cells if c.group == group][:3]
        assert first == ["M", "MS", "MS>M"]


# The rendered world, which is the default


def test_the_default_leaves_out_what_takes_long() -> None:
    cells = TABLE2.cells(Request(), ALL)
    assert {cell.group for cell in cells} == {"no training", "from scratch"}
    assert list(dict.fromkeys(cell.column for cell in cells)) == ["M", "MS", "VR", "MS>M", "VR>VID"]
    # Row by row: MSINet's five columns and CDNet's three.
    assert Counter(cell.row for cell in cells) == {
        "colour histogram": 5,
        "ResNet50": 5,
        "OSNet": 5,
        "CDNet": 3,
        "MSINet": 5,
    }


def test_the_whole_of_it_has_vehicleid_and_the_pretrained_group() -> None:
    part, whole = (TABLE2.cells(Request(whole=whole), ALL) for whole in (False, True))
    assert {cell.experiment for cell in part} < {cell.experiment for cell in whole}
    assert {cell.group for cell in whole} == {"no training", "from scratch", PRETEXT_GROUP}
    assert {cell.column for cell in whole} - {cell.column for cell in part} == {"VID"}
    # The same experiments as on photographs, but what stands in for ImageNet is said.
    assert [c.experiment for c in whole] == [c.experiment for c in TABLE2.cells(photographs(), ALL)]
    given = TABLE2.cells(Request(whole=True, pretrained=Path("w")), ALL)
    assert [c.experiment for c in given] == [c.experiment for c in whole]
    assert {cell.group for cell in given} == {"no training", "from scratch", "pre-trained"}


def test_smoke_has_everything_always() -> None:
    part, whole = (TABLE2.cells(Request(profile="smoke", whole=whole), ALL) for whole in (False, True))
    assert part == whole
    assert {cell.column for cell in part} == {"M", "MS", "VR", "VID", "MS>M", "VR>VID"}
    assert {cell.group for cell in part} == {"no training", "from scratch", PRETEXT_GROUP}


def test_on_photographs_whole_makes_no_difference() -> None:
    assert TABLE2.cells(photographs(whole=True), ALL) == TABLE2.cells(photographs(), ALL)


def test_data_sets_that_are_asked_for_are_there() -> None:
    asked = ("veri776", "vehicleid")
    cells = TABLE2.cells(Request(datasets=asked), asked)
    assert {cell.column for cell in cells} == {"VR", "VID", "VR>VID"}


@pytest.mark.parametrize("found", [("market1501",), ("market1501", "msmt17", "veri776")])
def test_a_world_of_some_sets_has_their_columns(found: tuple[str, ...]) -> None:
    # As `msinet data render --datasets` or an interrupted rendering leaves it.
    columns = {cell.column for cell in TABLE2.cells(Request(), found)}
    assert columns == ({"M"} if len(found) == 1 else {"M", "MS", "VR", "MS>M"})


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
        (["--profile", "paper"], "pass --data-root DIR"),
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
    assert len(lines) == 5 + 2 * (3 * 5 + 3)
    assert sum("msinet scratch veri776->vehicleid seed 1" in line for line in lines) == 1
    assert main(["list", "table2", "--seeds", "2", "--whole"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 + 2 * 2 * (6 * 4 - 2) + 2 * 6
    assert sum("msinet pretrained veri776->vehicleid seed 1" in line for line in lines) == 1
    assert not any(PRETEXT in str(path) for path in Request().root.parent.glob("*/*"))  # nothing was rendered


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
        profile="smoke",
        data_root=Path("/d"),
        datasets=("veri776", "msmt17"),
        whole=True,
        models=("osnet",),
        seeds=3,
        recipe=("lr=0.01", "milestones=(2, 3)"),
        search_recipe=("overlap=0.5",),
        pretrained=Path("w"),
        store=Path("s"),
    )
    assert all(getattr(request, f.name) != f.default for f in fields(Request))  # a new setting belongs here
    assert tyro.cli(Request, args=request.as_args()) == request
    assert tyro.cli(Request, args=replace(request, whole=False).as_args()) == replace(request, whole=False)
    assert Request(whole=True).as_args() == ["--whole"]
    assert Request().as_args() == []
    assert replace(request, profile="mini", seeds=1).as_args()[:2] == ["--data-root", "/d"]
