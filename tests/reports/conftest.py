"""Stores and tables for tests: some filled by hand, so that every number is known, and one with real trainings."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from ablations.__main__ import main
from ablations.engine.experiment import Experiment
from ablations.engine.request import Request
from ablations.engine.store import Store
from ablations.engine.study import Cell, Study
from ablations.studies import find_study
from msinet.io import write_csv
from reports.comparisons import Comparisons
from reports.layout import build_table
from reports.results import Results
from reports.tables import Column, Row, Table, TableCell

#: Networks of the trained store, and its sets: one with cameras and a single draw, one without cameras and with ten.
MODELS = ("msinet_x0_25", "osnet_x0_25")
DATASETS = ("market1501", "vehicleid")
#: What every record holds, unless a test says otherwise.
RECORD = {
    "R1": 0.5,
    "R5": 0.5,
    "mAP": 0.5,
    "steps": 3,
    "parameters": 2_500_000,
    "parameters_without_classifier": 2_345_678,
    "macs": 1_129_000_000,
    "source_layout": "Layout",
    "target_layout": "Layout",
    "device": "cpu",
    "cpu": "Abacus 3000",
    "torch": "9.9",
    "code": "1+a",
    "finished": "2024-01-01T00:00:00+00:00",
}


#: What every run of a hand-made table cell has.
ORIGIN = {"draw": 0, "steps": 3, "search_id": "", "model": "msinet"}
ORIGIN |= {name: RECORD[name] for name in ("device", "cpu", "torch", "code", "parameters_without_classifier", "macs")}


@pytest.fixture(scope="session")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Request:
    """Table 2 on two of the small data sets, a step of training each. Shared by all tests: do not change its runs."""
    request = Request(
        profile="smoke",
        data_root=data_root,
        datasets=DATASETS,
        models=MODELS,
        recipe=("epochs=1", "steps_per_epoch=2"),
        store=tmp_path_factory.mktemp("trained"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ablations.__main__.show", lambda *_, **__: 0)  # starts a process of its own
        words = ["run", "table2", *request.as_args(), "--device", "cpu", "--no-progress"]
        assert main(words) == 0
    return request


def hand_files(record: Mapping[str, Any], accuracy: float = 0.95) -> dict[str, list[dict[str, Any]]]:
    """Files of a converged training with this mAP, and with R1 as near as 20 queries allow."""
    queries = [
        {"draw": 0, "query": f"{i}.jpg", "identity": i, "camera": 0, "positives": 1}
        | {"first_rank": 1 if i < round(20 * record["R1"]) else 7, "ap": record["mAP"], "inp": record["mAP"]}
        for i in range(20)
    ]
    history = [{"epoch": i + 1, "steps": 1, "lr": 0.1, "loss": 1.0, "accuracy": accuracy} for i in range(20)]
    return {"queries.csv": queries, "history.csv": history}


class HandFiles:
    """Files of the runs of hand-made table cells, whose ids are their value and seed: 40 identities, all alike.

    Identities differ in all runs in the same way, so that only seeds make differences uncertain.
    """

    def __init__(self, unconverged: Iterable[str] = ()) -> None:
        self.unconverged = set(unconverged)

    def read(self, run_id: str, name: str) -> pd.DataFrame:
        """A file as a run writes it."""
        value = float(run_id.rpartition("-")[0])
        found = hand_files({"R1": value / 100, "mAP": value / 100}, 0.5 if run_id in self.unconverged else 0.95)
        return pd.DataFrame(found[name])


def hand_comparisons(table: Table, unconverged: Iterable[str] = ()) -> Comparisons:
    """The comparisons of a hand-made table."""
    return Comparisons(HandFiles(unconverged), table.rows)


class HandStore:
    """A store that a test fills by hand. No data set is on disk, so the records decide."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)

    def publish(
        self,
        experiment: Experiment,
        data: Mapping[str, str] | None = None,
        files: Mapping[str, list[dict[str, Any]]] | None = None,
        weights: str | None = None,
        **record: Any,
    ) -> str:
        """A finished run with these values, shares in [0, 1]; returns its id. Data sets have the fingerprint v1."""
        prints = {name: (data or {}).get(name, "v1") for name in (experiment.source, experiment.target)}
        run_id = experiment.run_id(prints, weights)
        folder = self.store.partial_folder(run_id)
        folder.mkdir(parents=True)
        usual = {} if experiment.is_search else hand_files(RECORD | record)
        for name, rows in {**usual, **(files or {})}.items():
            write_csv(folder / name, rows)
        fingerprints = {f"{role}_fingerprint": prints[getattr(experiment, role)] for role in ("source", "target")}
        self.store.publish(run_id, experiment, RECORD | fingerprints | {"weights": weights} | record)
        return run_id

    def request(self, *models: str, **settings: Any) -> Request:
        """On the rendered world, complete tables of one data set."""
        settings = {"datasets": ("msmt17",), "whole": True, "seeds": 1, **settings}
        return Request(models=models or ("msinet",), store=self.store.root, **settings)


@pytest.fixture
def hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HandStore:
    """An empty store, and no rendered world in the cache."""
    monkeypatch.setenv("MSINET_CACHE", str(tmp_path / "cache"))
    return HandStore(tmp_path / "results")


def cells_of(study: str, asked: Request, group: str = "", task: tuple[str, str] | None = None) -> list[Cell]:
    """Cells of a study for a request, of one group and one column if they are given."""
    return [
        cell
        for cell in find_study(study).cells(asked, asked.datasets)
        if group in ("", cell.group) and task in (None, (cell.train, cell.test))
    ]


def table_of(study: str, asked: Request) -> Table:
    """A study's table, read afresh."""
    return build_table(Results(asked), study)


def hand_cell(values: Iterable[float], planned: int | None = None, paper: float | None = None) -> TableCell:
    """A table cell whose runs have these values by seed in every metric."""
    found = list(values)
    runs = pd.DataFrame(
        [
            ORIGIN | {"run_id": f"{value}-{seed}", "seed": seed, "R1": value, "R5": value, "mAP": value}
            for seed, value in enumerate(found)
        ]
    )
    theirs = {} if paper is None else dict.fromkeys(("R1", "R5", "mAP"), paper)
    return TableCell(runs, max(1, len(found)) if planned is None else planned, theirs, "ran" if theirs else "")


def hand_table(
    rows: Mapping[str, TableCell | Mapping[Column, TableCell]], *, group: str = "scratch", baseline: str = ""
) -> Table:
    """A table of a study with one factor, `row`, whose values are the labels; single cells are of market1501."""
    columns = {label: found if isinstance(found, Mapping) else {MARKET: found} for label, found in rows.items()}
    study = Study(
        "study", "T", "", "", "", lambda *_: [], lambda row: str(row["row"]), (("row", baseline),) if baseline else ()
    )
    found = [Row(group, (("row", label),), cells) for label, cells in columns.items()]
    return Table("T", tuple(next(iter(columns.values()), {MARKET: None})), found, study)


MARKET = Column("market1501", "market1501")


@pytest.fixture(scope="session")
def tools() -> SimpleNamespace:
    """The functions of this file, for tests that build tables."""
    return SimpleNamespace(
        cells_of=cells_of,
        table_of=table_of,
        hand_cell=hand_cell,
        hand_table=hand_table,
        hand_files=hand_files,
        hand_comparisons=hand_comparisons,
        origin=ORIGIN,
    )
