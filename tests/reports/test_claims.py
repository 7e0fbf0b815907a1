"""Verdicts: what decides a statement, and what the paper's own numbers say of it."""

import math
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ablations.engine.request import Request
from ablations.engine.study import Cell
from ablations.studies import STUDIES, find_study
from ablations.studies.figure5b import GENOTYPES
from msinet.models.genotype import GENOTYPE, OPERATIONS, SEARCHED
from reports.__main__ import main
from reports.claims import (
    ALIGNED,
    CLAIMS,
    EITHER,
    IMAGENET,
    MSINET,
    OSNET,
    RESNET,
    TASKS,
    Claim,
    Comparison,
    Measurement,
    Selection,
    row,
)
from reports.layout import plain_table
from reports.results import Results, has
from reports.sizes import counted, known_costs
from reports.statistics import LEVEL
from reports.verdicts import (
    Outcome,
    Verdict,
    as_markdown,
    command_for,
    effect_of_searches,
    judge,
    measure,
    paper_difference,
    status_text,
    supported_by_paper,
)

REQUEST = Request(profile="smoke")
MARKET, MSMT = ("market1501", "market1501"), ("msmt17", "msmt17")
SETS = ("market1501", "msmt17", "veri776", "vehicleid")
#: Deviation of seeds around a row's value in made-up records.
WAVES = (0.0, 0.01, -0.01, 0.005, -0.005)
Values = dict[str, float | Sequence[float]]


@pytest.fixture
def fill(hand, tools) -> Callable[..., Results]:
    """Fills a study with made-up runs and returns its results."""

    def filled(
        study: str,
        asked: Request,
        value: Callable[[Cell], float],
        group: str = "",
        accuracy: float = 0.95,
        **record: Any,
    ) -> Results:
        for cell in tools.cells_of(study, asked, group, MSMT if study != "figure5e" else None):
            one = cell.experiment
            if (search := one.genotype_from) is not None:
                genotype = (
                    "NGAE"[cell.seed % 4] * 6
                    + "A" * (6 - len(str(dict(cell.factors))) % 3)
                    + "N" * (len(str(dict(cell.factors))) % 3)
                )
                about = {"agreement": 3, "skip_ratio": 0.0, "collapsed": False, "seconds_training": 1.0}
                folder = hand.store.run_folder(hand.publish(search, genotype=genotype, **about))
                (folder / GENOTYPE).write_text(f'{{"genotype": "{genotype}"}}')
                one = one.known(genotype)
            mean = value(cell) + WAVES[cell.seed % 5] * (1 + 0.1 * cell.draw)
            files = tools.hand_files({"R1": mean, "mAP": mean}, accuracy)
            weights = "w" if one.init == "pretrained" else None
            hand.publish(one, files=files, R1=mean, mAP=mean, weights=weights, **record)
        return Results(asked)

    return filled


def verdict(results: Results, *comparisons: Comparison) -> Verdict:
    (found,) = judge(results, claims=(Claim("a", "a", "a", comparisons),))
    return found


def fusions(fill, hand, minus: float, seeds: int = 4, **more: Any) -> Results:
    """Figure 5c, with the sum at 50 % and the difference at this mAP."""
    value = {"sum": 0.5, "minus": minus / 100, "mul": 0.5}
    return fill("figure5c", hand.request(seeds=seeds), lambda cell: value[str(dict(cell.factors)["fusion"])], **more)


def fusion(**more: Any) -> Comparison:
    return Comparison("figure5c", *MSMT, row(fusion="minus"), row(fusion="sum"), **more)


@pytest.mark.parametrize(
    ("bounds", "minus", "expected"),
    [
        ({}, 60, "holds"),
        ({}, 40, "fails"),
        ({}, 50.5, "undecided"),
        ({"low": 9.0}, 55, "fails"),
        ({"low": -0.5}, 60, "holds"),  # it costs nothing: an improvement does not refute it
        ({"low": -0.5}, 40, "fails"),
        ({"low": -math.inf, "high": 1.0}, 40, "holds"),  # little is gained: a loss does not refute it
        ({"low": -math.inf, "high": 1.0}, 60, "fails"),
        ({"low": -4.0, "high": 4.0}, 50, "holds"),
        ({"low": -4.0, "high": 4.0}, 60, "fails"),
    ],
)
def test_what_decides(bounds: dict[str, float], minus: float, expected: str, fill, hand) -> None:
    found = verdict(fusions(fill, hand, minus), fusion(**bounds))
    assert found.status == expected
    assert (found.p < 0.05) == (expected != "undecided")
    assert status_text(found).startswith(expected)


