"""Table 1, Figures 5a and 5b, the discrepancies and the sweep, on a world large enough to be split."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest

from ablations.__main__ import main
from ablations.catalogue import Request, home
from ablations.experiment import Experiment
from ablations.index import CATALOGUES
from ablations.runner import make_plan
from ablations.searches import RANDOM, RATIOS, random_genotypes
from ablations.store import Store
from ablations.sweep import OVERLAP, summary_path, sweep
from msinet.data import load_dataset
from msinet.errors import UserError
from msinet.models.msinet import SEARCHED
from msinet.search import SearchRecipe
from msinet.synthetic import SETS, SIZES, Size
from msinet.training.run import RunOptions

QUIET = RunOptions(progress=False, device="cpu")
SETS = ("market1501", "msmt17", "veri776", "vehicleid")


@pytest.fixture(autouse=True, scope="module")
def _world_to_split() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "smoke", dict.fromkeys(SETS, Size(12, 3, 4, 4, 16)))
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSINET_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """Table 1 with two seeds, finished."""
    folder = tmp_path_factory.mktemp("store")
    assert main(["run", "table1", "--profile", "smoke", "--seeds", "2", "--store", str(folder), "--no-progress"]) == 0
    return folder


def cells(name: str, datasets: tuple[str, ...] = SETS, **changes: object) -> list[tuple[str, str, Experiment]]:
    request = replace(Request(profile="smoke"), **changes)  # type: ignore[arg-type]
    return [(cell.row, cell.column, cell.experiment) for cell in CATALOGUES[name].cells(request, datasets)]


def test_the_papers_ablations_are_on_msmt17_or_the_first_set_at_hand() -> None:
    assert home(SETS, "msmt17") == "msmt17"
    assert home(("veri776", "market1501"), "msmt17") == "veri776"
    assert {column for name in ("table1", "figure5a", "figure5b", "discrepancies") for _, column, _ in cells(name)} == {
        "MS"
    }
    assert {experiment.source for _, _, experiment in cells("figure5a", ("market1501",))} == {"market1501"}


def test_figure_5a_varies_mechanism_and_overlap_alone() -> None:
    searches = [experiment.genotype_from for _, _, experiment in cells("figure5a", seeds=2)]
    recipes = [search.recipe for search in searches if search is not None]
    assert len(recipes) == 2 * (1 + len(RATIOS))
    assert all(isinstance(recipe, SearchRecipe) for recipe in recipes)
    assert {
        (recipe.search.mechanism, recipe.search.overlap) for recipe in recipes if isinstance(recipe, SearchRecipe)
    } == {("ce", 1.0), *(("tcm", ratio) for ratio in RATIOS)}
    assert len({replace(r, mechanism="tcm", overlap=0.4) for r in recipes if isinstance(r, SearchRecipe)}) == 1


def test_figure_5b_has_every_single_operation_random_ones_and_the_searched() -> None:
    found = cells("figure5b")
    genotypes = [dict(experiment.options).get("genotype", SEARCHED) for _, _, experiment in found]
    assert genotypes[:4] == [letter * 12 for letter in "NEGA"]
    assert genotypes[4 : 4 + RANDOM] == random_genotypes(RANDOM)
    assert len(set(random_genotypes(RANDOM))) == RANDOM
    assert all(set(genotype) <= set("NGAE") and len(genotype) == 12 for genotype in random_genotypes(RANDOM))
    assert genotypes[4 + RANDOM] == SEARCHED
    assert [e.genotype_from.recipe.search.mechanism for _, _, e in found[-2:]] == ["tpe", "tcm"]  # type: ignore[union-attr]


def test_random_genotypes_are_drawn_evenly() -> None:
    letters = "".join(random_genotypes(500))
    counts = np.array([letters.count(letter) for letter in "NGAE"])
    assert (abs(counts - 1500) < 5 * np.sqrt(6000 * 0.25 * 0.75)).all()


def test_each_discrepancy_changes_one_thing_and_the_last_row_all() -> None:
    recipes = {row: experiment.genotype_from.recipe for row, _, experiment in cells("discrepancies")}  # type: ignore[union-attr]
    plain = vars(recipes.pop("as the paper"))
    everything = vars(recipes.pop("all of them"))
    changes = [
        {name: value for name, value in vars(recipe).items() if value != plain[name]} for recipe in recipes.values()
    ]
    assert [len(change) for change in changes] == [1] * 7
    merged = {name: value for change in changes for name, value in change.items()}
    assert len(merged) == 7
    assert everything == plain | merged


def test_a_genotype_is_one_run_whoever_found_it() -> None:
    plain = cells("figure5b")[0][2]
    search = cells("figure5a")[0][2].genotype_from
    pending = replace(plain, options=(), genotype_from=search)
    assert pending.known("N" * 12).key == plain.key


def test_table_1_is_filled_and_says_what_was_found(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "table1", "--profile", "smoke", "--seeds", "2", "--store", str(store)]) == 0
    shown = capsys.readouterr().out
    assert "not run" not in shown
    frame = Store(store).frame()
    searches = frame[frame["model"] == "supernet_x0_25"].sort_values("seed")
    assert len(searches) == 2
    for seed, genotype in enumerate(searches["genotype"]):
        line = next(line for line in shown.splitlines() if line.startswith(f"searched here, seed {seed}: "))
        assert line.split(": ")[1].split(",")[0].replace(" ", "") == genotype
        agreement = sum(a == b for a, b in zip(genotype, SEARCHED, strict=True))
        assert f"{agreement} of 12 as in the paper" in line
    trained = frame[frame["model"] == "msinet_x0_25"]
    assert set(trained["option.genotype"].dropna()) == set(searches["genotype"])
    assert "searched here minus paper's genotype" in shown
    assert "over 2 seeds" in shown


def test_the_difference_is_that_of_the_records(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", "table1", "--profile", "smoke", "--seeds", "2", "--store", str(store)])
    line = next(line for line in capsys.readouterr().out.splitlines() if "minus paper's genotype" in line)
    frame = Store(store).frame()
    trained = frame[frame["model"] == "msinet_x0_25"]
    searched = trained.dropna(subset="option.genotype").set_index("seed")["mAP"]
    plain = trained[trained["option.genotype"].isna()].set_index("seed")["mAP"]
    assert f"{100 * (searched - plain).mean():+.1f} [" in line


def test_its_figure_shows_every_run(store: Path) -> None:
    main(["show", "table1", "--profile", "smoke", "--seeds", "2", "--store", str(store)])
    data = pd.read_csv(store / "figures" / "table1-smoke-rows.csv")
    assert len(data) == 4
    frame = Store(store).frame()
    assert data.set_index("run_id")["mAP"].to_dict() == pytest.approx((100 * frame["mAP"].dropna()).to_dict(), rel=1e-3)
    assert (store / "figures" / "table1-smoke-rows.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_runs_twice(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "table1", "--profile", "smoke", "--seeds", "2", "--store", str(store), "--no-progress"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "6 done"


def test_status_names_searches_and_what_waits_for_them(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "table1", "--profile", "smoke", "--store", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("search TCM r=0.4 msmt17 seed 0" in line and "waiting" in line for line in lines)
    assert any(line.endswith("for its search") for line in lines)
    assert main(["status", "table1", "--profile", "smoke", "--store", str(store)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "3 done"


def test_a_failed_search_leaves_its_training_out_and_the_rest_runs(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise UserError("the search broke")

    monkeypatch.setattr("ablations.runner.search", broken)
    assert main(["run", "table1", "--profile", "smoke", "--store", str(tmp_path), "--no-progress"]) == 1
    out = capsys.readouterr().out
    assert "FAILED: the search broke" in out
    assert "its search is not finished" in out
    assert out.splitlines()[-1] == "1 finished, 1 failed, 1 blocked"
    monkeypatch.undo()
    assert main(["run", "table1", "--profile", "smoke", "--store", str(tmp_path), "--no-progress"]) == 0


def test_sides_that_are_too_small_stop_the_command_before_any_run(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "table1", "--profile", "smoke", "--store", str(tmp_path), "--no-progress"]
    assert main([*words, "--search-recipe", "identities=11"]) == 2
    message = capsys.readouterr().err
    assert "training side" in message
    assert "11 identities" in message
    assert not (tmp_path / "runs").exists()


# --- Held-out identities -------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_held_out_identities_are_ranked_and_the_others_train(world_root: Path, name: str) -> None:
    whole, inner = load_dataset(name, world_root), load_dataset(f"{name}-heldout", world_root)
    identities = sorted({image.identity for image in whole.train})
    assert {image.identity for image in inner.test} == set(identities[3::4])
    assert {image.identity for image in inner.train} == set(identities) - set(identities[3::4])
    assert sorted(i.path for i in (*inner.train, *inner.test)) == sorted(i.path for i in whole.train)
    assert inner.fingerprint != whole.fingerprint
    (draw,) = inner.draws
    if whole.remove_same_camera:
        assert draw.query.tolist() == draw.gallery.tolist() == list(range(len(inner.test)))
    else:
        assert sorted([*draw.query, *draw.gallery]) == list(range(len(inner.test)))
        assert sorted(inner.test[i].identity for i in draw.gallery) == identities[3::4]


# --- The sweep -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    words = ["sweep", "--profile", "smoke", "--store", str(folder), "--seeds", "1", "--trials", "3", "--no-progress"]
    assert main(words) == 0
    return folder


def trials_of(store: Path) -> list[dict[str, str]]:
    with summary_path(Request(profile="smoke", store=store)).with_suffix(".csv").open() as stream:
        return list(csv.DictReader(stream))


def test_the_sweep_begins_with_the_default_and_keeps_the_best(swept: Path) -> None:
    trials = trials_of(swept)
    summary = json.loads(summary_path(Request(profile="smoke", store=swept)).read_text())
    assert [row["state"] for row in trials] == ["complete"] * 3
    assert float(trials[0]["overlap"]) == 0.4
    assert trials[0]["genotype"] == summary["default_genotype"]
    best = max(trials, key=lambda row: float(row["mAP"]))
    assert summary["best_genotype"] == best["genotype"]
    assert summary["best"] == {"overlap": float(best["overlap"])}


def test_trials_never_look_at_the_test_set(swept: Path) -> None:
    frame = Store(swept).frame()
    for row in trials_of(swept):
        for run_id in row["run_ids"].split():
            assert frame.loc[run_id, "source"] == frame.loc[run_id, "target"] == "msmt17-heldout"
        assert frame.loc[row["run_ids"].split()[1], "mAP"] == pytest.approx(float(row["mAP"]))


def test_the_best_genotype_meets_the_test_set_at_the_end(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "sweep_overlap", "--profile", "smoke", "--store", str(swept)]) == 0
    shown = capsys.readouterr().out
    assert "best of the sweep, overlap" in shown
    assert "not run" not in shown
    for name in ("sweep_overlap-smoke-rows", "sweep_overlap-smoke-trials"):
        assert (swept / "figures" / f"{name}.png").stat().st_size > 5000


def test_a_sweep_that_was_cut_off_ends_as_one_that_was_not(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(profile="smoke", store=tmp_path)
    calls = 0

    def execute_once(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt  # in the second trial
        return original(*arguments)  # type: ignore[arg-type]

    from ablations import sweep as module

    original = module.execute
    monkeypatch.setattr(module, "execute", execute_once)
    with pytest.raises(KeyboardInterrupt):
        sweep(request, QUIET, OVERLAP, trials=3)
    monkeypatch.undo()
    sweep(request, QUIET, OVERLAP, trials=3)
    assert trials_of(tmp_path) == trials_of(swept)


def test_a_grid_is_run_once_and_only_once(store: Path, tmp_path: Path) -> None:
    request = Request(profile="smoke", store=tmp_path)
    for _ in range(2):
        sweep(request, QUIET, OVERLAP, grid=(1.0, 0.5, 1.0))
    assert sorted(float(row["overlap"]) for row in trials_of(tmp_path)) == [0.5, 1.0]


@pytest.mark.slow
def test_pruned_trials_are_marked_and_never_the_best(store: Path, tmp_path: Path) -> None:
    request = Request(profile="smoke", store=tmp_path)
    outcome = json.loads(sweep(request, QUIET, OVERLAP, trials=5, pruning="asha").read_text())
    trials = trials_of(tmp_path)
    assert outcome["states"].get("complete", 0) >= 1
    assert sum(outcome["states"].values()) == 5
    complete = [row for row in trials if row["state"] == "complete"]
    assert outcome["best_mAP"] == max(float(row["mAP"]) for row in complete)


@pytest.mark.slow
def test_several_settings_have_importances(store: Path, tmp_path: Path) -> None:
    request = Request(profile="smoke", store=tmp_path)
    outcome = json.loads(sweep(request, QUIET, OVERLAP, vary=("overlap", "momentum"), trials=4).read_text())
    assert set(outcome["importances"]) <= {"overlap", "momentum"}
    assert set(outcome["best"]) == {"overlap", "momentum"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vary": ("overlpa",)}, "Did you mean 'overlap'"),
        ({"trials": 0}, "at least one"),
        ({"grid": (0.2, 1.2)}, "values in"),
        ({"grid": (0.2,), "vary": ("overlap", "momentum")}, "over one setting"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(changes: dict[str, object], message: str, store: Path) -> None:
    with pytest.raises(UserError, match=message):
        sweep(Request(profile="smoke", store=store), QUIET, OVERLAP, **changes)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_alignment_sweep_ranks_held_out_identities_of_the_other_set(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", "alignment", "--profile", "smoke", "--store", str(tmp_path), "--seeds", "1", "--no-progress"]
    assert main([*words, "--grid", "0", "2", "3.5"]) == 0
    shown = capsys.readouterr().out
    assert "not run" not in shown
    path = summary_path(Request(profile="smoke", store=tmp_path), "alignment")
    outcome = json.loads(path.read_text())
    assert outcome["set"] == "veri776 to vehicleid-heldout"
    assert f"best of the sweep, {outcome['best']['alignment_weight']:.3g}" in shown
    frame = Store(tmp_path).frame()
    with path.with_suffix(".csv").open() as stream:
        trials = list(csv.DictReader(stream))
    assert sorted(float(row["alignment_weight"]) for row in trials) == [0.0, 2.0, 3.5]
    for row in trials:
        run = frame.loc[row["run_ids"]]
        assert (run["source"], run["target"]) == ("veri776", "vehicleid-heldout")
        assert run["recipe.losses.alignment"] == "pam-self" or float(row["alignment_weight"]) == 0
    assert (tmp_path / "figures" / "sweep_alignment-smoke-trials.png").stat().st_size > 5000


def test_the_study_can_be_read_by_optuna_itself(swept: Path) -> None:
    (journal,) = (swept / "sweeps").glob("*.journal")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    (summary,) = optuna.get_all_study_summaries(storage)
    assert summary.n_trials == 3


def test_plans_put_a_search_before_its_training(store: Path) -> None:
    plan = make_plan(CATALOGUES["table1"], Request(profile="smoke", store=store / "none"))
    assert len(plan.waiting) == 1
    ((experiment, search),) = plan.waiting.items()
    assert experiment.genotype_from == search.experiment
    assert search in plan.runs()
