"""What each table and figure consists of, before anything runs."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro

from ablations.__main__ import for_device, main
from ablations.engine.request import PRETEXT, Request
from ablations.engine.resolve import resolve
from ablations.engine.store import Store
from ablations.engine.study import Cell, column_label, column_order, group_label, home, tasks
from ablations.studies import STUDIES, find_study
from ablations.studies.figure5b import FEWER, GENOTYPES, random_genotype
from msinet import environment
from msinet.data.datasets import REGISTERED, DatasetCard, register
from msinet.data.layouts import cards, main_datasets
from msinet.errors import UserError
from msinet.models.genotype import SEARCHED
from msinet.models.registry import CARDS, in_study, split_name
from msinet.training.recipe import Recipe, settings
from msinet.training.recipes import PROFILES

ALL = ("market1501", "msmt17", "veri776", "vehicleid")
COLUMNS = {"M", "MS", "VR", "VID", "MS>M", "VR>VID"}
SMOKE = Request(profile="smoke")


def photographs(**settings: Any) -> Request:
    """A request on photographs; what a table consists of is known without reading them."""
    return Request(data_root=Path("/photographs"), **{"seeds": 1, **settings})


def cells(name: str, request: Request = SMOKE, datasets: tuple[str, ...] = ALL) -> list[Cell]:
    return find_study(name).cells(request, datasets)


def column(cell: Cell) -> str:
    return column_label(cell.train, cell.test)


def row(cell: Cell, name: str = "table2") -> str:
    return find_study(name).label(dict(cell.factors))


def differences(recipes: list[Recipe]) -> set[str]:
    """Settings in which recipes differ."""
    found = [settings(recipe) for recipe in recipes]
    return {name for name in found[0] if len({str(one[name]) for one in found}) > 1}


# All studies


def test_studies_are_the_files_of_the_folder() -> None:
    names = [path.stem for path in Path(__file__).parents[2].glob("ablations/studies/[a-z]*.py")]
    assert sorted(STUDIES) == sorted(names)
    tables = [name for name in STUDIES if name.startswith("table")]
    assert list(STUDIES)[: len(tables)] == tables


@pytest.mark.parametrize("name", STUDIES)
def test_cells_have_the_same_factors_and_different_coordinates(name: str) -> None:
    found = cells(name, replace(SMOKE, seeds=2))
    assert len({tuple(factor for factor, _ in cell.factors) for cell in found}) == 1
    assert len({replace(cell, experiment=found[0].experiment) for cell in found}) == len(found)
    assert {cell.seed for cell in found if cell.group != "untrained"} == {0, 1}
    study = find_study(name)
    labels = {cell.factors: study.label(dict(cell.factors)) for cell in found}
    assert len(set(labels.values())) == len(labels)  # a label tells its row
    rows = [dict(factors) for factors in labels]
    if study.baseline:
        assert all(study.baseline_row(one, rows) is not None for one in rows)
    assert not study.axis or all(isinstance(one[study.axis], int | float) for one in rows)


def test_a_row_is_compared_with_the_most_similar_baseline() -> None:
    study, rows = find_study("table5"), [dict(cell.factors) for cell in cells("table5")]
    for one in rows:
        assert study.baseline_row(one, rows) == {**one, "alignment": "none"}
    assert find_study("table2").baseline_row(rows[0], rows) is None


def test_methods_without_labels_are_compared_with_their_own_backbone() -> None:
    study, rows = find_study("table4"), [dict(cell.factors) for cell in cells("table4")]
    bases = {str(row["method"]): study.baseline_row(row, rows) for row in rows}
    assert bases["IDM+MSINet"] == next(row for row in rows if row["method"] == "Direct transfer+MSINet")
    assert bases["IDM"] == next(row for row in rows if row["method"] == "Direct transfer")
    without = [row for row in rows if row["method"] != "Direct transfer"]
    idm = next(row for row in rows if row["method"] == "IDM")
    assert study.baseline_row(idm, without) == next(row for row in rows if row["method"] == "Starting weights")


def test_a_study_that_cannot_run_is_an_error(data_root: Path, tmp_path: Path, capsys) -> None:
    words = ["table4", "--profile", "smoke", "--data-root", str(data_root), "--store", str(tmp_path / "results")]
    assert main(["run", *words]) == 2
    assert "nothing of table4 can run: " in capsys.readouterr().err
    assert not (tmp_path / "results" / "tables").exists()


def test_studies_whose_networks_are_fixed() -> None:
    fixed = {name for name, study in STUDIES.items() if study.has_fixed_networks(SMOKE, ALL)}
    figures = {f"figure5{letter}" for letter in "abcde"}
    others = {"table1", "table5", "alignment_readings", "discrepancies", "sweep_alignment", "sweep_overlap"}
    assert fixed == figures | others


@pytest.mark.parametrize("name", ["table1", "figure5a", "figure5b", "figure5c", "figure5d", "discrepancies"])
def test_ablations_are_on_msmt17_or_the_first_available_set(name: str) -> None:
    assert {column(cell) for cell in cells(name)} == {"MS"}
    assert {column(cell) for cell in cells(name, SMOKE, ("veri776", "market1501"))} == {"VR"}
    assert home(ALL) == [("msmt17", "msmt17")]


@pytest.mark.parametrize(
    "name", ["table5", "table6", "figure5e", "alignment_readings", "figure1", "figure4", "figure6"]
)
def test_vehicle_studies_fall_back_to_the_available_set(name: str) -> None:
    assert {column(cell) for cell in cells(name)} <= {"VR", "VR>VID", "MS"}
    assert {column(cell) for cell in cells(name, SMOKE, ("market1501",))} == {"M"}


# Table 2


def test_all_of_table_2() -> None:
    # Six columns of four networks; the paper has MSINet-SAM only pre-trained.
    found = cells("table2", photographs(seeds=2))
    assert Counter(cell.group for cell in found) == {
        "untrained": 6 * (1 + 4),  # the colour histogram and random weights
        "scratch": 2 * 6 * 4,
        "pretrained": 2 * 6 * 5,
    }
    across = [cell for cell in found if cell.train != cell.test and cell.group != "untrained"]
    assert Counter(map(row, across)) == {"ResNet50": 8, "OSNet": 8, "CDNet": 8, "MSINet": 8, "MSINet-SAM": 4}
    assert {column(cell) for cell in found} == COLUMNS
    assert {row(cell) for cell in found} == {"colour histogram", "ResNet50", "OSNet", "CDNet", "MSINet", "MSINet-SAM"}
    assert {cell.experiment.init for cell in found if cell.group == "pretrained"} == {"pretrained"}
    trained = [cell.experiment for cell in found if cell.group != "untrained"]
    assert len(set(trained)) == len(trained)  # no cell shares a run with another


def test_untrained_rows_are_ranked_once_per_test_set() -> None:
    # Nothing is learned, so neither seeds nor training sets make a difference: six columns, four runs.
    for request, more in ((photographs(seeds=3), 0), (Request(whole=True, seeds=3), 2)):
        found = [cell for cell in cells("table2", request) if cell.group == "untrained"]
        assert Counter(column(cell) for cell in found) == dict.fromkeys(COLUMNS, 5 + more)
        assert all(cell.experiment.source == cell.experiment.target == cell.test for cell in found)
        assert len({cell.experiment for cell in found}) == 4 * (5 + more)
        assert {cell.experiment.recipe.schedule.epochs for cell in found} == {0}


def test_oracles_need_the_labels_of_the_rendered_world() -> None:
    bounds = ["colour histogram", "oracle of colours", "oracle of colours, types and patterns"]
    networks = ["ResNet50", "OSNet", "CDNet", "MSINet"]
    for request, rows in ((Request(whole=True), bounds + networks), (photographs(), bounds[:1] + networks)):
        for name in ("table2", "calibration"):
            found = [cell for cell in cells(name, request) if cell.group == "untrained"]
            labels = list(dict.fromkeys(row(cell, name) for cell in found))
            assert labels == [label for label in rows if label != "CDNet" or name == "table2"]


@pytest.mark.parametrize(
    ("datasets", "columns"),
    [
        (("market1501",), {"M"}),
        (("msmt17", "market1501"), {"MS", "M", "MS>M"}),
        (("veri776", "vehicleid"), {"VR", "VID", "VR>VID"}),
        (("msmt17", "vehicleid"), {"MS", "VID"}),
        (("market1501", "veri776", "vehicleid_800"), {"M", "VR", "VID800"}),
        (("market1501-heldout", "msmt17"), {"M-heldout", "MS"}),
    ],
)
def test_columns_follow_the_available_data_sets(datasets: tuple[str, ...], columns: set[str]) -> None:
    found = cells("table2", photographs(models=("osnet",)), datasets)
    assert {column(cell) for cell in found} == columns
    assert Counter(cell.group for cell in found) == dict.fromkeys(("untrained", "scratch", "pretrained"), len(columns))
    for cell in found:
        assert (cell.experiment.source, cell.experiment.target) == (cell.train, cell.test) or cell.group == "untrained"


def test_columns_are_ordered_by_their_cards_and_across_data_sets_last() -> None:
    every = sorted(tasks(photographs(), [card.name for card in cards()]), key=lambda task: column_order(*task))
    assert [column_label(*task) for task in every] == ["M", "MS", "VR", "VID", "VID1600", "VID800", "MS>M", "VR>VID"]


@pytest.fixture
def toy() -> Iterator[str]:
    """A registered data set of a name with an underscore."""
    card = DatasetCard(
        name="toy_set", short="T", order=25, kind="person", folders=("Toy",), needs=("train",), across=("market1501",)
    )
    register(card)(lambda _: None)  # type: ignore[arg-type, return-value]
    yield card.name
    del REGISTERED[card.name]


def test_a_registered_data_set_is_a_column_everywhere(toy: str) -> None:
    datasets = (*ALL, toy)
    for name in ("table2", "table3", "calibration"):
        found = {column(cell) for cell in cells(name, photographs(), datasets)}
        assert "T" in found
        assert ("T>M" in found) == (name != "table3")
    assert {column(cell) for cell in cells("figure5c", photographs(), (toy,))} == {"T"}
    assert toy in main_datasets()
    assert toy not in SMOKE.default_datasets()  # the rendered world does not have it


def test_networks_are_those_asked_for() -> None:
    found = cells("table2", photographs(models=("osnet_x0_25", "msinet")), ("veri776",))
    assert {(cell.experiment.model, row(cell)) for cell in found} == {
        ("colour_histogram", "colour histogram"),
        ("osnet_x0_25", "OSNet x0.25"),
        ("msinet", "MSINet"),
    }


def test_a_name_given_twice_counts_once(data_root: Path, tmp_path: Path) -> None:
    def cells(*models: str, datasets: tuple[str, ...]) -> list[Cell]:
        request = Request(data_root=data_root, models=models, datasets=datasets, seeds=1, store=tmp_path)
        return [one.cell for one in resolve(find_study("table2"), request, Store(tmp_path)).cells]

    once = cells("msinet", datasets=("market1501",))
    assert cells("msinet", "msinet_x1_0", datasets=("market1501", "market1501")) == once


def test_rows_that_learn_nothing_are_not_trained() -> None:
    for name in ("table2", "calibration"):
        found = cells(name, Request(whole=True, models=("colour_histogram", "oracle_colours")))
        assert {cell.group for cell in found} == {"untrained"}


@pytest.mark.parametrize("name", ["table2", "table3", "table6", "calibration"])
def test_networks_come_from_the_cards(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def networks() -> list[object]:
        found = [dict(cell.factors)["network"] for cell in cells(name) if cell.group != "untrained"]
        return list(dict.fromkeys(found))

    before = networks()
    assert before == [card.name for card in in_study(name)]
    monkeypatch.setitem(CARDS, "resnet18", replace(CARDS["resnet18"], studies=(name,)))
    assert networks() == [card.name for card in in_study(name)]
    assert set(networks()) == {"resnet18", *before}


def test_the_smoke_profile_has_quarter_widths() -> None:
    found = cells("table2", SMOKE, ("market1501",))
    assert {cell.experiment.model for cell in found if cell.group == "scratch"} == {
        "resnet50_x0_25",
        "osnet_x0_25",
        "cdnet_x0_25",
        "msinet_x0_25",
    }
    assert {row(cell) for cell in found if cell.group == "scratch"} == {
        f"{name} x0.25" for name in ("ResNet50", "OSNet", "CDNet", "MSINet")
    }
    # A network that is asked for has the width of the profile, unless its name has one: the rows of the table narrow.
    asked = cells("table2", Request(profile="smoke", models=("msinet",)), ("market1501",))
    assert {row(cell) for cell in asked if cell.group != "untrained"} == {"MSINet x0.25"}
    asked = cells("table2", Request(profile="smoke", models=("msinet_x1_0",)), ("market1501",))
    assert {row(cell) for cell in asked if cell.group != "untrained"} == {"MSINet"}
    assert "MSINet" not in {row(cell) for cell in asked if cell.group == "untrained"}  # no row of random weights


def test_recipes_of_the_paper() -> None:
    # Sec. 4.3: 350 epochs in-domain, 250 cross-domain with the same milestones, jitter and no erasing.
    request = photographs(profile="paper", models=("msinet",))
    recipes = {column(c): c.experiment.recipe for c in cells("table2", request) if c.group == "scratch"}
    assert recipes.keys() == COLUMNS
    for name, recipe in recipes.items():
        across, vehicle = ">" in name, name.startswith("V")
        assert recipe.schedule.epochs == (250 if across else 350)
        assert recipe.schedule.milestones == (150, 225, 300)
        assert (recipe.image.height, recipe.image.width) == (256, 256 if vehicle else 128)
        assert (recipe.augmentation.jitter, recipe.augmentation.erase) == ((True, 0.0) if across else (False, 0.5))
        assert (recipe.optimizer.optimizer, recipe.optimizer.lr) == ("sgd", 0.065)
        assert (recipe.sampler.identities, recipe.sampler.images) == (16, 4)


@pytest.mark.parametrize("profile", PROFILES)
def test_networks_of_a_column_are_trained_alike(profile: str) -> None:
    # The table compares networks, so nothing else may differ between its rows: in mini the learning rate alone, and
    # in MSINet-SAM the alignment.
    found = cells("table2", photographs(profile=profile))
    for name in {column(cell) for cell in found}:
        trained = [cell.experiment for cell in found if column(cell) == name and cell.group != "untrained"]
        allowed = {"alignment"} | ({"lr"} if profile == "mini" else set())
        assert differences([e.recipe for e in trained]) <= allowed
        for network in {split_name(e.model)[0] for e in trained}:  # nor does it depend on the initial weights
            assert differences([e.recipe for e in trained if split_name(e.model)[0] == network]) <= {"alignment"}


def test_changes_to_the_recipe_reach_every_training() -> None:
    changed = Request(profile="smoke", recipe=("lr=0.5", "epochs=9", "erase=0.25"))
    for recipe in (cell.experiment.recipe for cell in cells("table2", changed) if cell.group != "untrained"):
        assert (recipe.optimizer.lr, recipe.schedule.epochs, recipe.augmentation.erase) == (0.5, 9, 0.25)
    # An untrained row is the same run whatever the schedule, but not whatever the image size.
    bounds = [
        {cell.experiment.key for cell in cells("table2", request) if cell.group == "untrained"}
        for request in (SMOKE, changed, Request(profile="smoke", recipe=("height=64",)))
    ]
    assert bounds[0] == bounds[1]
    assert not bounds[0] & bounds[2]


def test_a_request_for_the_authors_recipes_changes_theirs_alone() -> None:
    found: dict[str, dict[str, str]] = {}
    for whose in ("paper", "authors"):
        request = Request(whole=True, recipe_of=whose)  # type: ignore[arg-type]
        for cell in find_study("table2").cells(request, ("msmt17",)):
            if cell.group == "scratch":
                found.setdefault(cell.experiment.model, {})[whose] = cell.experiment.key
    differ = {name for name, keys in found.items() if keys["paper"] != keys["authors"]}
    assert differ == {card.name for card in in_study("table2") if card.authors} == {"resnet50", "osnet", "cdnet"}
    assert "--recipe-of authors" in " ".join(Request(recipe_of="authors").as_args())


def test_the_order_is_row_by_row_within_a_seed() -> None:
    # After a stop there is a complete table of fewer seeds, of whole rows.
    found = cells("table2", photographs(seeds=2), ("market1501", "msmt17"))
    groups = [cell.group for cell in found]
    assert groups == sorted(groups, key=["untrained", "scratch", "pretrained"].index)
    names = ["ResNet50", "OSNet", "CDNet", "MSINet", "MSINet-SAM"]
    for group in ("scratch", "pretrained"):
        order = [(c.seed, names.index(row(c))) for c in found if c.group == group]
        assert order == sorted(order)
        assert [column(c) for c in found if c.group == group][:3] == ["M", "MS", "MS>M"]


# The rendered world, which is the default


def test_the_default_leaves_out_what_takes_long() -> None:
    found = cells("table2", Request())
    assert {cell.group for cell in found} == {"untrained", "scratch"}
    assert list(dict.fromkeys(map(column, found))) == ["MS", "MS>M"]
    trained = [cell for cell in found if cell.group == "scratch"]
    assert Counter(map(row, trained)) == {"OSNet": 4, "CDNet": 4, "MSINet": 4}  # two seeds


def test_the_whole_of_it_has_vehicleid_and_the_pretrained_group() -> None:
    part, whole = (cells("table2", Request(whole=whole, seeds=1)) for whole in (False, True))
    assert {cell.experiment for cell in part} < {cell.experiment for cell in whole}
    assert {cell.group for cell in whole} == {"untrained", "scratch", "pretext"}
    assert set(map(column, whole)) - set(map(column, part)) == {"M", "VR", "VID", "VR>VID"}
    # The same experiments as on photographs and the oracles, but the replacement of ImageNet is named.
    seen = [c.experiment for c in whole if not c.experiment.model.startswith("oracle")]
    assert seen == [c.experiment for c in cells("table2", photographs())]
    assert group_label("pretext") == "pre-trained on the rendered pretext set"
    given = cells("table2", Request(whole=True, seeds=1, pretrained=Path("w")))
    assert [c.experiment for c in given] == [c.experiment for c in whole]
    assert {cell.group for cell in given} == {"untrained", "scratch", "pretrained"}


def test_smoke_and_photographs_are_always_whole() -> None:
    for request in (SMOKE, photographs()):
        assert cells("table2", replace(request, whole=True)) == cells("table2", request)
        assert {column(cell) for cell in cells("table2", request)} == COLUMNS


def test_data_sets_that_are_asked_for_are_there() -> None:
    asked = ("veri776", "vehicleid")
    assert {column(cell) for cell in cells("table2", Request(datasets=asked), asked)} == {"VR", "VID", "VR>VID"}


@pytest.mark.parametrize("found", [("market1501",), ("market1501", "msmt17", "veri776")])
def test_a_world_of_some_sets_has_their_columns(found: tuple[str, ...]) -> None:
    # As `msinet data render --datasets` or an interrupted rendering leaves it.
    columns = {column(cell) for cell in cells("table2", Request(), found)}
    assert columns == ({"M"} if len(found) == 1 else {"MS", "MS>M"})


# Calibration


@pytest.mark.parametrize("request_", [Request(whole=True), photographs(), Request(whole=True, seeds=2)])
def test_all_of_the_calibration(request_: Request) -> None:
    found = cells("calibration", request_)
    assert Counter((cell.group, row(cell)) for cell in found if cell.group == "scratch") == {
        ("scratch", "ResNet50"): 6 * request_.repeats,
        ("scratch", "OSNet"): 6 * request_.repeats,
        ("scratch", "MSINet"): 6 * request_.repeats,
    }
    assert {column(cell) for cell in found} == COLUMNS


def test_the_calibration_shares_its_trainings_with_table_2() -> None:
    for request in (Request(), SMOKE, Request(whole=True, pretrained=Path("w"))):
        here, there = cells("calibration", request), cells("table2", request)
        assert set(map(column, here)) == set(map(column, there))
        assert {c.experiment for c in here if c.group == "scratch"} < {c.experiment for c in there}
        assert {cell.experiment.init for cell in here} == {"scratch"}


def test_random_weights_are_never_trained() -> None:
    for profile in ("smoke", "mini"):
        found = cells("calibration", Request(profile=profile, whole=True, recipe=("epochs=9", "lr=0.5")))
        random = [c.experiment for c in found if c.group == "untrained" and dict(c.factors)["network"] == "msinet"]
        assert {e.recipe.schedule.epochs for e in random} == {0}
        assert {e.model for e in random} == {"msinet_x0_25" if profile == "smoke" else "msinet"}
        assert not any(e.cross_domain for e in random)
        assert len(set(random)) == 4  # one per test set
        for e in random:
            trained = [c.experiment for c in found if c.group == "scratch" and c.test == e.target]
            assert {t.recipe.image for t in trained} == {e.recipe.image}
            assert all(t.recipe.schedule.epochs == 9 for t in trained)


# Tables 3, 5 and 6


def test_table_3_is_on_persons_and_shares_the_runs_of_table_2() -> None:
    found = cells("table3", photographs())
    assert {column(cell) for cell in found} == {"M", "MS"}
    assert {cell.group for cell in found} == {"pretrained"}
    shared = {card.name for card in in_study("table2")}
    own = {c.experiment for c in found if c.experiment.model not in shared}
    assert {"rga_sc_x0_25", "ianet", "sft", "batnet"} <= {experiment.model for experiment in own}
    assert {c.experiment for c in found} - own < {c.experiment for c in cells("table2", photographs())}
    # The paper's one recipe for all, but for the height of images that are cut into six parts.
    assert differences([experiment.recipe for experiment in own]) == {"height"}
    assert {cell.group for cell in cells("table3", Request())} == {"scratch"}


def test_table_5_varies_the_alignment_and_the_network() -> None:
    found = cells("table5")
    assert {column(cell) for cell in found} == {"VR", "VR>VID"}
    assert {cell.group for cell in found} == {"scratch", "pretext"}
    assert len(found) == 8 * 2 * 2
    inside = [cell.experiment for cell in found if column(cell) == "VR" and cell.group == "scratch"]
    assert differences([experiment.recipe for experiment in inside]) == {"alignment"}
    assert [e.recipe.losses.alignment for e in inside] == [
        *("none", "self-pos", "self-neg", "unified", "separated", "pam-self"),
        *("none", "pam-self"),
    ]
    assert all((("pam", True) in e.options) == (e.recipe.losses.alignment == "pam-self") for e in inside)
    # Without alignment it is the run of Table 2, so that nothing is trained twice.
    table2 = {cell.experiment.key for cell in cells("table2")}
    assert {c.experiment.key for c in found if dict(c.factors)["alignment"] == "none"} <= table2
    assert row(cells("table5", Request(), ("market1501",))[1], "table5") == "MSINet|Self-Pos"


@pytest.mark.parametrize(
    ("profile", "labels"),
    [
        ("smoke", ["DeiT-S x0.25 /8", "DeiT-B x0.25 /8", "ViT-B x0.25 /8", "MSINet x0.25"]),
        ("mini", ["DeiT-S x0.25 /8", "DeiT-B x0.25 /8", "ViT-B x0.25 /8", "MSINet"]),
        ("paper", ["DeiT-S", "DeiT-B", "ViT-B", "MSINet"]),
    ],
)
def test_table_6_shows_where_a_transformer_is_not_the_papers(profile: str, labels: list[str]) -> None:
    found = cells("table6", replace(SMOKE, profile=profile))
    assert list(dict.fromkeys(row(cell, "table6") for cell in found)) == labels
    assert {column(cell) for cell in found} == {"MS", "VR"}
    for cell in found:
        transformer = dict(cell.factors)["network"] != "msinet"
        assert cell.experiment.recipe.losses.soft_margin == transformer  # of TransReID's recipe
        assert bool(dict(cell.factors)["patch"]) == transformer
    table2 = {cell.experiment.key for cell in cells("table2", replace(SMOKE, profile=profile, whole=True))}
    assert {c.experiment.key for c in found if dict(c.factors)["network"] == "msinet"} <= table2


# Figures


@pytest.mark.parametrize(
    ("name", "option", "values"), [("figure5c", "fusion", ["sum", "minus", "mul"]), ("figure5d", "ratio", [1, 2, 3, 4])]
)
def test_figures_5c_and_5d_vary_one_option(name: str, option: str, values: list[object]) -> None:
    found = cells(name)
    default = {"fusion": "sum", "ratio": 3}[option]
    assert [dict(cell.experiment.options).get(option, default) for cell in found] == values
    assert [dict(cell.factors) for cell in found] == [{option: value} for value in values]
    assert all(set(dict(cell.experiment.options)) <= {option} for cell in found)
    assert not differences([cell.experiment.recipe for cell in found])


def test_figure_5e_varies_the_weight_across_data_sets() -> None:
    found = [cell for cell in cells("figure5e") if cell.group == "scratch"]
    assert {(cell.experiment.source, cell.experiment.target) for cell in found} == {("veri776", "vehicleid")}
    losses = [cell.experiment.recipe.losses for cell in found]
    assert [dict(cell.factors)["weight"] for cell in found] == [0, 0.5, 1, 2, 3, 4]
    assert [one.alignment_weight for one in losses if one.alignment != "none"] == [0.5, 1, 2, 3, 4]
    assert losses[0].alignment == "none"
    with pytest.raises(UserError, match="nothing to train on among vehicleid"):
        cells("figure5e", Request(), ("vehicleid",))


def test_each_reading_changes_one_setting() -> None:
    found = [c for c in cells("alignment_readings") if (c.group, column(c)) == ("scratch", "VR")]
    plain, *others = [cell.experiment.recipe for cell in found]
    changes = [differences([plain, recipe]) for recipe in others]
    assert [len(change) for change in changes] == [1, 1, 1]
    assert len(set().union(*changes)) == 3


def test_figure_5a_varies_mechanism_and_overlap_alone() -> None:
    found = cells("figure5a", replace(SMOKE, seeds=2))
    recipes = [c.experiment.genotype_from.recipe for c in found if c.experiment.genotype_from is not None]
    assert len(recipes) == len(found) == 2 * 7
    assert {(r.search_settings.mechanism, r.search_settings.overlap) for r in recipes} == {
        ("ce", 1.0),
        *(("tcm", overlap) for overlap in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
    }
    assert differences(recipes) == {"mechanism", "overlap"}
    assert {tuple(dict(c.factors).values()) for c in found} == {
        (r.search_settings.mechanism, r.search_settings.overlap) for r in recipes
    }


def test_figure_5b_has_every_single_operation_random_ones_and_the_searched() -> None:
    found = cells("figure5b")
    random = FEWER["smoke"]
    genotypes = [dict(cell.experiment.options).get("genotype", SEARCHED) for cell in found]
    assert genotypes[:4] == [letter * 12 for letter in "NEGA"]
    assert genotypes[4 : 4 + random] == [random_genotype(0, draw) for draw in range(random)]
    assert [cell.draw for cell in found] == [0] * 4 + list(range(random)) + [0] * 3
    assert genotypes[4 + random] == SEARCHED
    searches = [cell.experiment.genotype_from for cell in found[-2:]]
    assert [one.recipe.search_settings.mechanism for one in searches if one] == ["tpe", "tcm"]


@pytest.mark.parametrize(("seeds", "count"), [(1, 10), (2, 10), (3, 15), (4, 20)])
def test_all_seeds_together_have_ten_random_genotypes_or_more(seeds: int, count: int) -> None:
    found = [c for c in cells("figure5b", Request(seeds=seeds)) if dict(c.factors)["architecture"] == "random"]
    genotypes = {dict(cell.experiment.options)["genotype"] for cell in found}
    assert len(found) == len(genotypes) == count >= GENOTYPES
    assert {cell.seed for cell in found} == set(range(seeds))


def test_more_seeds_keep_the_random_genotypes_of_two() -> None:
    two, three = ({cell.experiment for cell in cells("figure5b", Request(seeds=seeds))} for seeds in (2, 3))
    assert two < three


def test_random_genotypes_are_drawn_evenly() -> None:
    letters = "".join(random_genotype(seed, draw) for seed in range(50) for draw in range(10))
    counts = np.array([letters.count(letter) for letter in "NGAE"])
    assert (abs(counts - 1500) < 5 * np.sqrt(6000 * 0.25 * 0.75)).all()


def test_each_discrepancy_changes_one_thing_and_the_last_row_all() -> None:
    recipes = {}
    for cell in cells("discrepancies"):
        assert cell.experiment.genotype_from is not None
        recipes[str(dict(cell.factors)["behaviour"])] = settings(cell.experiment.genotype_from.recipe)
    plain, everything = recipes.pop("paper"), recipes.pop("all")
    changes = [{name: v for name, v in recipe.items() if v != plain[name]} for recipe in recipes.values()]
    assert [len(change) for change in changes] == [1] * 7
    merged = {name: value for change in changes for name, value in change.items()}
    assert len(merged) == 7
    assert everything == plain | merged


def test_a_genotype_is_one_run_whoever_found_it() -> None:
    plain, search = cells("figure5b")[0].experiment, cells("figure5a")[0].experiment.genotype_from
    assert replace(plain, options=(), genotype_from=search).known("N" * 12).key == plain.key


# Requests


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table9"], ["unknown table or figure 'table9'", "table2"]),
        (["table2", "--profile", "tiny"], ["unknown profile 'tiny'", *PROFILES]),
        (["table2", "--datasets", "market1501", "vehicelid"], ["'vehicelid'", "Did you mean 'vehicleid'?", *ALL]),
        (["table2", "--models", "msinet", "resnet"], ["unknown network 'resnet'", "resnet50", "osnet", "cdnet"]),
        (["table2", "--recipe", "learning_rate=1"], ["unknown setting", "'learning_rate'", "lr", "epochs", "erase"]),
        (["table2", "--recipe", "lr"], ["'lr' is not NAME=VALUE"]),
        (["table2", "--recipe", "epochs=many"], ["epochs is a int", "'many'"]),
        (["table2", "--seeds", "-1"], ["--seeds must be at least 0"]),
    ],
)
@pytest.mark.parametrize("command", ["run", "status", "list"])
def test_unknown_names_fail_with_the_known_ones(
    words: list[str], message: list[str], command: str, data_root: Path, tmp_path: Path, capfd
) -> None:
    assert main([command, *words, "--data-root", str(data_root), "--store", str(tmp_path / "store")]) == 2
    out, err = capfd.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1  # one line, no traceback
    for part in message:
        assert part in err
    assert not out
    assert not (tmp_path / "store").exists()


def test_show_and_sweep_know_their_names_before_they_start(capfd) -> None:
    assert main(["show", "table9"]) == 2
    assert "unknown table or figure 'table9'" in capfd.readouterr().err
    assert main(["sweep", "overlp"]) == 2
    assert "unknown sweep 'overlp'. Did you mean 'overlap'?" in capfd.readouterr().err


@pytest.mark.parametrize("command", ["run", "status"])
def test_missing_data_fail_with_what_to_pass(command: str, tmp_path: Path, capfd) -> None:
    (tmp_path / "empty").mkdir()
    for words, message in (
        (["--profile", "paper"], "pass --data-root DIR"),
        (["--data-root", str(tmp_path / "nowhere")], "nowhere does not exist"),
        (["--data-root", str(tmp_path / "empty")], "no known data set under"),
        (["--data-root", str(tmp_path / "empty"), "--datasets", "veri776"], "no veri776 under"),
    ):
        assert main([command, "table2", *words, "--store", str(tmp_path / "store")]) == 2
        err = capfd.readouterr().err
        assert message in err
        assert err.count("\n") == 1


def test_list_names_every_study_and_its_factors(capsys) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for part in (*STUDIES, "table2: Table 2", "varies: network", "fixed: recipe", "nuisance: seed"):
        assert part in out


def test_list_of_a_table_needs_no_data_and_has_one_line_per_cell(capsys) -> None:
    assert main(["list", "table2", "--seeds", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * 6 + 2 * 2 * 3
    assert sum("msinet scratch msmt17->market1501 with the same weights seed 1" in line for line in lines) == 1
    assert main(["list", "table2", "--seeds", "2", "--whole"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 * 7 + 2 * 2 * 6 * 4 + 2 * 6
    assert sum("msinet pretrained veri776->vehicleid with the same weights seed 1" in line for line in lines) == 1
    assert not any(PRETEXT in str(path) for path in Request().root.parent.glob("*/*"))  # nothing was rendered


def test_list_of_a_table_with_data_has_the_columns_of_those_data(data_root: Path, capsys) -> None:
    command = ["list", "table2", "--data-root", str(data_root / "VeRi"), "--models", "cdnet", "--seeds", "1"]
    assert main(command) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[-4:] for line in lines] == [
        [init, "veri776", "seed", "0"] for init in ("scratch", "scratch", "pretrained")
    ]


def test_help_texts_list_no_networks_and_data_sets(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    text = capsys.readouterr().out
    listed = [name for name in (*CARDS, *(card.name for card in cards())) if re.search(rf"\b{name}\b", text)]
    assert len(listed) <= 3  # examples


def test_a_request_comes_back_from_its_own_words() -> None:
    # `run` passes the request to another process as words; what is lost there would show another table.
    request = Request(
        profile="smoke",
        data_root=Path("/d"),
        datasets=("veri776", "msmt17"),
        whole=True,
        models=("osnet",),
        seeds=3,
        recipe=("lr=0.01", "milestones=(2, 3)"),
        search_recipe=("overlap=0.5",),
        unsupervised_recipe=("eps=0.5",),
        recipe_of="authors",
        pretrained=Path("w"),
        store=Path("s"),
        name="mine",
        keep_same_camera=True,
    )
    assert all(getattr(request, f.name) != f.default for f in fields(Request))  # a new setting belongs here
    assert tyro.cli(Request, args=request.as_args()) == request
    assert tyro.cli(Request, args=replace(request, whole=False).as_args()) == replace(request, whole=False)
    assert Request(whole=True).as_args() == ["--whole"]
    assert Request().as_args() == []
    assert replace(request, profile="mini", seeds=1).as_args()[:2] == ["--data-root", "/d"]


@pytest.mark.parametrize(("device", "whole"), [("cuda", True), ("cpu", False)])
def test_on_a_gpu_all_rows_run(device: str, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "pick_device", torch.device)
    assert for_device(Request(), device) == Request(whole=whole)
    complete = Request(profile="smoke")
    assert for_device(complete, device) is complete