def test_a_single_seed_decides_nothing(fill, hand) -> None:
    found = verdict(fusions(fill, hand, 90, seeds=1), fusion())
    assert found.status == "not testable"
    assert found.reasons == ("single seed",)
    evidence, reason = found.outcomes
    assert evidence.text.endswith("[+40.0, +40.0], this training only")
    assert reason.text == "not testable: single seed"


def test_trainings_that_have_not_converged_decide_nothing(fill, hand) -> None:
    found = verdict(fusions(fill, hand, 90, accuracy=0.5), fusion())
    assert found.status == "not testable"
    assert found.reasons == ("4 of 4 trainings have not converged (training accuracy 0.50, below 0.9)",)


@pytest.mark.parametrize(
    ("bounds", "minus", "leans"),
    [({}, 50.5, True), ({}, 49.5, False), ({"low": -0.2, "high": 0.2}, 50.1, True), ({}, 60, None)],
)
def test_where_an_undecided_claim_leans(bounds: dict[str, float], minus: float, leans: bool | None, fill, hand) -> None:
    assert verdict(fusions(fill, hand, minus), fusion(**bounds)).leans is leans


def test_one_mean_against_it_is_enough() -> None:
    outcomes = (Outcome("", True), Outcome("", False), Outcome(""))
    claim = Claim("a", "a", "a", (fusion(),))
    assert Verdict(claim, "undecided", outcomes, "-").leans is False
    assert Verdict(claim, "undecided", outcomes[::2], "-").leans is True


def test_holm_runs_over_the_whole_ledger(fill, hand) -> None:
    results = fusions(fill, hand, 52.0)
    (alone,) = judge(results, claims=[Claim("a", "a", "a", (fusion(),))])
    many = judge(results, claims=[Claim(str(i), "a", "a", (fusion(low=i / 10),)) for i in range(40)])
    assert alone.status == "holds"
    assert many[0].p > 10 * alone.p
    conjunction = verdict(results, fusion(), fusion(low=-math.inf, high=20.0))
    assert conjunction.p == pytest.approx(alone.p)  # its least supported part, without a correction for parts


def test_different_devices_are_named(fill, hand, tools) -> None:
    asked = hand.request(seeds=2)
    for cell in tools.cells_of("figure5c", asked):
        device = {"device": "H100" if dict(cell.factors)["fusion"] == "minus" else "cpu"}
        hand.publish(cell.experiment, **device)
    texts = [outcome.text for outcome in verdict(Results(asked), fusion()).outcomes]
    assert texts[-1] == "different devices: Abacus 3000, H100"


def table2(fill, asked: Request, group: str, msinet: float = 0.6, **more: Any) -> Results:
    return fill("table2", asked, lambda c: msinet if dict(c.factors)["network"] == "msinet" else 0.5, group, **more)


def test_the_paper_s_difference_is_placed(fill, hand, tmp_path: Path) -> None:
    asked = hand.request("msinet", "resnet50", seeds=4, pretrained=tmp_path)
    for name in ("msinet", "resnet50"):
        (tmp_path / f"{name}.pth").write_bytes(b"w")
    (claim,) = (claim for claim in CLAIMS if claim.key == "nine-points")
    results = table2(fill, replace(asked, pretrained=None), "pretext")
    found = judge(replace_request(results, replace(asked, pretrained=None)), claims=[claim])[0]
    assert found.status == "not testable"
    assert found.reasons == (
        "needs ImageNet weights (--pretrained DIR), which the rendered pretext set does not replace",
    )
    assert paper_difference(claim.comparisons[0]) == 9.2


def replace_request(results: Results, request: Request) -> Results:
    """The same store for another request."""
    assert results.request.store == request.store
    return Results(request)


