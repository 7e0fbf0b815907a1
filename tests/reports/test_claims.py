"""Verdicts: what decides a statement, and what the paper's own numbers say of it."""

from pathlib import Path

import pandas as pd
import pytest

from ablations.engine.request import Request
from ablations.studies import find_study
from reports import verdicts
from reports.__main__ import main
from reports.claims import ALIGNED, CLAIMS, MSINET, RESNET, Claim, Comparison, Measurement, row
from reports.results import Results, has
from reports.verdicts import Outcome, Verdict, as_markdown, command_for, judge, measure, supported_by_paper, together

REQUEST = Request(profile="smoke")
MARKET, MSMT = ("market1501", "market1501"), ("msmt17", "msmt17")
SETS = ("market1501", "msmt17", "veri776", "vehicleid")


def comparison(**more: float) -> Comparison:
    return Comparison("table2", *MARKET, row(row="A"), row(row="B"), **more)


@pytest.fixture
def verdict_on(tools, monkeypatch: pytest.MonkeyPatch):
    """The verdict on a comparison of rows with these values by seed."""

    def decide(one: Comparison, values: dict[str, list[float]]) -> Verdict:
        table = tools.hand_table({label: tools.hand_cell(found, planned=3) for label, found in values.items()})
        monkeypatch.setattr(verdicts, "build_table", lambda *_: table)
        monkeypatch.setattr(verdicts, "label", lambda c: f"{dict(c.better)['row']} - {dict(c.worse)['row']}")
        (verdict,) = judge(Results(REQUEST), claims=(Claim("a", "a", "a", (one,)),))
        return verdict

    return decide


@pytest.mark.parametrize(
    ("more", "a", "b", "expected"),
    [
        ({}, [50, 51, 52], [40, 41, 42.5], "holds"),
        ({}, [40, 41, 42.5], [50, 51, 52], "fails"),
        ({}, [50, 30, 52], [40, 41, 42], "undecided"),
        ({}, [90], [10], "undecided"),  # a single seed decides nothing
        ({}, [50, 51], [], "not run"),
        ({"at_least": 9}, [50, 51, 52], [45, 46, 47.1], "fails"),
        ({"at_least": 9}, [50, 51, 52], [40, 41, 42.1], "holds"),
        ({"within": 1}, [50, 51, 52], [50.2, 51.1, 52.1], "holds"),
        ({"within": 1}, [50, 51, 52], [45, 46, 47.1], "fails"),
        ({"within": 1}, [50, 51, 52], [49, 51, 53], "undecided"),
        ({}, [50, 50], [50, 50], "fails"),  # as good is not better
    ],
)
def test_what_decides(more: dict[str, float], a: list[float], b: list[float], expected: str, verdict_on) -> None:
    assert verdict_on(comparison(**more), {"A": a, "B": b}).status == expected


@pytest.mark.parametrize(
    ("more", "a", "b", "leans"),
    [
        ({}, [90], [10], True),
        ({}, [10], [90], False),
        ({}, [50, 30, 52], [40, 41, 42], True),
        ({"at_least": 9}, [50], [45], False),
        ({"within": 1}, [50], [50.5], True),
        ({"within": 1}, [50], [60], False),
        ({}, [50, 51, 52], [40, 41, 42.5], None),  # it holds
        ({}, [50, 51], [], None),
    ],
)
def test_where_an_undecided_claim_leans(
    more: dict[str, float], a: list[float], b: list[float], leans: bool | None, verdict_on
) -> None:
    assert verdict_on(comparison(**more), {"A": a, "B": b}).leans is leans


def test_one_mean_against_it_is_enough() -> None:
    outcomes = (Outcome("holds", "", True), Outcome("undecided", "", False), Outcome("not run", ""))
    claim = Claim("a", "a", "a", (comparison(),))
    assert Verdict(claim, "undecided", outcomes, "-").leans is False
    assert Verdict(claim, "undecided", outcomes[::2], "-").leans is True


def test_the_papers_own_numbers_are_asked() -> None:
    def by_paper(study: str, task: tuple[str, str], *rows, **more) -> bool | None:
        return supported_by_paper(Comparison(study, *task, *rows, **more))

    pretrained = {"group": "pretrained"}
    assert by_paper("table2", MSMT, MSINET, RESNET, at_least=9.0, **pretrained)  # 59.6 and 50.4
    assert by_paper("table2", MSMT, MSINET, RESNET, at_least=9.3, **pretrained) is False
    same = {"worse_group": "pretrained", "metric": "R1"}  # both 76.5
    assert by_paper("table2", ("vehicleid", "vehicleid"), MSINET, RESNET, **same) is False
    assert by_paper("table5", ("veri776", "veri776"), ALIGNED, MSINET, within=0.5, **pretrained)
    assert by_paper("figure5c", MSMT, row(fusion="sum"), row(fusion="mul")) is None


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "fails"], "fails"),
        (["holds", "undecided"], "undecided"),
        (["holds", "not run"], "undecided"),
        (["fails", "not run"], "fails"),
        (["not run", "not run"], "not run"),
    ],
)
def test_a_statement_is_as_strong_as_its_weakest_part(statuses: list[verdicts.Status], expected: str) -> None:
    assert together(statuses) == expected


