"""Tables 5 and 6, Figures 5c to 5e and the readings of alignment: what they vary, and that they run."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest

from ablations.__main__ import main
from ablations.alignment import READINGS, VARIANTS, WEIGHTS
from ablations.catalogue import Cell, Request
from ablations.index import CATALOGUES
from ablations.store import Store
from msinet.training.recipe import Recipe, TransformerRecipe

SETS = ("market1501", "msmt17", "veri776", "vehicleid")
SMOKE = Request(profile="smoke")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("ablations")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSINET_CACHE", str(folder / "cache"))
        yield folder / "store"


def cells(name: str, datasets: tuple[str, ...] = SETS, request: Request = SMOKE) -> list[Cell]:
    return CATALOGUES[name].cells(request, datasets)


def differences(recipes: list[Recipe]) -> set[str]:
    """Settings in which recipes differ."""
    frames = [asdict(recipe) for recipe in recipes]
    return {name for name in frames[0] if len({str(frame[name]) for frame in frames}) > 1}


def test_table_5_varies_the_alignment_and_the_network() -> None:
    found = cells("table5")
    assert {cell.column for cell in found} == {"VR", "VR>VID"}
    assert {cell.group for cell in found} == {"from scratch", "pre-trained on the rendered pretext set"}
    assert {cell.row for cell in found} == set(VARIANTS)
    assert len(found) == 8 * 2 * 2
    inside = [cell.experiment for cell in found if cell.column == "VR" and cell.group == "from scratch"]
    assert differences([experiment.recipe for experiment in inside]) == {"alignment"}
    assert {e.recipe.losses.alignment for e in inside} == {
        "none",
        "self-pos",
        "self-neg",
        "unified",
        "separated",
        "pam-self",
    }
    assert all(("pam", True) in e.options or e.recipe.losses.alignment != "pam-self" for e in inside)
    # Without alignment it is the run of Table 2, so that nothing is trained twice.
    table2 = {cell.experiment.key for cell in cells("table2")}
    assert {c.experiment.key for c in found if c.row.endswith("none")} <= table2


@pytest.mark.parametrize(
    ("name", "option", "values"), [("figure5c", "fusion", ["sum", "minus", "mul"]), ("figure5d", "ratio", [1, 2, 3, 4])]
)
def test_figures_5c_and_5d_vary_one_option(name: str, option: str, values: list[object]) -> None:
    found = cells(name)
    assert {(cell.column, cell.group) for cell in found} == {("MS", "from scratch")}
    default = {"fusion": "sum", "ratio": 3}[option]
    assert [dict(cell.experiment.options).get(option, default) for cell in found] == values
    assert all(set(dict(cell.experiment.options)) <= {option} for cell in found)
    assert not differences([cell.experiment.recipe for cell in found])


def test_figure_5e_varies_the_weight_across_data_sets() -> None:
    found = [cell for cell in cells("figure5e") if cell.group == "from scratch"]
    assert {(cell.experiment.source, cell.experiment.target) for cell in found} == {("veri776", "vehicleid")}
    assert [
        c.experiment.recipe.losses.alignment_weight for c in found if c.experiment.recipe.losses.alignment != "none"
    ] == [weight for weight in WEIGHTS if weight]
    assert found[0].experiment.recipe.losses.alignment == "none"


def test_ablations_fall_back_to_the_set_at_hand() -> None:
    for name in ("table5", "table6", "figure5c", "figure5d", "figure5e", "alignment_readings"):
        assert {(c.experiment.source, c.experiment.target) for c in cells(name, ("market1501",))} == {
            ("market1501", "market1501")
        }


def test_each_reading_changes_one_setting() -> None:
    found = [c for c in cells("alignment_readings") if (c.group, c.column) == ("from scratch", "VR")]
    plain, *others = [cell.experiment.recipe for cell in found]
    assert len(others) == len(READINGS) - 1 == 3
    assert [len(differences([plain, recipe])) for recipe in others] == [1, 1, 1]
    assert len(set().union(*(differences([plain, recipe]) for recipe in others))) == 3


@pytest.mark.parametrize(
    ("profile", "labels"),
    [
        ("smoke", ["DeiT-S x0.25 /8", "DeiT-B x0.25 /8", "ViT-B x0.25 /8", "MSINet x0.25"]),
        ("mini", ["DeiT-S x0.25 /8", "DeiT-B x0.25 /8", "ViT-B x0.25 /8", "MSINet"]),
        ("paper", ["DeiT-S", "DeiT-B", "ViT-B", "MSINet"]),
    ],
)
def test_table_6_says_where_a_transformer_is_not_the_papers(profile: str, labels: list[str]) -> None:
    found = cells("table6", request=replace(SMOKE, profile=profile))
    assert list(dict.fromkeys(cell.row for cell in found)) == labels
    assert {cell.column for cell in found} == {"MS", "VR"}
    for cell in found:
        assert isinstance(cell.experiment.recipe, TransformerRecipe) == (not cell.row.startswith("MSINet"))
    table2 = {cell.experiment.key for cell in cells("table2", request=replace(SMOKE, profile=profile))}
    assert {cell.experiment.key for cell in found if cell.row.startswith("MSINet")} <= table2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table5", "table6", "figure5c", "figure5d", "figure5e", "alignment_readings"])
def test_they_run(name: str, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeds = "2" if name.startswith("figure") else "1"
    words = ["run", name, "--profile", "smoke", "--seeds", seeds, "--store", str(store), "--no-progress"]
    assert main([*words, *([] if name == "figure5e" else ["--datasets", "market1501"])]) == 0
    shown = capsys.readouterr().out
    table = shown[shown.rindex(CATALOGUES[name].title) :]
    assert not [line for line in table.splitlines() if "not run" in line]
    data = pd.read_csv(store / "figures" / f"{name}-smoke-rows.csv")
    assert set(data["run_id"]) <= set(Store(store).frame().index)
    baseline = CATALOGUES[name].baseline
    if name != "table6":  # its baseline is MSINet at full width
        assert (f"minus {baseline}:" if seeds == "2" else f"differences to {baseline}:") in table
        assert (name == "table5") == ("differences to OSNet|none: OSNet|PAM-Self " in table)
        assert ("over 2 seeds" in table) == (seeds == "2")


@pytest.mark.slow
def test_figure_5d_shows_what_depth_costs(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["show", "figure5d", "--profile", "smoke", "--seeds", "2", "--store", str(store)]
    assert main([*words, "--datasets", "market1501"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line[:2] in ("1:", "2:", "3:", "4:")]
    parameters = [float(line[1]) for line in lines]
    assert parameters == sorted(set(parameters))
    assert len(parameters) == 4