def test_the_place_of_the_paper_s_difference_is_told_for_scratch(fill, hand) -> None:
    asked = hand.request("msinet", "resnet50", seeds=4)
    found = verdict(table2(fill, asked, "scratch"), Comparison("table2", *MSMT, MSINET, RESNET))
    assert found.status == "holds"
    assert found.outcomes[0].text.endswith("the paper's +26.8 is above the interval")


def test_pretext_stands_for_pretraining_only_where_the_statement_is_not_about_imagenet(fill, hand) -> None:
    asked = hand.request("msinet", "osnet", seeds=4)
    results = table2(fill, asked, "pretext")
    assert verdict(results, Comparison("table2", *MSMT, MSINET, OSNET, **EITHER)).status == "holds"
    found = verdict(results, Comparison("table2", *MSMT, MSINET, OSNET, **IMAGENET))
    assert (found.status, found.reasons) == (
        "not testable",
        ("needs ImageNet weights (--pretrained DIR), which the rendered pretext set does not replace",),
    )
    for claim in CLAIMS:
        about = any(group == "pretrained" for c in claim.comparisons for group, _ in c.rows)
        assert about == ("ImageNet" in claim.statement or claim.source.endswith("Table 6"))


def test_narrow_networks_do_not_stand_for_the_paper_s(fill, hand) -> None:
    asked = hand.request("msinet_x0_25", "osnet", seeds=4)
    found = verdict(table2(fill, asked, "scratch", 0.6), Comparison("table2", *MSMT, MSINET, OSNET))
    assert (found.status, found.reasons) == ("not testable", ("msinet_x0_25 is not of the paper's width",))


def test_other_patches_do_not_stand_for_the_paper_s_transformers(fill, hand) -> None:
    asked = hand.request("msinet", "deit_small_x1_0", seeds=4)
    results = fill("table6", asked, lambda c: 0.6 if dict(c.factors)["network"] == "msinet" else 0.5, "scratch")
    found = verdict(results, Comparison("table6", *MSMT, row(network="msinet"), row(network="deit_small")))
    assert (found.status, found.reasons) == ("not testable", ("patches of 8 pixels, not the paper's 16",))


def random_rows(fill, hand, seeds: int, count: int = 99) -> Results:
    """Figure 5b with the paper's genotype at 60 %, others at 50 %, and this many random genotypes at most."""
    asked = hand.request(seeds=seeds)
    study = find_study("figure5b")

    def some(request: Request, datasets: tuple[str, ...]) -> list[Cell]:
        found = study.cells(request, datasets)
        chosen = [c for c in found if dict(c.factors)["architecture"] in ("paper", "random")]
        random = [c for c in chosen if dict(c.factors)["architecture"] == "random"][count:]
        return [c for c in chosen if c not in random]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STUDIES, "figure5b", replace(study, cells=some))
        return fill("figure5b", asked, lambda c: 0.6 if dict(c.factors)["architecture"] == "paper" else 0.5)


@pytest.mark.parametrize(("seeds", "count", "status"), [(3, 99, "holds"), (12, 99, "holds"), (3, 9, "not testable")])
def test_random_architectures_are_a_random_effect_of_ten(fill, hand, seeds: int, count: int, status: str) -> None:
    results = random_rows(fill, hand, seeds, count)
    found = verdict(results, Comparison("figure5b", *MSMT, row(architecture="paper"), row(architecture="random")))
    assert found.status == status
    assert found.reasons == (() if count == 99 else (f"9 random architectures, at least {GENOTYPES} are needed",))


@pytest.mark.parametrize(("seeds", "status"), [(1, "not testable"), (4, "holds")])
def test_searches_of_each_kind_are_compared_in_equal_numbers(fill, hand, seeds: int, status: str) -> None:
    value = {"tcm": 0.6, "ce": 0.5}
    asked = hand.request(seeds=seeds)
    results = fill("figure5a", asked, lambda c: value[str(dict(c.factors)["mechanism"])])
    better, worse = row(mechanism="tcm", overlap=0.4), row(mechanism="ce", overlap=1.0)
    found = verdict(results, Comparison("figure5a", *MSMT, better, worse))
    assert found.status == status
    assert found.reasons == (("single search",) if seeds == 1 else ())


