"""Trajectories and genotypes from searches that were written by hand."""

import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from ablations.engine.request import Request
from msinet.models.genotype import GENOTYPE, SEARCHED
from reports.__main__ import main
from reports.searches import OPERATIONS, as_latex, genotype_data

FOUND = "NGEGAAGNGAEE"


@pytest.fixture
def asked(hand) -> Request:
    return hand.request(whole=False)


@pytest.fixture
def fill(hand, tools, asked: Request) -> Callable[..., None]:
    """A finished search of two epochs that found `FOUND`."""

    def filled(*, alphas: bool = True) -> None:
        (search,) = {cell.experiment.genotype_from for cell in tools.cells_of("table1", asked)} - {None}
        rng = np.random.default_rng(0)
        rows = []
        for epoch in (1, 2):
            for number, kept in enumerate(FOUND, 1):
                weights = rng.dirichlet(np.ones(4)) / 2
                weights[list(OPERATIONS).index(kept)] += 0.5
                shares = {f"weight_{letter}": share for letter, share in zip(OPERATIONS, weights, strict=True)}
                rows.append({"epoch": epoch, "interaction": number, "entropy": 0.9, **shares})
        record = {"agreement": 9, "entropy": 0.9, "skip_ratio": 2 / 12, "collapsed": False, "seconds_training": 1.0}
        run_id = hand.publish(search, files={"alphas.csv": rows} if alphas else None, genotype=FOUND, **record)
        (hand.store.run_folder(run_id) / GENOTYPE).write_text(json.dumps({"genotype": FOUND}))

    return filled


def test_genotypes_cell_by_cell() -> None:
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


def test_the_command_draws_each_search_and_what_all_found(
    fill, asked: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    fill()
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


def test_a_search_without_alphas_keeps_its_genotype(fill, asked: Request, capsys: pytest.CaptureFixture[str]) -> None:
    fill(alphas=False)
    assert main(["searches", "table1", *asked.as_args()]) == 0
    assert "no trajectory" in capsys.readouterr().out
    assert not list((asked.store / "figures").glob("*alphas*"))


def test_without_a_search_its_command_is_named(hand, tools, asked: Request, capsys: pytest.CaptureFixture[str]) -> None:
    hand.publish(tools.cells_of("table1", asked)[0].experiment)
    assert main(["searches", "table1", *asked.as_args()]) == 2
    assert "no finished search of table1" in (err := capsys.readouterr().err)
    assert "python -m ablations run table1 --datasets msmt17" in err