def unmatched(c: Comparison, request: Request, sets: tuple[str, ...]) -> list[tuple[str, tuple]]:
    """Rows of a comparison that a study does not have for a request, but for the two that the paper itself lacks."""
    groups = {"pretext": "pretrained", "searched": "scratch"}
    cells = [x for x in find_study(c.study).cells(request, sets) if (x.train, x.test) == (c.train, c.test)]
    return [
        (group, factors)
        for group, factors in c.rows
        if not any(groups.get(x.group, x.group) == group and has(x.factors, factors) for x in cells)
    ]


def test_claims_name_rows_and_columns_that_exist() -> None:
    request = Request(profile="paper", data_root=Path("none"), pretrained=Path("none"))
    assert len({claim.key for claim in CLAIMS}) == len(CLAIMS) >= 25
    for claim in CLAIMS:
        assert bool(claim.comparisons) != bool(claim.measurement)
        assert "4.2" not in claim.source  # that section is about the search, of which the paper claims nothing
        for c in claim.comparisons:
            assert unmatched(c, request, SETS) == [], claim.key
            assert c.metric in ("R1", "R5", "mAP")


@pytest.mark.parametrize("profile", ["smoke", "mini"])
def test_missing_runs_are_named_with_a_command_that_makes_them(profile: str) -> None:
    for c in (c for claim in CLAIMS for c in claim.comparisons):
        words = command_for(c, Request(profile=profile)).removeprefix("python -m ablations run ").split()
        assert words[0] == c.study
        assert unmatched(c, Request(profile=profile, whole="--whole" in words), SETS) == [], (c, words)


def test_the_papers_false_statement_is_found_false(hand) -> None:
    found = {v.claim.key: v for v in judge(Results(hand.request()))}
    assert {v.status for v in found.values() if v.claim.comparisons} == {"not run"}
    assert [key for key, v in found.items() if v.by_paper == "no"] == ["scratch-over-pretrained"]
    assert found["size"].status == "holds"
    assert found["size-others"].status == "fails"  # CDNet's 1.8 leave out what MSINet's 2.3 count
    assert found["sam-free"].status == "holds"
    evidence = found["transformers-ms"].outcomes[0].text
    assert evidence.startswith("DeiT-B - MSINet, MS mAP: python -m ablations run table6")


def test_speed_is_decided_by_a_latency_file() -> None:
    def rows(msinet: float) -> pd.DataFrame:
        return pd.DataFrame(
            [
                {"model": model, "form": form, "precision": "fp32", "batch": batch, "p50_ms": ms}
                for model, ms in (("msinet", msinet), ("resnet50", 10.0))
                for batch in (1, 32)
                for form in ("eager", "deployed")
            ]
        )

    faster = Measurement("time", ("msinet", "resnet50"))
    text = "time relative to resnet50: 0.70 at batch 1, 0.70 at batch 32"
    assert measure(faster, rows(7.0)) == Outcome("holds", text)
    assert measure(faster, rows(11.0)).status == "fails"
    assert measure(faster, pd.DataFrame()).status == "not run"
    assert "bench latency" in measure(faster, rows(7.0)[:4]).text


def test_the_command_prints_and_writes(hand, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["claims", "--profile", "smoke", "--store", str(tmp_path), "--latency", str(tmp_path / "none.csv")]
    assert main(words) == 1  # the false one about CDNet's size
    out = capsys.readouterr().out
    assert f"{len(CLAIMS)} claims, profile smoke on the rendered world" in out
    table = pd.read_csv(tmp_path / "tables" / "claims-smoke.csv")
    assert list(table["key"]) == [claim.key for claim in CLAIMS]
    assert (tmp_path / "tables" / "claims-smoke.md").read_text().count("\n| ") == len(CLAIMS) + 1


def test_bars_in_names_do_not_break_the_table(verdict_on) -> None:
    one = Comparison("table2", *MARKET, row(row="A|x"), row(row="B"))
    verdict = verdict_on(one, {"A|x": [1.0], "B": [2.0]})
    line = as_markdown([verdict], "t").splitlines()[-1]
    assert line.count("|") == 5
    assert "-1.0, single seed" in line


def test_weights_of_the_users_own_are_asked_for(tmp_path: Path) -> None:
    pretrained = Comparison("table2", *MARKET, MSINET, RESNET, "pretrained")
    scratch = Comparison("table2", *MARKET, MSINET, RESNET)
    own = Request(profile="paper", data_root=tmp_path)
    assert [command_for(c, own).endswith("--pretrained DIR") for c in (pretrained, scratch)] == [True, False]
    given = Request(profile="paper", data_root=tmp_path, pretrained=tmp_path)
    assert command_for(pretrained, given).count("--pretrained") == 1
