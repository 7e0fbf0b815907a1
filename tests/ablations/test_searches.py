"""Searches: Table 1 on a world large enough to be split, and the sweeps that choose settings on held-out identities."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from ablations.__main__ import main
from ablations.engine import trials
from ablations.engine.options import ClusterOptions
from ablations.engine.request import Request
from ablations.engine.resolve import resolve
from ablations.engine.results import results
from ablations.engine.store import Store
from ablations.engine.sweep import SweepOptions, summary_path
from ablations.engine.trials import run_sweep
from ablations.studies import find_study, find_sweep
from msinet.data import load_dataset
from msinet.errors import UserError
from msinet.models.genotype import SEARCHED
from msinet.synthetic import SIZES, Size
from msinet.training.options import RunOptions

QUIET = RunOptions(progress=False, device="cpu")
SETS = ("market1501", "msmt17", "veri776", "vehicleid")
OVERLAP = find_sweep("overlap")
Words = Callable[..., list[str]]


def table1(words: Words, command: str, store: Path, *more: str) -> list[str]:
    """The words of Table 1 in smoke with its own recipes."""
    return words(command, store, *more, study="table1", datasets=(), models=(), recipe=())


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
def store(tmp_path_factory: pytest.TempPathFactory, cache: Path, words: Words) -> Path:
    """Table 1 with two seeds, finished."""
    folder = tmp_path_factory.mktemp("store")
    assert main(table1(words, "run", folder, "--seeds", "2")) == 0
    return folder


def test_table_1_is_filled_with_the_trainings_of_what_was_found(store: Path) -> None:
    request = Request(profile="smoke", seeds=2, store=store)
    resolution = resolve(find_study("table1"), request, Store(store))
    frame, records = results(resolution, Store(store)), Store(store).frame()
    assert set(frame["state"]) == {"done"}
    searched = frame[frame["factor.genotype"] == "searched"].set_index("seed")
    searches = records[records["model"] == "supernet_x0_25"]
    assert set(searched["search_id"]) == set(searches.index) == set(resolution.searches)
    for seed, search_id in searched["search_id"].items():
        assert searches.loc[search_id, "seed"] == seed
        assert searched.loc[seed, "option.genotype"] == searches.loc[search_id, "genotype"]
        agreement = sum(a == b for a, b in zip(searches.loc[search_id, "genotype"], SEARCHED, strict=True))
        assert searches.loc[search_id, "agreement"] == agreement
    paper = frame[frame["factor.genotype"] == "paper"]
    assert (paper["search_id"] == "").all()
    assert paper["option.genotype"].isna().all()


def test_nothing_runs_twice(store: Path, words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(table1(words, "run", store, "--seeds", "2")) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "6 done"


def test_networks_that_a_study_cannot_use_are_named(
    store: Path, words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(table1(words, "run", store, "--seeds", "2", "--models", "osnet")) == 0
    out = capsys.readouterr().out
    assert "--models has no effect: the networks of table1 are fixed" in out
    assert out.endswith("6 done\n")


def test_status_names_searches_and_what_waits_for_them(
    store: Path, tmp_path: Path, words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(table1(words, "status", tmp_path)) == 0
    *lines, total = capsys.readouterr().out.splitlines()
    assert total == "2 missing, 1 waiting"
    (search,) = (number for number, line in enumerate(lines) if "  search TCM r=0.4 msmt17 seed 0" in line)
    (waiting,) = (number for number, line in enumerate(lines) if line.endswith("for its search"))
    assert waiting == search + 1  # a search is before its training
    assert main(table1(words, "status", store)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "3 done"


def test_a_failed_search_leaves_its_training_out_and_the_rest_runs(
    cache: Path, tmp_path: Path, words: Words, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise UserError("the search broke")

    monkeypatch.setattr("ablations.engine.attempt.search", broken)
    assert main(table1(words, "run", tmp_path)) == 1
    out = capsys.readouterr().out
    assert "FAILED: the search broke" in out
    assert "what it needs is not finished" in out
    assert out.splitlines()[-1] == "1 finished, 1 failed, 1 blocked"
    monkeypatch.undo()
    assert main(table1(words, "run", tmp_path)) == 0


def test_sides_that_are_too_small_stop_the_command_before_any_run(
    cache: Path, tmp_path: Path, words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(table1(words, "run", tmp_path, "--search-recipe", "identities=11")) == 2
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
    with summary_path(Request(profile="smoke", store=store), "overlap").with_suffix(".csv").open() as stream:
        return list(csv.DictReader(stream))


def test_the_sweep_begins_with_the_default_and_keeps_the_best(swept: Path) -> None:
    trials = trials_of(swept)
    summary = json.loads(summary_path(Request(profile="smoke", store=swept), "overlap").read_text())
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


def test_the_best_genotype_meets_the_test_set_at_the_end(swept: Path) -> None:
    request = Request(profile="smoke", store=swept)
    frame = results(resolve(find_study("sweep_overlap"), request, Store(swept)), Store(swept))
    assert frame["factor.choice"].tolist() == ["paper", "default", "best"]
    assert set(frame["state"]) == {"done"}
    assert set(frame["test"]) == {"msmt17"}
    summary = json.loads(summary_path(request, "overlap").read_text())
    best = frame.set_index("factor.choice").loc["best"]
    assert best["factor.overlap"] == summary["best"]["overlap"]
    assert summary["best_genotype"] in (best["option.genotype"], SEARCHED)


def test_a_sweep_that_was_cut_off_ends_as_one_that_was_not(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(profile="smoke", store=tmp_path)
    calls = 0

    def execute_once(*arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt  # in the second trial
        return original(*arguments, **named)  # type: ignore[arg-type]

    original = trials.execute
    monkeypatch.setattr(trials, "execute", execute_once)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(request, QUIET, OVERLAP, SweepOptions(trials=3))
    monkeypatch.undo()
    run_sweep(request, QUIET, OVERLAP, SweepOptions(trials=3))
    assert trials_of(tmp_path) == trials_of(swept)


def test_a_trial_waits_for_a_run_of_another_process(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Counter[str]] = []

    def execute_later(*arguments: object, **named: object) -> Counter[str]:
        calls.append(Counter(running=1) if not calls else original(*arguments, **named))  # type: ignore[arg-type]
        return calls[-1]

    original = trials.execute
    monkeypatch.setattr(trials, "execute", execute_later)
    monkeypatch.setattr(trials, "WAIT", 0.0)
    run_sweep(Request(profile="smoke", store=tmp_path), QUIET, OVERLAP, SweepOptions(trials=1))
    assert len(calls) == 2
    assert [row["state"] for row in trials_of(tmp_path)] == ["complete"]
    assert "the trial waits until another process has finished its run" in capsys.readouterr().out


def test_trials_of_other_numerics_are_other_trials(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key() -> str:
        request = Request(profile="smoke", store=store)
        return trials._Trials(request, QUIET, OVERLAP, SweepOptions(), ClusterOptions()).key

    keys = []
    for version in (3, 4, 5):
        monkeypatch.setattr(trials, "RESULTS_VERSION", version)
        keys.append(key())
    assert len(set(keys)) == 3


def test_a_grid_is_run_once_and_only_once(store: Path, tmp_path: Path) -> None:
    request = Request(profile="smoke", store=tmp_path)
    for _ in range(2):
        run_sweep(request, QUIET, OVERLAP, SweepOptions(grid=(1.0, 0.5, 1.0)))
    assert sorted(float(row["overlap"]) for row in trials_of(tmp_path)) == [0.5, 1.0]


@pytest.fixture
def _no_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials end at once with the same mAP."""

    def told(self: trials._Trials, trial: optuna.Trial, values: object) -> None:
        trial.set_user_attr("run_ids", [])
        self.book.tell(trial, 0.5)

    monkeypatch.setattr(trials._Trials, "run_trial", told)
    monkeypatch.setattr(trials._Trials, "default_genotype", lambda _: "")


