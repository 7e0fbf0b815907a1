"""Trajectories and genotypes from searches that were written by hand."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ablations.catalogue import Request
from ablations.searches import TABLE1
from ablations.store import Store
from msinet.io import write_csv
from msinet.models.genotype import SEARCHED
from reports.__main__ import main
from reports.searches import OPERATIONS, as_latex, genotype_data

FOUND = "NGEGAAGNGAEE"


@pytest.fixture
def asked(tmp_path: Path) -> Request:
    return Request(store=tmp_path / "results", datasets=("msmt17",))


def fill(asked: Request, *, alphas: bool = True) -> None:
    """A finished search of two epochs that found `FOUND`."""
    store = Store(asked.store)
    (search,) = {c.experiment.genotype_from for c in TABLE1.cells(asked, asked.datasets)} - {None}
    assert search is not None
    run_id = search.run_id({"msmt17": "v1"}, None)
    folder = store.partial_folder(run_id)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for epoch in (1, 2):
        for number, kept in enumerate(FOUND, 1):
            weights = rng.dirichlet(np.ones(4)) / 2
            weights[list(OPERATIONS).index(kept)] += 0.5
            shares = dict(zip(OPERATIONS, weights, strict=True))
            rows.append(
                {
                    "epoch": epoch,
                    "interaction": number,
                    "entropy": 0.9,
                    **{f"weight_{letter}": share for letter, share in shares.items()},
                }
            )
    if alphas:
        write_csv(folder / "alphas.csv", rows)
    (folder / "genotype.json").write_text(json.dumps({"genotype": FOUND}))
    store.publish(
        run_id,
        search,
        {
            "genotype": FOUND,
            "agreement": 9,
            "entropy": 0.9,
            "skip_ratio": 2 / 12,
            "collapsed": False,
            "steps": 10,
            "seconds_training": 1.0,
            "weights": None,
            "device": "cpu",
            "cpu": "Abacus",
            "torch": "9",
            "finished": "2024-01-01",
            "source_fingerprint": "v1",
            "target_fingerprint": "v1",
            "target_layout": "MSMT17_V1",
        },
    )


def test_a_genotype_is_told_cell_by_cell() -> None:
    data = genotype_data({"paper": SEARCHED, "found": FOUND})
    found = data[data["architecture"] == "found"]
    assert "".join(found["operation"]) == FOUND
    assert found["cell"].tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert found["module"].tolist() == [1, 2] * 6
    assert found["as_in_paper"].tolist() == [a == b for a, b in zip(FOUND, SEARCHED, strict=True)]
    assert data[data["architecture"] == "paper"]["as_in_paper"].all()
    # One with four cells a stage has no place for place in the paper's.
    assert not genotype_data({"deep": SEARCHED * 2})["as_in_paper"].any()


def test_the_layout_of_table_1() -> None:
    lines = as_latex(genotype_data({"paper": SEARCHED})).splitlines()
    assert (
        "paper & IM-1 & Channel gate & Exchange & Cross attention & Channel gate & Channel gate & Exchange" in lines[5]
    )
    assert " & IM-2 & Channel gate & Channel gate & Channel gate & None & Cross attention & Cross attention" in lines[6]
    assert all(line.count("&") == 7 for line in lines if line.endswith(r"\\"))


def test_the_command_draws_each_search_and_what_all_found(asked: Request, capsys: pytest.CaptureFixture[str]) -> None:
    fill(asked)
    assert main(["searches", "table1", *asked.as_args()]) == 0
    folder = asked.store / "figures"
    data = pd.read_csv(folder / "table1-mini-alphas-searched-here-seed-0.csv")
    assert len(data) == 24
    genotypes = pd.read_csv(folder / "table1-mini-genotypes.csv", keep_default_na=False)
    assert genotypes.groupby("architecture", sort=False)["operation"].sum().tolist() == [SEARCHED, FOUND]
    svg = (folder / "table1-mini-genotypes.svg").read_text(encoding="utf-8")
    assert svg.count("<path") > 24
    assert (folder / "table1-mini-genotypes.tex").exists()
    assert "alphas" in capsys.readouterr().out


def test_a_search_without_alphas_keeps_its_genotype(asked: Request, capsys: pytest.CaptureFixture[str]) -> None:
    fill(asked, alphas=False)
    assert main(["searches", "table1", *asked.as_args()]) == 0
    assert "no trajectory" in capsys.readouterr().out
    assert not list((asked.store / "figures").glob("*alphas*"))


def test_without_a_search_its_command_is_named(asked: Request, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["searches", "table1", *asked.as_args()]) == 2
    assert "no finished search of table1" in (err := capsys.readouterr().err)
    assert "python -m ablations run table1 --datasets msmt17" in err
