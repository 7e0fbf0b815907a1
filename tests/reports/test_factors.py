"""Accuracy by level, from queries that were written by hand."""

import csv
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from ablations.engine.request import Request
from msinet.errors import UserError
from reports.__main__ import main
from reports.factors import FEWEST, LEVELS, as_markdown, by_factor, draw_factors, interval
from reports.results import Results

ORACLES = ("oracle_colours", "oracle_coarse")

#: Values on and beside the bounds of the levels.
VALUES = {
    "occlusion": (0.0, 1e-6, 0.1, 0.25, 0.2501, 0.6, 1.0),
    "view_change": (0.0, 15.0, 15.01, 30.0, 45.0, 45.01, 180.0),
    "light": (0.3, 0.8, 0.8001, 1.0, 1.05, 1.0501, 2.5),
}
#: Which of them belong together, and what the level is called.
EXPECTED = {
    ("occlusion", "none hidden"): VALUES["occlusion"][:1],
    ("occlusion", "up to a quarter"): VALUES["occlusion"][1:4],
    ("occlusion", "more than a quarter"): VALUES["occlusion"][4:],
    ("view_change", "up to 15°"): VALUES["view_change"][:2],
    ("view_change", "15 to 45°"): VALUES["view_change"][2:5],
    ("view_change", "more than 45°"): VALUES["view_change"][5:],
    ("light", "dark, up to 0.8"): VALUES["light"][:2],
    ("light", "0.8 to 1.05"): VALUES["light"][2:5],
    ("light", "bright, above 1.05"): VALUES["light"][5:],
}


def queries(key: str, *, factors: bool) -> list[dict[str, Any]]:
    """Forty queries, the same for every run, with ranks of its own; every fifth has no match."""
    rng, common = random.Random(key), random.Random(0)
    rows = []
    for number in range(40):
        hard = {name: common.choice(values) for name, values in VALUES.items()}
        lost = number % 5 == 4
        row = {
            "draw": number % 2,
            "query": f"{number}.jpg",
            "identity": number // 3,
            "positives": 0 if lost else 2,
            "first_rank": 0 if lost else rng.choice((1, 1, 2, 7)),
            "ap": 0.0 if lost else rng.random(),
            "inp": 0.5,
        }
        rows.append(row | (hard | ({"view_change": float("nan")} if lost else {}) if factors else {}))
    return rows


@pytest.fixture
def asked(hand) -> Request:
    return hand.request("msinet", "osnet", datasets=("market1501",), seeds=2, whole=False)


@pytest.fixture
def fill(hand, tools, asked: Request) -> Callable[..., dict[tuple[str, str], list[Path]]]:
    """Fills Table 2 from scratch and the colour histogram; gives their query files by group and network."""

    def filled(*, factors: bool = True) -> dict[tuple[str, str], list[Path]]:
        written: dict[tuple[str, str], list[Path]] = {}
        for cell in tools.cells_of("table2", asked):
            found = queries(str(cell.experiment), factors=factors)
            if cell.experiment.model in ORACLES:  # which rank every query several times
                found += [{**row, "draw": 2 + int(row["draw"])} for row in found]
            run_id = hand.publish(cell.experiment, files={"queries.csv": found}, target_layout="Market-1501, rendered")
            network = str(dict(cell.factors)["network"])
            written.setdefault((cell.group, network), []).append(hand.store.run_folder(run_id) / "queries.csv")
        return written

    return filled


def test_means_by_level_are_those_of_the_queries(fill, asked: Request) -> None:
    written = fill()
    assert {key: len(files) for key, files in written.items()} == {
        ("untrained", "colour_histogram"): 1,
        ("untrained", "oracle_colours"): 1,
        ("untrained", "oracle_coarse"): 1,
        ("scratch", "msinet"): 2,
        ("scratch", "osnet"): 2,
    }
    data = by_factor(Results(asked), "table2").to_dict("records")
    found = {(r["network"], r["factor"], r["level"]): r for r in data}
    assert len(found) == len(data) == 5 * len(EXPECTED)
    for (_, network), files in written.items():
        rows = []
        for file in files:
            with file.open(newline="") as stream:
                rows += [row for row in csv.DictReader(stream) if row["positives"] != "0"]
        for (factor, level), values in EXPECTED.items():
            part = [row for row in rows if float(row[factor]) in values]
            shown = found[network, factor, level]
            assert shown["column"] == "M"
            assert shown["queries"] * len(files) * (2 if network in ORACLES else 1) == len(part) > 0
            assert shown["R1"] == pytest.approx(100 * sum(row["first_rank"] == "1" for row in part) / len(part))
            assert shown["mAP"] == pytest.approx(100 * sum(float(row["ap"]) for row in part) / len(part))


def test_every_query_with_a_match_is_at_one_level(fill, asked: Request) -> None:
    fill()
    data = by_factor(Results(asked), "table2")
    assert set(LEVELS) == set(VALUES)
    for _, part in data.groupby(["group", "row", "factor"]):
        assert part["queries"].sum() == 32  # of forty, every fifth has no match