@pytest.mark.parametrize(("seeds", "status"), [(1, "not testable"), (6, "holds")])
def test_the_cells_of_an_operation_are_tested_over_searches(fill, hand, seeds: int, status: str) -> None:
    results = fill("table1", hand.request(seeds=seeds), lambda _: 0.5)
    claim = Claim("a", "a", "a", selection=Selection("table1", row(genotype="searched"), "A"))
    (found,) = judge(results, claims=[claim])
    assert (found.status, found.by_paper) == (status, "yes")
    assert "share of A in the last half" in found.outcomes[0].text


@pytest.mark.parametrize("count", [2, 3, 6])
def test_arbitrary_genotypes_seldom_decide_on_the_cells_of_an_operation(count: int) -> None:
    """Searches with equal values by chance have no variance between them; they must not count as certain."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(500):
        letters = rng.choice(list(OPERATIONS), (count, len(SEARCHED)))
        found = effect_of_searches(["".join(one) for one in letters], "A")
        wrong += min(found.above(), found.below()) < LEVEL / 2
    assert wrong <= 0.05 * 500
    equal = effect_of_searches(["NNNNNNANNNNN"] * 2, "A")
    assert equal.mean == pytest.approx(100 / 6)
    assert equal.variance == pytest.approx(625 / 2)  # 25 squared: binomial counts of six interactions each
    assert equal.p > LEVEL


def test_a_mean_over_weights_is_not_every_weight(fill, hand) -> None:
    value = {0.0: 0.3, 0.5: 0.1, 1.0: 0.9, 2.0: 0.9, 3.0: 0.9, 4.0: 0.9}
    asked = hand.request(seeds=4, datasets=("veri776", "vehicleid"))
    results = fill("figure5e", asked, lambda c: value[float(dict(c.factors)["weight"])], "pretext")
    (claim,) = (claim for claim in CLAIMS if claim.key == "alignment-helps")
    (found,) = judge(results, claims=[claim])
    assert found.status == "holds"
    assert found.outcomes[0].text.startswith("mean of 5 rows - weight 0, VR>VID R1: +")
    (weak,) = claim.comparisons
    frame = results.frame("figure5e")
    other = frame["factors"].map(lambda factors: dict(factors)["weight"] == 4.0)
    frame.loc[other.astype(bool), "state"] = "missing"
    plain_table.cache_clear()
    assert judge(results, claims=[claim])[0].status == "not run"  # without one of the weights
    assert verdict(results, replace(weak, averaged=(), better=row(weight=0.5))).status == "fails"


def test_without_pre_training_rows_from_scratch_count_but_groups_never_mix(fill, hand) -> None:
    asked = hand.request(seeds=4, datasets=("veri776", "vehicleid"))
    (claim,) = (claim for claim in CLAIMS if claim.key == "alignment-helps")

    def value(better: float) -> Callable[[Cell], float]:
        return lambda cell: better if dict(cell.factors)["weight"] else 0.5

    fill("figure5e", asked, value(0.3), "scratch")
    results = fill("figure5e", asked, value(0.9), "pretext")
    remark = "trained from scratch; the paper's networks are pre-trained"
    (found,) = judge(results, claims=[claim])
    assert found.status == "holds"
    assert found.outcomes[-1].text == (
        "pre-trained on the rendered pretext set; the paper's networks are pre-trained on ImageNet"
    )
    assert remark not in [one.text for one in found.outcomes]
    frame = results.frame("figure5e")
    weights = frame["factors"].map(lambda factors: dict(factors)["weight"])
    frame.loc[(frame["group"] == "pretext") & (weights == 0), "state"] = "missing"
    plain_table.cache_clear()
    (found,) = judge(results, claims=[claim])
    assert found.status == "fails"
    assert found.outcomes[-1].text == remark
    frame.loc[(frame["group"] == "scratch") & (weights == 4), "state"] = "missing"
    plain_table.cache_clear()
    assert judge(results, claims=[claim])[0].status == "not run"


def test_a_gain_by_pretraining_is_a_difference_of_differences() -> None:
    (claim,) = (claim for claim in CLAIMS if claim.key == "resnet-depends")
    person, ms = claim.comparisons
    assert paper_difference(person) == pytest.approx((85.9 - 68.3) - (89.6 - 87.0))
    assert [(weight, group) for weight, group, _ in ms.terms] == [
        (1.0, "pretrained"),
        (-1.0, "scratch"),
        (-1.0, "pretrained"),
        (1.0, "scratch"),
    ]
    # On VeRi-776 the paper's own numbers give 3.7 and 3.8.
    assert paper_difference(replace(person, train="veri776", test="veri776")) == -0.1


def test_the_papers_own_numbers_are_asked() -> None:
    def by_paper(study: str, task: tuple[str, str], *rows, **more) -> bool | None:
        return supported_by_paper(Comparison(study, *task, *rows, **more))

    assert by_paper("table2", MSMT, MSINET, RESNET, low=9.0, **IMAGENET)  # 59.6 and 50.4
    assert by_paper("table2", MSMT, MSINET, RESNET, low=9.3, **IMAGENET) is False
    same = {"worse_group": "pretrained", "metric": "R1"}  # both 76.5
    assert by_paper("table2", ("vehicleid", "vehicleid"), MSINET, RESNET, **same) is False
    assert by_paper("table5", ("veri776", "veri776"), ALIGNED, MSINET, low=-0.5, **EITHER)
    assert by_paper("figure5c", MSMT, row(fusion="sum"), row(fusion="mul")) is None


def unmatched(c: Comparison, request: Request, sets: tuple[str, ...]) -> list[tuple[str, tuple]]:
    """Rows of a comparison that a study does not have for a request, but for the two that the paper itself lacks."""
    groups = {
        "scratch": ("scratch", "any"),
        "pretext": ("either", "any"),
        "searched": ("scratch",),
        "pretrained": ("pretrained", "either", "any"),
    }
    if request.rendered:
        groups["pretext"] = ("pretrained", "either", "any")  # the command runs them, although they are not ImageNet's
        groups["scratch"] += ("either",)
    cells = [x for x in find_study(c.study).cells(request, sets) if (x.train, x.test) == (c.train, c.test)]
    return [
        (group, factors)
        for group, factors in c.rows
        if not any(group in groups.get(x.group, (x.group,)) and has(x.factors, factors) for x in cells)
    ]


def test_claims_name_rows_and_columns_that_exist() -> None:
    request = Request(profile="paper", data_root=Path("none"), pretrained=Path("none"))
    assert len({claim.key for claim in CLAIMS}) == len(CLAIMS) >= 25
    for claim in CLAIMS:
        assert (bool(claim.comparisons) + bool(claim.measurement) + bool(claim.selection) == 1) or claim.not_run
        for c in () if claim.not_run else claim.comparisons:
            assert unmatched(c, request, SETS) == [], claim.key
            assert c.metric in ("R1", "R5", "mAP")


@pytest.mark.parametrize("profile", ["smoke", "mini"])
def test_missing_runs_are_named_with_a_command_that_makes_them(profile: str) -> None:
    for c in (c for claim in CLAIMS if not claim.not_run for c in claim.comparisons):
        words = command_for(c, Request(profile=profile)).removeprefix("python -m ablations run ").split()
        assert words[0] == c.study
        assert unmatched(c, Request(profile=profile, whole="--whole" in words), SETS) == [], (c, words)


def test_the_papers_false_statements_are_found_false(hand) -> None:
    found = {v.claim.key: v for v in judge(Results(hand.request()))}
    assert {v.status for v in found.values() if v.claim.comparisons} == {"not run", "not testable"}
    assert [key for key, v in found.items() if v.by_paper == "no"] == ["scratch-over-pretrained", "rga-sc"]
    assert found["size"].status == "holds"
    assert found["size-others"].status == "fails"  # CDNet's 1.8 leave out what MSINet's 2.3 count
    assert found["size-others"].outcomes[0].text == (
        "without classifiers osnet 2.17, cdnet 2.19, msinet 2.33; at inference osnet 2.17, cdnet 1.80, msinet 2.00"
    )
    assert found["sam-free"].status == "holds"
    sizes, work = (found[key] for key in ("size-compared", "training-rga"))
    assert (sizes.status, work.status) == ("holds", "holds")
    assert sizes.outcomes[0].text.startswith("8 of 10 methods have more than twice as many; million parameters: ")
    assert all(f"{one}, " in sizes.outcomes[0].text for one in ("msinet: 2.0", "osnet: 2.2", "cdnet: 1.8"))
    assert sizes.outcomes[0].text.endswith("Auto-ReID (cited): 13.0")
    assert re.match(r"1,119,890,944 \D+ for 350 epochs against \S+ \D+ for 600 epochs", work.outcomes[0].text)
    evidence = found["mul-poor"].outcomes[0].text
    assert evidence.startswith("Sum - Mul, MS mAP: python -m ablations run figure5c")
    assert found["rga-sc"].outcomes[0].text.startswith("MSINet - RGA-SC, M R1: python -m ablations run table3")
    assert found["complicated"].by_paper == "yes"
    assert [found[key].by_paper for key in ("gs", "hdcrl", "idm", "deit-small-ms", "sam-harmless")] == ["yes"] * 5


def test_each_statement_names_the_section_of_its_table_or_figure() -> None:
    sections = {
        "Table 1": "4.2",
        "Table 2": "4.3",
        "Table 3": "4.4",
        "Table 4": "4.4",
        "Table 5": "4.5",
        "Table 6": "4.5",
    }
    sections |= dict.fromkeys(("Fig. 5a", "Fig. 5b", "Fig. 5c", "Fig. 5d", "Fig. 5e"), "4.5")
    for claim in CLAIMS:
        where, _, what = claim.source.rpartition(", ")
        assert where in ("", "Sec. 1", f"Sec. {sections.get(what)}"), claim.key
    for name, study in STUDIES.items():
        doc = sys.modules[f"ablations.studies.{name}"].__doc__ or ""
        section = {
            "figure1": "1",
            "figure4": "4.2",
            "figure6": "4.5",
            **{k.replace("Table ", "table"): v for k, v in sections.items()},
        }.get(name, "4.5")
        assert f"Sec. {section}" in doc or name not in {**sections, "figure6": ""}, study.name


def test_known_costs_are_counted() -> None:
    costs = known_costs()
    named = {name for claim in CLAIMS if claim.measurement for name in claim.measurement.networks}
    assert named <= set(costs)
    assert counted("msinet pam=True") == costs["msinet pam=True"]


@pytest.mark.slow
def test_all_known_costs_are_counted() -> None:
    assert {name: counted(name) for name in known_costs()} == known_costs()


def test_claims_are_judged_without_torch(hand) -> None:
    words = ["claims", *hand.request().as_args(), "--latency", str(hand.store.root / "none.csv")]
    code = f"import sys; from reports.__main__ import main; main({words!r}); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# --- A ledger without differences -----------------------------------------------------------------


def null_ledgers(hand, tools, count: int, seed: int) -> int:
    """Ledgers with a false decision, of runs that differ by chance alone: three columns of Table 2.

    Each ledger has made-up records and files of its own, and is judged as a command does it.
    """
    rng = np.random.default_rng(seed)
    tasks = [TASKS[name] for name in ("M", "MS", "VR")]
    networks = {"msinet": MSINET, "resnet50": RESNET, "osnet": OSNET}
    claims = [
        Claim(f"{a}-{b}", "a", "a", tuple(Comparison("table2", *task, networks[a], networks[b]) for task in tasks))
        for a, b in (("msinet", "resnet50"), ("msinet", "osnet"), ("osnet", "resnet50"))
    ]
    claims += [
        Claim(f"{a}-{task}", "a", "a", (Comparison("table2", *TASKS[task], MSINET, networks[a]),))
        for a in ("resnet50", "osnet")
        for task in ("M", "MS", "VR")
    ]
    claims += [Claim("one", "a", "a", (Comparison("table2", *MSMT, OSNET, RESNET, low=-math.inf, high=0.0),))]
    asked = hand.request(*networks, datasets=("market1501", "msmt17", "veri776"), seeds=3, whole=False)
    cells = [cell for cell in tools.cells_of("table2", asked, "scratch") if cell.train == cell.test]
    ids = [hand.publish(cell.experiment) for cell in cells]
    found = 0
    for _ in range(count):
        results = Results(asked)
        people = {task: rng.normal(50, 20, 40) for task in asked.datasets}
        rows: dict[tuple[str, str], np.ndarray] = {}
        for cell, run_id in zip(cells, ids, strict=True):
            own = rows.setdefault((cell.experiment.model, cell.test), rng.normal(0, 8, 40))
            values = people[cell.test] + own + rng.normal(0, 1.5) + rng.normal(0, 8, 40)
            queries = results.read(run_id, "queries.csv").head(0).reindex(range(40))
            queries = queries.assign(draw=0, identity=range(40), positives=1, first_rank=1, ap=values / 100)
            results._files[run_id, "queries.csv"] = queries
            assert results.read(run_id, "queries.csv") is queries
        found += any(v.status not in ("undecided",) for v in judge(results, claims=claims))
    return found


def test_few_null_ledgers_have_a_false_verdict(hand, tools) -> None:
    count = 12
    assert null_ledgers(hand, tools, count, 40) <= stats.binom.ppf(0.999, count, 0.05)


@pytest.mark.slow
def test_five_per_cent_of_null_ledgers_at_most_have_a_false_verdict(hand, tools) -> None:
    count = 300
    found = null_ledgers(hand, tools, count, 41)
    print(f"false verdicts in {found} of {count} ledgers")
    assert found <= stats.binom.ppf(0.99, count, 0.05)


def test_costs_are_decided_by_counts() -> None:
    nothing = pd.DataFrame()
    for cited, expected in (((("A", 13.0),), "fails"), ((("A", 13.0), ("B", 4.1)), "holds")):
        assert measure(Measurement("fewer", ("msinet", "osnet"), cited=cited), nothing)[0] == expected
    for networks, expected in ((("osnet", "resnet50"), "holds"), (("resnet50", "osnet"), "fails")):
        assert measure(Measurement("training", networks), nothing)[0] == expected


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
    assert measure(faster, rows(7.0)) == ("holds", text)
    assert measure(faster, rows(11.5))[0] == "fails"
    assert {measure(faster, rows(ms))[0] for ms in (9.5, 10.0, 11.0)} == {"undecided"}  # as identical networks differ
    assert measure(faster, pd.DataFrame())[0] == "not run"
    assert "bench latency" in measure(faster, rows(7.0)[:4])[1]


def test_the_command_prints_and_writes(hand, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["claims", "--profile", "smoke", "--store", str(tmp_path), "--latency", str(tmp_path / "none.csv")]
    assert main(words) == 0  # the false statement about CDNet's size is one about costs
    out = capsys.readouterr().out
    assert f"{len(CLAIMS)} claims, profile smoke on the rendered world" in out
    table = pd.read_csv(tmp_path / "tables" / "claims-smoke.csv")
    assert list(table["key"]) == [claim.key for claim in CLAIMS]
    assert (tmp_path / "tables" / "claims-smoke.md").read_text().count("\n| ") == len(CLAIMS) + 1


def test_bars_in_names_do_not_break_the_table() -> None:
    line = as_markdown([Verdict(Claim("a", "a", "a"), "holds", (Outcome("A|x - B"),), "-", 0.01)], "t").splitlines()[-1]
    assert line.count("|") == 5
    assert "A&#124;x - B" in line
    assert "holds (p 0.010)" in line


def test_weights_of_the_users_own_are_asked_for(tmp_path: Path) -> None:
    pretrained = Comparison("table2", *MARKET, MSINET, RESNET, "pretrained")
    scratch = Comparison("table2", *MARKET, MSINET, RESNET)
    own = Request(profile="paper", data_root=tmp_path)
    assert [command_for(c, own).endswith("--pretrained DIR") for c in (pretrained, scratch)] == [True, False]
    given = Request(profile="paper", data_root=tmp_path, pretrained=tmp_path)
    assert command_for(pretrained, given).count("--pretrained") == 1