@pytest.mark.usefixtures("_no_trainings")
def test_a_grid_is_run_after_more_trials_than_it_has_values(store: Path, tmp_path: Path) -> None:
    request = Request(profile="smoke", store=tmp_path)
    for options in (SweepOptions(trials=3), *(2 * [SweepOptions(grid=(1.0, 0.0))])):
        run_sweep(request, QUIET, OVERLAP, options)
    assert [float(row["overlap"]) for row in trials_of(tmp_path)][3:] == [1.0, 0.0]


@pytest.mark.usefixtures("_no_trainings")
def test_a_trial_that_was_killed_before_it_had_values_keeps_them(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> float:
        raise KeyboardInterrupt

    request, options = Request(profile="smoke", store=tmp_path), SweepOptions(grid=(1.0, 0.5))
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "suggest_float", killed)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(request, QUIET, OVERLAP, options)
    run_sweep(request, QUIET, OVERLAP, options)
    assert sorted(float(row["overlap"]) for row in trials_of(tmp_path)) == [0.5, 1.0]


@pytest.mark.usefixtures("_no_trainings")
def test_the_best_of_a_sweep_is_shown_only_for_its_data_set(store: Path, tmp_path: Path) -> None:
    for name, sweep in (("sweep_overlap", OVERLAP), ("sweep_alignment", find_sweep("alignment"))):
        request = Request(profile="smoke", store=tmp_path, datasets=("msmt17",))
        run_sweep(request, QUIET, sweep, SweepOptions(trials=1))
        for dataset, there in (("msmt17", True), ("market1501", False)):
            cells = find_study(name).cells(request, (dataset,))
            assert ("best" in {dict(cell.factors)["choice"] for cell in cells}) is there


