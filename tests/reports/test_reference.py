"""Reference results: from a store to committed files and back, their check, and tables and reports that show them."""

import csv
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import ablations.__main__ as commands
from ablations.engine.reference import KEPT, ReferenceStore, has_reference, reference_folder, write_reference
from ablations.engine.request import Request
from ablations.engine.store import Store
from ablations.studies import find_study
from msinet.environment import DESCRIBED, describe
from msinet.errors import UserError
from msinet.models.registry import CARDS
from reports.__main__ import main
from reports.agreement import Pair, agreements
from reports.claims import BACKBONES
from reports.contributions import Machine, add, check, listing, request_of, request_words
from reports.formats import as_frame, as_latex, as_markdown, as_text, grid
from reports.layout import build_table, shown_table
from reports.results import ReferenceResults, Results
from reports.statistics import Variance, reproduction
from reports.tables import Column, Row, TableCell
from reports.verdicts import judge

ROOT = Path(__file__).parents[2]
Files = Callable[[], Path]


def added(request: Request, machine: Path, studies: tuple[str, ...] = ("table2",), **options: Any) -> list[str]:
    return list(add(request, studies, Machine(machine, who="A. Tester"), **options))


@pytest.fixture(scope="module")
def folder(trained: Request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reference results of the trained store on the machine abacus. Do not change them."""
    found = tmp_path_factory.mktemp("committed")
    added(trained, found / "abacus")
    return found


@pytest.fixture
def copy(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to damage, which is the folder of reference results."""
    target = tmp_path / "committed"
    for path in sorted(folder.glob("*/*")):
        (target / path.parent.name).mkdir(parents=True, exist_ok=True)
        (target / path.parent.name / path.name).write_bytes(path.read_bytes())
    monkeypatch.setenv("MSINET_REFERENCE", str(target))
    return target


def edited(path: Path, change: Callable[[list[dict[str, str]]], object]) -> None:
    """Change the rows of a table."""
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    change(rows)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


# Files


def test_the_committed_results_are_valid() -> None:
    assert list(check(ROOT / "reference")) == []


def test_a_store_and_its_reference_results_have_the_same_frame(trained: Request, folder: Path) -> None:
    ours, theirs = Store(trained.store).frame(), ReferenceStore(folder / "abacus", "table2").frame()
    assert set(ours.index) == set(theirs.index)
    assert set(ours.columns) == set(theirs.columns)
    theirs = theirs.loc[ours.index]
    for name in ours:
        for a, b in zip(ours[name], theirs[name], strict=True):
            a, b = (tuple(value) if isinstance(value, list) else value for value in (a, b))
            assert a == b or (pd.isna(a) and pd.isna(b)), name


def test_files_of_runs_are_kept_but_for_the_names_of_images(trained: Request, folder: Path) -> None:
    store, reference = Store(trained.store), ReferenceStore(folder / "abacus", "table2")
    for run_id, record in store.frame().iterrows():
        queries = store.read(run_id, "queries.csv").drop(columns="query")
        found = reference.read(run_id, "queries.csv")[list(queries)]
        for name in queries:
            exact = queries[name].dtype.kind != "f"
            np.testing.assert_allclose(found[name], queries[name], rtol=0 if exact else 1e-7)
        if record["steps"]:
            pd.testing.assert_frame_equal(reference.read(run_id, "history.csv"), store.read(run_id, "history.csv"))
    # What is the same for all runs on a test set is stored once.
    identities = [name for name in reference.array_names if name.endswith("/identity") and "/history/" not in name]
    assert identities == [f"tests/{print_}/identity" for print_ in sorted(store.frame()["target_fingerprint"].unique())]


def test_runs_that_rank_the_test_set_several_times_keep_their_own_columns(folder: Path, tmp_path: Path) -> None:
    """As oracles do: the other runs still store what they have in common once."""
    before = ReferenceStore(folder / "abacus", "table2")
    files = {str(row["run_id"]): before.files(str(row["run_id"])) for row in before.rows}
    ranked = [run_id for run_id, those in files.items() if "queries.csv" in those]
    targets = before.frame()["target_fingerprint"]
    several, *others = [run_id for run_id in ranked if (targets[ranked] == targets[ranked[0]])[run_id]]
    assert len(others) > 1
    once = files[several]["queries.csv"]
    files[several]["queries.csv"] = pd.concat([once.assign(draw=draw) for draw in range(3)], ignore_index=True)
    after = ReferenceStore(tmp_path, "table2")
    write_reference(after, before.rows, files)
    for run_id in ranked:
        pd.testing.assert_frame_equal(after.read(run_id, "queries.csv"), files[run_id]["queries.csv"][list(once)])
    lacking = {run_id: dict(those) for run_id, those in files.items()}  # runs of a version without this column
    for run_id in others:
        lacking[run_id]["queries.csv"] = files[run_id]["queries.csv"].drop(columns="camera")
    older = ReferenceStore(tmp_path / "older", "table2")
    write_reference(older, before.rows, lacking)
    assert all("camera" not in older.read(run_id, "queries.csv") for run_id in others)
    assert len(older.read(several, "queries.csv")) == 3 * len(once)
    own = {name.split("/")[1] for name in after.array_names if name.endswith("queries/identity")}
    assert own == {several}


def test_valid_results_have_no_problems_and_are_listed(folder: Path) -> None:
    assert list(check(folder)) == []
    lines = list(listing(folder))
    assert "A. Tester" in lines[0]
    assert any("table2" in line and "1 seeds" in line for line in lines)
    assert any("python -m ablations run table2 --profile smoke --data-root DIR" in line for line in lines)


def test_adding_again_changes_no_byte(trained: Request, copy: Path) -> None:
    before = {path: path.read_bytes() for path in copy.glob("*/*")}
    line, *remarks = added(trained, copy / "abacus")
    assert "0 of them new" in line
    assert all("uncommitted code" in remark for remark in remarks)  # while the code is being changed
    assert {path: path.read_bytes() for path in copy.glob("*/*")} == before


def test_runs_of_a_version_without_a_column_of_the_test_set_are_the_same_runs(
    trained: Request, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Store.read
    monkeypatch.setattr(Store, "read", lambda *where: read(*where).drop(columns="camera", errors="ignore"))
    assert "0 of them new" in added(trained, copy / "abacus")[0]


@pytest.mark.parametrize("lost", ["ap", "lr"])
def test_runs_that_lost_a_score_or_a_part_of_their_history_are_different(
    trained: Request, copy: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    read = Store.read
    monkeypatch.setattr(Store, "read", lambda *where: read(*where).drop(columns=lost, errors="ignore"))
    with pytest.raises(UserError, match="has different results"):
        added(trained, copy / "abacus")


def test_no_path_of_this_machine_is_written(trained: Request, folder: Path) -> None:
    for path in folder.glob("*/*"):
        assert str(trained.data_root).encode() not in path.read_bytes()
        assert str(trained.store).encode() not in path.read_bytes()


def test_words_of_a_request_give_it_again() -> None:
    request = Request(profile="full", whole=True, models=("osnet",), recipe=("lr=0.1", "epochs=3"), seeds=4)
    assert "seeds" not in request_words(request)
    assert request_of(request_words(request)) == replace(request, seeds=0)
    own = Request(data_root=Path("/somewhere/data"), pretrained=Path("/w"), store=Path("/s"))
    assert request_words(own) == "--data-root DIR --pretrained DIR"
    with pytest.raises(UserError, match="not valid in this version"):
        request_of("--no-such-option 3")


TAMPERED: dict[str, tuple[Callable[[dict[str, str]], object], str]] = {
    "metric": (lambda row: row.update(mAP=str(float(row["mAP"]) + 0.001)), r"mAP is 0\.\d+, and 0\.\d+ by its scores"),
    "range": (lambda row: row.update(R10="1.2"), "R10 is 1.2"),
    "text": (lambda row: row.update(R1="high"), "R1 is high"),
    "no number of steps": (lambda row: row.update(steps="many"), "steps is many"),
    "no seed": (lambda row: row.update(seed=""), "seed is None; restore it"),
    "order": (lambda row: row.update(R5="0.0", R1="0.9"), "do not rise"),
    "queries": (lambda row: row.update(queries="3"), "queries in its scores, 3 in its row"),
    "seed": (lambda row: row.update(seed="5"), "seed: not as in its definition"),
    "definition": (lambda row: row.update(definition=row["definition"].replace('"seed":0', '"seed":9')), "has the key"),
    "no experiment": (lambda row: row.update(definition="{}"), "stale: not an experiment"),
    "data": (lambda row: row.update(source_fingerprint="0" * 12), "another run id"),
    "version": (lambda row: row.update(results_version="1"), "stale: results version 1"),
    "environment": (lambda row: row.update(torch=""), "no torch"),
    "request": (
        lambda row: row.update(request="--profile smoke --data-root DIR --models cdnet"),
        "no table cell of this",
    ),
    "damaged request": (lambda row: row.update(request='--models "'), "is not valid in this version"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_row_is_named(copy: Path, name: str) -> None:
    change, message = TAMPERED[name]
    path = copy / "abacus" / "table2.csv"
    rows = pd.read_csv(path).to_dict("records")
    number = next(i for i, row in enumerate(rows) if row["steps"] and row["model"].startswith("msinet"))
    # The request of another row may still ask for the cell.
    edited(path, lambda rows: [change(row) for row in (rows if "request" in name else [rows[number]])])
    problems = [problem for problem in check(copy) if "machine.json" not in problem]
    assert problems
    assert all(str(path) in problem for problem in problems)
    frame = pd.read_csv(path)
    assert pd.Series(problems).str.contains(message).any(), problems
    assert any(frame["run_id"].iloc[number] in problem for problem in problems)


def test_a_tampered_curve_is_named(copy: Path) -> None:
    def change(rows: list[dict[str, str]]) -> None:
        next(row for row in rows if row["curve_loss"]).update(curve_loss="1")

    edited(copy / "abacus" / "table2.csv", change)
    assert any("learning curve" in problem for problem in check(copy))


def test_damaged_and_lonely_files_are_named(copy: Path) -> None:
    table, arrays = (copy / "abacus" / f"table2{suffix}" for suffix in (".csv", ".npz"))
    whole = arrays.read_bytes()
    arrays.write_bytes(whole[: len(whole) // 2])
    assert any(str(arrays) in problem and "restore it" in problem for problem in check(copy))
    arrays.write_bytes(whole)
    edited(table, lambda rows: rows.append(rows[0]))
    assert any("has 2 rows" in problem for problem in check(copy))
    rows = table.read_text()
    table.write_text(rows.splitlines()[0] + "\n")
    assert any("arrays and no row" in problem for problem in check(copy))
    table.write_text(rows.replace("definition", "other", 1))
    assert any("no column definition" in problem for problem in check(copy))
    table.rename(table.with_name("table99.csv"))
    problems = list(check(copy))
    assert any("no study" in problem for problem in problems)
    assert any("no table next to it" in problem for problem in problems)
    (copy / "abacus" / "machine.json").write_text("{}")
    assert any("does not describe a machine" in problem for problem in check(copy))


def test_arrays_with_code_are_refused(copy: Path) -> None:
    path = copy / "abacus" / "table2.npz"
    np.savez(path, allow_pickle=True, **{"runs/a/queries/ap": np.array([{}], dtype=object)})
    assert any(f"{path} cannot be read" in problem for problem in check(copy))


# Merging, with results that were made by hand


@pytest.fixture
def theirs(hand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A second store by hand, whose runs are added to the reference results of a machine."""
    folder = tmp_path / "committed"
    monkeypatch.setenv("MSINET_REFERENCE", str(folder))
    assert reference_folder() == folder

    def publish(
        values: dict[str, tuple[float, ...]], machine: str = "abacus", tools: Any = None, **record: Any
    ) -> Path:
        other = type(hand)(tmp_path / f"results-{machine}")
        seeds = max(map(len, values.values()))
        fill(other, tools, values, seeds, **record)
        return other.store.root

    def put(root: Path, machine: str = "abacus", seeds: int = 3, **options: Any) -> list[str]:
        request = replace(hand.request(seeds=seeds), models=(), store=root)
        return added(request, folder / machine, **options)

    return SimpleNamespace(publish=publish, put=put, folder=folder)


def fill(store: Any, tools: Any, values: dict[str, tuple[float, ...]], seeds: int, **record: Any) -> None:
    """Runs of networks of Table 2 on MSMT17 from scratch with these values of R1 and mAP by seed."""
    for model, metrics in values.items():
        asked = store.request(model, seeds=seeds)
        cells = tools.cells_of("table2", asked, "scratch", ("msmt17", "msmt17"))
        for cell, value in zip(cells, metrics, strict=False):
            store.publish(cell.experiment, R1=value, mAP=value, **record)


LATER = "2025-02-02T00:00:00+00:00"
THREE = {"msinet": (0.60, 0.62, 0.64), "osnet": (0.50, 0.53, 0.56)}


def test_runs_are_merged_and_replaced_only_on_request(hand, tools, theirs) -> None:
    root = theirs.publish({"msinet": (0.6,)}, tools=tools)
    theirs.put(root)
    store = ReferenceStore(theirs.folder / "abacus", "table2")
    assert len(store.rows) == 1
    other = theirs.publish({"msinet": (0.6, 0.7), "osnet": (0.5,)}, "second", tools=tools)
    assert "3 runs, 2 of them new" in theirs.put(other)[0]
    changed = theirs.publish({"msinet": (0.9,)}, "third", tools=tools)
    before = store.table.read_bytes()
    with pytest.raises(UserError, match=r"different results of 1 experiments.*--replace"):
        theirs.put(changed)
    assert store.table.read_bytes() == before
    assert "3 runs, 1 of them new or replaced" in theirs.put(changed, replacing=True)[0]
    found = ReferenceStore(theirs.folder / "abacus", "table2")
    assert sorted(found.frame()["mAP"]) == [0.5, 0.7, 0.9]
    assert {len(found.read(run_id, "queries.csv")) for run_id in found.frame().index} == {20}


def test_runs_of_a_changed_network_are_stale_until_they_are_replaced(hand, tools, theirs, monkeypatch) -> None:
    theirs.put(theirs.publish({"msinet": (0.6,), "osnet": (0.5,)}, tools=tools))
    monkeypatch.setitem(CARDS, "msinet", replace(CARDS["msinet"], revision=1))
    message = "if the code of msinet has another revision"
    assert sum(message in problem for problem in check(theirs.folder)) == 1
    later = theirs.publish({"msinet": (0.9,)}, "second", tools=tools)
    with pytest.raises(UserError, match="--replace"):
        theirs.put(later)
    theirs.put(later, replacing=True)
    assert not any(message in problem for problem in check(theirs.folder))
    assert sorted(ReferenceStore(theirs.folder / "abacus", "table2").frame()["mAP"]) == [0.5, 0.9]


def test_another_protocol_has_no_reference(hand, tools, theirs) -> None:
    theirs.put(theirs.publish({"msinet": (0.6,)}, tools=tools))
    asked = replace(hand.request("msinet"), keep_same_camera=True)
    assert Results(asked).reference is None
    assert has_reference(find_study("table2"), hand.request("msinet"))
    assert not has_reference(find_study("table2"), asked)
    with pytest.raises(UserError, match="leave out --keep-same-camera"):
        list(add(asked, ["table2"], Machine(theirs.folder / "abacus")))


def test_the_person_is_asked_for_and_nothing_to_add_is_an_error(hand, tools, theirs) -> None:
    root = theirs.publish({"msinet": (0.6,)}, tools=tools)
    request = replace(hand.request(), store=root)
    with pytest.raises(UserError, match="pass --who NAME"):
        list(add(request, ["table2"], Machine(theirs.folder / "new")))
    with pytest.raises(UserError, match="no finished run"):
        list(add(replace(request, profile="full"), ["table2"], Machine(theirs.folder / "new", who="A")))
    assert not (theirs.folder / "new").exists()


def test_uncommitted_code_is_named(tools, theirs) -> None:
    root = theirs.publish({"msinet": (0.6,)}, tools=tools, code="1+a-dirty")
    assert "1 runs were made with uncommitted code" in theirs.put(root)[-1]


def test_a_search_and_its_training_are_kept(hand, tools, theirs) -> None:
    other = type(hand)(hand.store.root.parent / "searched")
    (cell,) = (c for c in tools.cells_of("table1", other.request(seeds=1)) if dict(c.factors)["genotype"] == "searched")
    search, genotype = cell.experiment.genotype_from, "NGAENGAENGAE"
    alphas = [{"epoch": 1, "interaction": i + 1, "weight_N": 0.25, "entropy": 0.9} for i in range(12)]
    outcome = {"genotype": genotype, "agreement": 4, "skip_ratio": 0.25, "collapsed": False, "entropy": 0.9}
    outcome |= {"seconds_training": 12.0}
    found = other.publish(search, files={"alphas.csv": alphas}, **outcome)
    other.publish(cell.experiment.known(genotype), R1=0.5)
    (other.store.run_folder(found) / "genotype.json").write_text(f'{{"genotype": "{genotype}"}}')
    added(other.request(seeds=1), theirs.folder / "abacus", ("table1",))
    results = ReferenceResults(hand.request(seeds=1))
    frame = results.finished("table1")
    row = frame[frame["search_id"] != ""].iloc[0]
    assert row["option.genotype"] == genotype
    assert results.records.loc[row["search_id"], "agreement"] == 4
    assert results.read(row["search_id"], "alphas.csv")["interaction"].tolist() == list(range(1, 13))
    assert "NG AE NG AE NG AE" in as_text(build_table(results, "table1"))


def test_a_short_table_of_other_groups_than_the_whole_one_is_found(hand, tools, theirs) -> None:
    """Table 3 is from scratch; with --whole its networks are pre-trained."""
    other = type(hand)(hand.store.root.parent / "trained")
    asked = other.request("pcb", datasets=("msmt17",), seeds=1, whole=False)
    (cell,) = tools.cells_of("table3", asked)
    assert cell.group == "scratch"
    other.publish(cell.experiment, R1=0.5, mAP=0.4)
    added(replace(asked, models=()), theirs.folder / "abacus", ("table3",))
    table = build_table(ReferenceResults(hand.request("pcb", seeds=1)), "table3")
    (row,) = (row for row in table.rows if row.done)
    assert (row.group, table.label(row.factors)) == ("scratch", "PCB")


# Results


def test_reference_results_are_the_results_of_the_store(hand, tools, theirs) -> None:
    root = theirs.publish(THREE, tools=tools)
    theirs.put(root)
    asked = hand.request("msinet", "osnet", seeds=1)
    results = ReferenceResults(asked)
    ours = build_table(Results(replace(asked, seeds=3, store=root)), "table2")
    table = build_table(results, "table2")
    assert table.is_reference
    assert results.seeds == 3
    assert "reference results" in table.title
    scratch = [[row for row in one.rows if row.group == "scratch"] for one in (ours, table)]
    assert [row.factors for row in scratch[0]] == [row.factors for row in scratch[1]]
    cells = [[cell for row in rows for cell in row.cells.values()] for rows in scratch]
    assert [c.runs["mAP"].tolist() for c in cells[0]] == [c.runs["mAP"].tolist() for c in cells[1]]
    assert [c.marks for c in cells[0]] == [c.marks for c in cells[1]]
    assert {row.group for row in table.rows} == {"scratch"}  # the reference has no run of another group
    assert "A. Tester" in table.notes[0]
    statuses = [
        [verdict.status for verdict in judge(one, claims=BACKBONES)]
        for one in (results, Results(replace(asked, seeds=3, store=root)))
    ]
    assert statuses[0] == statuses[1]
    assert not Path(asked.store).exists()


def test_reference_tables_are_whole_whatever_the_request(hand, tools, theirs) -> None:
    asked = hand.request("msinet", seeds=1, datasets=("msmt17", "market1501"))
    for cell in tools.cells_of("table2", asked, "scratch"):
        hand.publish(cell.experiment)
    added(asked, theirs.folder / "abacus")
    short = Request(models=("msinet",), store=hand.store.root)
    table = build_table(ReferenceResults(short), "table2")
    assert [column.label for column in table.columns] == ["M", "MS", "MS>M"]
    assert [column.label for column in build_table(Results(short), "table2").columns] == ["MS", "MS>M"]


def test_the_same_seed_on_two_machines_counts_once(hand, tools, theirs) -> None:
    theirs.put(theirs.publish(THREE, "abacus", tools=tools), "abacus")
    theirs.put(theirs.publish({"msinet": (0.7, 0.7)}, "second", tools=tools), "second")
    asked = hand.request("msinet", "osnet", seeds=1)
    results = ReferenceResults(asked)
    assert sorted(results.finished("table2")["mAP"]) == pytest.approx([50, 53, 56, 60, 62, 64])
    assert set(results.finished("table2")["run_id"].str.partition("/")[0]) == {"abacus"}
    assert "Also measured on second" in build_table(results, "table2").notes[0]
    other = ReferenceResults(asked, "second")
    assert other.seeds == 2
    assert other.finished("table2")["mAP"].tolist() == [70, 70]
    with pytest.raises(UserError, match=r"unknown machine 'third'\. Known: abacus, second"):
        ReferenceResults(asked, "third").frame("table2")
    with pytest.raises(UserError, match="no run third/x"):
        results.read("third/x", "history.csv")


# Tables


def rows_of(table: Any) -> dict[str, list[str]]:
    """Texts of the printed cells by label, of the rows that were trained from scratch."""
    _, lines = grid(table)
    return {
        line.cells[0].remark: [cell.text(lambda text, _: text) for cell in line.cells]
        for line in lines
        if line.group == "from scratch"
    }


def test_a_table_shows_both_and_says_whether_they_agree(hand, tools, theirs) -> None:
    theirs.put(theirs.publish(THREE, tools=tools, cpu="Abacus 4000"))
    fill(hand, tools, {"msinet": (0.65,), "osnet": (0.30,)}, 1, finished=LATER)
    table = build_table(Results(hand.request("msinet", "osnet", seeds=1)), "table2")
    headings, _ = grid(table)
    kinds = [(h.title, h.kind) for h in headings if h.metrics]
    assert kinds == [("MS", "measured"), ("reference", "reference"), ("paper", "paper")]
    shown = rows_of(table)
    assert shown["MSINet"][4:6] == ["65.0 / 65.0", "62.0±2.0 / 62.0±2.0 agrees"]
    assert shown["OSNet"][4:6] == ["30.0 / 30.0", "53.0±3.0 / 53.0±3.0 differs"]
    # One seed here, three there. The variance is that of the reference: (2 · 2² + 2 · 3²) / 4 on 4 degrees of freedom.
    half = stats.t.ppf(0.975, 4) * (6.5 * (1 + 1 / 3)) ** 0.5
    text = as_text(table)
    assert f"MSINet +3.0 [{3 - half:+.1f}, {3 + half:+.1f}] agrees" in text
    assert f"OSNet -23.0 [{-23 - half:+.1f}, {-23 + half:+.1f}] differs" in text
    assert "1 of 2 table cells agree, 1 differ." in text
    assert "different devices: Abacus 3000, Abacus 4000" in text
    assert "Reference: Order by mAP, from scratch, MS: MSINet > OSNet" in text
    assert "differs" in as_markdown(table)
    assert "differs" in as_latex(table)
    assert " reference " in as_latex(table)
    values = as_frame(table).query("metric == 'mAP' and row == 'OSNet' and group == 'from scratch'").iloc[0]
    assert (values["mean"], values["reference"], values["reference_runs"], values["agreement"]) == (
        30,
        53,
        3,
        "differs",
    )


def test_without_a_reference_nothing_is_shown_about_it(hand, tools, theirs) -> None:
    fill(hand, tools, {"msinet": (0.65,)}, 1, finished=LATER)
    asked = hand.request("msinet", "osnet", seeds=1)
    assert "eference" not in as_text(build_table(Results(asked), "table2"))
    assert "reference" not in as_frame(build_table(Results(asked), "table2"))
    theirs.put(theirs.publish({"osnet": (0.5,)}, tools=tools))
    other = Results(hand.request("msinet", seeds=1))
    assert "eference" not in as_text(build_table(other, "table2"))


def test_what_cannot_be_judged_is_said(hand, tools, theirs) -> None:
    theirs.put(theirs.publish({"msinet": (0.6,), "osnet": (0.5,)}, tools=tools))
    fill(hand, tools, {"msinet": (0.65,)}, 1, finished=LATER)
    text = as_text(build_table(Results(hand.request("msinet", "osnet", seeds=1)), "table2"))
    assert "1 table cells, no variance between trainings" in text
    assert "agrees" not in text
    for cell in tools.cells_of("table2", hand.request("osnet", seeds=1), "scratch"):
        hand.publish(cell.experiment, data={"msmt17": "v2"}, mAP=0.5)
    with pytest.raises(UserError, match="several versions"):  # an error of this store is not hidden by the reference
        shown_table(Results(hand.request("msinet", "osnet", seeds=1)), "table2")


def test_other_data_are_not_compared(hand, tools, theirs) -> None:
    theirs.put(theirs.publish(THREE, tools=tools))
    for cell in tools.cells_of("table2", hand.request("msinet", seeds=1), "scratch"):
        hand.publish(cell.experiment, data={"msmt17": "v2"}, mAP=0.5)
    text = as_text(build_table(Results(hand.request("msinet", seeds=1)), "table2"))
    assert "1 table cells, different versions of the data" in text


def test_the_runs_of_the_reference_do_not_confirm_themselves(hand, tools, theirs) -> None:
    root = theirs.publish(THREE, tools=tools)
    theirs.put(root)
    asked = replace(hand.request("msinet", "osnet", seeds=3), store=root)
    text = as_text(build_table(Results(asked), "table2"))
    assert "2 table cells, the runs here are those of the reference" in text
    assert "agrees" not in text


def test_only_runs_that_are_not_in_the_reference_are_compared_with_it() -> None:
    column = Column("msmt17", "msmt17")

    def cell(values: list[float], first: int) -> TableCell:
        seeds = range(first, first + len(values))
        same = {
            "draw": 0,
            "steps": 900,
            "search_id": "",
            "parameters": 1,
            "device": "cpu",
            "cpu": "",
            "code": "",
            "torch": "",
        }
        names = {"run_id": [f"r{seed}" for seed in seeds], "finished": [f"t{seed}" for seed in seeds]}
        prints = {"source_fingerprint": "a", "target_fingerprint": "b"}
        return TableCell(pd.DataFrame({**names, "seed": seeds, "mAP": values, **same, **prints}), len(values))

    files = SimpleNamespace(convergence=lambda _: "")
    row = Row("scratch", (("network", "msinet"),), {})
    there, new = [30.0, 33.0, 37.0], [31.0, 32.0]
    pairs = [Pair(row, column, cell(here, first), cell(there, 0)) for here, first in ((there + new, 0), (new, 3))]
    both, alone = (agreements([pair], files, files)[0] for pair in pairs)  # type: ignore[arg-type]
    assert (both.mean, both.interval, both.obstacle) == (alone.mean, alone.interval, "")
    assert both.mean == pytest.approx(np.mean(new) - np.mean(there))
    assert both.trainings[0].df == 3


def test_a_table_of_the_reference_names_the_number_of_seeds(hand, tools, theirs) -> None:
    theirs.put(theirs.publish(THREE | {"cdnet": (0.4,)}, tools=tools))
    results = ReferenceResults(hand.request("msinet", "osnet", "cdnet"))
    text = as_text(build_table(results, "table2"))
    assert "1 to 3 seeds per table cell, 3 unless stated" in text
    assert [line.split()[0] for line in text.splitlines() if "(1 seed)" in line] == ["CDNet"]
    assert "(3 seeds)" not in text


def test_intervals_of_a_reproduction_have_their_coverage() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(1000):  # four rows of three seeds in the reference, one seed here
        seeds = rng.normal(0, 1.5, (4, 3))
        squares = float(((seeds - seeds.mean(1, keepdims=True)) ** 2).sum())
        effect = reproduction(rng.normal(0, 1.5, 1), seeds[0], Variance(squares / 8, 8))
        inside += effect.place_of(0.0) == "inside"
    assert 0.93 < inside / 1000 < 0.97


# Commands


def test_without_runs_here_the_table_is_that_of_the_reference(hand, tools, theirs, capsys) -> None:
    theirs.put(theirs.publish(THREE, tools=tools))
    asked = hand.request("msinet", "osnet", seeds=1)
    assert main(["table", "table2", *asked.as_args()]) == 0
    text = capsys.readouterr().out
    assert "Nothing is measured here: " in text
    assert "MS reference R1/mAP" in text
    assert "62.0±2.0* / 62.0±2.0*" in text
    assert (asked.store / "reference" / "tables" / "table2-mini.md").is_file()
    assert main(["claims", "--reference", *asked.as_args()]) in (0, 1)
    assert "reference results, profile mini" in capsys.readouterr().out


def test_a_run_shows_the_reference_first(hand, tools, theirs, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, ...]] = []
    monkeypatch.setattr(commands, "show", lambda name, _, *words: shown.append((name, *words)) or 0)

    def prepare(*_: object) -> None:
        shown.append(("prepare",))
        raise UserError("enough")

    monkeypatch.setattr("ablations.engine.prepare.prepare", prepare)
    words = ["run", "table2", *hand.request("msinet", seeds=1).as_args()]
    assert commands.main(words) == 2
    assert shown == [("prepare",)]  # no reference yet
    theirs.put(theirs.publish(THREE, tools=tools))
    shown.clear()
    assert commands.main(words) == 2
    assert shown == [("table2", "--reference"), ("prepare",)]
    assert not has_reference(find_study("table2"), replace(hand.request("msinet", seeds=1), recipe=("lr=0.5",)))


def test_commands_add_check_and_list(hand, tools, theirs, capsys) -> None:
    root = theirs.publish({"msinet": (0.6,)}, tools=tools)
    words = [
        "reference",
        "add",
        "--machine",
        "abacus",
        "--studies",
        "table2",
        "--who",
        "A. Tester",
        "--store",
        str(root),
    ]
    words += ["--whole", "--datasets", "msmt17"]
    assert main(words) == 0
    assert main(["reference", "list"]) == 0
    assert "abacus: Abacus 3000; A. Tester, 2024-01-01" in capsys.readouterr().out
    assert main(["reference", "check"]) == 1  # records by hand lack some metrics
    assert "no R10, mINP" in capsys.readouterr().out
    assert main([*words[:2], "--machine", "../up", *words[4:]]) == 2
    assert main(["reference", "check", str(theirs.folder / "nowhere")]) == 2


CODE = """
import sys
from reports.__main__ import main
status = main(sys.argv[1:])
print("heavy:", *(name for name in ("torch", "torchvision", "optuna") if name in sys.modules))
sys.exit(status)
"""


def test_a_report_of_the_reference_needs_no_store_no_data_and_no_torch(hand, tools, theirs, tmp_path: Path) -> None:
    theirs.put(theirs.publish(THREE, tools=tools))
    out = tmp_path / "page"
    words = ["build", "--reference", "--out", str(out), *hand.request("msinet", "osnet", seeds=1).as_args()]
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE, *words], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == "heavy:"
    page = (out / "index.html").read_text()
    assert "Reference results: " in page
    assert "62.0±2.0* / 62.0±2.0*" in page
    assert "abacus/" in page
    assert not hand.store.root.exists()


def test_a_description_of_the_environment_has_its_names() -> None:
    from support import CPU

    assert set(describe(CPU)) <= set(DESCRIBED)
    assert set(KEPT) == {"queries.csv", "history.csv", "alphas.csv"}