def test_the_levels_of_every_factor_have_the_same_mean(fill, asked: Request) -> None:
    # Weighted by their queries, the levels of each factor give the same mean over all queries.
    fill()
    data = by_factor(Results(asked), "table2")
    for _, part in data.groupby(["group", "row"]):
        means = [(level["mAP"] * level["queries"]).sum() / 32 for _, level in part.groupby("factor")]
        assert means == pytest.approx([means[0]] * 3)


def test_the_command_writes_what_it_prints(fill, asked: Request, tmp_path: Path, capsys) -> None:
    fill()
    assert main(["factors", "table2", *asked.as_args(), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    stem = tmp_path / "out" / "table2-mini-factors"
    text = stem.with_suffix(".md").read_text(encoding="utf-8")
    assert text in out
    assert all(str(stem.with_suffix(suffix)) in out for suffix in (".md", ".csv"))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {9}  # factor, level, queries and five rows of the table
    oracles = "oracle of colours | oracle of colours, types and patterns"
    assert lines[0] == f"| factor | level | queries | colour histogram | {oracles} | MSINet | OSNet |"  # as asked for
    with stem.with_suffix(".csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        line = next(one for one in lines if one.startswith(f"| {row['factor'].replace('_', ' ')} | {row['level']} |"))
        assert f"| {row['queries']} |" in line
        cell = line.split(" | ")[[c.strip(" |") for c in lines[0].split(" | ")].index(row["row"])].strip(" |")
        first, second = map(float, cell.split(" / "))
        assert first == pytest.approx(float(row["R1"]), abs=0.051)
        assert second == pytest.approx(float(row["mAP"]), abs=0.051)


def test_a_network_of_two_groups_is_told_apart(fill, asked: Request) -> None:
    fill()
    data = by_factor(Results(asked), "table2")
    again = data[data["row"] == "MSINet"].assign(group="pre-trained")
    header = as_markdown(pd.concat([data, again])).splitlines()[2]
    assert "MSINet, from scratch" in header
    assert "MSINet, pre-trained" in header
    assert "OSNet |" in header  # of one group, its name says it all


@pytest.mark.parametrize("runs", ["none", "on photographs"])
def test_without_runs_on_rendered_images_it_is_one_clear_error(runs: str, fill, hand, asked: Request, capsys) -> None:
    fill(factors=False)
    if runs == "none":
        asked = replace(asked, recipe=("lr=0.5",))
    with pytest.raises(UserError, match=r"no finished run of table2 in .* was ranked on rendered images"):
        by_factor(Results(asked), "table2")
    assert main(["factors", "table2", *asked.as_args()]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: no finished run of table2 in ")
    assert err.count("\n") == 1
    assert not (asked.store / "tables").exists()


def test_an_interval_resamples_identities_not_queries() -> None:
    # Ten identities of fifty queries each that are all alike: as certain as ten values, not as five hundred.
    levels = np.random.default_rng(3).random(10)
    low, high = interval(np.repeat(levels, 50), np.repeat(np.arange(10), 50))
    by_hand = [np.mean(np.random.default_rng((7, i)).choice(levels, 10)) for i in range(4000)]
    assert (low, high) == pytest.approx(np.percentile(by_hand, (2.5, 97.5)), abs=0.03)
    assert high - low > 3 * 2 * 1.96 * levels.std() / 500**0.5
    assert interval(np.ones(6), np.arange(6) // 2) == (1.0, 1.0)
    assert np.isnan(interval(np.ones(6), np.zeros(6))).all()


def test_the_figure_shows_every_level_with_its_queries(fill, asked: Request, tmp_path: Path) -> None:
    fill()
    assert main(["factors", "table2", *asked.as_args(), "--out", str(tmp_path)]) == 0
    data = pd.read_csv(tmp_path / "table2-mini-factors-mAP.csv")
    assert len(data) == 5 * len(EXPECTED)
    assert ((data["low"] <= data["mAP"] + 0.01) & (data["mAP"] <= data["high"] + 0.01)).all()
    assert (tmp_path / "table2-mini-factors-mAP.png").stat().st_size > 10_000


def test_levels_of_few_queries_are_not_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    levels = [level for _, level in LEVELS["occlusion"]]
    common = {"group": "from scratch", "row": "MSINet", "network": "msinet", "column": "VR", "factor": "occlusion"}
    rows = [
        common | {"level": level, "queries": queries, "R1": 50.0, "mAP": 40.0, "low": 30.0, "high": 50.0}
        for level, queries in zip(levels, (FEWEST + 1, FEWEST, FEWEST - 1), strict=True)
    ]
    drawn: list[Any] = []
    monkeypatch.setattr(plt, "close", drawn.append)
    draw_factors(pd.DataFrame(rows), "title", tmp_path / "figure")
    (figure,) = drawn
    monkeypatch.undo()
    plt.close(figure)
    assert figure.axes[0].lines[0].get_xdata().tolist() == [0.0, 1.0]
    assert len(pd.read_csv(tmp_path / "figure.csv")) == 3