@pytest.mark.slow
def test_pruned_trials_are_marked_and_never_the_best(store: Path, tmp_path: Path) -> None:
    request = Request(profile="smoke", store=tmp_path)
    outcome = json.loads(run_sweep(request, QUIET, OVERLAP, SweepOptions(trials=5, pruning="asha")).read_text())
    finished = trials_of(tmp_path)
    assert outcome["states"].get("complete", 0) >= 1
    assert sum(outcome["states"].values()) == 5
    complete = [row for row in finished if row["state"] == "complete"]
    assert outcome["best_mAP"] == max(float(row["mAP"]) for row in complete)


@pytest.mark.slow
def test_several_settings_have_importances(store: Path, tmp_path: Path) -> None:
    request = Request(profile="smoke", store=tmp_path)
    outcome = json.loads(
        run_sweep(request, QUIET, OVERLAP, SweepOptions(vary=("overlap", "momentum"), trials=4)).read_text()
    )
    assert set(outcome["importances"]) <= {"overlap", "momentum"}
    assert set(outcome["best"]) == {"overlap", "momentum"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vary": ("overlpa",)}, "Did you mean 'overlap'"),
        ({"trials": 0}, "at least 1"),
        ({"grid": (0.2, 1.2)}, "values in"),
        ({"grid": (0.2,), "vary": ("overlap", "momentum")}, "over one setting"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(changes: dict[str, object], message: str, store: Path) -> None:
    with pytest.raises(UserError, match=message):
        run_sweep(Request(profile="smoke", store=store), QUIET, OVERLAP, SweepOptions(**changes))  # type: ignore[arg-type]


def test_sweeps_with_other_recipes_or_data_have_other_files(tmp_path: Path) -> None:
    request = Request("smoke", store=tmp_path)
    assert summary_path(request, "overlap") == tmp_path / "sweeps" / "overlap-smoke.json"
    assert summary_path(replace(request, seeds=3, datasets=("msmt17",)), "overlap") == summary_path(request, "overlap")
    others = [
        replace(request, recipe=("epochs=1",)),
        replace(request, search_recipe=("epochs=1",)),
        replace(request, recipe_of="authors"),
        replace(request, data_root=tmp_path / "a" / "photos"),
        replace(request, data_root=tmp_path / "b" / "photos"),
        replace(request, data_root=tmp_path / "b" / "photos", keep_same_camera=True),
    ]
    assert len({summary_path(one, "overlap") for one in (request, *others)}) == 7


@pytest.mark.slow
def test_the_alignment_sweep_ranks_held_out_identities_of_the_other_set(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", "alignment", "--profile", "smoke", "--store", str(tmp_path), "--seeds", "1", "--no-progress"]
    assert main([*words, "--grid", "0", "2", "3.5"]) == 0
    assert capsys.readouterr().out.endswith("finished\n")
    path = summary_path(Request(profile="smoke", store=tmp_path), "alignment")
    outcome = json.loads(path.read_text())
    assert outcome["set"] == "veri776 to vehicleid-heldout"
    found = results(
        resolve(find_study("sweep_alignment"), Request("smoke", store=tmp_path), Store(tmp_path)), Store(tmp_path)
    )
    assert set(found["state"]) == {"done"}
    assert found.set_index("factor.choice").loc["best", "factor.weight"] == outcome["best"]["alignment_weight"]
    frame = Store(tmp_path).frame()
    with path.with_suffix(".csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert sorted(float(row["alignment_weight"]) for row in rows) == [0.0, 2.0, 3.5]
    for row in rows:
        run = frame.loc[row["run_ids"]]
        assert (run["source"], run["target"]) == ("veri776", "vehicleid-heldout")
        assert run["recipe.alignment"] == "pam-self" or float(row["alignment_weight"]) == 0


def test_the_study_can_be_read_by_optuna_itself(swept: Path) -> None:
    (journal,) = (swept / "sweeps").glob("*.journal")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    (summary,) = optuna.get_all_study_summaries(storage)
    assert summary.n_trials == 3
